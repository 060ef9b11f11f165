//! A connected byte stream: TCP, a UNIX socket, TLS over one of them, or a connection within the process; the same type
//! downstream and upstream.
//!
//! The most frequent calls of the request path use system calls directly: the C library's `recv` and `send` are thread
//! cancellation points, and each call pays for that.

use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use rustix::net::RecvFlags;
use rustix::net::SendFlags;
use socket2::SockRef;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::Interest;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::net::UnixStream;

use crate::InternalStream;
use crate::TlsStream;
use crate::clock;

/// How many reads [`NetworkStream::discard_unread`] makes at most.
const MAX_UNREAD_READS: usize = 64;

/// A connected stream. Each read expires the worker's clock, so that received bytes are stamped with their time of
/// arrival.
#[derive(Debug)]
pub enum NetworkStream {
    /// TCP, with `TCP_NODELAY` set.
    Tcp(TcpStream),
    /// A UNIX domain socket.
    Unix(UnixStream),
    /// TLS over one of these.
    Tls(Box<TlsStream>),
    /// A connection to an internal listener.
    Internal(InternalStream),
}

impl NetworkStream {
    /// The local and the remote IP address, as far as there are any.
    #[must_use]
    pub fn ip_addresses(&self) -> (Option<IpAddr>, Option<IpAddr>) {
        match self {
            NetworkStream::Tcp(stream) => {
                let ip = |address: io::Result<SocketAddr>| Some(address.ok()?.ip());
                (ip(stream.local_addr()), ip(stream.peer_addr()))
            }
            NetworkStream::Unix(_) | NetworkStream::Internal(_) => (None, None),
            NetworkStream::Tls(stream) => stream.socket().ip_addresses(),
        }
    }

