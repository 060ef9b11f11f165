//! Frames to send, and flow control windows.

use std::rc::Rc;
use std::task::Context;
use std::task::Poll;

use crate::Http2Options;
use crate::Meter;
use crate::Reason;
use crate::StreamError;
use crate::hpack::Encoder;
use crate::meter::HeadSize;

use super::super::frame;
use super::super::frame::HEAD;
use super::super::frame::Head;
use super::super::stream::ResponseTo;
use super::super::stream::StreamState;
use super::super::window::Window;
use super::BothSettings;
use super::DEFAULT_WINDOW;
use super::Role;
use super::Session;
use super::SessionState;
use super::StreamRef;

/// The highest possible stream number.
const LAST_STREAM: u32 = 0x7fff_ffff;

impl Session {
    /// Opens a stream and returns a handle to it; `None` if the connection accepts no more. `response_to` describes the
    /// request.
    pub(in crate::h2) fn open(
        &self,
        meter: &Rc<Meter>,
        response_to: ResponseTo,
    ) -> Option<StreamRef> {
        let mut state = self.0.borrow_mut();
        let id = state.next_stream;
        if state.fault.is_some() || state.goaway_received.is_some() || id > LAST_STREAM {
            return None;
        }
        state.next_stream += 2;
        state.limits.note_stream();
        let window = Window::new(state.settings.window_now());
        let send_window = state.settings.peer_window.into();
        let mut stream = StreamState::new(id, meter.clone(), window, send_window);
        stream.response_to = response_to;
        let key = state.streams.insert(stream);
        let mut hold = state.streams.get(key)?.first_handle(key);
        hold.session = Some(self.clone());
        Some(hold)
    }

    /// Announces to the client that the connection will end. The client may still open streams.
    pub(in crate::h2) fn shutdown_notice(&self) {
        self.with(|state| {
            let frame = frame::goaway(LAST_STREAM, Reason::NO_ERROR);
            state.output.frame(&frame, false);
            state.wake_task();
        });
    }

    /// Announces to the client that no further streams are served.
    pub(in crate::h2) fn goaway(&self) {
        self.with(|state| {
            let last = state.newest_stream;
            state.goaway_sent = Some(last);
            state.stats.goaway_sent.inc();
            let frame = frame::goaway(last, Reason::NO_ERROR);
            state.output.frame(&frame, false);
            state.wake_task();
        });
    }

    /// Sends a PING.
    pub(in crate::h2) fn ping(&self, opaque: [u8; 8]) {
        self.with(|state| {
            state.output.frame(&frame::ping(false, opaque), false);
            state.wake_task();
        });
    }
}

impl Session {
    /// Whether this side has no more stream numbers.
    pub(in crate::h2) fn is_exhausted(&self) -> bool {
        self.0.borrow().next_stream > LAST_STREAM
    }
}

impl BothSettings {
    /// The initial window of a new stream. Before our SETTINGS are acknowledged, the peer may use the RFC's default.
    pub(super) fn window_now(&self) -> u32 {
        if self.acknowledged {
            self.window
        } else {
            self.window.max(DEFAULT_WINDOW)
        }
    }
}

impl SessionState {
    /// Queues the connection preface.
    pub(super) fn send_preface(&mut self, options: &Http2Options) {
        let mut values = Vec::with_capacity(5);
        if self.role == Role::Client {
            self.output.frame(frame::PREFACE, false);
            values.push((frame::ENABLE_PUSH, 0));
        }
        values.push((frame::HEADER_TABLE_SIZE, options.hpack_table_size));
        values.push((frame::ENABLE_CONNECT_PROTOCOL, options.allow_connect.into()));
        values.push((
            frame::MAX_CONCURRENT_STREAMS,
            options.max_concurrent_streams,
        ));
        values.push((
            frame::INITIAL_WINDOW_SIZE,
            options.initial_stream_window_size,
        ));
        self.output.frame(&frame::settings(&values), false);
        let window = options.initial_connection_window_size;
        if let Some(more) = window.checked_sub(DEFAULT_WINDOW).filter(|more| *more > 0) {
            self.output.frame(&frame::window_update(0, more), false);
        }
    }

    pub(super) fn queue_reset(&mut self, id: u32, reason: Reason) {
        self.stats.tx_reset.inc();
        self.output.frame(&frame::rst_stream(id, reason), true);
        self.wake_task();
    }

    /// Resets a stream because of the peer's error.
    pub(super) fn queue_caused_reset(&mut self, id: u32, reason: Reason) {
        self.limits.note_caused_reset();
        self.queue_reset(id, reason);
    }

    /// Gives the peer credit for `count` bytes of a stream that were consumed.
    pub(super) fn release(&mut self, key: usize, count: usize) {
        if self.fault.is_none()
            && let Some(stream) = self.streams.get(key)
            && stream.receiving
            && let Some(increment) = stream.window.consume(count)
        {
            let frame = frame::window_update(stream.id, increment);
            self.output.frame(&frame, false);
            self.wake_task();
        }
        self.release_connection(count);
    }

