//! Frames survive encoding, and no bytes make the decoder allocate or panic.
#![allow(clippy::unwrap_used)]

use bytes::BytesMut;
use forkpoint_protocol::codec::{self, Head, Payload};
use forkpoint_protocol::{AgentFrame, CodecError, HostFrame, MAX_FRAME, MAX_HELLO, MAX_PAYLOAD, Request};
use proptest::prelude::*;

#[test]
fn payload_heads_equal_the_encoder() {
    for len in [0, 1, 127, 128, 16_383, 16_384, 65_536, MAX_PAYLOAD] {
        let content = vec![0x5a; len];
        let cases = [
            (Payload::HostData, encoded(&HostFrame::Data(&content))),
            (Payload::HostStdin, encoded(&HostFrame::Stdin(&content))),
            (Payload::Stdout, encoded(&AgentFrame::Stdout(&content))),
            (Payload::Stderr, encoded(&AgentFrame::Stderr(&content))),
            (Payload::AgentData, encoded(&AgentFrame::Data(&content))),
        ];
        for (payload, expected) in cases {
            let head = Head::new(payload, len).unwrap();
            assert_eq!([head.as_slice(), &content].concat(), expected, "{payload:?} {len}");
        }
    }
    assert!(Head::new(Payload::Stdout, MAX_PAYLOAD + 1).is_err());
}

#[test]
fn a_length_over_the_limit_is_refused_before_allocation() {
    let mut buffer = BytesMut::from(&u32::MAX.to_le_bytes()[..]);
    let before = buffer.capacity();
    let refused = codec::take(&mut buffer, MAX_FRAME);
    assert_eq!(refused, Err(CodecError::TooLong { len: u32::MAX as usize, limit: MAX_FRAME }));
    assert_eq!(buffer.capacity(), before);

    let mut buffer = BytesMut::from(&65u32.to_le_bytes()[..]);
    assert!(codec::take(&mut buffer, MAX_HELLO).is_err());
}

#[test]
fn values_that_do_not_fit_a_frame_are_refused_and_leave_the_buffer() {
    let mut out = vec![1, 2, 3];
    let request = Request::Stat { path: vec![b'a'; MAX_FRAME], follow: true };
    assert!(matches!(codec::encode(&request, &mut out), Err(CodecError::TooLong { .. })));
    assert_eq!(out, [1, 2, 3]);
}

#[test]
fn frames_come_out_however_the_bytes_are_cut() {
    let mut wire = encoded(&HostFrame::Data(b"one"));
    wire.extend(encoded(&HostFrame::Resize { rows: 24, cols: 300 }));
    wire.extend(encoded(&HostFrame::End));
    for step in 1..wire.len() {
        let mut buffer = BytesMut::new();
        let mut frames = Vec::new();
        for piece in wire.chunks(step) {
            buffer.extend_from_slice(piece);
            while let Some(frame) = codec::take(&mut buffer, MAX_FRAME).unwrap() {
                frames.push(frame);
            }
        }
        let frames: Vec<HostFrame<'_>> = frames.iter().map(|frame| codec::decode(frame).unwrap()).collect();
        assert_eq!(frames, [HostFrame::Data(b"one"), HostFrame::Resize { rows: 24, cols: 300 }, HostFrame::End]);
    }
}

#[test]
fn bytes_after_the_value_are_an_error() {
    let mut frame = encoded(&HostFrame::End).split_off(4);
    frame.push(0);
    assert_eq!(codec::decode::<HostFrame<'_>>(&frame), Err(CodecError::Trailing(1)));
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = codec::decode::<Request>(&bytes);
        let _ = codec::decode::<HostFrame<'_>>(&bytes);
        let _ = codec::decode::<AgentFrame<'_>>(&bytes);
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = codec::take(&mut buffer, MAX_FRAME) {}
        prop_assert!(buffer.capacity() <= MAX_FRAME + 4096);
    }
}

fn encoded<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    codec::encode(value, &mut out).unwrap();
    out
}
