//! One direction of a relayed connection: the bytes from one stream to the other, and then its end.

use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use bytes::Buf as _;
use bytes::BytesMut;
use outrider_net::NetworkStream;
use tokio::io::AsyncWrite as _;

/// How many reads may follow each other before others get their turn.
const READS_IN_A_ROW: usize = 16;

/// One direction of a connection.
#[derive(Debug)]
pub(super) struct Flow {
    /// Bytes that were read and that the receiver has not taken.
    pending: BytesMut,
    /// Reading pauses above this many pending bytes, until half of them are gone.
    limit: usize,
    is_paused: bool,
    read_ended: bool,
    write_ended: bool,
}

/// What counts the bytes of a flow.
pub(super) trait FlowCounts {
    /// Bytes were read from the sender.
    fn received(&self, bytes: usize);
    /// Bytes were written to the receiver.
    fn sent(&self, bytes: usize);
    /// The number of pending bytes went from `before` to `after`.
    fn buffered(&self, before: usize, after: usize);
    /// Reading was paused, because the receiver does not keep up, or was resumed.
    fn paused(&self, is_paused: bool);
}

/// Why a flow failed.
#[derive(Debug)]
pub(super) enum FlowError {
    /// The sender's connection failed.
    Read(io::Error),
    /// The receiver's connection failed.
    Write(io::Error),
}

impl Flow {
    pub(super) fn new(limit: usize) -> Flow {
        Flow {
            pending: BytesMut::new(),
            limit,
            is_paused: false,
            read_ended: false,
            write_ended: false,
        }
    }

    /// Whether the sender has ended.
    pub(super) fn read_ended(&self) -> bool {
        self.read_ended
    }

    /// Whether the receiver has got everything and the end.
    pub(super) fn write_ended(&self) -> bool {
        self.write_ended
    }

    /// Whether bytes are pending.
    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Moves what can be moved now. `buffer` is only used during the call.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        (from, to): (&mut NetworkStream, &mut NetworkStream),
        buffer: &mut [u8],
        counts: &impl FlowCounts,
    ) -> Result<(), FlowError> {
        for _ in 0..READS_IN_A_ROW {
            self.write_pending(cx, to, counts)?;
            if self.read_ended {
                if self.pending.is_empty() && !self.write_ended {
                    // That the receiver is gone already does not matter here: it shows when it is read from.
                    self.write_ended = Pin::new(to).poll_shutdown(cx).is_ready();
                }
                return Ok(());
            }
            self.pause_or_resume(counts);
            if self.is_paused {
                return Ok(());
            }
            match from.poll_read_some(cx, buffer) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(error)) => return Err(FlowError::Read(error)),
                Poll::Ready(Ok(0)) => self.read_ended = true,
                Poll::Ready(Ok(count)) => {
                    counts.received(count);
                    let bytes = buffer.get(..count).unwrap_or_default();
                    self.pass_on(cx, bytes, to, counts)?;
                }
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Writes the pending bytes, and frees their buffer after the last.
    pub(super) fn write_pending(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut NetworkStream,
        counts: &impl FlowCounts,
    ) -> Result<(), FlowError> {
        while !self.pending.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, &self.pending) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(error)) => return Err(FlowError::Write(error)),
                Poll::Ready(Ok(count)) => {
                    let before = self.pending.len();
                    self.pending.advance(count);
                    counts.sent(count);
                    counts.buffered(before, self.pending.len());
                }
            }
            if self.pending.is_empty() {
                self.pending = BytesMut::new();
            }
        }
        Ok(())
    }

    fn pause_or_resume(&mut self, counts: &impl FlowCounts) {
        let is_paused = match self.is_paused {
            true => self.pending.len() > self.limit / 2,
            false => self.pending.len() > self.limit,
        };
        if is_paused != self.is_paused {
            self.is_paused = is_paused;
            counts.paused(is_paused);
        }
    }

    /// Writes bytes that were just read, and keeps what the receiver does not take.
    fn pass_on(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        to: &mut NetworkStream,
        counts: &impl FlowCounts,
    ) -> Result<(), FlowError> {
        let mut taken = 0;
        if self.pending.is_empty() {
            match Pin::new(to).poll_write(cx, bytes) {
                Poll::Pending => {}
                Poll::Ready(Err(error)) => return Err(FlowError::Write(error)),
                Poll::Ready(Ok(count)) => {
                    taken = count;
                    counts.sent(count);
                }
            }
        }
        let rest = bytes.get(taken..).unwrap_or_default();
        if !rest.is_empty() {
            let before = self.pending.len();
            self.pending.extend_from_slice(rest);
            counts.buffered(before, self.pending.len());
        }
        Ok(())
    }

    /// Counts the pending bytes as gone.
    pub(super) fn discard(&mut self, counts: &impl FlowCounts) {
        counts.buffered(self.pending.len(), 0);
        self.pending = BytesMut::new();
    }
}
