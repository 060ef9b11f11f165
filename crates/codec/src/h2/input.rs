//! A connection's input: chunks read from the socket, and the incomplete frame.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::BufMut;
use bytes::BytesMut;
use outrider_net::NetworkStream;
use tokio::io::AsyncReadExt;

use crate::header::BlockKind;
use crate::stats::ByteCounts;

use super::frame;
use super::frame::Head;

/// The maximum length of one read, in bytes: a largest frame, or more if the last read may have left bytes in the
/// socket.
const CHUNK: usize = 16 * 1024 + frame::HEAD;
const LARGE_CHUNK: usize = 64 * 1024;
/// How many bytes a connection reads before it lets other tasks run. Reading more would only fill the windows of
/// streams whose readers are slow.
pub(super) const MAX_READ_PER_POLL: usize = LARGE_CHUNK;
/// A piece that refers to a chunk keeps the whole chunk in memory, so pieces smaller than this fraction of it are
/// copied.
const MIN_SHARED_FRACTION: usize = 8;

/// The state of reading frames.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// The bytes of the client's preface that have not arrived yet.
    pub(super) preface: usize,
    /// Whether the first frame has arrived.
    pub(super) first_frame_seen: bool,
    /// The last read filled its chunk, so the next one is large.
    read_was_full: bool,
    /// The capacity in bytes of the chunk in use.
    room: usize,
    /// Received bytes that wait for the connection's next turn.
    pub(super) waiting: BytesMut,
    /// The beginning of a frame that is only processed when complete.
    pub(super) partial: Vec<u8>,
    /// The stream whose incomplete HEADERS frame has timed out.
    pub(super) abandoned_headers: Option<u32>,
    /// A DATA frame whose payload is being received.
    pub(super) data: Option<PendingData>,
    /// A header block that continues in CONTINUATION frames.
    pub(super) block: Option<Block>,
}

/// The remaining part of a DATA frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingData {
    pub(super) stream: u32,
    /// Remaining bytes of data.
    pub(super) left: usize,
    /// Remaining bytes of padding after the data.
    pub(super) padding: usize,
    pub(super) ends: bool,
}

/// An incomplete header block.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) stream: u32,
    pub(super) ends: bool,
    /// Which part of a message it is; `None` if it is only decoded to keep the compression table in step.
    pub(super) kind: Option<BlockKind>,
    pub(super) bytes: Vec<u8>,
    pub(super) continuations: usize,
    /// The length of its frames in bytes.
    pub(super) wire: usize,
}

impl Input {
    pub(super) fn new(is_server: bool) -> Input {
        Input {
            preface: if is_server { frame::PREFACE.len() } else { 0 },
            room: CHUNK,
            ..Input::default()
        }
    }

    /// Takes an empty chunk to read into. Streams may still refer to parts of the previous one.
    pub(super) fn take_chunk(&mut self) -> BytesMut {
        self.room = if self.read_was_full {
            LARGE_CHUNK
        } else {
            CHUNK
        };
        let mut chunk = SPARE.with_borrow_mut(|spare| std::mem::take(spare.of(self.room)));
        chunk.clear();
        if chunk.capacity() < self.room {
            chunk.reserve(self.room);
        }
        chunk
    }

    /// Returns the chunk for reuse.
    pub(super) fn return_chunk(&self, chunk: BytesMut) {
        SPARE.with_borrow_mut(|spare| *spare.of(self.room) = chunk);
    }

    /// Reads into the chunk that was taken; 0 means end of stream.
    pub(super) fn poll_read(
        &mut self,
        socket: &mut NetworkStream,
        chunk: &mut BytesMut,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let read = ready!(poll_read(socket, chunk, self.room, cx));
        self.read_was_full = chunk.len() >= CHUNK;
        Poll::Ready(read)
    }

    /// Whether a piece of this length is so small a part of the chunk that it is copied.
    pub(super) fn is_small(&self, piece: usize) -> bool {
        piece < self.room / MIN_SHARED_FRACTION
    }

    /// The stream of a request whose HEADERS frame has arrived and whose CONTINUATION frames have not.
    pub(super) fn incomplete_block(&self) -> Option<u32> {
        let block = self.block.as_ref();
        let block = block.filter(|block| block.kind == Some(BlockKind::Request));
        block.map(|block| block.stream)
    }

    /// The frame header of the HEADERS frame that is being received, if enough of the frame has arrived to know what it
    /// is (RFC 9113 section 6.2).
    pub(super) fn partial_headers(&self) -> Option<Head> {
        let head = self.partial.first_chunk().map(Head::parse)?;
        let padding = usize::from(head.has(frame::PADDED));
        let priority = if head.has(frame::WITH_PRIORITY) { 5 } else { 0 };
        let is_there = self.partial.len() >= frame::HEAD + padding + priority;
        (head.kind == frame::HEADERS && is_there).then_some(head)
    }

    /// Stops waiting for the rest of that head. If it arrives, it is only decoded to keep the compression table in
    /// step.
    pub(super) fn abandon_headers(&mut self, stream: u32) {
        match &mut self.block {
            Some(block) => block.kind = None,
            None => self.abandoned_headers = Some(stream),
        }
    }
}

thread_local! {
    // No observable state: only memory that the worker's connections read into.
    static SPARE: RefCell<Spare> = RefCell::default();
}

/// Unused chunks of both sizes. Small pieces are read into small chunks, so that they keep less memory.
#[derive(Debug, Default)]
struct Spare {
    small: BytesMut,
    large: BytesMut,
}

impl Spare {
    fn of(&mut self, room: usize) -> &mut BytesMut {
        if room > CHUNK {
            &mut self.large
        } else {
            &mut self.small
        }
    }
}

/// Reads up to `room` bytes into `chunk`; 0 means end of stream.
fn poll_read(
    socket: &mut NetworkStream,
    chunk: &mut BytesMut,
    room: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut limited = chunk.limit(room);
    pin!(socket.read_buf(&mut limited)).poll(cx)
}

/// Reads and discards until the peer closes.
pub(super) fn poll_discard(
    socket: &mut NetworkStream,
    counts: &dyn ByteCounts,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let mut waste = BytesMut::with_capacity(1024);
    loop {
        waste.clear();
        match ready!(poll_read(socket, &mut waste, CHUNK, cx)) {
            Ok(0) | Err(_) => return Poll::Ready(()),
            Ok(count) => counts.received(count as u64),
        }
    }
}
