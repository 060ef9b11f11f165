//! The byte stream that hyper reads and writes, with byte counts and timeouts.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use outrider_net::NetworkStream;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::time::Instant;
use tokio::time::Sleep;
use tokio::time::sleep;

use crate::connection::ClientConnection;

/// How long a connection may be idle: Envoy's `idle_timeout` default.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// How long a client may read nothing of a response, or send nothing of a body: Envoy's `stream_idle_timeout` default.
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(300);
/// How long to wait for the client to close the connection after the server: Envoy's `delayed_close_timeout` default.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The byte stream of one connection.
pub(crate) struct TimedSocket {
    stream: NetworkStream,
    connection: Rc<ClientConnection>,
    deadline: Pin<Box<Sleep>>,
    phase: SocketPhase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SocketPhase {
    /// Reads and writes make progress, or the connection is idle.
    Open,
    /// There are bytes to send that the client does not read.
    Stalled,
    /// Everything has been sent, and the sending side is closed.
    Closing,
}

impl TimedSocket {
    pub(crate) fn new(stream: NetworkStream, connection: Rc<ClientConnection>) -> Self {
        Self {
            stream,
            connection,
            deadline: Box::pin(sleep(IDLE_TIMEOUT)),
            phase: SocketPhase::Open,
        }
    }

    /// Enters `phase`, which may last for `time`.
    fn enter(&mut self, phase: SocketPhase, time: Duration) {
        self.phase = phase;
        self.deadline.as_mut().reset(Instant::now() + time);
    }

    /// Returns pending, or an error once the time of the phase is up.
    fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn written(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.connection.stats.sent(bytes);
                self.enter(SocketPhase::Open, IDLE_TIMEOUT);
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(error) => Poll::Ready(error),
            Poll::Pending => {
                if self.phase == SocketPhase::Open {
                    self.enter(SocketPhase::Stalled, STALL_TIMEOUT);
                }
                self.wait(cx)
            }
        }
    }
}

impl AsyncRead for TimedSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buffer) else {
            return self.wait(cx);
        };
        self.connection
            .stats
            .received(buffer.filled().len() - before);
        if self.phase == SocketPhase::Open {
            self.enter(SocketPhase::Open, IDLE_TIMEOUT);
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for TimedSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.connection.flushed();
        Poll::Ready(Ok(()))
    }

    /// Closes the sending side and reads the remaining input. Closing the socket at once would reset the connection,
    /// and a client that is still sending would not see the response.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.phase != SocketPhase::Closing {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.enter(SocketPhase::Closing, CLOSE_TIMEOUT);
        }
        let mut bytes = [0; 4096];
        while self.deadline.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}
