//! Buffered I/O of an HTTP/1 connection. Heads are parsed in the read buffer, and bodies are split off it without
//! copying. Writes are a queue of pieces that one `writev` sends. An idle connection owns no buffer, and one with a
//! small message in flight owns no more than that message: reads go through a buffer that the worker's connections
//! share, and heads are written into buffers that the worker lends.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::pin::pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::task::ready;

use bytes::Buf;
use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;
use outrider_net::ConnectionActivity;
use outrider_net::NetworkStream;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWrite;

use crate::stats::ByteCounts;

/// The size in bytes of the worker's shared read buffer. A read that fills it is followed by larger ones.
const FIRST_READ: usize = 16 * 1024;
/// The maximum size in bytes of one read while much data arrives.
const LARGE_READ: usize = 64 * 1024;
/// Pieces of at least this many bytes are queued without copying.
const MIN_UNCOPIED: usize = 4 * 1024;
/// The maximum number of pieces in one system call.
const MAX_SLICES: usize = 16;
/// The capacity in bytes of a buffer for written heads, and how many spare ones a worker keeps.
const TAIL_CAPACITY: usize = 4 * 1024;
const MAX_SPARE_TAILS: usize = 32;
/// The maximum number of bytes whose write is deferred. More is written at once, while it is in the CPU's caches.
const MAX_DEFERRED: usize = 16 * 1024;

thread_local! {
    // No observable state: only memory that the connections of a worker share.
    static READ_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; FIRST_READ]);
    static SPARE_TAILS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// Bytes arrived.
    Some,
    /// The peer closed its side.
    End,
}

/// A socket with its read and write buffers.
#[derive(Debug)]
pub(crate) struct Transport {
    socket: NetworkStream,
    counts: Arc<dyn ByteCounts>,
    /// Bytes read but not yet parsed.
    pub(crate) input: BytesMut,
    /// The last read filled its buffer, so the next one is large.
    read_was_full: bool,
    /// The size of a large read: the connection's buffer limit in whole multiples of the first read, up to `LARGE_READ`.
    large_read: usize,
    pieces: VecDeque<Bytes>,
    tail: Vec<u8>,
    /// How many bytes of `tail` were written.
    tail_sent: usize,
    queued: usize,
    /// The queued bytes are written after the ready tasks have run.
    deferred: bool,
    /// The task that last deferred a write. It is woken if the socket does not accept everything.
    deferring_task: Option<Waker>,
    /// The peer closed its side.
    pub(crate) ended: bool,
    /// The error that ended reading.
    read_error: Option<io::ErrorKind>,
    /// The error that ended writing. Bytes that the peer sent before may still be readable.
    write_error: Option<io::ErrorKind>,
    /// On a server's connection: reports whether the connection is in use.
    activity: Option<ConnectionActivity>,
    /// Whether a message is being received or answered.
    in_use: bool,
}

impl Transport {
    pub(crate) fn new(
        socket: NetworkStream,
        counts: Arc<dyn ByteCounts>,
        buffer_limit: u32,
        initial: &[u8],
    ) -> Transport {
        Transport {
            socket,
            counts,
            input: BytesMut::from(initial),
            read_was_full: false,
            large_read: (buffer_limit as usize)
                .div_ceil(FIRST_READ)
                .saturating_mul(FIRST_READ)
                .clamp(FIRST_READ, LARGE_READ),
            pieces: VecDeque::new(),
            tail: Vec::new(),
            tail_sent: 0,
            queued: 0,
            deferred: false,
            deferring_task: None,
            ended: false,
            read_error: None,
            write_error: None,
            activity: None,
            in_use: false,
        }
    }

    /// Reads once, appending to `input`. Pending while nothing has arrived. The caller limits the size of `input`.
    // Not inlined: one copy for all callers, because after each system call the code must be loaded from the outer
    // caches again.
    #[inline(never)]
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Filled>> {
        if self.ended {
            return Poll::Ready(Ok(Filled::End));
        }
        if let Some(kind) = self.read_error {
            return Poll::Ready(Err(kind.into()));
        }
        self.release_empty_input();
        let read = if self.read_was_full {
            ready!(self.poll_large_read(cx))
        } else {
            ready!(self.poll_first_read(cx))
        };
        Poll::Ready(match read {
            Ok(0) => {
                self.ended = true;
                Ok(Filled::End)
            }
            Ok(count) => {
                self.read_was_full = count >= FIRST_READ;
                self.counts.received(count as u64);
                Ok(Filled::Some)
            }
            Err(error) => {
                self.read_error = Some(error.kind());
                Err(error)
            }
        })
    }

    /// Frees the read buffer if it is empty, because the connection may now be idle for long.
    pub(crate) fn release_empty_input(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }

