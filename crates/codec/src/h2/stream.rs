//! One stream of a connection: received data that was not read yet, flow control, and the tasks to wake.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::hash::BuildHasherDefault;
use std::hash::Hasher;
use std::rc::Rc;
use std::task::Context;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use bytes::BytesMut;
use slab::Slab;

use crate::Meter;
use crate::ResponseHead;
use crate::StreamError;
use crate::header::HeaderMap;

use super::session::Backlog;
use super::window::Window;

/// A stream's state.
#[derive(Debug)]
pub(super) struct StreamState {
    pub(super) id: u32,
    /// The number of handles. Without any, a closed stream is removed.
    pub(super) handles: u8,
    pub(super) meter: Rc<Meter>,
    /// Whether the peer may still send.
    pub(super) receiving: bool,
    /// Whether this side may still send.
    pub(super) sending: bool,
    /// The error that ended receiving. Not set if the message was already complete.
    pub(super) error: Option<StreamError>,
    /// The error that ended the stream, for the sending side.
    pub(super) send_error: Option<StreamError>,
    /// Response heads, in the order received: interim ones, then the final one. Only on clients.
    pub(super) heads: Heads,
    pub(super) data: Chunks,
    pub(super) trailers: Option<HeaderMap>,
    /// Whether the message ended with its head, or some of its body was taken. Before that, the end of the body is not
    /// reported in advance, so that a head that promises a body is passed on as one.
    pub(super) begun: bool,
    /// Whether received data is discarded because nobody reads it.
    pub(super) discarding: bool,
    pub(super) window: Window,
    /// How many more bytes `content-length` allows.
    pub(super) content_left: Option<u64>,
    /// The kind of request that the response is to. Only on clients.
    pub(super) response_to: ResponseTo,
    /// How many bytes the peer's window allows this side to send. Negative if SETTINGS reduced the window.
    pub(super) send_window: i64,
    /// Data that cannot be sent yet.
    pub(super) backlog: Option<Box<Backlog>>,
    /// How long a completely buffered message may wait; `None` sets no limit.
    pub(super) flush_timeout: Option<Duration>,
    /// Whether it is in the list of streams that wait for room in the connection's queue.
    blocked: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// The kinds of requests for which the response's `content-length` may differ from the length of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResponseTo {
    /// HEAD: the response has no body.
    Head,
    /// CONNECT: a success is followed by a tunnel, which has no length.
    Connect,
    Other,
}

/// Response heads that were not taken yet.
#[derive(Debug, Default)]
pub(super) struct Heads {
    pub(super) interim: Vec<ResponseHead>,
    pub(super) last: Option<ResponseHead>,
    /// Whether the final head was received; it may have been taken.
    pub(super) complete: bool,
    /// Whether an interim head was received.
    pub(super) has_interim: bool,
}

impl StreamState {
    pub(super) fn new(id: u32, meter: Rc<Meter>, window: Window, send_window: i64) -> StreamState {
        StreamState {
            id,
            handles: 0,
            meter,
            receiving: true,
            sending: true,
            error: None,
            send_error: None,
            heads: Heads::default(),
            data: Chunks::default(),
            trailers: None,
            begun: false,
            discarding: false,
            window,
            content_left: None,
            response_to: ResponseTo::Other,
            send_window,
            backlog: None,
            flush_timeout: None,
            blocked: false,
            reader: None,
            writer: None,
        }
    }

    /// Whether everything was received and taken.
    pub(super) fn is_fully_read(&self) -> bool {
        self.begun
            && !self.receiving
            && self.data.is_empty()
            && self.trailers.is_none()
            && self.error.is_none()
    }

    /// Records the end time of the peer's message, which is not when its last byte arrived but when it was taken.
    pub(super) fn note_end(&self) {
        if !self.receiving
            && self.data.is_empty()
            && self.trailers.is_none()
            && self.error.is_none()
        {
            self.meter.end_receive();
        }
    }

    /// Registers the task that waits for data.
    pub(super) fn wait_to_read(&mut self, cx: &Context<'_>) {
        store_waker(&mut self.reader, cx);
    }

    /// Registers the task that waits for room, or for a reset.
    pub(super) fn wait_to_write(&mut self, cx: &Context<'_>) {
        store_waker(&mut self.writer, cx);
    }

    /// Moves the reader's waker to `wakers`, to be called when nothing is borrowed.
    pub(super) fn wake_reader(&mut self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.reader.take());
    }

    /// Moves the writer's waker to `wakers`, to be called when nothing is borrowed.
    pub(super) fn wake_writer(&mut self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.writer.take());
    }

    /// Ends both directions with `error`, unless they have ended.
    pub(super) fn fail(&mut self, error: StreamError, wakers: &mut Vec<Waker>) {
        if self.receiving {
            self.error.get_or_insert_with(|| error.clone());
        }
        self.receiving = false;
        self.sending = false;
        self.backlog = None;
        self.send_error.get_or_insert(error);
        self.wake_reader(wakers);
        self.wake_writer(wakers);
    }
}

