//! How calls are framed: the messages in bodies, and the end of calls without trailers.

use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use http::StatusCode;
use outrider_codec::Body;
use outrider_codec::BodyStream;
use outrider_codec::Frame;
use outrider_codec::HeaderMap;
use outrider_codec::Meter;
use outrider_codec::StreamError;
use outrider_codec::header;
use outrider_codec::header::CONTENT_TYPE;
use serde_json::Map;
use serde_json::Value;

use super::counters::CallCounters;
use crate::grpc;

/// The flag of the last frame of a stream in the Connect protocol. Envoy looks for it in responses.
const CONNECT_END: u8 = 2;
/// How much of that frame is read; a call with a longer one does not count as a success.
const MAX_END: usize = 64 * 1024;

/// The protocol of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Protocol {
    body: MessageFraming,
    /// Whether the request has `connect-protocol-version`: then the response's HTTP status tells how the call ended.
    pub(super) versioned: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MessageFraming {
    /// Messages, and a status in trailers.
    Grpc,
    /// Messages, the last of which ends the stream and holds the status (`application/connect+proto`).
    Connect,
    /// One message without a prefix.
    Unary,
}

impl Protocol {
    pub(super) const GRPC: Protocol = Protocol {
        body: MessageFraming::Grpc,
        versioned: false,
    };

    /// The protocol of a request with these headers; `None` if it is not a call.
    pub(super) fn of(headers: &HeaderMap) -> Option<Protocol> {
        let versioned = headers.get("connect-protocol-version").is_some();
        let body = if grpc::is_request(headers) {
            MessageFraming::Grpc
        } else if is_connect(headers) {
            MessageFraming::Connect
        } else if versioned {
            MessageFraming::Unary
        } else {
            return None;
        };
        Some(Protocol { body, versioned })
    }
}

