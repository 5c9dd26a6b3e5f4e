//! What the host and the agent inside a sandbox say to each other.
//!
//! One TCP connection carries one request. The host sends a [`Hello`] frame and a [`Request`] frame
//! in the same write; then both sides send frames of that request's kind ([`HostFrame`],
//! [`AgentFrame`]) until the agent ends it. How each request goes is said at its variant.
//!
//! A frame is a little-endian `u32` length followed by one postcard value of that many bytes, at most
//! [`MAX_FRAME`]; see [`codec`].
//!
//! Two programs of different ages share this crate, since a restored memory image holds an old agent.
//! So the schema only grows: new variants go to the end of an enum, and no existing message gains,
//! loses or reorders a field. `schema/gen-1.json` is the record that a test compares with the code.

pub mod codec;
mod config;
mod frames;
mod request;

pub use codec::CodecError;
pub use config::{AgentConfig, Hello, Token};
pub use frames::{
    AgentFrame, Change, ChangeKind, Entry, EntryKind, ErrorKind, Exit, HostFrame, Process, Session, Usage,
};
pub use request::{Command, Exec, Open, PtySize, Refresh, Request, WriteDisposition, WriteFile};

/// Generation of the schema. The agent answers hosts of this generation only.
pub const VERSION: u16 = 1;

/// Port on which the agent of every sandbox listens.
pub const PORT: u16 = 4650;

/// Largest number of content bytes (output, input, file data) in one frame.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// Largest encoded value in a frame: a full payload and what stands around it.
pub const MAX_FRAME: usize = MAX_PAYLOAD + 4096;

/// Largest encoded [`Hello`]: all that a peer may send before it has shown the token.
pub const MAX_HELLO: usize = 64;

/// Bytes of standard input that the host may send ahead of [`AgentFrame::StdinTaken`].
///
/// The window keeps control frames (`Signal`, `Cancel`) from waiting behind input that a command
/// does not read.
pub const STDIN_WINDOW: usize = 256 * 1024;

/// Most entries that one `List` or `Glob` answers, whatever limit was asked for.
pub const MAX_ENTRIES: u32 = 100_000;

/// Most changes in one [`AgentFrame::Changes`].
pub const MAX_CHANGES: usize = 200;

/// Most bytes of output that one session keeps, whatever was asked for.
pub const MAX_SCROLLBACK: u32 = 1 << 20;
