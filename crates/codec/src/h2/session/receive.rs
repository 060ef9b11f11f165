//! Processes received frames (RFC 9113, section 6). As in Envoy, an error ends the connection with a GOAWAY or without
//! one, resets only a stream, or is ignored.

use bytes::Buf;
use bytes::BytesMut;

use crate::Reason;
use crate::StreamError;

use super::super::frame;
use super::super::frame::HEAD;
use super::super::frame::Head;
use super::super::limits::Flood;
use super::Fault;
use super::SessionState;

pub(super) const PROTOCOL: Fault = Fault::GoAway(Reason::PROTOCOL_ERROR);
/// A stream that must exist does not: to go on would misread what follows.
pub(super) const INTERNAL: Fault = Fault::GoAway(Reason::INTERNAL_ERROR);
pub(super) const FRAME_SIZE: Fault = Fault::GoAway(Reason::FRAME_SIZE_ERROR);

/// So many bytes of a payload that is dropped cost as much as a frame.
pub(super) const USELESS_BYTES: usize = 64;
/// To visit so many streams costs as much as a frame.
const VISITED_STREAMS: usize = 16;

impl From<Flood> for Fault {
    fn from(flood: Flood) -> Fault {
        Fault::Flood(flood)
    }
}

impl SessionState {
    /// Processes `chunk`: all of it, or as much as has enough requests for one turn.
    pub(super) fn feed(&mut self, chunk: &mut BytesMut) -> Result<(), Fault> {
        self.feed_preface(chunk)?;
        while !chunk.is_empty() && !self.has_enough_requests() {
            if self.limits.is_exceeded() {
                return Err(Fault::GoAway(Reason::ENHANCE_YOUR_CALM));
            }
            if let Some(rest) = self.input.data.take() {
                self.feed_data(rest, chunk)?;
            } else if self.input.partial.is_empty() {
                let Some(head) = chunk.first_chunk().map(Head::parse) else {
                    self.input.partial.extend_from_slice(chunk);
                    chunk.clear();
                    break;
                };
                self.check_head(head)?;
                let whole = HEAD + needed(head);
                match chunk.get(HEAD..whole) {
                    Some(payload) => {
                        self.frame(head, payload)?;
                        chunk.advance(whole);
                    }
                    None => {
                        self.input.partial.extend_from_slice(chunk);
                        chunk.clear();
                    }
                }
            } else if !self.feed_partial(chunk)? {
                break;
            }
        }
        Ok(())
    }

    fn feed_preface(&mut self, chunk: &mut BytesMut) -> Result<(), Fault> {
        if self.input.preface == 0 {
            return Ok(());
        }
        let expected = frame::PREFACE;
        let at = expected.len() - self.input.preface;
        let count = self.input.preface.min(chunk.len());
        if chunk.get(..count) != expected.get(at..at + count) {
            // Envoy closes the connection without a word.
            return Err(PROTOCOL);
        }
        self.input.preface -= count;
        chunk.advance(count);
        Ok(())
    }

    /// Continues with an incomplete frame. Returns false if it is still incomplete.
    fn feed_partial(&mut self, chunk: &mut BytesMut) -> Result<bool, Fault> {
        let partial = &mut self.input.partial;
        let had_head = partial.len() >= HEAD;
        if !fill(partial, chunk, HEAD) {
            return Ok(false);
        }
        let Some(head) = partial.first_chunk().map(Head::parse) else {
            return Ok(false);
        };
        if !had_head && let Err(fault) = self.check_head(head) {
            // No frame has begun.
            self.input.partial.clear();
            return Err(fault);
        }
        let whole = HEAD + needed(head);
        if !fill(&mut self.input.partial, chunk, whole) {
            return Ok(false);
        }
        let bytes = std::mem::take(&mut self.input.partial);
        self.frame(head, bytes.get(HEAD..).unwrap_or_default())?;
        Ok(true)
    }

    /// Checks what the frame header alone determines.
    fn check_head(&mut self, head: Head) -> Result<(), Fault> {
        if head.length > frame::MAX_PAYLOAD {
            return Err(FRAME_SIZE);
        }
        if !self.input.first_frame_seen {
            if head.kind != frame::SETTINGS || head.has(frame::ACK) {
                return Err(PROTOCOL);
            }
            self.input.first_frame_seen = true;
        }
        let continues = head.kind == frame::CONTINUATION;
        match &self.input.block {
            Some(block) if !continues || block.stream != head.stream => return Err(PROTOCOL),
            None if continues => return Err(PROTOCOL),
            _ => {}
        }
        if head.kind != frame::PING || !head.has(frame::ACK) {
            self.frames_received += 1;
        }
        Ok(())
    }

    /// Processes a complete frame, or the beginning of a DATA frame.
    fn frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let result = self.dispatch(head, payload);
        if result == Err(Fault::Close)
            && let Some(key) = self.streams.key(head.stream)
            && let Some(stream) = self.streams.get(key)
        {
            // The stream that caused the error, unless it has a more specific error already.
            let error = StreamError::ProtocolError("http2.unknown.nghttp2.error");
            stream.fail(error, &mut self.wakers);
        }
        result
    }

    fn dispatch(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        match head.kind {
            frame::DATA => self.begin_data(head, payload.first().copied()),
            frame::HEADERS => self.headers(head, payload),
            frame::PRIORITY => self.priority(head, payload),
            frame::RST_STREAM => self.rst_stream(head, payload),
            frame::SETTINGS => self.settings(head, payload),
            frame::PUSH_PROMISE => Err(Fault::Close),
            frame::PING => self.ping(head, payload),
            frame::GOAWAY => self.goaway(head, payload),
            frame::WINDOW_UPDATE => self.window_update(head, payload),
            frame::CONTINUATION => self.continuation(head, payload),
            // RFC 9113, section 5.5: unknown types are ignored.
            _ => {
                self.limits.note_useless(1 + head.length / USELESS_BYTES);
                Ok(())
            }
        }
    }

    /// Whether the stream with this number is idle: no frame for it was sent or received yet.
    pub(super) fn is_idle(&self, id: u32) -> bool {
        let is_clients = id % 2 == 1;
        match (self.is_server(), is_clients) {
            (true, true) => id > self.newest_stream,
            (false, true) => id >= self.next_stream,
            // Neither side uses server push.
            (_, false) => true,
        }
    }

    /// Counts a frame that makes this side visit all of its streams.
    pub(super) fn note_visit(&mut self) {
        let cost = 1 + self.streams.open() / VISITED_STREAMS;
        self.limits.note_useless(cost);
    }

    pub(super) fn note(&mut self, head: Head, padding: usize) -> Result<(), Fault> {
        self.limits.note_frame(head, padding).map_err(|flood| {
            flood.count(&self.stats);
            Fault::Flood(flood)
        })
    }
}

/// How many bytes after a frame header must have arrived before the frame is processed: all of them, except that DATA
/// only needs its padding length.
fn needed(head: Head) -> usize {
    match head.kind {
        frame::DATA => usize::from(head.has(frame::PADDED) && head.length > 0),
        _ => head.length,
    }
}

/// Moves bytes until `partial` has `wanted`. Returns false if there were not enough.
fn fill(partial: &mut Vec<u8>, chunk: &mut BytesMut, wanted: usize) -> bool {
    let count = wanted.saturating_sub(partial.len()).min(chunk.len());
    partial.extend_from_slice(chunk.get(..count).unwrap_or_default());
    chunk.advance(count);
    partial.len() >= wanted
}
