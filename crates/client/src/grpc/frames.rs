//! gRPC's framing of messages: a flag, four bytes of length, the message.

use bytes::Buf;
use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;
use prost::Message;

use super::Code;
use super::Status;

/// The length of a frame's header.
const HEADER: usize = 5;

/// A message in its frame.
pub(super) fn encode(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(HEADER + length);
    frame.put_u8(0);
    // No message reaches 4 GiB: configuration and the limits on headers and bodies bound all its parts.
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(&mut frame);
    frame.freeze()
}

/// Takes messages out of the bytes of a response's body.
#[derive(Debug)]
pub(super) struct GrpcDecoder {
    received: BytesMut,
    /// The longest message to accept, in bytes.
    limit: usize,
}

impl GrpcDecoder {
    pub(super) fn new(limit: usize) -> GrpcDecoder {
        GrpcDecoder {
            received: BytesMut::new(),
            limit,
        }
    }

    /// Adds bytes that were received.
    pub(super) fn push(&mut self, data: &[u8]) {
        self.received.extend_from_slice(data);
    }

    /// The next complete message, if there is one.
    ///
    /// # Errors
    /// The message is longer than allowed, or compressed.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(&[flags, a, b, c, d]) = self.received.first_chunk() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > self.limit {
            return Err(Status::new(Code::RESOURCE_EXHAUSTED, ""));
        }
        // The proxy does not offer any compression.
        if flags > 1 || flags == 1 && length > 0 {
            return Err(Status::new(Code::INTERNAL, ""));
        }
        if self.received.len() < HEADER + length {
            return Ok(None);
        }
        self.received.advance(HEADER);
        Ok(Some(self.received.split_to(length).freeze()))
    }
}

/// The message in `bytes`.
///
/// # Errors
/// If it is none of this type.
pub(super) fn decode<T: Message + Default>(bytes: Bytes) -> Result<T, Status> {
    T::decode(bytes).map_err(|_| Status::new(Code::INTERNAL, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_pass_in_pieces() {
        let mut bytes = encode(&"one".to_owned()).to_vec();
        bytes.extend_from_slice(&encode(&String::new()));
        bytes.extend_from_slice(&encode(&"three".to_owned()));
        for piece in 1..bytes.len() {
            let mut decoder = GrpcDecoder::new(100);
            let mut found = Vec::new();
            for data in bytes.chunks(piece) {
                decoder.push(data);
                while let Some(bytes) = decoder.next().unwrap() {
                    found.push(decode::<String>(bytes).unwrap());
                }
            }
            assert_eq!(found, ["one", "", "three"]);
            assert!(decoder.received.is_empty());
        }
    }

    #[test]
    fn wrong_lengths_and_flags_are_refused() {
        let status = |bytes: &[u8]| {
            let mut decoder = GrpcDecoder::new(100);
            decoder.push(bytes);
            decoder.next().unwrap_err().code
        };
        assert_eq!(status(&[0, 0, 0, 0, 101]), Code::RESOURCE_EXHAUSTED);
        assert_eq!(status(&[0, 255, 255, 255, 255]), Code::RESOURCE_EXHAUSTED);
        assert_eq!(status(&[1, 0, 0, 0, 1, 0]), Code::INTERNAL);
        assert_eq!(status(&[7, 0, 0, 0, 0]), Code::INTERNAL);
        let decoded = decode::<String>(Bytes::from_static(&[0xff, 0xff]));
        assert_eq!(decoded.unwrap_err().code, Code::INTERNAL);
    }
}
