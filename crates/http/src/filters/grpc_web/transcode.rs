//! The bodies of gRPC-Web: requests in base64, and responses whose last frame holds the trailers.

use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Buf;
use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;
use http::StatusCode;
use memchr::memchr;
use outrider_codec::Body;
use outrider_codec::BodyStream;
use outrider_codec::Frame;
use outrider_codec::HeaderMap;
use outrider_codec::StreamError;
use outrider_codec::header;

use crate::filters::LateReply;
use crate::filters::grpc_stats::counters::CallCounters;
use crate::local_reply::LocalReply;
use crate::router::UpstreamRequest;

/// A request's body in base64, decoded. A request whose base64 is broken gets a 400.
pub(super) struct DecodedRequest {
    body: Body,
    late_reply: LateReply,
    /// The text that is not a whole group of four yet.
    rest: BytesMut,
    ended: bool,
}

impl DecodedRequest {
    pub(super) fn new(body: Body, late_reply: LateReply) -> DecodedRequest {
        DecodedRequest {
            body,
            late_reply,
            rest: BytesMut::new(),
            ended: false,
        }
    }

    fn refuse(&mut self, details: &'static str) -> StreamError {
        self.ended = true;
        let reply = LocalReply::new(StatusCode::BAD_REQUEST, details);
        self.late_reply
            .end(reply.body("Bad gRPC-web request, invalid base64 data."))
    }

    /// Decodes the whole groups that have arrived.
    fn decode(&mut self, data: &[u8]) -> Result<Bytes, StreamError> {
        self.rest.extend_from_slice(data);
        let groups = self.rest.split_to(self.rest.len() / 4 * 4);
        let mut groups = &groups[..];
        let mut decoded = Vec::with_capacity(groups.len() / 4 * 3);
        // A client may pad each chunk that it encodes.
        while !groups.is_empty() {
            let padding = memchr(b'=', groups);
            let end = padding.map_or(groups.len(), |at| (at / 4 + 1) * 4);
            let (chunk, after) = groups.split_at(end.min(groups.len()));
            if STANDARD.decode_vec(chunk, &mut decoded).is_err() {
                return Err(self.refuse("grpc_base_64_decode_failed"));
            }
            groups = after;
        }
        Ok(decoded.into())
    }
}

impl BodyStream for DecodedRequest {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            match ready!(self.body.poll_frame(cx)) {
                Some(Ok(Frame::Data(data))) => {
                    let decoded = self.decode(&data);
                    if decoded.as_ref().is_ok_and(Bytes::is_empty) {
                        continue;
                    }
                    return Poll::Ready(Some(decoded.map(Frame::Data)));
                }
                None => {
                    self.ended = true;
                    let is_whole = self.rest.is_empty();
                    let end = (!is_whole)
                        .then(|| Err(self.refuse("grpc_base_64_decode_failed_bad_size")));
                    return Poll::Ready(end);
                }
                other => {
                    self.ended = true;
                    return Poll::Ready(other);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.rest.is_empty() && self.body.is_end_stream()
    }

    fn set_paused(&mut self, paused: bool) {
        self.body.set_paused(paused);
    }
}

/// The flag of the frame that holds the trailers.
const TRAILERS_FLAG: u8 = 0x80;

/// A response's body with its trailers in a last frame. In base64, each frame is encoded on its own.
pub(super) struct EncodedResponse {
    body: Body,
    text: Option<TextEncoder>,
    counters: Option<Rc<CallCounters>>,
    upstream: Option<Rc<UpstreamRequest>>,
    ended: bool,
}

impl EncodedResponse {
    pub(super) fn new(
        body: Body,
        is_text: bool,
        counters: Option<Rc<CallCounters>>,
        upstream: Option<Rc<UpstreamRequest>>,
    ) -> EncodedResponse {
        EncodedResponse {
            body,
            text: is_text.then(TextEncoder::default),
            counters,
            upstream,
            ended: false,
        }
    }

