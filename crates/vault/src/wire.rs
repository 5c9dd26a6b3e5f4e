//! Bytes of stored structures: canonical variable-length integers and counted byte strings.
//!
//! Every value has exactly one encoding, so that equal structures have equal bytes and hashes. Reading never
//! allocates more than what is left of the input.

/// Why bytes do not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WireError(pub(crate) &'static str);

type Result<T> = std::result::Result<T, WireError>;

/// Appends values to bytes.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    /// LEB128: seven bits a byte, low first.
    pub(crate) fn int(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// A signed integer as zigzag.
    pub(crate) fn signed(&mut self, value: i64) {
        self.int(((value << 1) ^ (value >> 63)) as u64);
    }

    pub(crate) fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Bytes of a length both sides know.
    pub(crate) fn fixed(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A length, then the bytes.
    pub(crate) fn counted(&mut self, bytes: &[u8]) {
        self.int(bytes.len() as u64);
        self.fixed(bytes);
    }
}

/// Takes values off bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn byte(&mut self) -> Result<u8> {
        let (first, rest) = self.0.split_first().ok_or(WireError("ends too early"))?;
        self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn int(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(WireError("has a number over 64 bits"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift > 0 { Err(WireError("has an overlong number")) } else { Ok(value) };
            }
        }
        Err(WireError("has a number over 64 bits"))
    }

    pub(crate) fn int32(&mut self) -> Result<u32> {
        u32::try_from(self.int()?).map_err(|_| WireError("has a number over 32 bits"))
    }

    pub(crate) fn signed(&mut self) -> Result<i64> {
        let value = self.int()?;
        Ok(((value >> 1) as i64) ^ -((value & 1) as i64))
    }

    /// How many items follow, each of at least `least` bytes: never more than there is room for.
    pub(crate) fn count(&mut self, least: usize) -> Result<usize> {
        let count = usize::try_from(self.int()?).map_err(|_| WireError("has a count too large"))?;
        if count > self.0.len() / least.max(1) {
            return Err(WireError("has a count too large"));
        }
        Ok(count)
    }

    pub(crate) fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(WireError("ends too early"))?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn counted(&mut self, most: usize) -> Result<&'a [u8]> {
        let length = self.count(1)?;
        if length > most {
            return Err(WireError("has a text too long"));
        }
        let (head, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn end(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(WireError("has bytes left over")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_read_back(value: u64, signed: i64) {
            let mut writer = Writer::default();
            writer.int(value);
            writer.signed(signed);
            let mut reader = Reader(&writer.0);
            prop_assert_eq!(reader.int().unwrap(), value);
            prop_assert_eq!(reader.signed().unwrap(), signed);
            reader.end().unwrap();
        }

        #[test]
        fn a_number_that_reads_has_one_spelling(bytes: Vec<u8>) {
            let mut reader = Reader(&bytes);
            if let Ok(value) = reader.int() {
                let used = bytes.len() - reader.0.len();
                let mut writer = Writer::default();
                writer.int(value);
                prop_assert_eq!(&writer.0, &bytes[..used]);
            }
        }
    }
}
