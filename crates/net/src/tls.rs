//! A TLS connection over a socket: the handshake, and records in and out.

use std::fmt;
use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use outrider_tls::ClientSession;
use outrider_tls::Failure;
use outrider_tls::Report;
use outrider_tls::ServerContext;
use outrider_tls::TlsInfo;
use outrider_tls::WorkerSsl;
use outrider_tls::is_told;
use outrider_tls::rustls::ClientConnection;
use outrider_tls::rustls::Connection;
use outrider_tls::rustls::server::Acceptor;
use outrider_tls::take_report;
use tokio::io::AsyncWrite;

use crate::NetworkStream;
use crate::Timer;
use crate::stats::ListenerStats;

/// The most plaintext that is encrypted before the socket is asked to take it, bytes.
const WRITE: usize = 64 * 1024;

/// A TLS connection, on either side.
pub struct TlsStream {
    socket: NetworkStream,
    state: State,
    stats: WorkerSsl,
    /// What the verifier and the resolver said in the handshake.
    report: Report,
    /// Plaintext that was encrypted for a caller who has not been told yet, because the socket did not take all of it.
    unsaid: usize,
    /// Plaintext that can be read without asking the socket.
    readable: usize,
    /// The peer sends nothing any more.
    ended: bool,
    limit: Option<HandshakeLimit>,
}

/// When a handshake must be complete.
pub(crate) struct HandshakeLimit {
    pub(crate) timer: Timer,
    /// Count a handshake that takes longer.
    pub(crate) stats: Arc<ListenerStats>,
}

enum State {
    /// The client's greeting is awaited.
    Accepting(Box<Acceptor>, Arc<ServerContext>),
    /// Shaking hands, or beyond.
    Open(Box<Connection>),
    Failed,
}

impl TlsStream {
    /// A connection whose client is about to greet.
    #[must_use]
    pub fn accept(
        socket: NetworkStream,
        context: Arc<ServerContext>,
        stats: WorkerSsl,
    ) -> TlsStream {
        let state = State::Accepting(Box::default(), context);
        TlsStream::new(socket, state, stats)
    }

    /// A connection that greets its server.
    ///
    /// # Errors
    /// When the settings allow no greeting.
    pub fn connect(
        socket: NetworkStream,
        session: ClientSession,
        stats: WorkerSsl,
    ) -> Result<TlsStream, Failure> {
        let connection = ClientConnection::new(session.config, session.server_name)
            .map_err(|error| Failure::of(&error, None))?;
        let state = State::Open(Box::new(Connection::Client(connection)));
        Ok(TlsStream::new(socket, state, stats))
    }

    fn new(socket: NetworkStream, state: State, stats: WorkerSsl) -> TlsStream {
        TlsStream {
            socket,
            state,
            stats,
            report: Report::default(),
            unsaid: 0,
            readable: 0,
            ended: false,
            limit: None,
        }
    }

    /// Gives up the handshake when the time of `limit` has come.
    pub(crate) fn limit_handshake(&mut self, limit: HandshakeLimit) {
        self.limit = Some(limit);
    }

    /// The socket below.
    #[must_use]
    pub fn socket(&self) -> &NetworkStream {
        &self.socket
    }

    /// Shakes hands: ready with what is known then, or with why it failed.
    pub fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<Result<Rc<TlsInfo>, Failure>> {
        let mut outcome = self.poll_shaking(cx);
        if outcome.is_pending()
            && let Some(limit) = &mut self.limit
            && limit.timer.poll_elapsed(cx).is_ready()
        {
            let stats = &limit.stats;
            stats.downstream_cx_transport_socket_connect_timeout.inc();
            outcome = Poll::Ready(Err(Failure::timed_out()));
        }
        let outcome = ready!(outcome);
        self.limit = None;
        match &outcome {
            Ok(info) => self.stats.succeeded(info),
            Err(failure) => {
                self.state = State::Failed;
                self.stats.failed(failure);
            }
        }
        Poll::Ready(outcome)
    }

    fn poll_shaking(&mut self, cx: &mut Context<'_>) -> Poll<Result<Rc<TlsInfo>, Failure>> {
        loop {
            let connection = match &mut self.state {
                State::Accepting(..) => {
                    ready!(self.poll_greeting(cx))?;
                    continue;
                }
                State::Open(connection) => connection,
                State::Failed => return Poll::Ready(Err(Failure::closed())),
            };
            if connection.wants_write() {
                let mut writer = Writer(&mut self.socket, cx);
                match connection.write_tls(&mut writer) {
                    Ok(_) => continue,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        return Poll::Pending;
                    }
                    Err(_) => return Poll::Ready(Err(Failure::closed())),
                }
            }
            if !connection.is_handshaking() {
                let report = std::mem::take(&mut self.report);
                let server_name = match &**connection {
                    Connection::Server(server) => server.server_name().unwrap_or_default(),
                    Connection::Client(_) => "",
                };
                return Poll::Ready(Ok(Rc::new(TlsInfo::new(connection, server_name, report))));
            }
            match connection.read_tls(&mut Reader(&self.socket, cx)) {
                Ok(0) => return Poll::Ready(Err(Failure::closed())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(_) => return Poll::Ready(Err(Failure::closed())),
            }
            let processed = connection.process_new_packets();
            let report = take_report();
            self.report.certificate = report.certificate.or(self.report.certificate.take());
            self.report.scheme = report.scheme.or(self.report.scheme);
            self.report.validated |= report.validated;
            match processed {
                Ok(io) => {
                    self.readable = io.plaintext_bytes_to_read();
                    self.report.failure = report.failure.or(self.report.failure.take());
                }
                Err(error) => {
                    // The alert goes out if the socket takes it at once.
                    drop(connection.write_tls(&mut Writer(&mut self.socket, cx)));
                    return Poll::Ready(Err(Failure::of(&error, report.failure)));
                }
            }
        }
    }

