//! A connected byte stream: TCP, a UNIX socket, or TLS over either; one type for both ends of the proxy.
//!
//! What the request path calls most, it asks the kernel for directly: the C library's `recv` and `send` are points where
//! a thread can be cancelled, and every call pays for that.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use rustix::net::RecvFlags;
use rustix::net::SendFlags;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::Interest;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::net::UnixStream;

use crate::TlsStream;
use crate::clock;

/// A connected stream. Reading lets the worker's clock expire: what comes in, comes now.
#[derive(Debug)]
pub enum NetworkStream {
    /// TCP, with `TCP_NODELAY` set.
    Tcp(TcpStream),
    /// A UNIX domain socket.
    Unix(UnixStream),
    /// TLS over one of these.
    Tls(Box<TlsStream>),
}

impl NetworkStream {
    /// Reads what is there without waiting; `WouldBlock` when nothing is.
    pub fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self {
            NetworkStream::Tcp(stream) => stream.try_read(buffer),
            NetworkStream::Unix(stream) => stream.try_read(buffer),
            NetworkStream::Tls(stream) => stream.try_read(buffer),
        };
        if read.is_ok() {
            clock::expire();
        }
        read
    }

    /// Reads once into `buffer`; 0 is the end. A read that does not fill it tells that the socket is empty, so that the
    /// next poll need not ask.
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

    /// [`poll_read_some`](Self::poll_read_some) of a socket; what TLS runs over.
    pub(crate) fn poll_read_socket(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
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

    /// Looks at what a socket has, and leaves it there: ready once it is more than `seen` bytes, and with `None` when no
    /// more will come.
    pub(crate) fn poll_peek(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        seen: usize,
    ) -> Poll<io::Result<Option<usize>>> {
        let mut tried = false;
        loop {
            ready!(self.poll_socket_readable(cx))?;
            let peeked = self.try_io(Interest::READABLE, |socket| {
                let (count, _) = rustix::net::recv(socket, &mut *buffer, RecvFlags::PEEK)?;
                // That the rest has not come is for the runtime to know, or it would call again at once.
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
                // Readable again without anything new: the other side has closed.
                Err(_) if std::mem::replace(&mut tried, true) => return Poll::Ready(Ok(None)),
                Err(_) => {}
            }
        }
    }

    /// Has the runtime check again whether a socket can be read, after [`poll_peek`](Self::poll_peek) has waited.
    pub(crate) fn register_anew(&mut self) -> io::Result<()> {
        // Neither end of this pair is ever used: it stands in while the socket is moved.
        let (placeholder, _) = UnixStream::pair()?;
        *self = match std::mem::replace(self, NetworkStream::Unix(placeholder)) {
            NetworkStream::Tcp(stream) => {
                NetworkStream::Tcp(TcpStream::from_std(stream.into_std()?)?)
            }
            NetworkStream::Unix(stream) => {
                NetworkStream::Unix(UnixStream::from_std(stream.into_std()?)?)
            }
            tls @ NetworkStream::Tls(_) => tls,
        };
        Ok(())
    }

    /// Runs `io` unless the socket is known not to be ready for it; that is known from `WouldBlock` on.
    fn try_io<T>(
        &self,
        interest: Interest,
        io: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        match self {
            NetworkStream::Tcp(stream) => stream.try_io(interest, || io(stream.as_fd())),
            NetworkStream::Unix(stream) => stream.try_io(interest, || io(stream.as_fd())),
            NetworkStream::Tls(stream) => stream.socket().try_io(interest, io),
        }
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            NetworkStream::Tcp(stream) => stream.poll_write_ready(cx),
            NetworkStream::Unix(stream) => stream.poll_write_ready(cx),
            NetworkStream::Tls(stream) => stream.socket().poll_write_ready(cx),
        }
    }

    /// Ready when bytes, or the end, can be read: of TLS, plaintext.
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
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            NetworkStream::Tls(stream) => stream.poll_flush(cx),
            // Sockets keep nothing back.
            NetworkStream::Tcp(_) | NetworkStream::Unix(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            NetworkStream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            NetworkStream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            NetworkStream::Tls(stream) => stream.poll_shutdown(cx),
        }
    }
}

/// What a call that moved `count` of `wanted` bytes tells the runtime: one that moved fewer found the socket empty or full,
/// as if it had to wait, and leaves its count in `short`.
fn unless_short(count: usize, wanted: usize, short: &mut Option<usize>) -> io::Result<usize> {
    if 0 < count && count < wanted {
        *short = Some(count);
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Ok(count)
}

/// What a call came to; pending if it moved nothing because it would have had to wait.
fn settled(outcome: io::Result<usize>, short: Option<usize>) -> Poll<io::Result<usize>> {
    match (outcome, short) {
        (_, Some(count)) => Poll::Ready(Ok(count)),
        (Err(error), None) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        (outcome, None) => Poll::Ready(outcome),
    }
}
