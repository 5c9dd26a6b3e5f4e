//! Frames as bytes.

use bytes::{Buf, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::{MAX_FRAME, MAX_PAYLOAD};

/// Why bytes are no frame.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CodecError {
    /// The announced or produced length is over what is allowed here. Nothing was allocated for it.
    #[error("frame of {len} bytes, at most {limit} are allowed")]
    TooLong { len: usize, limit: usize },
    /// Not a value of the expected type.
    #[error("malformed frame: {0}")]
    Malformed(#[from] postcard::Error),
    /// More bytes than the value has.
    #[error("malformed frame: {0} bytes after its value")]
    Trailing(usize),
}

/// Appends `value` as one frame to `out`, which is unchanged on error.
pub fn encode<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let start = out.len();
    let result = append(value, out, start);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

fn append<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>, start: usize) -> Result<(), CodecError> {
    out.extend_from_slice(&[0; 4]);
    postcard::to_io(value, &mut *out)?;
    let len = out.len() - start - 4;
    if len > MAX_FRAME {
        return Err(CodecError::TooLong { len, limit: MAX_FRAME });
    }
    out[start..start + 4].copy_from_slice(&(len as u32).to_le_bytes());
    Ok(())
}

/// Takes the first complete frame's value from `buffer`; `None` when more bytes are needed, for
/// which room is then reserved. A length over `limit` is refused before anything is reserved.
pub fn take(buffer: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, CodecError> {
    let Some(prefix) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let len = u32::from_le_bytes(*prefix) as usize;
    if len > limit {
        return Err(CodecError::TooLong { len, limit });
    }
    if buffer.len() < 4 + len {
        buffer.reserve(4 + len - buffer.len());
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(len).freeze()))
}

/// The value of one frame; it must use all bytes.
pub fn decode<'a, T: Deserialize<'a>>(frame: &'a [u8]) -> Result<T, CodecError> {
    match postcard::take_from_bytes(frame)? {
        (value, []) => Ok(value),
        (_, rest) => Err(CodecError::Trailing(rest.len())),
    }
}

/// Frames that carry content, for writing their head without copying the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// [`crate::HostFrame::Data`]
    HostData,
    /// [`crate::HostFrame::Stdin`]
    HostStdin,
    /// [`crate::AgentFrame::Stdout`]
    Stdout,
    /// [`crate::AgentFrame::Stderr`]
    Stderr,
    /// [`crate::AgentFrame::Data`]
    AgentData,
}

/// Most bytes that stand before the content in a [`Payload`] frame.
pub const HEAD_ROOM: usize = 8;

/// What stands before the content in a payload frame: at most [`HEAD_ROOM`] bytes.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    bytes: [u8; HEAD_ROOM],
    len: usize,
}

impl Head {
    /// Head of a frame with `len` bytes of content, at most [`MAX_PAYLOAD`].
    pub fn new(payload: Payload, len: usize) -> Result<Head, CodecError> {
        if len > MAX_PAYLOAD {
            return Err(CodecError::TooLong { len, limit: MAX_PAYLOAD });
        }
        let variant = match payload {
            Payload::HostData => 0,
            Payload::HostStdin => 2,
            Payload::Stdout => 3,
            Payload::Stderr => 4,
            Payload::AgentData => 9,
        };
        let mut bytes = [0; HEAD_ROOM];
        bytes[4] = variant;
        let mut end = 5;
        let mut rest = len;
        loop {
            let low = (rest & 0x7f) as u8;
            rest >>= 7;
            bytes[end] = if rest == 0 { low } else { low | 0x80 };
            end += 1;
            if rest == 0 {
                break;
            }
        }
        bytes[..4].copy_from_slice(&((end - 4 + len) as u32).to_le_bytes());
        Ok(Head { bytes, len: end })
    }

    /// The bytes to send before the content.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
