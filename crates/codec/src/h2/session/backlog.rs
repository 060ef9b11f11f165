//! What a stream was handed to send and cannot send yet: the peer's windows are closed, or its socket takes nothing.
//!
//! A little of it is kept, so that whoever made it is free to go on: an upstream's connection, a handler that has nothing more
//! to say. A whole message that waits here outlives its handler, for `stream_flush_timeout` at the most.

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
use super::State;
use super::StreamRef;

/// The most that waits of one stream, bytes; less if the connection's buffer limit is.
pub(super) const MAX_BACKLOG: usize = 256 * 1024;
/// The most that waits of all streams of a connection, bytes.
const MAX_OF_CONNECTION: usize = 4 * 1024 * 1024;

/// One stream's backlog.
#[derive(Debug)]
pub(in crate::h2) struct Backlog {
    data: Chunks,
    bytes: usize,
    /// Bytes of all streams of the connection.
    total: Rc<Cell<usize>>,
    /// How the message ends; nothing is added after that.
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
    /// Whether the whole message was handed over, and its end still waits.
    pub(super) fn has_end_waiting(&self) -> bool {
        let backlog = self.backlog.as_ref();
        backlog.is_some_and(|backlog| backlog.end.is_some())
    }

    fn flush_deadline(&self) -> Option<Instant> {
        self.backlog.as_ref()?.flush_deadline
    }
}

impl StreamRef {
    /// Queues the trailers, which end the message.
    pub(in crate::h2) fn send_trailers(&self, trailers: HeaderMap) {
        self.with(|state, key| state.send_trailers(key, trailers));
    }

    /// The message that comes in on the stream is not read for now, or is read again.
    pub(in crate::h2) fn note_paused(&self, paused: bool) {
        self.with(|state, _| state.counts.reading_paused(paused));
    }

    /// The message that goes out waits for room, or does so no more.
    pub(in crate::h2) fn note_backed_up(&self, backed_up: bool) {
        self.with(|state, _| state.counts.backed_up(backed_up));
    }

    /// How long the whole message may wait for the peer to take it; none for ever.
    pub(in crate::h2) fn set_flush_timeout(&self, timeout: Option<Duration>) {
        self.with(|state, key| {
            if let Some(stream) = state.streams.get(key) {
                stream.flush_timeout = timeout;
            }
        });
    }
}

impl State {
    /// How much more of a stream may wait.
    pub(super) fn room_to_wait(&mut self, key: usize) -> usize {
        let of_connection = MAX_OF_CONNECTION.saturating_sub(self.backlogs.get());
        let stream = self.streams.get(key);
        let backlog = stream.and_then(|stream| stream.backlog.as_ref());
        let used = backlog.map_or(0, |backlog| backlog.bytes);
        self.backlog_limit.saturating_sub(used).min(of_connection)
    }

    /// How much of a stream can leave now.
    pub(super) fn sendable(&mut self, key: usize) -> usize {
        if self.is_full() {
            return 0;
        }
        let room = self.high - self.output.waiting();
        let Some(stream) = self.streams.get(key) else {
            return 0;
        };
        let window = stream.send_window.min(self.send_window);
        usize::try_from(window).unwrap_or(0).min(room)
    }

    /// Queues a piece of a message, or lets it wait.
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
        let total = &self.backlogs;
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
        self.note_waiting(key);
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
        self.note_waiting(key);
    }

    fn queue_trailers(&mut self, key: usize, trailers: &HeaderMap) {
        self.send_head(key, true, |encoder, out| {
            headers::encode_trailers(trailers, encoder, out)
        });
    }

    /// Queues DATA frames for which there is room.
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

    /// Sees to it that what waits is looked at when it may leave.
    fn note_waiting(&mut self, key: usize) {
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

    /// Sends what can leave of a stream's backlog, and lets its writer know that there is room.
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
                return self.note_waiting(key);
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
        self.settle_flushed(key);
    }

    /// A stream without handles whose answer has left needs no rest of the request either.
    fn settle_flushed(&mut self, key: usize) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        if stream.handles == 0 && !stream.sending {
            self.abandon(key);
        }
    }

    /// When the next message has waited long enough for its peer.
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

    /// Resets the streams whose messages have waited too long.
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