    /// This side's address and the peer's; `None` if it is not a TCP connection.
    #[must_use]
    pub fn socket_addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        match self {
            NetworkStream::Tcp(stream) => {
                Some((stream.local_addr().ok()?, stream.peer_addr().ok()?))
            }
            NetworkStream::Unix(_) | NetworkStream::Internal(_) => None,
            NetworkStream::Tls(stream) => stream.socket().socket_addresses(),
        }
    }

    /// Makes closing a TCP connection reset it (RST instead of FIN).
    pub fn reset_on_close(&self) {
        match self {
            NetworkStream::Tcp(stream) => {
                // A socket that does not allow it is closed in the usual way.
                let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            }
            NetworkStream::Unix(_) => {}
            NetworkStream::Tls(stream) => stream.socket().reset_on_close(),
            NetworkStream::Internal(stream) => stream.reset_on_close(),
        }
    }

    /// Drops the bytes that have arrived, before the stream is closed. A socket that is closed with unread bytes resets its
    /// connection, and the peer might lose what was sent to it. A peer that does not stop sending gets a reset.
    pub fn discard_unread(&self) {
        match self {
            NetworkStream::Tcp(stream) => {
                let mut unread = [0; 4096];
                for _ in 0..MAX_UNREAD_READS {
                    // The runtime may not know yet that bytes have arrived, so the socket itself is asked.
                    let read = rustix::net::recv(stream, &mut unread[..], RecvFlags::DONTWAIT);
                    if !matches!(read, Ok((1.., _))) {
                        break;
                    }
                }
            }
            NetworkStream::Unix(_) | NetworkStream::Internal(_) => {}
            NetworkStream::Tls(stream) => stream.socket().discard_unread(),
        }
    }

    /// Reads the available bytes without waiting; `WouldBlock` if there are none.
    pub fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self {
            NetworkStream::Tcp(stream) => stream.try_read(buffer),
            NetworkStream::Unix(stream) => stream.try_read(buffer),
            NetworkStream::Tls(stream) => stream.try_read(buffer),
            NetworkStream::Internal(stream) => stream.try_read(buffer),
        };
        if read.is_ok() {
            clock::expire();
        }
        read
    }

    /// Reads once into `buffer`; 0 means the end. If a read does not fill the buffer, the socket is known to be empty,
    /// and the next poll makes no system call.
    pub fn poll_read_some(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            NetworkStream::Tls(stream) => stream.poll_read_some(cx, buffer),
            socket => socket.poll_read_socket(cx, buffer),
        }
    }

    /// [`poll_read_some`](Self::poll_read_some) of the socket, below any TLS.
    pub(crate) fn poll_read_socket(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if let NetworkStream::Internal(stream) = self {
            let read = ready!(stream.poll_read(cx, buffer));
            clock::expire();
            return Poll::Ready(read);
        }
        loop {
            ready!(self.poll_socket_readable(cx))?;
            let mut short = None;
            let read = self.try_io(Interest::READABLE, |socket| {
                let (count, _) = rustix::net::recv(socket, &mut *buffer, RecvFlags::empty())?;
                unless_short(count, buffer.len(), &mut short)
            });
            match settled(read, short) {
                Poll::Ready(read) => {
                    clock::expire();
                    return Poll::Ready(read);
                }
                Poll::Pending => {}
            }
        }
    }

    /// Ready when the peer has sent bytes, or will send none. The bytes stay where they are. With TLS: plaintext.
    pub fn poll_first_bytes(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            NetworkStream::Tls(stream) => stream.poll_read_ready(cx).map(drop),
            socket => socket.poll_peek(cx, &mut [0], 0).map(drop),
        }
    }

    /// Peeks at the bytes in a socket and leaves them there. Ready once there are more than `seen` bytes, and with
    /// `None` once no more will come.
    pub(crate) fn poll_peek(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        seen: usize,
    ) -> Poll<io::Result<Option<usize>>> {
        if let NetworkStream::Internal(stream) = self {
            return stream.poll_peek(cx, buffer, seen);
        }
        let mut tried = false;
        loop {
            ready!(self.poll_socket_readable(cx))?;
            let peeked = self.try_io(Interest::READABLE, |socket| {
                let (count, _) = rustix::net::recv(socket, &mut *buffer, RecvFlags::PEEK)?;
                // Tells the runtime that no more bytes are there now; otherwise it would call again at once.
                match count > seen || count == 0 {
                    true => Ok(count),
                    false => Err(io::ErrorKind::WouldBlock.into()),
                }
            });
            match peeked {
                Ok(0) => return Poll::Ready(Ok(None)),
                Ok(count) => return Poll::Ready(Ok(Some(count))),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(error));
                }
                // Readable again without new bytes: the peer has closed.
                Err(_) if std::mem::replace(&mut tried, true) => return Poll::Ready(Ok(None)),
                Err(_) => {}
            }
        }
    }

    /// Reads bytes that a peek has seen, so that they leave the socket. `bytes` is overwritten with them.
    pub(crate) fn remove_bytes(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (count, _) = match self {
                NetworkStream::Tcp(stream) => {
                    rustix::net::recv(stream, &mut *rest, RecvFlags::DONTWAIT)?
                }
                NetworkStream::Unix(stream) => {
                    rustix::net::recv(stream, &mut *rest, RecvFlags::DONTWAIT)?
                }
                NetworkStream::Tls(stream) => return stream.socket().remove_bytes(rest),
                NetworkStream::Internal(stream) => {
                    let mut cx = Context::from_waker(std::task::Waker::noop());
                    match stream.poll_read(&mut cx, rest) {
                        Poll::Ready(read) => (read?, rest.len()),
                        Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
                    }
                }
            };
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            rest = rest.get_mut(count..).unwrap_or_default();
        }
        Ok(())
    }

    /// Makes the runtime check again whether a socket is readable, after [`poll_peek`](Self::poll_peek) has waited.
    pub(crate) fn reregister(&mut self) -> io::Result<()> {
        // A placeholder while the socket is moved. Neither end of this pair is ever used.
        let (placeholder, _) = UnixStream::pair()?;
        *self = match std::mem::replace(self, NetworkStream::Unix(placeholder)) {
            NetworkStream::Tcp(stream) => {
                NetworkStream::Tcp(TcpStream::from_std(stream.into_std()?)?)
            }
            NetworkStream::Unix(stream) => {
                NetworkStream::Unix(UnixStream::from_std(stream.into_std()?)?)
            }
            other @ (NetworkStream::Tls(_) | NetworkStream::Internal(_)) => other,
        };
        Ok(())
    }

    /// Runs `io`, unless an earlier `WouldBlock` says that the socket is not ready for it.
    fn try_io<T>(
        &self,
        interest: Interest,
        io: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        match self {
            NetworkStream::Tcp(stream) => stream.try_io(interest, || io(stream.as_fd())),
            NetworkStream::Unix(stream) => stream.try_io(interest, || io(stream.as_fd())),
            NetworkStream::Tls(stream) => stream.socket().try_io(interest, io),
            NetworkStream::Internal(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            NetworkStream::Tcp(stream) => stream.poll_write_ready(cx),
            NetworkStream::Unix(stream) => stream.poll_write_ready(cx),
            NetworkStream::Tls(stream) => stream.socket().poll_write_ready(cx),
            NetworkStream::Internal(_) => Poll::Ready(Ok(())),
        }
    }

    /// Ready when bytes or the end can be read. With TLS: plaintext.
    pub fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            NetworkStream::Tls(stream) => stream.poll_read_ready(cx),
            socket => socket.poll_socket_readable(cx),
        }
    }

    fn poll_socket_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            NetworkStream::Tcp(stream) => stream.poll_read_ready(cx),
            NetworkStream::Unix(stream) => stream.poll_read_ready(cx),
            NetworkStream::Tls(stream) => stream.socket().poll_socket_readable(cx),
            NetworkStream::Internal(stream) => stream.poll_readable(cx).map(Ok),
        }
    }
}