    /// Reads a small message, usually a whole one, through the shared buffer. The copy costs little, and its body then
    /// keeps only these bytes in memory. A short read shows that the socket is empty, so that the next poll needs no
    /// system call.
    fn poll_first_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let count = ready!(self.socket.poll_read_some(cx, buffer))?;
            self.input
                .extend_from_slice(buffer.get(..count).unwrap_or_default());
            Poll::Ready(Ok(count))
        })
    }

    fn poll_large_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        ready!(self.socket.poll_read_ready(cx))?;
        self.input.reserve(self.large_read);
        let mut room = (&mut self.input).limit(self.large_read);
        pin!(self.socket.read_buf(&mut room)).poll(cx)
    }

    /// Ready when there is something to read.
    pub(crate) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.ended || self.has_failed() {
            return Poll::Ready(());
        }
        self.socket.poll_read_ready(cx).map(drop)
    }

    /// The number of queued bytes.
    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    /// Queues small pieces, such as heads, that `encode` appends to a buffer.
    pub(crate) fn write<T>(&mut self, encode: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        if self.tail.capacity() == 0 {
            self.tail = SPARE_TAILS
                .with_borrow_mut(Vec::pop)
                .unwrap_or_else(|| Vec::with_capacity(TAIL_CAPACITY));
        }
        let before = self.tail.len();
        let encoded = encode(&mut self.tail);
        self.queued += self.tail.len() - before;
        encoded
    }

    /// Queues a piece of a body.
    pub(crate) fn write_bytes(&mut self, bytes: Bytes) {
        if bytes.len() < MIN_UNCOPIED {
            self.write(|out| out.extend_from_slice(&bytes));
            return;
        }
        self.queued += bytes.len();
        if !self.tail.is_empty() {
            let mut tail = Bytes::from(std::mem::take(&mut self.tail));
            tail.advance(std::mem::take(&mut self.tail_sent));
            self.pieces.push_back(tail);
        }
        self.pieces.push_back(bytes);
    }

    /// Defers writing the queued bytes until the ready tasks have run, or writes them at once if they are many. Returns
    /// true if the caller must register the deferred write. A write error shows in `has_failed`.
    pub(super) fn defer_write(&mut self, cx: &mut Context<'_>) -> bool {
        if self.queued == 0 || self.has_failed() {
            return false;
        }
        if self.queued > MAX_DEFERRED {
            self.deferred = false;
            drop(self.poll_drain(cx));
            return false;
        }
        match &mut self.deferring_task {
            Some(deferring_task) => deferring_task.clone_from(cx.waker()),
            None => self.deferring_task = Some(cx.waker().clone()),
        }
        !std::mem::replace(&mut self.deferred, true)
    }

    /// Writes the bytes whose write was deferred.
    pub(super) fn write_deferred(&mut self) {
        if !std::mem::take(&mut self.deferred) {
            return;
        }
        let Some(deferring_task) = self.deferring_task.take() else {
            return;
        };
        if let Poll::Ready(Err(_)) = self.poll_drain(&mut Context::from_waker(&deferring_task)) {
            deferring_task.wake_by_ref();
        }
        self.report_activity();
        self.deferring_task = Some(deferring_task);
    }

    /// Cancels the deferred write, because the task that queued the bytes ends. The caller must see to it that they are
    /// written.
    pub(super) fn cancel_deferred_write(&mut self) {
        self.deferred = false;
        self.deferring_task = None;
    }

    /// Ready unless the socket did not accept all bytes. A deferred write does not block.
    pub(super) fn poll_unblocked(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.deferred {
            return Poll::Ready(Ok(()));
        }
        self.poll_drain(cx)
    }

    /// Reports to `activity` from now on whether the connection is in use.
    pub(super) fn with_activity(self, activity: ConnectionActivity) -> Transport {
        Transport {
            activity: Some(activity),
            ..self
        }
    }

    /// Sets whether a message is being received or answered. The connection also counts as in use until queued bytes
    /// are written.
    pub(super) fn set_in_use(&mut self, in_use: bool) {
        self.in_use = in_use;
        self.report_activity();
    }

    fn report_activity(&self) {
        if let Some(activity) = &self.activity {
            activity.set(self.in_use || (self.queued > 0 && !self.has_failed()));
        }
    }

    /// Writes the queued bytes; ready when the socket has accepted all of them.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.queued > 0 {
            if let Some(kind) = self.write_error.or(self.read_error) {
                return Poll::Ready(Err(kind.into()));
            }
            let tail = self.tail.get(self.tail_sent..).unwrap_or_default();
            let written = if self.pieces.is_empty() {
                ready!(Pin::new(&mut self.socket).poll_write(cx, tail))
            } else {
                let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                let mut used = 0;
                for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                    *slice = IoSlice::new(piece);
                    used += 1;
                }
                if let Some(slice) = slices.get_mut(used) {
                    *slice = IoSlice::new(tail);
                    used += 1;
                }
                ready!(
                    Pin::new(&mut self.socket)
                        .poll_write_vectored(cx, slices.get(..used).unwrap_or_default())
                )
            };
            match written {
                Ok(0) => self.write_error = Some(io::ErrorKind::WriteZero),
                Ok(count) => {
                    self.counts.sent(count as u64);
                    self.consume(count);
                }
                Err(error) => self.write_error = Some(error.kind()),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the peer that nothing follows. The caller has drained the queue.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn consume(&mut self, mut count: usize) {
        self.queued -= count;
        while count > 0 {
            match self.pieces.front_mut() {
                Some(piece) if piece.len() > count => {
                    piece.advance(count);
                    return;
                }
                Some(piece) => {
                    count -= piece.len();
                    self.pieces.pop_front();
                }
                None => {
                    self.tail_sent += count;
                    break;
                }
            }
        }
        // If the queue never becomes empty, the buffer must not keep growing by what was sent already.
        if self.tail_sent >= TAIL_CAPACITY && self.tail_sent * 2 >= self.tail.len() {
            self.tail.drain(..std::mem::take(&mut self.tail_sent));
        }
        if self.queued == 0 {
            self.tail_sent = 0;
            recycle(std::mem::take(&mut self.tail));
        }
    }

    /// The byte counters of the connection.
    pub(crate) fn counts(&self) -> &dyn ByteCounts {
        &*self.counts
    }

    /// Whether the socket has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.read_error.or(self.write_error).is_some()
    }
}

/// Returns a buffer for heads to the worker. One that has grown is freed.
fn recycle(mut tail: Vec<u8>) {
    if tail.capacity() == TAIL_CAPACITY {
        tail.clear();
        SPARE_TAILS.with_borrow_mut(|kept| {
            if kept.len() < MAX_SPARE_TAILS {
                kept.push(tail);
            }
        });
    }
}