    fn trailers(&mut self, trailers: &HeaderMap) -> Bytes {
        if let Some(counters) = &self.counters {
            counters.stats.count(trailers.get(&header::GRPC_STATUS));
        }
        // The response has no trailers any more, also for access logs.
        if let Some(upstream) = &self.upstream {
            upstream.capture_trailers(&HeaderMap::new());
        }
        let mut fields = BytesMut::new();
        for (name, value) in trailers.iter() {
            for part in [name.as_str().as_bytes(), b":", value.as_bytes(), b"\r\n"] {
                fields.extend_from_slice(part);
            }
        }
        let mut frame = BytesMut::with_capacity(5 + fields.len());
        frame.put_u8(TRAILERS_FLAG);
        frame.put_u32(u32::try_from(fields.len()).unwrap_or(u32::MAX));
        frame.extend_from_slice(&fields);
        match self.text {
            Some(_) => STANDARD.encode(frame).into(),
            None => frame.freeze(),
        }
    }
}

impl BodyStream for EncodedResponse {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            let frame = match ready!(self.body.poll_frame(cx)) {
                Some(Ok(Frame::Data(data))) => match &mut self.text {
                    Some(encoder) => {
                        let text = encoder.encode(&data);
                        if text.is_empty() {
                            continue;
                        }
                        Some(Ok(Frame::Data(text.into())))
                    }
                    None => Some(Ok(Frame::Data(data))),
                },
                Some(Ok(Frame::Trailers(trailers))) => {
                    self.ended = true;
                    Some(Ok(Frame::Data(self.trailers(&trailers))))
                }
                other => other,
            };
            return Poll::Ready(frame);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn set_paused(&mut self, paused: bool) {
        self.body.set_paused(paused);
    }
}

/// Encodes gRPC frames in base64 as their bytes arrive. Each frame ends with its own padding.
#[derive(Default)]
struct TextEncoder {
    /// The part of the frame's prefix that has arrived: a flag and a length.
    prefix: Vec<u8>,
    /// How many bytes of the frame's message are missing.
    missing: usize,
    /// Up to two bytes that do not fill a group yet.
    rest: Vec<u8>,
}

impl TextEncoder {
    fn encode(&mut self, mut data: &[u8]) -> String {
        let mut text = String::new();
        while !data.is_empty() {
            if self.missing > 0 {
                let message = take(&mut data, self.missing);
                self.missing -= message.len();
                self.push(message, &mut text);
            } else {
                let prefix = take(&mut data, 5 - self.prefix.len());
                self.prefix.extend_from_slice(prefix);
                let Some(mut length) = self.prefix.get(1..5) else {
                    break;
                };
                self.missing = length.get_u32() as usize;
                let prefix = std::mem::take(&mut self.prefix);
                self.push(&prefix, &mut text);
            }
            if self.missing == 0 && self.prefix.is_empty() {
                STANDARD.encode_string(std::mem::take(&mut self.rest), &mut text);
            }
        }
        text
    }

    /// Encodes the whole groups.
    fn push(&mut self, bytes: &[u8], text: &mut String) {
        self.rest.extend_from_slice(bytes);
        let whole = self.rest.len() / 3 * 3;
        let groups: Vec<u8> = self.rest.drain(..whole).collect();
        STANDARD.encode_string(groups, text);
    }
}

/// Takes up to `count` bytes from the front of `data`.
fn take<'d>(data: &mut &'d [u8], count: usize) -> &'d [u8] {
    let (taken, rest) = data.split_at(count.min(data.len()));
    *data = rest;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_frame_is_encoded_with_its_own_padding() {
        let frames = b"\0\0\0\0\x04abcd\0\0\0\0\0\0\0\0\0\x01x";
        let want =
            [&frames[..9], &frames[9..14], &frames[14..]].map(|frame| STANDARD.encode(frame));
        for size in 1..=frames.len() {
            let mut encoder = TextEncoder::default();
            let text: String = frames
                .chunks(size)
                .map(|chunk| encoder.encode(chunk))
                .collect();
            assert_eq!(text, want.concat(), "in chunks of {size}");
        }
    }

    async fn decoded(chunks: &[&'static str]) -> Result<Vec<u8>, String> {
        let late_reply = LateReply::default();
        let mut all = Vec::new();
        let mut request = DecodedRequest::new(Body::Empty, late_reply.clone());
        for chunk in chunks {
            match request.decode(chunk.as_bytes()) {
                Ok(data) => all.extend_from_slice(&data),
                Err(_) => return Err(late_reply.details()),
            }
        }
        let end = Body::wrap(request).frame().await;
        match end {
            None => Ok(all),
            Some(_) => Err(late_reply.details()),
        }
    }

    #[tokio::test]
    async fn base64_may_come_in_padded_chunks_of_any_size() {
        for chunks in [
            &["YWJjZGVmZw=="][..],
            &["YWJj", "ZA==", "ZWZn"],
            &["Y", "WJjZA=", "=ZWZ", "n"],
            &["YWJjZA==ZWZn"],
        ] {
            assert_eq!(decoded(chunks).await.unwrap(), b"abcdefg", "{chunks:?}");
        }
        for (chunks, details) in [
            (&["YWJjZ"][..], "grpc_base_64_decode_failed_bad_size"),
            (&["Y!Jj"], "grpc_base_64_decode_failed"),
            (&["===="], "grpc_base_64_decode_failed"),
        ] {
            assert_eq!(decoded(chunks).await.unwrap_err(), details, "{chunks:?}");
        }
    }
}
