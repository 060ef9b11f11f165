//! What a connection still has to send: frames in order, small ones gathered, large payloads as they came.
//!
//! Whoever makes frames queues them here; the connection's task writes them out once a turn, as many as there are with one
//! system call. A connection with nothing to send owns no memory for it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Buf;
use bytes::Bytes;
use outrider_net::Stream;
use tokio::io::AsyncWrite;

use crate::stats::ByteCounts;

/// Payloads from this size on are not copied, bytes: a piece of its own costs about what copying so much does.
const SHARED: usize = 2048;
/// Pieces that go out with one system call.
const PIECES: usize = 32;
/// What a gathering buffer begins with, bytes.
const ROOM: usize = 16 * 1024;
/// Buffers that a worker keeps for its connections, and the largest that is kept, bytes.
const KEPT: usize = 4;
const KEPT_ROOM: usize = 256 * 1024;
/// Written bytes that stay in a buffer that is never quite empty, before the rest is moved to its beginning.
const STALE: usize = 64 * 1024;

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Output {
    buffers: Option<Box<Buffers>>,
    /// Bytes that wait.
    waiting: usize,
    /// Bytes that were ever queued.
    queued: u64,
    /// Control frames that wait.
    control: u32,
}

/// How much was queued at some moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    queued: u64,
    waiting: usize,
    gathered: usize,
}

/// What is queued.
#[derive(Debug)]
struct Buffers {
    /// Bytes that were copied here.
    gathered: Vec<u8>,
    /// How many of them went out.
    written: usize,
    /// Payloads, each with the position in `gathered` before which it goes out.
    shared: VecDeque<(usize, Bytes)>,
    /// The position behind each frame among all bytes ever queued, and whether it is a control frame.
    ends: VecDeque<(u64, bool)>,
}

impl Output {
    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Frames that wait: all of them, and those that answer the peer's control frames.
    pub(super) fn frames_waiting(&self) -> (u32, u32) {
        let all = self
            .buffers
            .as_ref()
            .map_or(0, |buffers| buffers.ends.len());
        (u32::try_from(all).unwrap_or(u32::MAX), self.control)
    }

    /// Queues a whole frame; `control` for one that a peer can make us send: an acknowledgement, a reset.
    pub(super) fn frame(&mut self, bytes: &[u8], control: bool) {
        self.append(control, |buffer| buffer.extend_from_slice(bytes));
    }

    /// Queues a DATA frame's head and payload.
    pub(super) fn data(&mut self, head: &[u8], payload: Bytes) {
        let buffers = self.buffers.get_or_insert_with(take);
        buffers.gathered.extend_from_slice(head);
        let count = head.len() + payload.len();
        if payload.len() < SHARED {
            buffers.gathered.extend_from_slice(&payload);
        } else {
            buffers.shared.push_back((buffers.gathered.len(), payload));
        }
        self.waiting += count;
        self.queued += count as u64;
        buffers.ends.push_back((self.queued, false));
    }

    /// Lets `write` append a frame to the queue; what it returns is passed on.
    pub(super) fn append<T>(&mut self, control: bool, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let buffers = self.buffers.get_or_insert_with(take);
        let before = buffers.gathered.len();
        let result = write(&mut buffers.gathered);
        let count = buffers.gathered.len().saturating_sub(before);
        self.waiting += count;
        self.queued += count as u64;
        buffers.ends.push_back((self.queued, control));
        self.control += u32::from(control);
        result
    }

    /// How much is queued now, for [`Output::take_back`].
    pub(super) fn mark(&self) -> Mark {
        Mark {
            queued: self.queued,
            waiting: self.waiting,
            gathered: self.buffers.as_ref().map_or(0, |b| b.gathered.len()),
        }
    }

    /// Drops what was queued since `mark`, between which and now nothing was written.
    pub(super) fn take_back(&mut self, mark: Mark) {
        let Some(buffers) = &mut self.buffers else {
            return;
        };
        buffers.gathered.truncate(mark.gathered);
        // A payload that came later stands behind its frame's head.
        while let Some((before, _)) = buffers.shared.back()
            && *before > mark.gathered
        {
            buffers.shared.pop_back();
        }
        self.waiting = mark.waiting;
        self.queued = mark.queued;
        if self.waiting == 0 {
            return self.clear();
        }
        while let Some(&(end, control)) = buffers.ends.back()
            && end > mark.queued
        {
            buffers.ends.pop_back();
            self.control -= u32::from(control);
        }
    }

    /// Forgets everything that waits.
    pub(super) fn clear(&mut self) {
        self.waiting = 0;
        self.control = 0;
        if let Some(buffers) = self.buffers.take() {
            give(buffers);
        }
    }

