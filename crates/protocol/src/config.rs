//! What proves a host to an agent, and what an agent is told when it starts.

use std::fmt;
use std::net::SocketAddrV4;

use serde::{Deserialize, Serialize};

/// The secret of one sandbox. Never shown by `Debug`.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Token(pub [u8; 32]);

impl Token {
    /// Whether both are the same secret, in a time that does not depend on where they differ.
    pub fn matches(&self, other: &Token) -> bool {
        let difference = self.0.iter().zip(&other.0).fold(0u8, |seen, (a, b)| std::hint::black_box(seen | (a ^ b)));
        difference == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// First frame of every connection. An agent closes the connection without an answer when it does
/// not like it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::VERSION`] of the host.
    pub version: u16,
    /// The sandbox's secret.
    pub token: Token,
}

/// Written, postcard-encoded and without a length, to the agent's descriptor 3, up to its end.
///
/// The agent answers `ready <port>\n` on descriptor 4 and closes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentConfig {
    /// [`crate::VERSION`] of the writer; another one than the agent's own is refused at start.
    pub version: u16,
    /// The secret that hosts must show.
    pub token: Token,
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddrV4,
    /// User of commands and owner of new files when a request names none, normally `sandbox`.
    pub default_user: String,
    /// Close connections that come from the sandbox's own addresses. The host never does; code in
    /// the sandbox has no other address to come from.
    pub refuse_local: bool,
    /// Requests served at the same time; more are answered with `Busy`.
    pub max_requests: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_matches_itself_and_nothing_that_differs_in_one_bit() {
        let token = Token([7; 32]);
        assert!(token.matches(&Token([7; 32])));
        for byte in 0..32 {
            for bit in 0..8 {
                let mut other = token;
                other.0[byte] ^= 1 << bit;
                assert!(!token.matches(&other));
            }
        }
    }

    #[test]
    fn debug_output_hides_the_token() {
        let hello = Hello { version: 1, token: Token([0xab; 32]) };
        assert!(!format!("{hello:?}").contains("171"));
    }
}