    /// Gives the peer credit on the connection only, because the stream receives no more.
    pub(super) fn release_connection(&mut self, count: usize) {
        // After the connection's last frame, nothing more is sent.
        if self.fault.is_none()
            && let Some(increment) = self.window.consume(count)
        {
            self.output
                .frame(&frame::window_update(0, increment), false);
            self.wake_task();
        }
    }

    pub(super) fn stop_reading(&mut self, key: usize) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        stream.discarding = true;
        stream.trailers = None;
        let count = stream.data.clear();
        self.release(key, count);
    }

    pub(super) fn poll_room(
        &mut self,
        key: usize,
        cx: &Context<'_>,
    ) -> Poll<Result<usize, StreamError>> {
        let sendable = self.sendable(key);
        let full = self.is_full();
        let Some(stream) = self.streams.get(key) else {
            return Poll::Ready(Err(StreamError::ConnectionTermination));
        };
        if let Some(error) = &stream.send_error {
            return Poll::Ready(Err(error.clone()));
        }
        if !stream.sending {
            return Poll::Ready(Err(StreamError::LocalReset));
        }
        if sendable > 0 && stream.backlog.is_none() {
            return Poll::Ready(Ok(sendable));
        }
        let room = self.backlog_room(key);
        if room > 0 {
            return Poll::Ready(Ok(room));
        }
        let Some(stream) = self.streams.get(key) else {
            return Poll::Pending;
        };
        stream.wait_to_write(cx);
        if full {
            self.streams.block(key);
        }
        Poll::Pending
    }

    pub(super) fn send_head(
        &mut self,
        key: usize,
        ends: bool,
        encode: impl FnOnce(&mut Encoder, &mut Vec<u8>) -> usize,
    ) {
        let Some(stream) = self.streams.get(key).filter(|stream| stream.sending) else {
            return;
        };
        let (id, encoder) = (stream.id, &mut self.encoder);
        let (bytes, wire) = self.output.append(false, |buffer| {
            let start = buffer.len();
            buffer.extend_from_slice(&[0; HEAD]);
            encoder.begin(buffer);
            let bytes = encode(encoder, buffer);
            finish_block(buffer, start, id, ends);
            (bytes, buffer.len() - start)
        });
        stream.meter.add_headers_sent(HeadSize::http2(bytes, wire));
        if ends {
            self.end_sending(key);
        }
        self.wake_task();
    }

    pub(super) fn end_sending(&mut self, key: usize) {
        if let Some(stream) = self.streams.get(key) {
            stream.sending = false;
            stream.meter.end_send();
        }
        self.streams.remove_if_closed(key);
    }

    /// Resets a stream, unless both directions have ended.
    pub(super) fn reset(&mut self, key: usize, reason: Reason) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        if !stream.sending && !stream.receiving {
            return;
        }
        let id = stream.id;
        let unread = stream.data.clear();
        stream.fail(StreamError::LocalReset, &mut self.wakers);
        self.release_connection(unread);
        if self.fault.is_none() {
            self.queue_reset(id, reason);
        }
        self.streams.remove_if_closed(key);
    }

    /// Handles the drop of a stream's last handle.
    pub(super) fn drop_last_handle(&mut self, key: usize) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        if stream.has_end_waiting() && self.role == Role::Server {
            // The buffered response is still being sent, which needs no handle.
            return self.stop_reading(key);
        }
        // After a complete response the rest of the request is not needed, which is not an error.
        let reason = if !stream.sending && self.role == Role::Server {
            Reason::NO_ERROR
        } else {
            Reason::INTERNAL_ERROR
        };
        let unread = stream.data.clear();
        self.release_connection(unread);
        self.reset(key, reason);
        self.streams.remove_if_closed(key);
    }
}

/// Fills in the frame header of the header block that follows `start`, and splits a long block into CONTINUATION
/// frames.
fn finish_block(buffer: &mut Vec<u8>, start: usize, stream: u32, ends: bool) {
    let length = buffer.len() - start - HEAD;
    let end_stream = if ends { frame::END_STREAM } else { 0 };
    let mut head = Head {
        length,
        kind: frame::HEADERS,
        flags: end_stream | frame::END_HEADERS,
        stream,
    };
    if length <= frame::MAX_PAYLOAD {
        if let Some(place) = buffer.get_mut(start..start + HEAD) {
            place.copy_from_slice(&head.bytes());
        }
        return;
    }
    let block = buffer.split_off(start + HEAD);
    buffer.truncate(start);
    let mut pieces = block.chunks(frame::MAX_PAYLOAD).peekable();
    head.flags = end_stream;
    while let Some(piece) = pieces.next() {
        head.length = piece.len();
        if pieces.peek().is_none() {
            head.flags |= frame::END_HEADERS;
        }
        buffer.extend_from_slice(&head.bytes());
        buffer.extend_from_slice(piece);
        head.kind = frame::CONTINUATION;
        head.flags = 0;
    }
}
