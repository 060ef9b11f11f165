//! A connection's output queue: frames in order, with small ones copied together and large payloads referred to.
//!
//! Stream tasks queue frames. The connection's task writes all of them once per poll, with as few system calls as
//! possible. A connection without queued frames owns no buffer.

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
use outrider_net::NetworkStream;
use tokio::io::AsyncWrite;

use crate::stats::ByteCounts;

/// Payloads of at least this many bytes are not copied: a separate piece costs about as much as copying that much.
const MIN_UNCOPIED: usize = 2048;
/// The maximum number of pieces in one system call.
const MAX_PIECES: usize = 32;
/// The initial capacity of the buffer for copied bytes.
const INITIAL_CAPACITY: usize = 16 * 1024;
/// How many spare buffers a worker keeps, and the largest capacity in bytes that is kept.
const MAX_SPARE: usize = 4;
const MAX_SPARE_CAPACITY: usize = 256 * 1024;
/// How many written bytes a buffer that never becomes empty may hold before the remaining bytes are moved to its
/// beginning.
const MAX_WRITTEN: usize = 64 * 1024;

/// The output queue.
#[derive(Debug, Default)]
pub(super) struct Output {
    buffers: Option<Box<Buffers>>,
    /// The number of queued bytes.
    queued_bytes: usize,
    /// The number of bytes ever queued.
    total_queued: u64,
    /// The number of queued control frames.
    control: u32,
}

/// A position in the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueuePosition {
    total_queued: u64,
    queued_bytes: usize,
    copied: usize,
}

/// The queued frames.
#[derive(Debug)]
struct Buffers {
    /// Copied bytes.
    copied: Vec<u8>,
    /// How many of the copied bytes were written.
    written: usize,
    /// Payloads that were not copied, each with the position in `copied` before which it is written.
    shared: VecDeque<(usize, Bytes)>,
    /// The end position of each frame, counted in bytes ever queued, and whether it is a control frame.
    ends: VecDeque<(u64, bool)>,
}

impl Output {
    /// The number of queued bytes.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// The number of queued frames: all of them, and those that respond to the peer's control frames.
    pub(super) fn queued_frames(&self) -> (u32, u32) {
        let all = self
            .buffers
            .as_ref()
            .map_or(0, |buffers| buffers.ends.len());
        (u32::try_from(all).unwrap_or(u32::MAX), self.control)
    }

    /// Queues a complete frame. `control` marks frames that a peer can make this side send: acknowledgements and
    /// resets.
    pub(super) fn frame(&mut self, bytes: &[u8], control: bool) {
        self.append(control, |buffer| buffer.extend_from_slice(bytes));
    }

    /// Queues a DATA frame's header and payload.
    pub(super) fn data(&mut self, head: &[u8], payload: Bytes) {
        let buffers = self.buffers.get_or_insert_with(take_spare);
        buffers.copied.extend_from_slice(head);
        let count = head.len() + payload.len();
        if payload.len() < MIN_UNCOPIED {
            buffers.copied.extend_from_slice(&payload);
        } else {
            buffers.shared.push_back((buffers.copied.len(), payload));
        }
        self.queued_bytes += count;
        self.total_queued += count as u64;
        buffers.ends.push_back((self.total_queued, false));
    }

    /// Lets `write` append a frame to the queue, and returns its result.
    pub(super) fn append<T>(&mut self, control: bool, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let buffers = self.buffers.get_or_insert_with(take_spare);
        let before = buffers.copied.len();
        let result = write(&mut buffers.copied);
        let count = buffers.copied.len().saturating_sub(before);
        self.queued_bytes += count;
        self.total_queued += count as u64;
        buffers.ends.push_back((self.total_queued, control));
        self.control += u32::from(control);
        result
    }

    /// The end of the queue, for [`Output::rewind`].
    pub(super) fn mark(&self) -> QueuePosition {
        QueuePosition {
            total_queued: self.total_queued,
            queued_bytes: self.queued_bytes,
            copied: self.buffers.as_ref().map_or(0, |b| b.copied.len()),
        }
    }

    /// Drops the frames that were queued since `mark`. Nothing may have been written since then.
    pub(super) fn rewind(&mut self, mark: QueuePosition) {
        let Some(buffers) = &mut self.buffers else {
            return;
        };
        buffers.copied.truncate(mark.copied);
        // A payload queued since then is behind its frame header.
        while let Some((before, _)) = buffers.shared.back()
            && *before > mark.copied
        {
            buffers.shared.pop_back();
        }
        self.queued_bytes = mark.queued_bytes;
        self.total_queued = mark.total_queued;
        if self.queued_bytes == 0 {
            return self.clear();
        }
        while let Some(&(end, control)) = buffers.ends.back()
            && end > mark.total_queued
        {
            buffers.ends.pop_back();
            self.control -= u32::from(control);
        }
    }

