//! The bytes of one connection, between its socket and its codec.
//!
//! A codec may read and write in small pieces; here they become few system calls: reads of up to 16 KiB, and writes that
//! are gathered and go out together when the connection's task calls [`Io::poll_drain`] at the end of its turn. Buffers
//! belong to a connection only while they hold something, so an idle connection owns none.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use outrider_net::Stream;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;

use crate::buffer;
use crate::buffer::Buffer;
use crate::stats::ByteCounts;

/// The most that one read takes, bytes. More means fewer system calls, but also more data under way that has left the
/// processor's cache by the time it is written: 8 MiB downloads cost 4 % more with 32 KiB, 20 % more with 64 KiB.
const CHUNK: usize = 16 * 1024;
/// What makes gathered writes go out before the end of a turn, bytes. 64 KiB cost 15 % more.
pub(crate) const GATHER: usize = 32 * 1024;

/// Sees the bytes pass, in both directions, before the codec or the socket does.
pub(crate) trait Watch {
    /// Bytes came in. An error makes them the connection's last.
    fn inbound(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Bytes go out.
    fn outbound(&mut self, bytes: &[u8]);
}

/// The connection's bytes. Clones are the same connection: one is the codec's, one its task's.
#[derive(Debug)]
pub(crate) struct Io<W>(Rc<RefCell<State<W>>>);

#[derive(Debug)]
struct State<W> {
    socket: Stream,
    read: Buffer,
    write: Buffer,
    watch: W,
    counts: Arc<dyn ByteCounts>,
    /// The error of the socket, or of the watch; said again to whoever asks.
    failed: Option<io::ErrorKind>,
    /// The peer has closed.
    ended: bool,
    /// The socket itself has failed.
    broken: bool,
    said_end: bool,
    buffered: (u64, u64),
}

impl<W> Clone for Io<W> {
    fn clone(&self) -> Io<W> {
        Io(self.0.clone())
    }
}

impl<W: Watch> Io<W> {
    /// The bytes of `socket`, of which `already` were read before.
    pub(crate) fn new(socket: Stream, watch: W, counts: Arc<dyn ByteCounts>) -> Io<W> {
        Io(Rc::new(RefCell::new(State {
            socket,
            read: Buffer::default(),
            write: Buffer::default(),
            watch,
            counts,
            failed: None,
            ended: false,
            broken: false,
            said_end: false,
            buffered: (0, 0),
        })))
    }

    /// Gives back bytes that were read to find out which codec to use. Already counted.
    pub(crate) fn unread(&self, bytes: &[u8]) -> io::Result<()> {
        let state = &mut *self.0.borrow_mut();
        state.read.append(bytes);
        state.watch.inbound(bytes)
    }

    /// Writes out what was gathered. An error is kept and comes out of the codec's next read, which ends the connection.
    pub(crate) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.borrow_mut();
        let drained = state.poll_drain(cx);
        state.note_buffered();
        drained
    }

    /// Says that nothing more will be sent, then reads and forgets until the peer closes: closing with unread bytes would
    /// reset the connection, and could destroy our last words before the peer has read them.
    pub(crate) fn poll_linger(&self, cx: &mut Context<'_>) -> Poll<()> {
        let state = &mut *self.0.borrow_mut();
        state.read.clear();
        if state.ended || state.broken || ready!(state.poll_say_end(cx)).is_err() {
            return Poll::Ready(());
        }
        let mut waste = [0; 1024];
        loop {
            let mut space = ReadBuf::new(&mut waste);
            let read = ready!(Pin::new(&mut state.socket).poll_read(cx, &mut space));
            if read.is_err() || space.filled().is_empty() {
                state.ended = true;
                return Poll::Ready(());
            }
            state.counts.received(space.filled().len() as u64);
        }
    }

    /// Ends the connection: the codec's next read fails.
    pub(crate) fn fail(&self, kind: io::ErrorKind) {
        self.0.borrow_mut().failed.get_or_insert(kind);
    }

    /// What the watch knows.
    pub(crate) fn with_watch<T>(&self, look: impl FnOnce(&mut W) -> T) -> T {
        look(&mut self.0.borrow_mut().watch)
    }

    /// Whether the peer has closed, or the socket failed.
    pub(crate) fn is_over(&self) -> bool {
        let state = self.0.borrow();
        state.ended || state.failed.is_some()
    }
}