fn store_waker(place: &mut Option<Waker>, cx: &Context<'_>) {
    if !place
        .as_ref()
        .is_some_and(|waker| waker.will_wake(cx.waker()))
    {
        *place = Some(cx.waker().clone());
    }
}

/// Unread pieces are joined up to this size in bytes.
const MAX_JOINED_PIECE: usize = 8 * 1024;

/// The unread pieces of a body, in order. Most bodies have one piece, which needs no list.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    first: Bytes,
    /// Boxed because few streams have it.
    #[expect(clippy::box_collection, reason = "it keeps streams small")]
    rest: Option<Box<VecDeque<Bytes>>>,
}

impl Chunks {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// Adds a piece. Empty pieces are ignored.
    ///
    /// Small unread pieces are joined: each takes memory of its own, and may keep the whole chunk that it was read
    /// with.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if self.first.is_empty() {
            self.first = bytes;
            return;
        }
        let joins = |last: &mut Bytes| last.len() + bytes.len() <= MAX_JOINED_PIECE;
        let rest = self.rest.get_or_insert_default();
        match rest.pop_back_if(joins) {
            Some(last) => {
                let mut joined = last.try_into_mut().unwrap_or_else(|last| {
                    let mut copy = BytesMut::with_capacity(MAX_JOINED_PIECE);
                    copy.extend_from_slice(&last);
                    copy
                });
                joined.extend_from_slice(&bytes);
                rest.push_back(joined.freeze());
            }
            None if bytes.is_empty() => {}
            None => rest.push_back(bytes),
        }
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        if self.first.is_empty() {
            return None;
        }
        let next = self.rest.as_mut().and_then(|rest| rest.pop_front());
        let next = next.unwrap_or_default();
        Some(std::mem::replace(&mut self.first, next))
    }

    /// Takes the next piece, or the first `max` bytes of it.
    pub(super) fn take(&mut self, max: usize) -> Option<Bytes> {
        if self.first.len() <= max {
            return self.pop();
        }
        Some(self.first.split_to(max))
    }

    /// Drops everything; returns the number of bytes dropped.
    pub(super) fn clear(&mut self) -> usize {
        let rest = self.rest.iter().flat_map(|rest| rest.iter());
        let count = self.first.len() + rest.map(Bytes::len).sum::<usize>();
        *self = Chunks::default();
        count
    }
}

/// The streams of a connection, by key. Open streams can be found by number as well.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// Boxed, so that free slots are small and growing the slab moves little.
    slab: Slab<Box<StreamState>>,
    keys: HashMap<u32, usize, BuildHasherDefault<IdHasher>>,
    /// The numbers of the streams that ended normally most recently.
    ended: [u32; MAX_ENDED],
    next_ended: usize,
    /// Keys of the streams that wait for room in the connection's queue, in order. Each is listed once and exists.
    blocked: Vec<usize>,
}

/// How many numbers of ended streams are remembered.
const MAX_ENDED: usize = 8;

/// How many free slots, each a few bytes, a connection without streams keeps.
const MAX_FREE_SLOTS: usize = 64;

impl Streams {
    pub(super) fn insert(&mut self, stream: StreamState) -> usize {
        let id = stream.id;
        let key = self.slab.insert(Box::new(stream));
        self.keys.insert(id, key);
        key
    }

    pub(super) fn get(&mut self, key: usize) -> Option<&mut StreamState> {
        self.slab.get_mut(key).map(|stream| &mut **stream)
    }

    /// The key of the open stream with this number.
    pub(super) fn key(&self, id: u32) -> Option<usize> {
        self.keys.get(&id).copied()
    }

    /// Whether this stream has recently ended normally in both directions, so that the peer must not send more.
    pub(super) fn has_ended(&self, id: u32) -> bool {
        self.ended.contains(&id)
    }

    /// The number of open streams.
    pub(super) fn open(&self) -> usize {
        self.keys.len()
    }

