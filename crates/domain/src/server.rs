//! Servers that share one database: what each is called, and how long a claim on work lasts.

use crate::Invalid;
use jiff::{SignedDuration, Timestamp};
use std::{fmt, str::FromStr};

/// How long a claim on a piece of work, or a server's sign of life, holds unless it is renewed.
pub const LEASE: SignedDuration = SignedDuration::from_secs(20);

/// Names a server by its data directory, for as long as that exists: eight hex digits. What a server made on its
/// machine (processes, layers) is its own; nobody else can bring it in step with its row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId([u8; 4]);

impl ServerId {
    /// No server's: rows of before there were several. The first server that opens the database takes them.
    pub const NOBODY: Self = Self([0; 4]);
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl FromStr for ServerId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let is_hex = text.len() == 8 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match u32::from_str_radix(text, 16) {
            Ok(number) if is_hex => Ok(Self(number.to_be_bytes())),
            _ => Err(Invalid::new("server", "is not a server's name; it has eight lower-case hex digits")),
        }
    }
}

/// A server as it told others of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Which.
    pub id: ServerId,
    /// The name of its machine.
    pub host: String,
    /// Where it listens.
    pub address: String,
    /// Until when it is taken to live, unless it says so again.
    pub alive_until: Timestamp,
}

impl Server {
    /// Whether it is taken to live.
    pub fn is_alive(&self, now: Timestamp) -> bool {
        now < self.alive_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_in_one_spelling_only() {
        for text in ["00000000", "0000002a", "deadbeef"] {
            assert_eq!(text.parse::<ServerId>().unwrap().to_string(), text);
        }
        assert_eq!("00000000".parse::<ServerId>().unwrap(), ServerId::NOBODY);
        for text in ["", "2a", "DEADBEEF", "deadbeef0", "+eadbeef", "deadbeeg"] {
            assert_eq!(text.parse::<ServerId>().unwrap_err().field, "server", "{text}");
        }
    }
}
