//! One stream of a connection: what came in and waits, what may go out, and who is to be woken.

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
    /// Handles that refer to it; without any, and closed, it goes.
    pub(super) handles: u8,
    pub(super) meter: Rc<Meter>,
    /// The peer may still send.
    pub(super) receiving: bool,
    /// This side may still send.
    pub(super) sending: bool,
    /// Why what comes in broke off. A message that was complete before stays so.
    pub(super) error: Option<StreamError>,
    /// Why the stream broke off, for whoever sends.
    pub(super) broken: Option<StreamError>,
    /// Heads of answers, in the order they came: interim ones, then the final one. On clients only.
    pub(super) heads: Heads,
    pub(super) data: Chunks,
    pub(super) trailers: Option<HeaderMap>,
    /// The message ended with its head, or some of its body was taken. Until then an end is not seen before it is asked
    /// for: a head that promises a body is passed on as one that does.
    pub(super) begun: bool,
    /// What comes in is thrown away: nobody is left to read it.
    pub(super) unread: bool,
    pub(super) window: Window,
    /// What `content-length` still lets come.
    pub(super) content_left: Option<u64>,
    /// What the answer is to. On clients only.
    pub(super) answer_to: AnswerTo,
    /// What the peer lets this side send, bytes. Below zero when SETTINGS reduced it.
    pub(super) send_window: i64,
    /// What was handed over and cannot leave yet.
    pub(super) backlog: Option<Box<Backlog>>,
    /// How long a whole message may wait there; none for ever.
    pub(super) flush_timeout: Option<Duration>,
    /// It is in the list of those that wait for room in the connection.
    blocked: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// The requests to which `content-length` in the answer means something else than the length of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerTo {
    /// The answer has no body, whatever its head says.
    Head,
    /// What follows a success is a tunnel, which has no length.
    Connect,
    Other,
}

/// Heads of answers that were not taken yet.
#[derive(Debug, Default)]
pub(super) struct Heads {
    pub(super) interim: Vec<ResponseHead>,
    pub(super) last: Option<ResponseHead>,
    /// The final one has come, be it taken or not.
    pub(super) complete: bool,
    /// An interim one has come.
    pub(super) opened: bool,
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
            broken: None,
            heads: Heads::default(),
            data: Chunks::default(),
            trailers: None,
            begun: false,
            unread: false,
            window,
            content_left: None,
            answer_to: AnswerTo::Other,
            send_window,
            backlog: None,
            flush_timeout: None,
            blocked: false,
            reader: None,
            writer: None,
        }
    }

    /// Whether all that will come has been taken.
    pub(super) fn is_drained(&self) -> bool {
        self.begun
            && !self.receiving
            && self.data.is_empty()
            && self.trailers.is_none()
            && self.error.is_none()
    }

    /// Takes note of when the peer's message was over: not when its last byte came, but when it was taken.
    pub(super) fn note_end(&self) {
        if !self.receiving
            && self.data.is_empty()
            && self.trailers.is_none()
            && self.error.is_none()
        {
            self.meter.end_receive();
        }
    }

    /// Takes note of who waits for what comes in.
    pub(super) fn wait_to_read(&mut self, cx: &Context<'_>) {
        remember(&mut self.reader, cx);
    }

    /// Takes note of who waits for room, or for a reset.
    pub(super) fn wait_to_write(&mut self, cx: &Context<'_>) {
        remember(&mut self.writer, cx);
    }

    /// Hands over whoever waits to read; woken by the caller, once nothing is borrowed.
    pub(super) fn wake_reader(&mut self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.reader.take());
    }

    /// The same for whoever waits to write.
    pub(super) fn wake_writer(&mut self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.writer.take());
    }

    /// Ends both directions for `error`, unless they had ended.
    pub(super) fn fail(&mut self, error: StreamError, wakers: &mut Vec<Waker>) {
        if self.receiving {
            self.error.get_or_insert_with(|| error.clone());
        }
        self.receiving = false;
        self.sending = false;
        self.backlog = None;
        self.broken.get_or_insert(error);
        self.wake_reader(wakers);
        self.wake_writer(wakers);
    }
}

fn remember(place: &mut Option<Waker>, cx: &Context<'_>) {
    if !place
        .as_ref()
        .is_some_and(|waker| waker.will_wake(cx.waker()))
    {
        *place = Some(cx.waker().clone());
    }
}

/// Pieces that wait are joined up to this size, bytes.
const JOINED: usize = 8 * 1024;

/// Pieces of a body, in order. Most bodies have one, which needs no list.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    first: Bytes,
    /// Boxed, because it is rarely there and every stream has room for it.
    #[expect(clippy::box_collection, reason = "it keeps streams small")]
    rest: Option<Box<VecDeque<Bytes>>>,
}