fn is_connect(headers: &HeaderMap) -> bool {
    let content_type = headers.get(&CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/connect+"))
}

/// Whether the body after this head consists of gRPC messages.
pub(super) fn is_grpc_response(status: StatusCode, headers: &HeaderMap) -> bool {
    status == StatusCode::OK && grpc::is_request(headers)
}

/// Whether the body after this head ends with the status of a Connect stream.
pub(super) fn is_connect_response(status: StatusCode, headers: &HeaderMap) -> bool {
    status == StatusCode::OK && is_connect(headers)
}

/// Counts messages, each after a prefix of five bytes. A message counts from its first byte on, as in Envoy.
#[derive(Debug, Default)]
struct MessageCounter {
    /// The flag of a frame that is not a message and ends the count.
    ending: u8,
    ended: bool,
    /// The length and the text of that frame.
    end: Vec<u8>,
    /// How many bytes of the prefix were read.
    prefix: u8,
    length: u32,
    /// How many bytes of the message are still to come.
    left: u32,
}

impl MessageCounter {
    /// How many messages begin in `bytes`, the next bytes of the body.
    fn count(&mut self, mut bytes: &[u8]) -> u64 {
        let mut begun = 0;
        if self.ended {
            self.keep(bytes);
        }
        // The usual case: `bytes` begins with a message and its whole prefix.
        while let Some(([flags, length @ ..], rest)) = bytes.split_first_chunk::<5>()
            && self.prefix == 0
            && self.left == 0
            && flags & self.ending == 0
            && !self.ended
            && let Some(rest) = rest.get(u32::from_be_bytes(*length) as usize..)
        {
            begun += 1;
            bytes = rest;
        }
        while let [first, rest @ ..] = bytes
            && !self.ended
        {
            if self.left > 0 {
                let skipped = bytes.len().min(self.left as usize);
                self.left -= u32::try_from(skipped).unwrap_or(u32::MAX);
                bytes = &bytes[skipped..];
                continue;
            }
            match self.prefix {
                0 if first & self.ending != 0 => {
                    self.ended = true;
                    self.keep(rest);
                    break;
                }
                0 => {
                    begun += 1;
                    self.length = 0;
                }
                _ => self.length = self.length << 8 | u32::from(*first),
            }
            self.prefix += 1;
            if self.prefix == 5 {
                self.prefix = 0;
                self.left = self.length;
            }
            bytes = rest;
        }
        begun
    }

    /// Keeps the bytes after the flag that ends the count.
    fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_END.saturating_sub(self.end.len());
        self.end
            .extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    /// Whether the last frame of a Connect stream has arrived and contains no error.
    fn succeeded(&self) -> bool {
        let Some((length, text)) = self.end.split_first_chunk::<4>() else {
            return false;
        };
        let text = text.get(..u32::from_be_bytes(*length) as usize);
        let end = text.map(serde_json::from_slice::<Map<String, Value>>);
        match end {
            Some(Ok(end)) => end
                .get("error")
                .and_then(|error| error.get("code"))
                .is_none(),
            Some(Err(_)) | None => false,
        }
    }
}

/// A request's body, with its messages counted.
pub(super) struct CountedRequest {
    body: Body,
    frames: MessageCounter,
    call: Rc<CallCounters>,
}

impl CountedRequest {
    pub(super) fn new(body: Body, call: Rc<CallCounters>) -> CountedRequest {
        CountedRequest {
            body,
            frames: MessageCounter::default(),
            call,
        }
    }
}

impl BodyStream for CountedRequest {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        let frame = ready!(self.body.poll_frame(cx));
        let begun = match &frame {
            _ if self.call.protocol.body == MessageFraming::Unary => u64::from(
                ends(&frame, &self.body) && !std::mem::replace(&mut self.frames.ended, true),
            ),
            Some(Ok(Frame::Data(bytes))) => self.frames.count(bytes),
            _ => 0,
        };
        if begun > 0 {
            self.call.stats.request_message_count.get().add(begun);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn set_paused(&mut self, paused: bool) {
        self.body.set_paused(paused);
    }
}

/// Whether a body ends with this frame, without trailers.
fn ends(frame: &Option<Result<Frame, StreamError>>, body: &Body) -> bool {
    match frame {
        Some(Ok(Frame::Data(_))) => body.is_end_stream(),
        Some(_) => false,
        None => true,
    }
}

/// A response's body, with its messages and its end counted.
pub(super) struct CountedResponse {
    body: Body,
    framing: Option<MessageFraming>,
    frames: MessageCounter,
    /// Whether the end was counted.
    over: bool,
    /// The upstream side, if its time is recorded.
    meter: Option<Rc<Meter>>,
    call: Rc<CallCounters>,
}

impl CountedResponse {
    /// `is_grpc`: the response's head is a gRPC one, whatever the request was.
    pub(super) fn new(
        body: Body,
        is_grpc: bool,
        meter: Option<Rc<Meter>>,
        call: Rc<CallCounters>,
    ) -> CountedResponse {
        let framing = match (is_grpc, call.protocol.body) {
            (true, _) => Some(MessageFraming::Grpc),
            (false, MessageFraming::Grpc) => None,
            (false, framing) => Some(framing),
        };
        CountedResponse {
            body,
            framing,
            frames: MessageCounter {
                ending: CONNECT_END,
                ..MessageCounter::default()
            },
            over: false,
            meter,
            call,
        }
    }

    fn count(&mut self, frame: &Option<Result<Frame, StreamError>>) {
        let stats = &self.call.stats;
        match (self.framing, frame) {
            (
                Some(MessageFraming::Grpc | MessageFraming::Connect),
                Some(Ok(Frame::Data(bytes))),
            ) => {
                let begun = self.frames.count(bytes);
                if begun > 0 {
                    stats.response_message_count.get().add(begun);
                }
            }
            (_, Some(Ok(Frame::Trailers(trailers)))) => {
                self.over = true;
                if self.call.protocol.body == MessageFraming::Grpc {
                    stats.count(trailers.get(&header::GRPC_STATUS));
                    self.record_time();
                }
                return;
            }
            _ => {}
        }
        if self.over || !ends(frame, &self.body) {
            return;
        }
        self.over = true;
        match self.framing {
            Some(MessageFraming::Connect) => stats.count_outcome(self.frames.succeeded()),
            Some(MessageFraming::Unary) => stats.response_message_count.get().inc(),
            Some(MessageFraming::Grpc) | None => return,
        }
        self.record_time();
    }

    fn record_time(&self) {
        if let Some(meter) = &self.meter {
            self.call.stats.record_time(meter);
        }
    }
}

impl BodyStream for CountedResponse {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        let frame = ready!(self.body.poll_frame(cx));
        self.count(&frame);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn set_paused(&mut self, paused: bool) {
        self.body.set_paused(paused);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_counts_from_its_first_byte() {
        let text = b"\0\0\0\0\x03abc\x01\0\0\0\0\0\0\0\x01\0";
        let begins = [0, 8, 13];
        for cut in 0..=text.len() {
            let mut frames = MessageCounter::default();
            let before = begins.iter().filter(|begin| **begin < cut).count() as u64;
            assert_eq!(frames.count(&text[..cut]), before, "cut at {cut}");
            assert_eq!(frames.count(&text[cut..]), 3 - before, "cut at {cut}");
        }
    }

    #[test]
    fn bytes_after_the_last_flag_are_not_messages() {
        let text = b"\0\0\0\0\x01a\x80\0\0\0\x01b\0\0\0\0\0";
        for cut in 0..=text.len() {
            let mut frames = MessageCounter {
                ending: 0x80,
                ..MessageCounter::default()
            };
            let counted = frames.count(&text[..cut]) + frames.count(&text[cut..]);
            assert_eq!(counted, 1, "cut at {cut}");
        }
    }

    #[test]
    fn the_last_frame_tells_whether_a_call_succeeded() {
        for (text, succeeded) in [
            (&b"\x02\0\0\0\x02{}"[..], true),
            (b"\0\0\0\0\x01a\x02\0\0\0\x0c{\"error\":{}}", true),
            (b"\x02\0\0\0\x17{\"error\":{\"code\":\"x\"}}", false),
            (b"\x02\0\0\0\x03{}", false),
            (b"\x02\0\0\0\0", false),
            (b"\0\0\0\0\x02{}", false),
        ] {
            for cut in 0..=text.len() {
                let mut frames = MessageCounter {
                    ending: CONNECT_END,
                    ..MessageCounter::default()
                };
                frames.count(&text[..cut]);
                frames.count(&text[cut..]);
                assert_eq!(frames.succeeded(), succeeded, "{text:?} cut at {cut}");
            }
        }
    }
}
