//! The bytes of an HTTP/1 connection: read into a buffer that heads and bodies are cut from without copying, written as
//! a queue of pieces that one `writev` takes. An idle connection owns no buffer.

use std::collections::VecDeque;
use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Buf;
use bytes::Bytes;
use bytes::BytesMut;
use outrider_net::Stream;
use tokio::io::AsyncWrite;

use crate::stats::ByteCounts;

/// Room for one read while a head is awaited, and while a body flows, in bytes.
const HEAD_READ: usize = 8 * 1024;
const BODY_READ: usize = 64 * 1024;
/// Pieces at least this long are queued as they are instead of being copied together.
const OWN_PIECE: usize = 4 * 1024;
/// Pieces that one system call takes.
const SLICES: usize = 16;

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// More bytes.
    Some,
    /// The peer has closed its side.
    End,
}

/// A socket with its two buffers.
#[derive(Debug)]
pub(crate) struct Transport {
    socket: Stream,
    counts: Arc<dyn ByteCounts>,
    /// Read and not yet parsed.
    pub(crate) input: BytesMut,
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    queued: usize,
    /// The peer has closed its side.
    pub(crate) ended: bool,
    failed: Option<io::ErrorKind>,
}

impl Transport {
    pub(crate) fn new(socket: Stream, counts: Arc<dyn ByteCounts>, already: &[u8]) -> Transport {
        Transport {
            socket,
            counts,
            input: BytesMut::from(already),
            pieces: VecDeque::new(),
            tail: BytesMut::new(),
            queued: 0,
            ended: false,
            failed: None,
        }
    }

    /// Reads once, appending to `input`. Pending when nothing is there; the caller bounds `input`.
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        body: bool,
    ) -> Poll<io::Result<Filled>> {
        loop {
            if self.ended {
                return Poll::Ready(Ok(Filled::End));
            }
            if let Some(kind) = self.failed {
                return Poll::Ready(Err(kind.into()));
            }
            if self.input.is_empty() {
                // Idle until the socket says otherwise: the buffer goes back first.
                self.input = BytesMut::new();
            }
            ready!(self.socket.poll_read_ready(cx))?;
            self.input.reserve(if body { BODY_READ } else { HEAD_READ });
            match self.socket.try_read_buf(&mut self.input) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    self.counts.received(count as u64);
                    return Poll::Ready(Ok(Filled::Some));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => self.failed = Some(error.kind()),
            }
        }
    }

    /// Bytes that wait to be written.
    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    /// Where small pieces, such as heads, are written to.
    pub(crate) fn write(&mut self, encode: impl FnOnce(&mut BytesMut)) {
        let before = self.tail.len();
        encode(&mut self.tail);
        self.queued += self.tail.len() - before;
    }

    /// Queues a piece of a body.
    pub(crate) fn write_bytes(&mut self, bytes: Bytes) {
        self.queued += bytes.len();
        if bytes.len() < OWN_PIECE {
            self.tail.extend_from_slice(&bytes);
            return;
        }
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
        self.pieces.push_back(bytes);
    }

    /// Writes what is queued; ready when all of it went to the socket.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.queued > 0 {
            if let Some(kind) = self.failed {
                return Poll::Ready(Err(kind.into()));
            }
            let written = if self.pieces.is_empty() {
                ready!(Pin::new(&mut self.socket).poll_write(cx, &self.tail))
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let mut used = 0;
                for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                    *slice = IoSlice::new(piece);
                    used += 1;
                }
                if used < SLICES {
                    slices[used] = IoSlice::new(&self.tail);
                    used += 1;
                }
                ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, &slices[..used]))
            };
            match written {
                Ok(0) => self.failed = Some(io::ErrorKind::WriteZero),
                Ok(count) => {
                    self.counts.sent(count as u64);
                    self.consume(count);
                }
                Err(error) => self.failed = Some(error.kind()),
            }
        }
        Poll::Ready(Ok(()))
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
                    self.tail.advance(count);
                    break;
                }
            }
        }
        if self.queued == 0 {
            self.tail = BytesMut::new();
        }
    }

    /// Whether the socket has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }
}
