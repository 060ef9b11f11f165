//! Connections within the process, to internal listeners (`Listener.internal_listener`). Both ends belong to one worker,
//! and their bytes stay in memory.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::rc::Weak;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::task::ready;

use bytes::Buf as _;
use bytes::Bytes;
use bytes::BytesMut;

use crate::Address;
use crate::InternalAddress;
use crate::Listener;
use crate::NetworkStream;

/// The system's error for an address that cannot be connected to.
const EINVAL: i32 = 22;

/// The internal listeners of one worker, by name.
#[derive(Default)]
pub struct InternalListeners(RefCell<HashMap<Arc<str>, Weak<Listener>>>);

impl InternalListeners {
    /// Gives connections to `listener` from now on, instead of another one of its name. It must be kept elsewhere: once it
    /// is dropped, connections are refused.
    pub fn add(&self, listener: &Rc<Listener>) {
        let name = listener.name().clone();
        let mut listeners = self.0.borrow_mut();
        listeners.retain(|_, listener| listener.strong_count() > 0);
        listeners.insert(name, Rc::downgrade(listener));
    }

    /// Connects to the internal listener of this worker that `address` names.
    ///
    /// # Errors
    /// This worker has no such listener.
    pub fn connect(&self, address: &InternalAddress) -> io::Result<NetworkStream> {
        let listener = self.0.borrow().get(&*address.listener).cloned();
        let listener = listener.and_then(|listener| listener.upgrade());
        let listener = listener.ok_or_else(|| io::Error::from_raw_os_error(EINVAL))?;
        let (client, server) = InternalStream::pair(listener.internal_buffer_size());
        let own = Address::Internal(address.clone());
        listener.start_internal(server, &own);
        Ok(NetworkStream::Internal(client))
    }
}

impl fmt::Debug for InternalListeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.borrow().keys()).finish()
    }
}

/// One end of a connection within the process.
pub struct InternalStream {
    incoming: Rc<Pipe>,
    outgoing: Rc<Pipe>,
    /// Closing tells the peer by a reset.
    resets: Cell<bool>,
}

/// One direction of such a connection.
struct Pipe {
    state: RefCell<PipeState>,
    /// How many bytes wait at most.
    limit: usize,
}

#[derive(Default)]
struct PipeState {
    bytes: BytesMut,
    /// The writer sends no more.
    ended: bool,
    /// The error with which the writer has ended the connection.
    failed: Option<io::ErrorKind>,
    /// The reader is gone.
    unread: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl InternalStream {
    /// Both ends of a connection on which `limit` bytes can wait in each direction.
    #[must_use]
    pub fn pair(limit: usize) -> (InternalStream, InternalStream) {
        let pipe = || {
            Rc::new(Pipe {
                state: RefCell::default(),
                limit,
            })
        };
        let (one, other) = (pipe(), pipe());
        let end = |incoming: &Rc<Pipe>, outgoing: &Rc<Pipe>| InternalStream {
            incoming: incoming.clone(),
            outgoing: outgoing.clone(),
            resets: Cell::new(false),
        };
        (end(&one, &other), end(&other, &one))
    }

    /// Makes closing this end a reset.
    pub(crate) fn reset_on_close(&self) {
        self.resets.set(true);
    }

    /// Ready when there is something to read, or nothing more will come.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let state = &mut *self.incoming.state.borrow_mut();
        if !state.bytes.is_empty() || state.ended || state.failed.is_some() {
            return Poll::Ready(());
        }
        wait(&mut state.reader, cx);
        Poll::Pending
    }

