//! Single files: extended attributes, contents, copies, removal. All by descriptor.

pub(crate) mod contents;
pub(crate) mod copy;
pub(crate) mod remove;
pub(crate) mod xattrs;
