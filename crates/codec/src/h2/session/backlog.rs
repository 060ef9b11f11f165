//! A stream's backlog: what it cannot send yet because the peer's windows are closed or the socket accepts nothing.
//!
//! It buffers a limited amount, so that the producer can finish early: an upstream connection becomes free, a handler
//! ends. A message that is buffered completely remains after its handler has ended, for at most `stream_flush_timeout`.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::Reason;
use crate::header::HeaderMap;

use super::super::frame;
use super::super::frame::HEAD;
use super::super::frame::Head;
use super::super::headers;
use super::super::stream::Chunks;
use super::super::stream::StreamState;
use super::SessionState;
use super::StreamRef;

/// The maximum backlog of one stream in bytes; lower if the connection's buffer limit is.
pub(super) const MAX_BACKLOG: usize = 256 * 1024;
/// The maximum backlog of all streams of a connection, in bytes.
const MAX_OF_CONNECTION: usize = 4 * 1024 * 1024;

/// One stream's backlog.
#[derive(Debug)]
pub(in crate::h2) struct Backlog {
    data: Chunks,
    bytes: usize,
    /// The total backlog of the connection's streams, in bytes.
    total: Rc<Cell<usize>>,
    /// How the message ends. Nothing is added after that.
    end: Option<End>,
    flush_deadline: Option<Instant>,
}

/// The end of a message.
#[derive(Debug)]
enum End {
    Data,
    Trailers(Box<HeaderMap>),
}

impl Backlog {
    fn new(total: Rc<Cell<usize>>) -> Backlog {
        Backlog {
            data: Chunks::default(),
            bytes: 0,
            total,
            end: None,
            flush_deadline: None,
        }
    }

    fn push(&mut self, bytes: Bytes) {
        self.bytes += bytes.len();
        self.total.set(self.total.get() + bytes.len());
        self.data.push(bytes);
    }

    fn take(&mut self, max: usize) -> Option<Bytes> {
        let bytes = self.data.take(max)?;
        self.bytes -= bytes.len();
        self.total.set(self.total.get().saturating_sub(bytes.len()));
        Some(bytes)
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        self.total.set(self.total.get().saturating_sub(self.bytes));
    }
}

impl StreamState {
    /// Whether the whole message is buffered and its end was not sent yet.
    pub(super) fn has_end_waiting(&self) -> bool {
        let backlog = self.backlog.as_ref();
        backlog.is_some_and(|backlog| backlog.end.is_some())
    }

    fn flush_deadline(&self) -> Option<Instant> {
        self.backlog.as_ref()?.flush_deadline
    }
}

impl StreamRef {
    /// Sends trailers, which end the message.
    pub(in crate::h2) fn send_trailers(&self, trailers: HeaderMap) {
        self.with(|state, key| state.send_trailers(key, trailers));
    }

    /// Counts that reading the stream's incoming message was paused or resumed.
    pub(in crate::h2) fn note_paused(&self, paused: bool) {
        self.with(|state, _| state.counts.reading_paused(paused));
    }

    /// Counts that sending the stream's outgoing message was paused or resumed.
    pub(in crate::h2) fn note_writing_paused(&self, writing_paused: bool) {
        self.with(|state, _| state.counts.writing_paused(writing_paused));
    }

    /// Limits how long a completely buffered message may wait for the peer to read it; `None` sets no limit.
    pub(in crate::h2) fn set_flush_timeout(&self, timeout: Option<Duration>) {
        self.with(|state, key| {
            if let Some(stream) = state.streams.get(key) {
                stream.flush_timeout = timeout;
            }
        });
    }
}

impl SessionState {
    /// How many more bytes a stream's backlog may hold.
    pub(super) fn backlog_room(&mut self, key: usize) -> usize {
        let of_connection = MAX_OF_CONNECTION.saturating_sub(self.total_backlog.get());
        let stream = self.streams.get(key);
        let backlog = stream.and_then(|stream| stream.backlog.as_ref());
        let used = backlog.map_or(0, |backlog| backlog.bytes);
        self.backlog_limit.saturating_sub(used).min(of_connection)
    }

    /// How many bytes of a stream can be sent now.
    pub(super) fn sendable(&mut self, key: usize) -> usize {
        if self.is_full() {
            return 0;
        }
        let room = self.high_watermark - self.output.queued_bytes();
        let Some(stream) = self.streams.get(key) else {
            return 0;
        };
        let window = stream.send_window.min(self.send_window);
        usize::try_from(window).unwrap_or(0).min(room)
    }

