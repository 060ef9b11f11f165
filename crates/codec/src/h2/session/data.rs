//! DATA frames that come in (RFC 9113, section 6.1): handed on as they come, piece by piece.

use bytes::Buf;
use bytes::Bytes;
use bytes::BytesMut;

use crate::Reason;
use crate::StreamError;

use super::super::frame;
use super::super::frame::HEAD;
use super::super::frame::Head;
use super::super::input::DataRest;
use super::Fault;
use super::State;
use super::receive::PROTOCOL;

/// Envoy's name for the fault of a stream that this side resets.
pub(super) const REMOTE_RESET: &str = "http2.remote_reset";

impl State {
    pub(super) fn begin_data(&mut self, head: Head, first: Option<u8>) -> Result<(), Fault> {
        let (pad_field, padding) = match (head.has(frame::PADDED), first) {
            (false, _) => (0, 0),
            (true, Some(padding)) => (1, usize::from(padding)),
            (true, None) => return Err(PROTOCOL),
        };
        let left = (head.length - pad_field)
            .checked_sub(padding)
            .ok_or(PROTOCOL)?;
        let rest = DataRest {
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
            if self.streams.has_ended(head.stream) {
                // RFC 9113, section 5.1: the peer has said that this would not come.
                self.queue_reset(head.stream, Reason::STREAM_CLOSED);
            }
            // Otherwise the stream was closed while this was on its way.
            self.release_connection(waste);
            return self.go_on_with_data(rest);
        };
        let is_client = !self.is_server();
        let Some(stream) = self.streams.get(key) else {
            return Ok(());
        };
        if !stream.receiving {
            // The peer had ended the stream, which this side has not: RFC 9113, section 5.1, makes it an error of the stream.
            let error = StreamError::ProtocolError(REMOTE_RESET);
            self.break_stream(key, error, Reason::STREAM_CLOSED);
            self.release_connection(waste);
            return self.go_on_with_data(DataRest {
                ends: false,
                ..rest
            });
        }
        let is_early = is_client && !stream.heads.complete;
        if is_early && !stream.heads.opened {
            return Err(PROTOCOL);
        }
        stream.meter.add_body_received(0, HEAD + waste);
        let allowed = stream.window.receive(head.length);
        self.note(head, waste)?;
        if !allowed {
            let error = StreamError::ProtocolError(REMOTE_RESET);
            self.break_stream(key, error, Reason::FLOW_CONTROL_ERROR);
        } else if is_early {
            // After an interim head it is the stream's fault, as nghttp2 has it.
            let error = StreamError::ProtocolError(REMOTE_RESET);
            self.break_stream(key, error, Reason::PROTOCOL_ERROR);
        }
        self.release(key, waste);
        self.go_on_with_data(rest)
    }

    /// Ends a DATA frame of which nothing more will come, or waits for the rest.
    pub(super) fn go_on_with_data(&mut self, rest: DataRest) -> Result<(), Fault> {
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
        mut rest: DataRest,
        chunk: &mut BytesMut,
    ) -> Result<(), Fault> {
        if rest.left == 0 {
            let count = rest.padding.min(chunk.len());
            chunk.advance(count);
            rest.padding -= count;
            rest.ends = false;
            return self.go_on_with_data(rest);
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
        self.go_on_with_data(rest)
    }

    /// Hands the next `count` bytes of `chunk` to a stream.
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
                    return self.break_content_length(key);
                }
            }
        }
        if stream.unread {
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

    /// The body's last DATA frame was the message's end.
    pub(super) fn end_data(&mut self, id: u32) {
        let Some(key) = self.streams.key(id) else {
            return;
        };
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        if stream.content_left.is_some_and(|left| left > 0) {
            return self.break_content_length(key);
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
        self.streams.settle(key);
    }

    /// The body is not as long as `content-length` says.
    pub(super) fn break_content_length(&mut self, key: usize) {
        let error = StreamError::ProtocolError(REMOTE_RESET);
        self.break_stream(key, error, Reason::PROTOCOL_ERROR);
    }

    /// Resets a stream for the peer's fault, and drops what has come of its message.
    pub(super) fn break_stream(&mut self, key: usize, error: StreamError, reason: Reason) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        let unread = stream.data.clear();
        self.release_connection(unread);
        self.cut_stream(key, error, reason);
    }

    /// Resets a stream for the peer's fault; what came before that may still be read.
    pub(super) fn cut_stream(&mut self, key: usize, error: StreamError, reason: Reason) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        let id = stream.id;
        stream.fail(error, &mut self.wakers);
        self.queue_reset(id, reason);
        self.streams.settle(key);
    }
}