    /// Writes out what waits; pending while the socket takes nothing.
    pub(super) fn poll_flush(
        &mut self,
        socket: &mut Stream,
        counts: &dyn ByteCounts,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(buffers) = &self.buffers {
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let used = buffers.pieces(&mut pieces);
            let count = match pieces.get(..used) {
                None | Some([]) => 0,
                Some([one]) => ready!(Pin::new(&mut *socket).poll_write(cx, one))?,
                Some(some) => ready!(Pin::new(&mut *socket).poll_write_vectored(cx, some))?,
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            counts.sent(count as u64);
            self.consume(count);
        }
        Poll::Ready(Ok(()))
    }

    fn consume(&mut self, count: usize) {
        self.waiting = self.waiting.saturating_sub(count);
        if self.waiting == 0 {
            self.clear();
            return;
        }
        let Some(buffers) = &mut self.buffers else {
            return;
        };
        buffers.consume(count);
        let sent = self.queued - self.waiting as u64;
        while let Some(&(end, control)) = buffers.ends.front()
            && end <= sent
        {
            buffers.ends.pop_front();
            self.control -= u32::from(control);
        }
    }
}

impl Buffers {
    /// The next pieces to write, in order.
    fn pieces<'a>(&'a self, pieces: &mut [IoSlice<'a>; PIECES]) -> usize {
        let mut used = 0;
        let mut put = |bytes: &'a [u8]| {
            if !bytes.is_empty()
                && let Some(piece) = pieces.get_mut(used)
            {
                *piece = IoSlice::new(bytes);
                used += 1;
            }
        };
        let mut at = self.written;
        for (before, payload) in self.shared.iter().take(PIECES / 2 - 1) {
            put(self.gathered.get(at..*before).unwrap_or_default());
            put(payload);
            at = *before;
        }
        let until = match self.shared.get(PIECES / 2 - 1) {
            Some((before, _)) => *before,
            None => self.gathered.len(),
        };
        put(self.gathered.get(at..until).unwrap_or_default());
        used
    }

    /// Takes note that `count` bytes went out, fewer than there are.
    fn consume(&mut self, mut count: usize) {
        loop {
            let until = self
                .shared
                .front()
                .map_or(self.gathered.len(), |(before, _)| *before);
            let plain = count.min(until - self.written);
            self.written += plain;
            count -= plain;
            match self.shared.front_mut() {
                Some((_, payload)) if count >= payload.len() => {
                    count -= payload.len();
                    self.shared.pop_front();
                }
                Some((_, payload)) => {
                    payload.advance(count);
                    break;
                }
                None => break,
            }
        }
        if self.written >= STALE {
            self.gathered.drain(..self.written);
            for (before, _) in &mut self.shared {
                *before -= self.written;
            }
            self.written = 0;
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.clear();
    }
}

thread_local! {
    // Not state that anybody could see: only memory that is not given back to the allocator.
    #[expect(clippy::vec_box, reason = "they are moved in and out of connections")]
    static SPARE: RefCell<Vec<Box<Buffers>>> = const { RefCell::new(Vec::new()) };
}

fn take() -> Box<Buffers> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| {
        Box::new(Buffers {
            gathered: Vec::with_capacity(ROOM),
            written: 0,
            shared: VecDeque::new(),
            ends: VecDeque::new(),
        })
    })
}

fn give(mut buffers: Box<Buffers>) {
    if buffers.gathered.capacity() > KEPT_ROOM {
        return;
    }
    buffers.gathered.clear();
    buffers.written = 0;
    buffers.shared.clear();
    buffers.ends.clear();
    // Threads that are ending have no spare buffers any more.
    let _gone = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < KEPT {
            spare.push(buffers);
        }
    });
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    use super::*;
    use crate::stats::ConnectionStats;

    #[tokio::test]
    async fn everything_goes_out_in_order_however_little_the_socket_takes() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut socket = Stream::Unix(ours);
        let mut output = Output::default();
        let mut expected = Vec::new();
        for round in 0..400_usize {
            let head = [u8::try_from(round % 251).unwrap(); 9];
            let payload = vec![u8::try_from(round % 241).unwrap(); round * 37 % 9000];
            expected.extend_from_slice(&head);
            expected.extend_from_slice(&payload);
            output.data(&head, payload.into());
            if round % 3 == 0 {
                output.frame(&[7; 13], true);
                expected.extend_from_slice(&[7; 13]);
            }
        }
        assert_eq!(output.frames_waiting(), (400 + 134, 134));
        assert_eq!(output.waiting(), expected.len());
        let counts = ConnectionStats::default();
        let reader = tokio::spawn(async move {
            let mut seen = Vec::new();
            theirs.read_to_end(&mut seen).await.unwrap();
            seen
        });
        poll_fn(|cx| output.poll_flush(&mut socket, &counts, cx))
            .await
            .unwrap();
        assert_eq!((output.waiting(), output.frames_waiting()), (0, (0, 0)));
        assert!(output.buffers.is_none());
        drop(socket);
        assert!(reader.await.unwrap() == expected);
    }

    #[tokio::test]
    async fn what_was_queued_last_can_be_taken_back() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut socket = Stream::Unix(ours);
        let large = vec![b'x'; SHARED];
        let mut output = Output::default();
        output.data(b"first", large.clone().into());
        let mark = output.mark();
        output.frame(b"second", true);
        output.data(b"third", large.clone().into());
        output.take_back(mark);
        assert_eq!(output.frames_waiting(), (1, 0));
        let counts = ConnectionStats::default();
        poll_fn(|cx| output.poll_flush(&mut socket, &counts, cx))
            .await
            .unwrap();
        drop(socket);
        let mut seen = Vec::new();
        theirs.read_to_end(&mut seen).await.unwrap();
        assert!(seen == [b"first", &large[..]].concat());
    }
}