impl AsyncRead for NetworkStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = match self.get_mut() {
            NetworkStream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            NetworkStream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            NetworkStream::Tls(stream) => {
                let read = stream.poll_read_some(cx, buffer.initialize_unfilled());
                read.map_ok(|count| buffer.advance(count))
            }
            NetworkStream::Internal(stream) => {
                let read = stream.poll_read(cx, buffer.initialize_unfilled());
                read.map_ok(|count| buffer.advance(count))
            }
        };
        if read.is_ready() {
            clock::expire();
        }
        read
    }
}

impl AsyncWrite for NetworkStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let NetworkStream::Tls(stream) = self.as_mut().get_mut() {
            return stream.poll_write(cx, &[io::IoSlice::new(bytes)]);
        }
        if let NetworkStream::Internal(stream) = self.as_mut().get_mut() {
            return stream.poll_write(cx, &[io::IoSlice::new(bytes)]);
        }
        loop {
            ready!(self.poll_write_ready(cx))?;
            let mut short = None;
            let written = self.try_io(Interest::WRITABLE, |socket| {
                let count = rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)?;
                unless_short(count, bytes.len(), &mut short)
            });
            if let Poll::Ready(written) = settled(written, short) {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            NetworkStream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            NetworkStream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            NetworkStream::Tls(stream) => stream.poll_write(cx, slices),
            NetworkStream::Internal(stream) => stream.poll_write(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            NetworkStream::Tls(stream) => stream.poll_flush(cx),
            // Nothing waits in this end.
            NetworkStream::Tcp(_) | NetworkStream::Unix(_) | NetworkStream::Internal(_) => {
                Poll::Ready(Ok(()))
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            NetworkStream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            NetworkStream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            NetworkStream::Tls(stream) => stream.poll_shutdown(cx),
            NetworkStream::Internal(stream) => {
                stream.shutdown();
                Poll::Ready(Ok(()))
            }
        }
    }
}

/// The result of a call that moved `count` of `wanted` bytes, for the runtime. A call that moved fewer bytes found the
/// socket empty or full: it stores its count in `short` and returns `WouldBlock`, so that the runtime waits before the
/// next call.
fn unless_short(count: usize, wanted: usize, short: &mut Option<usize>) -> io::Result<usize> {
    if 0 < count && count < wanted {
        *short = Some(count);
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Ok(count)
}

/// The final result of a call; pending if nothing was moved because the socket was not ready.
fn settled(outcome: io::Result<usize>, short: Option<usize>) -> Poll<io::Result<usize>> {
    match (outcome, short) {
        (_, Some(count)) => Poll::Ready(Ok(count)),
        (Err(error), None) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        (outcome, None) => Poll::Ready(outcome),
    }
}
