//! The few kernel calls that have no safe wrapper: btrfs and loop device ioctls.

pub(crate) mod btrfs;
pub(crate) mod loops;
