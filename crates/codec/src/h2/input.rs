//! What a connection has read: chunks of the socket's bytes, and the frame that is not complete yet.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::BufMut;
use bytes::BytesMut;
use outrider_net::Stream;
use tokio::io::AsyncReadExt;

use crate::header::Kind;
use crate::stats::ByteCounts;

use super::frame;
use super::frame::Head;

/// The most that one read takes, bytes: a largest frame's worth, or much after a read that left something behind.
const CHUNK: usize = 16 * 1024 + frame::HEAD;
const LARGE_CHUNK: usize = 64 * 1024;
/// Bytes that a connection reads before it lets others have their turn. Reading more at once would only fill windows that
/// peers who are slow to read leave open.
pub(super) const TURN: usize = LARGE_CHUNK;
/// Who keeps a piece of a chunk keeps all of it: pieces that are a smaller part of it than this are copied.
const SHARED_PART: usize = 8;

/// What is known of the frame that comes in.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// Bytes of the client's preface that are still to come.
    pub(super) preface: usize,
    /// Whether the first frame was seen.
    pub(super) begun: bool,
    /// The last read left something behind, or nearly so: the next one should be large.
    flooded: bool,
    /// How much the chunk that was taken last has room for, bytes.
    room: usize,
    /// The beginning of a frame that is taken as a whole.
    pub(super) partial: Vec<u8>,
    /// The stream whose HEADERS frame comes in, and is waited for no longer.
    pub(super) given_up: Option<u32>,
    /// A DATA frame whose payload comes in.
    pub(super) data: Option<DataRest>,
    /// A header block that goes on in CONTINUATION frames.
    pub(super) block: Option<Block>,
}

/// The rest of a DATA frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct DataRest {
    pub(super) stream: u32,
    /// Bytes of data still to come.
    pub(super) left: usize,
    /// Bytes of padding after them.
    pub(super) padding: usize,
    pub(super) ends: bool,
}

/// A header block that is not complete.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) stream: u32,
    pub(super) ends: bool,
    /// What it is to be; none if it is decoded only to keep the table.
    pub(super) kind: Option<Kind>,
    pub(super) bytes: Vec<u8>,
    pub(super) continuations: usize,
    /// Bytes of its frames.
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

    /// An empty chunk to read into. Streams may keep parts of what was read into the one before.
    pub(super) fn take_chunk(&mut self) -> BytesMut {
        self.room = if self.flooded { LARGE_CHUNK } else { CHUNK };
        let mut chunk = SPARE.with_borrow_mut(|spare| std::mem::take(spare.of(self.room)));
        chunk.clear();
        if chunk.capacity() < self.room {
            chunk.reserve(self.room);
        }
        chunk
    }

    /// Gives the chunk back.
    pub(super) fn give_chunk(&self, chunk: BytesMut) {
        SPARE.with_borrow_mut(|spare| *spare.of(self.room) = chunk);
    }

    /// Reads into the chunk that was taken; 0 is the end.
    pub(super) fn poll_read(
        &mut self,
        socket: &mut Stream,
        chunk: &mut BytesMut,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let read = ready!(poll_read(socket, chunk, self.room, cx));
        self.flooded = chunk.len() >= CHUNK;
        Poll::Ready(read)
    }

    /// Whether a piece of the chunk, this long, is so small that it is copied.
    pub(super) fn is_small(&self, piece: usize) -> bool {
        piece < self.room / SHARED_PART
    }

    /// The stream whose request's head has begun in a whole frame, and goes on in others.
    pub(super) fn open_block(&self) -> Option<u32> {
        let block = self.block.as_ref();
        let block = block.filter(|block| block.kind == Some(Kind::Request));
        block.map(|block| block.stream)
    }

    /// The HEADERS frame that comes in, if enough of it is there to tell what it is (RFC 9113 section 6.2).
    pub(super) fn partial_headers(&self) -> Option<Head> {
        let head = self.partial.first_chunk().map(Head::parse)?;
        let padding = usize::from(head.has(frame::PADDED));
        let priority = if head.has(frame::WITH_PRIORITY) { 5 } else { 0 };
        let is_there = self.partial.len() >= frame::HEAD + padding + priority;
        (head.kind == frame::HEADERS && is_there).then_some(head)
    }

    /// Waits for the rest of such a head no longer: what comes of it is decoded only to keep the table.
    pub(super) fn give_up(&mut self, stream: u32) {
        match &mut self.block {
            Some(block) => block.kind = None,
            None => self.given_up = Some(stream),
        }
    }
}

thread_local! {
    // Not state that anybody could see: the memory that this worker reads into.
    static SPARE: RefCell<Spare> = RefCell::default();
}

/// Chunks that are not in use, of either size: who keeps a piece of a small one keeps nothing large.
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

/// Reads no more than `room` bytes into `chunk`; 0 is the end.
fn poll_read(
    socket: &mut Stream,
    chunk: &mut BytesMut,
    room: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut limited = chunk.limit(room);
    pin!(socket.read_buf(&mut limited)).poll(cx)
}

/// Reads and forgets until the peer closes.
pub(super) fn poll_drain(
    socket: &mut Stream,
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
