//! A connected byte stream: TCP or a UNIX socket, one type for both ends of the proxy.
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

use bytes::BytesMut;
use rustix::net::RecvFlags;
use rustix::net::SendFlags;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::Interest;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::net::UnixStream;

use crate::clock;

/// A connected socket. TLS will be a third variant. Reading lets the worker's clock expire: what comes in, comes now.
#[derive(Debug)]
pub enum Stream {
    /// TCP, with `TCP_NODELAY` set.
    Tcp(TcpStream),
    /// A UNIX domain socket.
    Unix(UnixStream),
}

impl Stream {
    /// Reads what is there without waiting; `WouldBlock` when nothing is.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self {
            Stream::Tcp(stream) => stream.try_read(buffer),
            Stream::Unix(stream) => stream.try_read(buffer),
        };
        if read.is_ok() {
            clock::expire();
        }
        read
    }

    /// Reads what is there into the spare room of `buffer`, without waiting; `WouldBlock` when nothing is.
    pub fn try_read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let read = match self {
            Stream::Tcp(stream) => stream.try_read_buf(buffer),
            Stream::Unix(stream) => stream.try_read_buf(buffer),
        };
        if read.is_ok() {
            clock::expire();
        }
        read
    }

    /// Reads once into `buffer`; 0 is the end. A read that does not fill it tells that the socket is empty, so that the
    /// next poll need not ask.
    pub fn poll_read_some(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_read_ready(cx))?;
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

    /// Runs `io` unless the socket is known not to be ready for it; that is known from `WouldBlock` on.
    fn try_io<T>(
        &self,
        interest: Interest,
        io: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        match self {
            Stream::Tcp(stream) => stream.try_io(interest, || io(stream.as_fd())),
            Stream::Unix(stream) => stream.try_io(interest, || io(stream.as_fd())),
        }
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(stream) => stream.poll_write_ready(cx),
            Stream::Unix(stream) => stream.poll_write_ready(cx),
        }
    }

    /// Ready when bytes, or the end, can be read.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(stream) => stream.poll_read_ready(cx),
            Stream::Unix(stream) => stream.poll_read_ready(cx),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        if read.is_ready() {
            clock::expire();
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
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
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets keep nothing back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
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
