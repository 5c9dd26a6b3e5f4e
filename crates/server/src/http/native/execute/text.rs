//! Bytes that come in pieces, as text: a character split between two pieces stays whole.

/// Decodes UTF-8 piece by piece; what is none becomes U+FFFD.
#[derive(Debug, Default)]
pub(in super::super) struct Text {
    /// The beginning of a character whose rest has not come; at most 3 bytes.
    held: Vec<u8>,
}

impl Text {
    /// The text that is whole with this piece.
    pub(in super::super) fn push(&mut self, piece: &[u8]) -> String {
        let joined;
        let mut rest = piece;
        if !self.held.is_empty() {
            joined = [&self.held, piece].concat();
            rest = &joined;
        }
        let mut text = String::with_capacity(rest.len());
        let held = loop {
            match std::str::from_utf8(rest) {
                Ok(whole) => {
                    text.push_str(whole);
                    break &[][..];
                }
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    // `good` is valid, so nothing of it is replaced.
                    text.push_str(&String::from_utf8_lossy(good));
                    match error.error_len() {
                        None => break bad,
                        Some(length) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &bad[length..];
                        }
                    }
                }
            }
        };
        let held = held.to_vec();
        self.held = held;
        text
    }

    /// What is left when nothing more comes.
    pub(in super::super) fn finish(&mut self) -> Option<&'static str> {
        (!std::mem::take(&mut self.held).is_empty()).then_some("\u{fffd}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn characters_split_between_pieces_stay_whole() {
        let mut text = Text::default();
        assert_eq!(text.push(b"a\xe2\x82"), "a");
        assert_eq!(text.push(b"\xac b"), "€ b");
        assert_eq!(text.push(b"\xf0\x9f"), "");
        assert_eq!(text.push(b"\x98"), "");
        assert_eq!(text.push(b"\x80"), "😀");
        assert_eq!(text.push(b"\xff\xe2\x28"), "\u{fffd}\u{fffd}(");
        assert_eq!(text.finish(), None);
        assert_eq!(text.push(b"\xe2"), "");
        assert_eq!(text.finish(), Some("\u{fffd}"));
    }

    proptest! {
        #[test]
        fn any_split_gives_what_the_whole_gives(bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in 0_usize..64) {
            let cut = cut.min(bytes.len());
            let mut text = Text::default();
            let mut got = text.push(&bytes[..cut]);
            got += &text.push(&bytes[cut..]);
            got += text.finish().unwrap_or_default();
            prop_assert_eq!(got, String::from_utf8_lossy(&bytes));
        }
    }
}