    /// Takes what is there; no bytes mean the end.
    ///
    /// # Errors
    /// The peer has reset the connection, or [aborted](Self::abort) it.
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        ready!(self.poll_readable(cx));
        let state = &mut *self.incoming.state.borrow_mut();
        if let Some(error) = state.failed.filter(|_| state.bytes.is_empty()) {
            return Poll::Ready(Err(error.into()));
        }
        if let Some(writer) = state.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(std::mem::take(&mut state.bytes).freeze()))
    }

    /// Reads once; 0 means the end.
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_readable(cx));
        Poll::Ready(self.try_read(buffer))
    }

    /// Reads what is there; `WouldBlock` if nothing is.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let state = &mut *self.incoming.state.borrow_mut();
        let count = state.bytes.len().min(buffer.len());
        if count == 0 {
            if let Some(error) = state.failed {
                return Err(error.into());
            }
            return match state.ended || buffer.is_empty() {
                true => Ok(0),
                false => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        let (to, _) = buffer.split_at_mut(count);
        state.bytes.copy_to_slice(to);
        if state.bytes.is_empty() {
            state.bytes = BytesMut::new();
        }
        if let Some(writer) = state.writer.take() {
            writer.wake();
        }
        Ok(count)
    }

    /// Copies what is there without taking it. Ready once there are more than `seen` bytes, and with `None` once no more
    /// will come.
    pub(crate) fn poll_peek(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        seen: usize,
    ) -> Poll<io::Result<Option<usize>>> {
        let state = &mut *self.incoming.state.borrow_mut();
        let count = state.bytes.len().min(buffer.len());
        if count > seen {
            let (to, _) = buffer.split_at_mut(count);
            let (from, _) = state.bytes.split_at(count);
            to.copy_from_slice(from);
            return Poll::Ready(Ok(Some(count)));
        }
        if state.ended || state.failed.is_some() || seen >= buffer.len() {
            return Poll::Ready(Ok(None));
        }
        wait(&mut state.reader, cx);
        Poll::Pending
    }

    /// Writes as much as there is room for.
    ///
    /// # Errors
    /// The peer is gone.
    pub fn poll_write(
        &self,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.incoming.state.borrow().failed.is_some() {
            // The peer has broken off. The writer learns it when it has read what came before.
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let state = &mut *self.outgoing.state.borrow_mut();
        if state.unread || state.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = self.outgoing.limit.saturating_sub(state.bytes.len());
        if room == 0 {
            wait(&mut state.writer, cx);
            return Poll::Pending;
        }
        let mut written = 0;
        for slice in slices {
            let (part, _) = slice.split_at(slice.len().min(room - written));
            state.bytes.extend_from_slice(part);
            written += part.len();
        }
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(written))
    }

    /// Ready once the peer is gone: it has closed both directions.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let state = &mut *self.outgoing.state.borrow_mut();
        if state.unread {
            return Poll::Ready(());
        }
        wait(&mut state.writer, cx);
        Poll::Pending
    }

    /// Ends both directions: after what was written, the peer reads this error; what it writes is lost.
    pub fn abort(&self, error: io::ErrorKind) {
        let state = &mut *self.outgoing.state.borrow_mut();
        state.failed = Some(error);
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    /// Sends the end. The other direction stays open.
    pub fn shutdown(&self) {
        let state = &mut *self.outgoing.state.borrow_mut();
        state.ended = true;
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }
}

impl Drop for InternalStream {
    fn drop(&mut self) {
        if self.resets.get() {
            let state = &mut *self.outgoing.state.borrow_mut();
            state.failed = Some(io::ErrorKind::ConnectionReset);
            state.bytes = BytesMut::new();
        }
        self.shutdown();
        self.incoming.leave();
    }
}

impl Pipe {
    /// The reader is gone.
    fn leave(&self) {
        let state = &mut *self.state.borrow_mut();
        state.unread = true;
        state.bytes = BytesMut::new();
        if let Some(writer) = state.writer.take() {
            writer.wake();
        }
    }
}

impl fmt::Debug for InternalStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InternalStream").finish_non_exhaustive()
    }
}

/// Notes the task that waits.
fn wait(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    fn pair(limit: usize) -> (NetworkStream, NetworkStream) {
        let (one, other) = InternalStream::pair(limit);
        (NetworkStream::Internal(one), NetworkStream::Internal(other))
    }

    #[tokio::test]
    async fn bytes_beyond_the_limit_wait_and_each_side_ends_by_itself() {
        let (mut client, mut server) = pair(4);
        let sends = async {
            client.write_all(b"0123456789").await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let serves = async {
            let mut received = String::new();
            server.read_to_string(&mut received).await.unwrap();
            server.write_all(b"bye").await.unwrap();
            drop(server);
            received
        };
        let (answer, received) = tokio::join!(sends, serves);
        assert_eq!((answer.as_str(), received.as_str()), ("bye", "0123456789"));
    }

    #[tokio::test]
    async fn what_came_before_an_abort_is_read_even_by_a_peer_that_writes() {
        let (one, other) = InternalStream::pair(100);
        let mut client = NetworkStream::Internal(one);
        let mut cx = Context::from_waker(Waker::noop());
        let written = other.poll_write(&mut cx, &[io::IoSlice::new(b"bye")]);
        assert!(matches!(written, Poll::Ready(Ok(3))));
        other.abort(io::ErrorKind::ConnectionAborted);
        drop(other);
        client.write_all(b"late").await.unwrap();
        let mut received = Vec::new();
        let error = client.read_to_end(&mut received).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(received, b"bye");
    }

    #[tokio::test]
    async fn a_reset_loses_what_was_not_read() {
        let (mut client, mut server) = pair(100);
        client.write_all(b"lost").await.unwrap();
        client.reset_on_close();
        drop(client);
        let error = server.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn nobody_reads_what_is_written_to_a_closed_connection() {
        let (client, mut server) = pair(100);
        drop(client);
        let error = server.write_all(b"x").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn an_unknown_listener_cannot_be_connected_to() {
        let address = InternalAddress {
            listener: "missing".into(),
            endpoint_id: "".into(),
        };
        let error = InternalListeners::default().connect(&address).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(EINVAL));
    }
}