    /// Reads the client's greeting, and answers by the settings that are for it.
    fn poll_greeting(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let State::Accepting(acceptor, context) = &mut self.state else {
            return Poll::Ready(Ok(()));
        };
        loop {
            match acceptor.read_tls(&mut Reader(&self.socket, cx)) {
                Ok(0) => return Poll::Ready(Err(Failure::closed())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(_) => return Poll::Ready(Err(Failure::closed())),
            }
            let refused = match acceptor.accept() {
                Ok(None) => continue,
                Ok(Some(accepted)) => {
                    let config = context.config_for(&accepted.client_hello());
                    match accepted.into_connection(config) {
                        Ok(connection) => {
                            self.report = take_report();
                            let connection = Connection::Server(connection);
                            self.state = State::Open(Box::new(connection));
                            return Poll::Ready(Ok(()));
                        }
                        Err(refused) => refused,
                    }
                }
                Err(refused) => refused,
            };
            let (error, mut alert) = refused;
            if is_told(&error) {
                drop(alert.write(&mut Writer(&mut self.socket, cx)));
            }
            return Poll::Ready(Err(Failure::of(&error, None)));
        }
    }

    /// Ready when plaintext, the end or an error can be read.
    pub(crate) fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.readable == 0 && !self.ended {
            ready!(self.poll_records(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads plaintext once; 0 is the end.
    pub(crate) fn poll_read_some(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_read_ready(cx))?;
        Poll::Ready(self.read_ready(buffer))
    }

    /// Reads plaintext that is there; `WouldBlock` when none is.
    pub(crate) fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match self.poll_read_some(&mut cx, buffer) {
            Poll::Ready(read) => read,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn read_ready(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let State::Open(connection) = &mut self.state else {
            return Ok(0);
        };
        if self.readable == 0 {
            return Ok(0);
        }
        let count = connection.reader().read(buffer)?;
        self.readable = self.readable.saturating_sub(count);
        Ok(count)
    }

    /// Takes in what the socket has.
    fn poll_records(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let State::Open(connection) = &mut self.state else {
            self.ended = true;
            return Poll::Ready(Ok(()));
        };
        match connection.read_tls(&mut Reader(&self.socket, cx)) {
            // Envoy, too, takes a connection that is closed without a word for one that has ended.
            Ok(0) => {
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) => return Poll::Ready(Err(error)),
        }
        match connection.process_new_packets() {
            Ok(state) => {
                self.readable = state.plaintext_bytes_to_read();
                self.ended = state.peer_has_closed();
                // Answers to key updates. What the socket does not take goes out with the next write.
                if connection.wants_write() && self.unsaid == 0 {
                    drop(connection.write_tls(&mut Writer(&mut self.socket, cx)));
                }
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                drop(connection.write_tls(&mut Writer(&mut self.socket, cx)));
                self.stats.failed(&Failure::of(&error, None));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)))
            }
        }
    }

    /// Encrypts and sends. Ready when the socket took everything: a caller who has to wait must come back with the same
    /// bytes, as `SSL_write` has it, so that what counts as sent was sent.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let State::Open(connection) = &mut self.state else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if self.unsaid == 0 {
            let mut room = WRITE;
            for slice in slices {
                let part = slice.get(..slice.len().min(room)).unwrap_or_default();
                let taken = connection.writer().write(part)?;
                self.unsaid += taken;
                room -= taken;
                if taken < slice.len() {
                    break;
                }
            }
        }
        ready!(self.poll_flush(cx))?;
        let offered = slices.iter().map(|slice| slice.len()).sum();
        Poll::Ready(Ok(std::mem::take(&mut self.unsaid).min(offered)))
    }

    /// Sends all records that wait.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let State::Open(connection) = &mut self.state else {
            return Poll::Ready(Ok(()));
        };
        while connection.wants_write() {
            match connection.write_tls(&mut Writer(&mut self.socket, cx)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Says goodbye, and closes the sending side.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let State::Open(connection) = &mut self.state {
            connection.send_close_notify();
        }
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl Drop for TlsStream {
    /// The peer is told that the end is meant, if the socket takes it at once.
    fn drop(&mut self) {
        if let State::Open(connection) = &mut self.state {
            connection.send_close_notify();
            let mut cx = Context::from_waker(std::task::Waker::noop());
            drop(self.poll_flush(&mut cx));
        }
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

/// A socket as rustls reads from it.
struct Reader<'a, 'cx, 'w>(&'a NetworkStream, &'cx mut Context<'w>);

impl io::Read for Reader<'_, '_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.poll_read_socket(self.1, buffer) {
            Poll::Ready(read) => read,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// A socket as rustls writes to it.
struct Writer<'a, 'cx, 'w>(&'a mut NetworkStream, &'cx mut Context<'w>);

impl io::Write for Writer<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match Pin::new(&mut *self.0).poll_write(self.1, bytes) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match Pin::new(&mut *self.0).poll_write_vectored(self.1, slices) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
