//! The system call filter of every sandbox: what may be called, what is refused, and with which answer.
//!
//! Three answers: allowed; `EPERM` for calls that programs know to be privileged, so that they report it or do
//! without; `ENOSYS` for everything else, new calls of newer kernels included, so that libraries fall back to what
//! they used before. A few calls are judged by their arguments. Calls of the 32-bit ABI kill the caller, those of
//! the x32 ABI are unknown numbers and so `ENOSYS`.
//!
//! The filter is the second wall. The first one is that the sandbox's user namespace owns neither its mounts nor its
//! network nor its host name; most of what is refused here the kernel would refuse as well. What the filter adds is
//! that the code behind those calls cannot be reached at all.

mod arguments;
// Grouped by subject, many to a line: one call a line would hide the groups.
#[rustfmt::skip]
mod list;
mod program;

use std::sync::OnceLock;

/// The filter as the bytes of an array of `struct sock_filter` (8 bytes each, native byte order).
///
/// It is the same for every sandbox and made at the first call.
///
/// # Panics
/// Never on the supported architectures: the lists are constant and a test compiles them.
#[allow(clippy::expect_used)]
pub fn program() -> Vec<u8> {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    let make = || {
        let program = program::compile().expect("the lists are constant, and a test compiles them");
        program.iter().flat_map(program::to_bytes).collect()
    };
    PROGRAM.get_or_init(make).clone()
}