    /// All streams, including closed ones that still have handles.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut StreamState> {
        self.slab.iter_mut().map(|(_, stream)| &mut **stream)
    }

    /// All streams with their keys, including closed ones that still have handles.
    pub(super) fn iter_keys(&mut self) -> impl Iterator<Item = (usize, &mut StreamState)> {
        self.slab
            .iter_mut()
            .map(|(key, stream)| (key, &mut **stream))
    }

    /// Adds a stream to the list of those that wait for room in the connection's queue.
    pub(super) fn block(&mut self, key: usize) {
        if let Some(stream) = self.slab.get_mut(key)
            && !std::mem::replace(&mut stream.blocked, true)
        {
            self.blocked.push(key);
        }
    }

    /// Takes the list of waiting streams. The first of them is usually the one that last filled the queue, so it is
    /// moved to the end.
    pub(super) fn take_blocked(&mut self) -> Vec<usize> {
        let mut blocked = std::mem::take(&mut self.blocked);
        if !blocked.is_empty() {
            blocked.rotate_left(1);
        }
        for key in &blocked {
            if let Some(stream) = self.slab.get_mut(*key) {
                stream.blocked = false;
            }
        }
        blocked
    }

    /// Removes a stream's number once both directions have ended, and the stream itself once no handle is left.
    pub(super) fn remove_if_closed(&mut self, key: usize) {
        let Some(stream) = self.slab.get(key) else {
            return;
        };
        if stream.receiving || stream.sending {
            return;
        }
        if self.keys.remove(&stream.id).is_some() && stream.send_error.is_none() {
            if let Some(oldest) = self.ended.get_mut(self.next_ended % MAX_ENDED) {
                *oldest = stream.id;
            }
            self.next_ended = self.next_ended.wrapping_add(1);
        }
        if stream.handles == 0 {
            if stream.blocked {
                self.blocked.retain(|blocked| *blocked != key);
            }
            self.slab.remove(key);
            if self.slab.is_empty() && self.slab.capacity() > MAX_FREE_SLOTS {
                self.slab = Slab::new();
                self.keys = HashMap::default();
            }
        }
    }
}

/// Hashes stream numbers, which grow by two. A peer that chooses colliding numbers needs that many open streams, whose
/// number is limited.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte) ^ u32::try_from(self.0 & 0xffff_ffff).unwrap_or(0));
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_taken_in_order() {
        let mut chunks = Chunks::default();
        for piece in ["a", "", "bc", "d"] {
            chunks.push(Bytes::from_static(piece.as_bytes()));
        }
        assert_eq!(chunks.pop().unwrap(), "a");
        assert_eq!(chunks.clear(), 3);
        assert!(chunks.is_empty() && chunks.pop().is_none());
    }

    #[test]
    fn small_pieces_are_joined() {
        let mut chunks = Chunks::default();
        let read = Bytes::from(vec![b'r'; 64 * 1024]);
        for _ in 0..10_000 {
            chunks.push(Bytes::copy_from_slice(b"x"));
        }
        for piece in 0..16 {
            chunks.push(read.slice(piece * 4096..piece * 4096 + 2048));
        }
        let pieces = chunks.rest.as_ref().map_or(0, |rest| rest.len());
        assert!(pieces <= 8, "{pieces} pieces");
        let mut count = 0;
        while let Some(piece) = chunks.pop() {
            count += piece.len();
        }
        assert_eq!(count, 10_000 + 16 * 2048);
    }

    #[test]
    fn waiting_streams_take_turns_and_are_removed_when_they_end() {
        let mut streams = Streams::default();
        let new = |id| StreamState::new(id, Rc::default(), Window::new(10), 10);
        let keys: Vec<usize> = [1, 3, 5].map(|id| streams.insert(new(id))).to_vec();
        for key in [0, 1, 0, 2].map(|at: usize| keys[at]) {
            streams.block(key);
        }
        assert_eq!(streams.take_blocked(), [keys[1], keys[2], keys[0]]);
        assert!(streams.take_blocked().is_empty());
        // Streams that come and go while there is no room for any.
        streams.block(keys[0]);
        for id in (7..1000).step_by(2) {
            let key = streams.insert(new(id));
            streams.block(key);
            let stream = streams.get(key).unwrap();
            (stream.receiving, stream.sending) = (false, false);
            streams.remove_if_closed(key);
        }
        assert_eq!(streams.take_blocked(), [keys[0]]);
    }

    #[test]
    fn a_closed_stream_without_handles_is_removed() {
        let mut streams = Streams::default();
        let new = |id| StreamState::new(id, Rc::default(), Window::new(10), 10);
        let key = streams.insert(new(1));
        streams.get(key).unwrap().handles = 1;
        streams.remove_if_closed(key);
        assert_eq!((streams.open(), streams.key(1)), (1, Some(key)));
        let stream = streams.get(key).unwrap();
        (stream.receiving, stream.sending) = (false, false);
        streams.remove_if_closed(key);
        assert_eq!((streams.open(), streams.key(1)), (0, None));
        assert!(streams.get(key).is_some());
        streams.get(key).unwrap().handles = 0;
        streams.remove_if_closed(key);
        assert!(streams.get(key).is_none());
    }
}