impl Chunks {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// `bytes` may be empty, and is nothing then.
    ///
    /// Small pieces that nobody takes become one: each costs memory of its own, and may hold on to all that was read with it.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if self.first.is_empty() {
            self.first = bytes;
            return;
        }
        let joins = |last: &mut Bytes| last.len() + bytes.len() <= JOINED;
        let rest = self.rest.get_or_insert_default();
        match rest.pop_back_if(joins) {
            Some(last) => {
                let mut joined = last.try_into_mut().unwrap_or_else(|last| {
                    let mut copy = BytesMut::with_capacity(JOINED);
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

    /// The next piece, but no more of it than `max` bytes.
    pub(super) fn take(&mut self, max: usize) -> Option<Bytes> {
        if self.first.len() <= max {
            return self.pop();
        }
        Some(self.first.split_to(max))
    }

    /// Drops everything; returns how many bytes that were.
    pub(super) fn clear(&mut self) -> usize {
        let rest = self.rest.iter().flat_map(|rest| rest.iter());
        let count = self.first.len() + rest.map(Bytes::len).sum::<usize>();
        *self = Chunks::default();
        count
    }
}

/// The streams of a connection, by key; those that are open by their numbers as well.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// Boxed: places are cheap to keep between bursts of streams, and nothing large moves when there are more.
    slab: Slab<Box<StreamState>>,
    keys: HashMap<u32, usize, BuildHasherDefault<IdHasher>>,
    /// The numbers of streams that were the last to end as they should, in both directions.
    ended: [u32; REMEMBERED],
    next_ended: usize,
    /// Keys of those that wait for room in the connection, in the order they began to; none twice, and none that is gone.
    blocked: Vec<usize>,
}

/// Ended streams whose numbers are remembered.
const REMEMBERED: usize = 8;

/// How many free places a connection without streams keeps; they are of some bytes each.
const KEPT: usize = 64;

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

    /// Whether this stream has ended in both directions, not long ago, and was not reset: its peer has no reason to say more.
    pub(super) fn has_ended(&self, id: u32) -> bool {
        self.ended.contains(&id)
    }

    /// Streams that are open.
    pub(super) fn open(&self) -> usize {
        self.keys.len()
    }

    /// All streams to which somebody still refers.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut StreamState> {
        self.slab.iter_mut().map(|(_, stream)| &mut **stream)
    }

    /// The same with their keys.
    pub(super) fn iter_keys(&mut self) -> impl Iterator<Item = (usize, &mut StreamState)> {
        self.slab
            .iter_mut()
            .map(|(key, stream)| (key, &mut **stream))
    }

    /// Puts a stream into the list of those that wait for room in the connection.
    pub(super) fn block(&mut self, key: usize) {
        if let Some(stream) = self.slab.get_mut(key)
            && !std::mem::replace(&mut stream.blocked, true)
        {
            self.blocked.push(key);
        }
    }

    /// Empties that list. The first of it is the one that took the last room there was, mostly: now it is the last to get
    /// any.
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

    /// Forgets what is over of a stream: its number once both directions have ended, all of it once no handle is left.
    pub(super) fn settle(&mut self, key: usize) {
        let Some(stream) = self.slab.get(key) else {
            return;
        };
        if stream.receiving || stream.sending {
            return;
        }
        if self.keys.remove(&stream.id).is_some() && stream.broken.is_none() {
            self.ended[self.next_ended % REMEMBERED] = stream.id;
            self.next_ended = self.next_ended.wrapping_add(1);
        }
        if stream.handles == 0 {
            if stream.blocked {
                self.blocked.retain(|blocked| *blocked != key);
            }
            self.slab.remove(key);
            if self.slab.is_empty() && self.slab.capacity() > KEPT {
                self.slab = Slab::new();
                self.keys = HashMap::default();
            }
        }
    }
}

/// Spreads stream numbers, which grow by two. Collisions that a peer could choose cost it as many open streams, and those
/// are limited.
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
    fn chunks_come_out_in_order() {
        let mut chunks = Chunks::default();
        for piece in ["a", "", "bc", "d"] {
            chunks.push(Bytes::from_static(piece.as_bytes()));
        }
        assert_eq!(chunks.pop().unwrap(), "a");
        assert_eq!(chunks.clear(), 3);
        assert!(chunks.is_empty() && chunks.pop().is_none());
    }

    #[test]
    fn many_small_pieces_become_few() {
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
    fn those_that_wait_take_turns_and_leave_no_trace() {
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
            streams.settle(key);
        }
        assert_eq!(streams.take_blocked(), [keys[0]]);
    }

    #[test]
    fn a_stream_goes_when_it_is_closed_and_nobody_refers_to_it() {
        let mut streams = Streams::default();
        let new = |id| StreamState::new(id, Rc::default(), Window::new(10), 10);
        let key = streams.insert(new(1));
        streams.get(key).unwrap().handles = 1;
        streams.settle(key);
        assert_eq!((streams.open(), streams.key(1)), (1, Some(key)));
        let stream = streams.get(key).unwrap();
        (stream.receiving, stream.sending) = (false, false);
        streams.settle(key);
        assert_eq!((streams.open(), streams.key(1)), (0, None));
        assert!(streams.get(key).is_some());
        streams.get(key).unwrap().handles = 0;
        streams.settle(key);
        assert!(streams.get(key).is_none());
    }
}
