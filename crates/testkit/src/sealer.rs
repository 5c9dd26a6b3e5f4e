//! A sealer that hides nothing but notices a wrong place.

use forkpoint_engine::ports::sealer::{CannotOpen, Sealed, Sealer};

/// Writes the context before the bytes and refuses to open them for another one.
#[derive(Debug, Default, Clone, Copy)]
pub struct MarkedSealer;

impl Sealer for MarkedSealer {
    fn seal(&self, context: &str, clear: &[u8]) -> Sealed {
        Sealed([context.as_bytes(), b"\0", clear].concat())
    }

    fn open(&self, context: &str, sealed: &Sealed) -> Result<Vec<u8>, CannotOpen> {
        let rest = sealed.0.strip_prefix(context.as_bytes()).and_then(|rest| rest.strip_prefix(b"\0"));
        rest.map(<[u8]>::to_vec).ok_or(CannotOpen)
    }
}
