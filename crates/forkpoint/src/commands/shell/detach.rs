//! Finds Ctrl-P Ctrl-Q in what is typed.

const CTRL_P: u8 = 0x10;
const CTRL_Q: u8 = 0x11;

/// What came of some typed bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// To be sent; may be empty.
    Send(Vec<u8>),
    /// These are to be sent, then the terminal is to be left.
    Detach(Vec<u8>),
}

/// Holds a Ctrl-P back until it is clear whether Ctrl-Q follows.
#[derive(Debug, Default)]
pub(super) struct Keys {
    held: bool,
}

impl Keys {
    /// Takes typed bytes.
    pub(super) fn push(&mut self, typed: &[u8]) -> Typed {
        let mut send = Vec::with_capacity(typed.len() + 1);
        for byte in typed {
            if self.held && *byte == CTRL_Q {
                self.held = false;
                return Typed::Detach(send);
            }
            send.extend(self.release());
            if *byte == CTRL_P {
                self.held = true;
            } else {
                send.push(*byte);
            }
        }
        Typed::Send(send)
    }

    /// Whether a Ctrl-P is held back.
    pub(super) fn holds(&self) -> bool {
        self.held
    }

    /// Gives the held Ctrl-P up: nothing followed.
    pub(super) fn release(&mut self) -> Option<u8> {
        std::mem::take(&mut self.held).then_some(CTRL_P)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_keys_in_a_row_detach() {
        let send = |bytes: &[u8]| Typed::Send(bytes.to_vec());
        let mut keys = Keys::default();
        assert_eq!(keys.push(b"a\x11b"), send(b"a\x11b"));
        assert_eq!(keys.push(b"a\x10"), send(b"a"));
        assert!(keys.holds());
        assert_eq!(keys.push(b"\x10x"), send(b"\x10\x10x"));
        assert_eq!(keys.push(b"\x10"), send(b""));
        assert_eq!((keys.release(), keys.release()), (Some(0x10), None));
        assert_eq!(keys.push(b"\x11"), send(b"\x11"));
        assert_eq!(keys.push(b"z\x10\x11rest"), Typed::Detach(b"z".to_vec()));
        assert_eq!(keys.push(b"\x10"), send(b""));
        assert_eq!(keys.push(b"\x11"), Typed::Detach(Vec::new()));
    }
}
