//! Received DATA frames (RFC 9113, section 6.1). Their data is passed on as it arrives, also in parts of a frame.

use bytes::Buf;
use bytes::Bytes;
use bytes::BytesMut;

use crate::Reason;
use crate::StreamError;

use super::super::frame;
use super::super::frame::HEAD;
use super::super::frame::Head;
use super::super::input::PendingData;
use super::Fault;
use super::SessionState;
use super::receive::INTERNAL;
use super::receive::PROTOCOL;
use super::receive::USELESS_BYTES;

/// Envoy's name for the error of a stream that this side resets.
pub(super) const REMOTE_RESET: &str = "http2.remote_reset";

impl SessionState {
    pub(super) fn begin_data(&mut self, head: Head, first: Option<u8>) -> Result<(), Fault> {
        let (pad_field, padding) = match (head.has(frame::PADDED), first) {
            (false, _) => (0, 0),
            (true, Some(padding)) => (1, usize::from(padding)),
            (true, None) => return Err(PROTOCOL),
        };
        let left = (head.length - pad_field)
            .checked_sub(padding)
            .ok_or(PROTOCOL)?;
        let rest = PendingData {
            stream: head.stream,
            left,
            padding,
            ends: head.has(frame::END_STREAM),
        };
        if head.stream == 0 {
            return Err(PROTOCOL);
        }
        if !self.window.receive(head.length) {
            return Err(Fault::GoAway(Reason::FLOW_CONTROL_ERROR));
        }
        let waste = pad_field + padding;
        let Some(key) = self.streams.key(head.stream) else {
            if self.is_idle(head.stream) {
                return Err(PROTOCOL);
            }
            self.limits.note_useless(1 + head.length / USELESS_BYTES);
            if self.streams.has_ended(head.stream) {
                // The peer sends data after the end of its message, which RFC 9113, section 5.1, makes a stream error.
                self.queue_caused_reset(head.stream, Reason::STREAM_CLOSED);
            }
            // If it had not ended normally, the frame may have been in flight when this side reset the stream.
            self.release_connection(waste);
            return self.continue_data(rest);
        };
        let is_client = !self.is_server();
        let stream = self.streams.get(key).ok_or(INTERNAL)?;
        if !stream.receiving {
            // The peer has ended its message but this side has not. RFC 9113, section 5.1, makes it a stream error.
            let error = StreamError::ProtocolError(REMOTE_RESET);
            self.reset_malformed(key, error, Reason::STREAM_CLOSED);
            self.release_connection(waste);
            return self.continue_data(PendingData {
                ends: false,
                ..rest
            });
        }
        let is_early = is_client && !stream.heads.complete;
        if is_early && !stream.heads.has_interim {
            return Err(PROTOCOL);
        }
        stream.meter.add_body_received(0, HEAD + waste);
        let allowed = stream.window.receive(head.length);
        self.note(head, waste)?;
        self.limits.note_data_received(left, rest.ends);
        if !allowed {
            let error = StreamError::ProtocolError(REMOTE_RESET);
            self.reset_malformed(key, error, Reason::FLOW_CONTROL_ERROR);
        } else if is_early {
            // After an interim head it is a stream error, as in nghttp2.
            let error = StreamError::ProtocolError(REMOTE_RESET);
            self.reset_malformed(key, error, Reason::PROTOCOL_ERROR);
        }
        self.release(key, waste);
        self.continue_data(rest)
    }

    /// Completes a DATA frame whose payload has arrived, or waits for the rest.
    pub(super) fn continue_data(&mut self, rest: PendingData) -> Result<(), Fault> {
        if rest.left == 0 && rest.ends {
            self.end_data(rest.stream);
        }
        if rest.left + rest.padding > 0 {
            self.input.data = Some(rest);
        }
        Ok(())
    }

    pub(super) fn feed_data(
        &mut self,
        mut rest: PendingData,
        chunk: &mut BytesMut,
    ) -> Result<(), Fault> {
        if rest.left == 0 {
            let count = rest.padding.min(chunk.len());
            chunk.advance(count);
            rest.padding -= count;
            rest.ends = false;
            return self.continue_data(rest);
        }
        let count = rest.left.min(chunk.len());
        rest.left -= count;
        match self.streams.key(rest.stream) {
            Some(key) => self.take_data(key, count, chunk),
            None => {
                chunk.advance(count);
                self.release_connection(count);
            }
        }
        self.continue_data(rest)
    }

    /// Adds the next `count` bytes of `chunk` to a stream's body.
    pub(super) fn take_data(&mut self, key: usize, count: usize, chunk: &mut BytesMut) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        stream.meter.add_body_received(count, count);
        if !stream.receiving {
            chunk.advance(count);
            return self.release(key, count);
        }
        if let Some(left) = &mut stream.content_left {
            match left.checked_sub(count as u64) {
                Some(now) => *left = now,
                None => {
                    chunk.advance(count);
                    self.release_connection(count);
                    return self.content_length_mismatch(key);
                }
            }
        }
        if stream.discarding {
            chunk.advance(count);
            return self.release(key, count);
        }
        let bytes = if self.input.is_small(count) {
            let bytes = Bytes::copy_from_slice(chunk.get(..count).unwrap_or_default());
            chunk.advance(count);
            bytes
        } else {
            chunk.split_to(count).freeze()
        };
        stream.data.push(bytes);
        stream.wake_reader(&mut self.wakers);
    }

    /// Ends the stream's message after a DATA frame with END_STREAM.
    pub(super) fn end_data(&mut self, id: u32) {
        let Some(key) = self.streams.key(id) else {
            return;
        };
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        if stream.content_left.is_some_and(|left| left > 0) {
            return self.content_length_mismatch(key);
        }
        self.end_receiving(key);
    }

    pub(super) fn end_receiving(&mut self, key: usize) {
        if let Some(stream) = self.streams.get(key) {
            stream.receiving = false;
            if stream.begun && stream.trailers.is_none() && stream.data.is_empty() {
                stream.meter.end_receive();
            }
            stream.wake_reader(&mut self.wakers);
        }
        self.streams.remove_if_closed(key);
    }

    /// Handles a body whose length differs from `content-length`.
    pub(super) fn content_length_mismatch(&mut self, key: usize) {
        let error = StreamError::ProtocolError(REMOTE_RESET);
        self.reset_malformed(key, error, Reason::PROTOCOL_ERROR);
    }

    /// Resets a stream because of the peer's error, and drops the received part of its message.
    pub(super) fn reset_malformed(&mut self, key: usize, error: StreamError, reason: Reason) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        let unread = stream.data.clear();
        self.release_connection(unread);
        self.reset_keeping_data(key, error, reason);
    }

    /// Resets a stream because of the peer's error. The received part of its message can still be read.
    pub(super) fn reset_keeping_data(&mut self, key: usize, error: StreamError, reason: Reason) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        let id = stream.id;
        stream.fail(error, &mut self.wakers);
        self.queue_caused_reset(id, reason);
        self.streams.remove_if_closed(key);
    }
}