    /// Drops everything that is queued.
    pub(super) fn clear(&mut self) {
        self.queued_bytes = 0;
        self.control = 0;
        if let Some(buffers) = self.buffers.take() {
            return_spare(buffers);
        }
    }

    /// Writes the queued frames; pending while the socket accepts nothing.
    pub(super) fn poll_flush(
        &mut self,
        socket: &mut NetworkStream,
        counts: &dyn ByteCounts,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(buffers) = &self.buffers {
            let mut pieces = [IoSlice::new(&[]); MAX_PIECES];
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
        self.queued_bytes = self.queued_bytes.saturating_sub(count);
        if self.queued_bytes == 0 {
            self.clear();
            return;
        }
        let Some(buffers) = &mut self.buffers else {
            return;
        };
        buffers.consume(count);
        let sent = self.total_queued - self.queued_bytes as u64;
        while let Some(&(end, control)) = buffers.ends.front()
            && end <= sent
        {
            buffers.ends.pop_front();
            self.control -= u32::from(control);
        }
    }
}

impl Buffers {
    /// Fills in the next pieces to write.
    fn pieces<'a>(&'a self, pieces: &mut [IoSlice<'a>; MAX_PIECES]) -> usize {
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
        for (before, payload) in self.shared.iter().take(MAX_PIECES / 2 - 1) {
            put(self.copied.get(at..*before).unwrap_or_default());
            put(payload);
            at = *before;
        }
        let until = match self.shared.get(MAX_PIECES / 2 - 1) {
            Some((before, _)) => *before,
            None => self.copied.len(),
        };
        put(self.copied.get(at..until).unwrap_or_default());
        used
    }

    /// Removes `count` written bytes, fewer than there are.
    fn consume(&mut self, mut count: usize) {
        loop {
            let until = self
                .shared
                .front()
                .map_or(self.copied.len(), |(before, _)| *before);
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
        if self.written >= MAX_WRITTEN {
            self.copied.drain(..self.written);
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
    // No observable state: only memory that is kept for reuse.
    #[expect(clippy::vec_box, reason = "they are moved in and out of connections")]
    static SPARE: RefCell<Vec<Box<Buffers>>> = const { RefCell::new(Vec::new()) };
}

fn take_spare() -> Box<Buffers> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| {
        Box::new(Buffers {
            copied: Vec::with_capacity(INITIAL_CAPACITY),
            written: 0,
            shared: VecDeque::new(),
            ends: VecDeque::new(),
        })
    })
}

fn return_spare(mut buffers: Box<Buffers>) {
    if buffers.copied.capacity() > MAX_SPARE_CAPACITY {
        return;
    }
    buffers.copied.clear();
    buffers.written = 0;
    buffers.shared.clear();
    buffers.ends.clear();
    // A thread that is ending has dropped its spare buffers.
    let _gone = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < MAX_SPARE {
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
    async fn everything_is_written_in_order_however_little_the_socket_accepts() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut socket = NetworkStream::Unix(ours);
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
        assert_eq!(output.queued_frames(), (400 + 134, 134));
        assert_eq!(output.queued_bytes(), expected.len());
        let counts = ConnectionStats::default();
        let reader = tokio::spawn(async move {
            let mut seen = Vec::new();
            theirs.read_to_end(&mut seen).await.unwrap();
            seen
        });
        poll_fn(|cx| output.poll_flush(&mut socket, &counts, cx))
            .await
            .unwrap();
        assert_eq!((output.queued_bytes(), output.queued_frames()), (0, (0, 0)));
        assert!(output.buffers.is_none());
        drop(socket);
        assert!(reader.await.unwrap() == expected);
    }

    #[tokio::test]
    async fn frames_queued_last_can_be_dropped() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut socket = NetworkStream::Unix(ours);
        let large = vec![b'x'; MIN_UNCOPIED];
        let mut output = Output::default();
        output.data(b"first", large.clone().into());
        let mark = output.mark();
        output.frame(b"second", true);
        output.data(b"third", large.clone().into());
        output.rewind(mark);
        assert_eq!(output.queued_frames(), (1, 0));
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