    /// Sends a piece of a message, or adds it to the backlog.
    pub(super) fn send_data(&mut self, key: usize, mut bytes: Bytes, ends: bool) {
        let room = self.sendable(key);
        let Some(stream) = self.streams.get(key).filter(|stream| stream.sending) else {
            return;
        };
        stream.meter.add_body_sent(bytes.len(), 0);
        if stream.backlog.is_none() {
            if bytes.len() <= room || bytes.is_empty() {
                return self.queue_data(key, bytes, ends);
            }
            let now = bytes.split_to(room);
            if !now.is_empty() {
                self.queue_data(key, now, false);
            }
        }
        let total = &self.total_backlog;
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        let backlog = stream
            .backlog
            .get_or_insert_with(|| Box::new(Backlog::new(total.clone())));
        backlog.push(bytes);
        if ends {
            backlog.end = Some(End::Data);
            stream.meter.end_send();
        }
        self.register_backlog(key);
    }

    fn send_trailers(&mut self, key: usize, trailers: HeaderMap) {
        let Some(stream) = self.streams.get(key).filter(|stream| stream.sending) else {
            return;
        };
        let Some(backlog) = &mut stream.backlog else {
            return self.queue_trailers(key, &trailers);
        };
        backlog.end = Some(End::Trailers(Box::new(trailers)));
        stream.meter.end_send();
        self.register_backlog(key);
    }

    fn queue_trailers(&mut self, key: usize, trailers: &HeaderMap) {
        self.send_head(key, true, |encoder, out| {
            headers::encode_trailers(trailers, encoder, out)
        });
    }

    /// Queues DATA frames. The caller has checked that the windows allow them.
    fn queue_data(&mut self, key: usize, mut bytes: Bytes, ends: bool) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        let count = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        stream.send_window -= count;
        self.send_window -= count;
        loop {
            let piece = bytes.split_to(bytes.len().min(frame::MAX_PAYLOAD));
            let is_last = bytes.is_empty();
            let head = Head {
                length: piece.len(),
                kind: frame::DATA,
                flags: if ends && is_last {
                    frame::END_STREAM
                } else {
                    0
                },
                stream: stream.id,
            };
            stream.meter.add_body_sent(0, piece.len() + HEAD);
            self.output.data(&head.bytes(), piece);
            self.limits.note_data_sent();
            if is_last {
                break;
            }
        }
        if ends {
            self.end_sending(key);
        }
        self.wake_task();
    }

    /// Registers a stream with a backlog, to be resumed when it can send.
    fn register_backlog(&mut self, key: usize) {
        let full = self.is_full();
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        if let Some(backlog) = &mut stream.backlog
            && backlog.end.is_some()
            && backlog.flush_deadline.is_none()
            && let Some(timeout) = stream.flush_timeout
        {
            backlog.flush_deadline = Some(Instant::now() + timeout);
            self.flushing.push(key);
            self.wake_task();
        }
        if full {
            self.streams.block(key);
        }
    }

    /// Sends as much of a stream's backlog as possible, and wakes its writer.
    pub(super) fn flush_backlog(&mut self, key: usize) {
        let end = loop {
            let room = self.sendable(key);
            let Some(stream) = self.streams.get(key) else {
                return;
            };
            let Some(backlog) = &mut stream.backlog else {
                return stream.wake_writer(&mut self.wakers);
            };
            if backlog.bytes == 0 {
                let end = backlog.end.take();
                stream.backlog = None;
                stream.wake_writer(&mut self.wakers);
                break end;
            }
            let Some(bytes) = (room > 0).then(|| backlog.take(room)).flatten() else {
                stream.wake_writer(&mut self.wakers);
                return self.register_backlog(key);
            };
            let ends = backlog.bytes == 0 && matches!(backlog.end, Some(End::Data));
            if ends {
                backlog.end = None;
            }
            self.queue_data(key, bytes, ends);
        };
        if let Some(End::Trailers(trailers)) = end {
            self.queue_trailers(key, &trailers);
        }
        self.abandon_if_flushed(key);
    }

    /// Once the response of a stream without handles was sent, the rest of its request is not needed either.
    fn abandon_if_flushed(&mut self, key: usize) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        if stream.handles == 0 && !stream.sending {
            self.drop_last_handle(key);
        }
    }

    /// The next deadline at which a buffered message times out.
    pub(super) fn next_flush_deadline(&mut self) -> Option<Instant> {
        let streams = &mut self.streams;
        self.flushing.retain(|key| {
            let stream = streams.get(*key);
            stream.is_some_and(|stream| stream.flush_deadline().is_some())
        });
        let deadlines = self.flushing.iter();
        deadlines
            .filter_map(|key| streams.get(*key)?.flush_deadline())
            .min()
    }

    /// Resets the streams whose buffered messages have timed out.
    pub(super) fn expire_flushes(&mut self, now: Instant) {
        for key in self.flushing.clone() {
            let stream = self.streams.get(key);
            let deadline = stream.and_then(|stream| stream.flush_deadline());
            if deadline.is_some_and(|deadline| deadline <= now) {
                self.stats.tx_flush_timeout.inc();
                self.reset(key, Reason::INTERNAL_ERROR);
            }
        }
    }
}