impl<W: Watch> State<W> {
    /// Reads into the empty read buffer; `Ok(0)` is the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Some(kind) = self.failed {
            return Poll::Ready(Err(kind.into()));
        }
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        let mut chunk = buffer::take();
        let mut space = ReadBuf::new(&mut chunk[..CHUNK]);
        let result = Pin::new(&mut self.socket).poll_read(cx, &mut space);
        let count = space.filled().len();
        let result = match result {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) if count > 0 => {
                self.counts.received(count as u64);
                match self.watch.inbound(&chunk[..count]) {
                    Ok(()) => {
                        self.read = Buffer::filled(chunk, count);
                        return Poll::Ready(Ok(count));
                    }
                    Err(error) => Poll::Ready(Err(error)),
                }
            }
            Poll::Ready(Ok(())) => {
                self.ended = true;
                Poll::Ready(Ok(0))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        };
        buffer::give(chunk);
        if let Poll::Ready(Err(error)) = &result {
            self.failed = Some(error.kind());
            self.broken |= count == 0;
        }
        result
    }

    fn break_off(&mut self, kind: io::ErrorKind) {
        self.failed = Some(kind);
        self.broken = true;
    }

    fn poll_say_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx));
        if self.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if !self.said_end {
            ready!(Pin::new(&mut self.socket).poll_shutdown(cx))?;
            self.said_end = true;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.write.is_empty() {
            let pending = self.write.pending();
            match ready!(Pin::new(&mut self.socket).poll_write(cx, pending)) {
                Ok(count) if count > 0 => {
                    self.counts.sent(count as u64);
                    self.write.consume(count);
                    continue;
                }
                Ok(_) => self.break_off(io::ErrorKind::WriteZero),
                Err(error) => self.break_off(error.kind()),
            }
            self.write.clear();
        }
        Poll::Ready(())
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx));
        Poll::Ready(match self.failed {
            Some(kind) => Err(kind.into()),
            None => Ok(()),
        })
    }

    fn note_buffered(&mut self) {
        let now = (
            self.read.pending().len() as u64,
            self.write.pending().len() as u64,
        );
        if now != self.buffered {
            self.counts.receive_buffered(self.buffered.0, now.0);
            self.counts.send_buffered(self.buffered.1, now.1);
            self.buffered = now;
        }
    }

    /// Takes `slices` to be written: gathers them, or, when there is enough for a system call, writes them with what was
    /// gathered before, so that the last and largest piece is not copied. Pending only when the socket takes nothing.
    fn poll_take(
        &mut self,
        slices: &[io::IoSlice<'_>],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Some(kind) = self.failed {
            return Poll::Ready(Err(kind.into()));
        }
        let count = slices.iter().map(|slice| slice.len()).sum::<usize>();
        let gathered = self.write.pending().len();
        let mut written = 0;
        if gathered + count >= GATHER {
            match self.poll_write_now(slices, cx) {
                Poll::Ready(Ok(sent)) => written = sent,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if gathered >= GATHER => return Poll::Pending,
                Poll::Pending => {}
            }
        }
        for slice in slices {
            self.watch.outbound(slice);
            let skip = written.min(slice.len());
            written -= skip;
            self.write.append(&slice[skip..]);
        }
        Poll::Ready(Ok(count))
    }

    /// Writes what was gathered and then `slices`; returns how much went out of `slices`.
    fn poll_write_now(
        &mut self,
        slices: &[io::IoSlice<'_>],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let gathered = self.write.pending().len();
        let mut all = [io::IoSlice::new(&[]); 4];
        all[0] = io::IoSlice::new(self.write.pending());
        let mut used = 1;
        for (to, slice) in all[1..].iter_mut().zip(slices) {
            *to = io::IoSlice::new(slice);
            used += 1;
        }
        let result = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, &all[..used]));
        Poll::Ready(match result {
            Ok(sent) => {
                self.counts.sent(sent as u64);
                self.write.consume(sent.min(gathered));
                Ok(sent.saturating_sub(gathered))
            }
            Err(error) => {
                self.break_off(error.kind());
                Err(error)
            }
        })
    }
}

impl<W> Drop for State<W> {
    fn drop(&mut self) {
        self.counts.receive_buffered(self.buffered.0, 0);
        self.counts.send_buffered(self.buffered.1, 0);
    }
}

impl<W: Watch + Unpin> AsyncRead for Io<W> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let state = &mut *self.0.borrow_mut();
        if state.read.is_empty() && ready!(state.poll_fill(cx))? == 0 {
            return Poll::Ready(Ok(()));
        }
        let pending = state.read.pending();
        let count = pending.len().min(space.remaining());
        space.put_slice(&pending[..count]);
        state.read.consume(count);
        Poll::Ready(Ok(()))
    }
}

impl<W: Watch + Unpin> AsyncWrite for Io<W> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let state = &mut *self.0.borrow_mut();
        state.poll_take(&[io::IoSlice::new(bytes)], cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_take(slices, cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing: the connection's task drains once, at the end of its turn.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0.borrow().failed {
            Some(kind) => Poll::Ready(Err(kind.into())),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_say_end(cx)
    }
}
