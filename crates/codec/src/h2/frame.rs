//! The wire format of frames (RFC 9113, sections 4 and 6): parsing frame headers and encoding small frames.

use crate::Reason;

/// The length of a frame header in bytes.
pub(super) const HEAD: usize = 9;
/// The maximum payload of a frame in both directions. A larger one is never negotiated: smaller frames let streams
/// share a connection more evenly.
pub(super) const MAX_PAYLOAD: usize = 16_384;
/// The client connection preface.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 0x1;
/// Flag of SETTINGS and PING.
pub(super) const ACK: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const WITH_PRIORITY: u8 = 0x20;

pub(super) const HEADER_TABLE_SIZE: u16 = 1;
pub(super) const ENABLE_PUSH: u16 = 2;
pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(super) const MAX_FRAME_SIZE: u16 = 5;
/// RFC 8441.
pub(super) const ENABLE_CONNECT_PROTOCOL: u16 = 8;
/// RFC 9218.
pub(super) const NO_RFC7540_PRIORITIES: u16 = 9;

/// A frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The length of the payload in bytes.
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Head {
    pub(super) fn parse(bytes: &[u8; HEAD]) -> Head {
        let [a, b, c, kind, flags, s, t, u, v] = *bytes;
        Head {
            length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
            stream: u32::from_be_bytes([s & 0x7f, t, u, v]),
        }
    }

    pub(super) fn bytes(self) -> [u8; HEAD] {
        let [_, a, b, c] = u32::try_from(self.length).unwrap_or(u32::MAX).to_be_bytes();
        let [s, t, u, v] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, s, t, u, v]
    }

    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The payload of DATA or HEADERS without its padding; `None` if the padding is longer than the payload.
pub(super) fn unpad(head: Head, payload: &[u8]) -> Option<&[u8]> {
    if !head.has(PADDED) {
        return Some(payload);
    }
    let (&padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(padding.into())?)
}

/// A big-endian number at `at`; `None` past the end.
pub(super) fn number(payload: &[u8], at: usize) -> Option<u32> {
    let bytes = payload.get(at..at + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

pub(super) fn rst_stream(stream: u32, reason: Reason) -> [u8; HEAD + 4] {
    small(RST_STREAM, 0, stream, reason.code().to_be_bytes())
}

/// `increment` is below 2^31.
pub(super) fn window_update(stream: u32, increment: u32) -> [u8; HEAD + 4] {
    small(WINDOW_UPDATE, 0, stream, increment.to_be_bytes())
}

pub(super) fn ping(ack: bool, opaque: [u8; 8]) -> [u8; HEAD + 8] {
    small(PING, if ack { ACK } else { 0 }, 0, opaque)
}

pub(super) fn goaway(last_stream: u32, reason: Reason) -> [u8; HEAD + 8] {
    let [a, b, c, d] = last_stream.to_be_bytes();
    let [e, f, g, h] = reason.code().to_be_bytes();
    small(GOAWAY, 0, 0, [a, b, c, d, e, f, g, h])
}

pub(super) fn settings_ack() -> [u8; HEAD] {
    small(SETTINGS, ACK, 0, [])
}

pub(super) fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let head = Head {
        length: values.len() * 6,
        kind: SETTINGS,
        flags: 0,
        stream: 0,
    };
    let mut bytes = head.bytes().to_vec();
    for (id, value) in values {
        bytes.extend_from_slice(&id.to_be_bytes());
        bytes.extend_from_slice(&value.to_be_bytes());
    }
    bytes
}

/// Encodes a frame whose size is known at compile time.
fn small<const PAYLOAD: usize, const FRAME: usize>(
    kind: u8,
    flags: u8,
    stream: u32,
    payload: [u8; PAYLOAD],
) -> [u8; FRAME] {
    const { assert!(FRAME == HEAD + PAYLOAD) };
    let head = Head {
        length: PAYLOAD,
        kind,
        flags,
        stream,
    };
    let mut frame = [0; FRAME];
    let (start, rest) = frame.split_at_mut(HEAD);
    start.copy_from_slice(&head.bytes());
    rest.copy_from_slice(&payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_headers_round_trip() {
        let head = Head {
            length: 0x01_02_03,
            kind: DATA,
            flags: END_STREAM | PADDED,
            stream: 0x7fff_ffff,
        };
        assert_eq!(Head::parse(&head.bytes()), head);
        let mut reserved = head.bytes();
        reserved[5] |= 0x80;
        assert_eq!(Head::parse(&reserved), head, "the reserved bit is ignored");
    }

    #[test]
    fn padding_may_not_be_longer_than_the_payload() {
        let head = Head {
            length: 0,
            kind: DATA,
            flags: PADDED,
            stream: 1,
        };
        assert_eq!(unpad(head, &[2, b'a', 0, 0]), Some(&b"a"[..]));
        assert_eq!(unpad(head, &[3, 0, 0, 0]), Some(&b""[..]));
        assert_eq!(unpad(head, &[4, 0, 0, 0]), None);
        assert_eq!(unpad(head, &[]), None);
    }
}
