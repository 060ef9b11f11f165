//! A TLS connection over a socket: the handshake, then records in both directions.

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
use outrider_tls::HelloFacts;
use outrider_tls::Report;
use outrider_tls::ServerContext;
use outrider_tls::TlsFailure;
use outrider_tls::TlsInfo;
use outrider_tls::WorkerSsl;
use outrider_tls::rustls::ClientConnection;
use outrider_tls::rustls::Connection;
use outrider_tls::rustls::server::Acceptor;
use outrider_tls::sends_alert;
use outrider_tls::take_report;
use tokio::io::AsyncWrite;

use crate::NetworkStream;
use crate::stats::ListenerStats;
use crate::timers::ScaledDeadline;

/// How much plaintext is encrypted at most before it is written to the socket, in bytes.
const MAX_WRITE: usize = 64 * 1024;

/// A TLS connection, as client or server.
pub struct TlsStream {
    socket: NetworkStream,
    state: TlsState,
    stats: WorkerSsl,
    /// What the verifier and the certificate resolver reported during the handshake.
    report: Report,
    /// Plaintext bytes that are encrypted but not reported to the caller as written, because the socket has not taken
    /// them all.
    unreported: usize,
    /// Plaintext bytes that can be read without reading from the socket.
    readable: usize,
    /// The peer will send nothing more.
    ended: bool,
    limit: Option<HandshakeLimit>,
}

/// The time limit of a handshake.
pub(crate) struct HandshakeLimit {
    pub(crate) deadline: ScaledDeadline,
    /// Counts handshakes that exceed the limit.
    pub(crate) stats: Arc<ListenerStats>,
}

/// The beginning of a connection of a client.
#[derive(Default)]
struct ReceivedHello {
    acceptor: Acceptor,
    /// The bytes that the acceptor has read.
    bytes: Vec<u8>,
}

enum TlsState {
    /// Waiting for the ClientHello.
    Accepting(Box<ReceivedHello>, Arc<ServerContext>),
    /// During the handshake or after it.
    Open(Box<Connection>),
    /// A secret that the context needs has not come: the connection fails.
    NotReady,
    Failed,
}

impl TlsStream {
    /// A server's side of a connection; the client speaks first.
    #[must_use]
    pub fn accept(
        socket: NetworkStream,
        context: Arc<ServerContext>,
        stats: WorkerSsl,
    ) -> TlsStream {
        let state = TlsState::Accepting(Box::default(), context);
        TlsStream::new(socket, state, stats)
    }

    /// A server's side of a connection that fails, because a secret has not come.
    pub(crate) fn not_ready(socket: NetworkStream) -> TlsStream {
        // Nothing is counted of it: without a context there are no `ssl.*` stats.
        let stats = WorkerSsl(Arc::default());
        TlsStream::new(socket, TlsState::NotReady, stats)
    }

    pub(crate) fn is_not_ready(&self) -> bool {
        matches!(self.state, TlsState::NotReady)
    }

    /// A client's side of a connection.
    ///
    /// # Errors
    /// The settings allow no ClientHello.
    pub fn connect(
        socket: NetworkStream,
        session: ClientSession,
        stats: WorkerSsl,
    ) -> Result<TlsStream, TlsFailure> {
        let connection = ClientConnection::new(session.config, session.server_name)
            .map_err(|error| TlsFailure::of(&error, None))?;
        let state = TlsState::Open(Box::new(Connection::Client(connection)));
        Ok(TlsStream::new(socket, state, stats))
    }

    fn new(socket: NetworkStream, state: TlsState, stats: WorkerSsl) -> TlsStream {
        TlsStream {
            socket,
            state,
            stats,
            report: Report::default(),
            unreported: 0,
            readable: 0,
            ended: false,
            limit: None,
        }
    }

    /// Fails the handshake when the time of `limit` has passed.
    pub(crate) fn limit_handshake(&mut self, limit: HandshakeLimit) {
        self.limit = Some(limit);
    }

    /// The socket below TLS.
    #[must_use]
    pub fn socket(&self) -> &NetworkStream {
        &self.socket
    }

    /// Does the handshake. Ready with the properties of the connection, or with the reason of the failure.
    pub fn poll_handshake(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Rc<TlsInfo>, TlsFailure>> {
        let mut outcome = self.poll_handshake_messages(cx);
        if outcome.is_pending()
            && let Some(limit) = &mut self.limit
            && limit.deadline.poll_passed(cx).is_ready()
        {
            let stats = &limit.stats;
            stats.downstream_cx_transport_socket_connect_timeout.inc();
            outcome = Poll::Ready(Err(TlsFailure::timed_out()));
        }
        let outcome = ready!(outcome);
        self.limit = None;
        match &outcome {
            Ok(info) => self.stats.succeeded(info),
            Err(failure) => {
                self.state = TlsState::Failed;
                self.stats.failed(failure);
            }
        }
        Poll::Ready(outcome)
    }

    fn poll_handshake_messages(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Rc<TlsInfo>, TlsFailure>> {
        loop {
            let connection = match &mut self.state {
                TlsState::Accepting(..) => {
                    ready!(self.poll_client_hello(cx))?;
                    continue;
                }
                TlsState::Open(connection) => connection,
                TlsState::NotReady => {
                    return Poll::Ready(Err(TlsFailure::secrets_not_ready()));
                }
                TlsState::Failed => return Poll::Ready(Err(TlsFailure::closed())),
            };
            if connection.wants_write() {
                let mut writer = Writer(&mut self.socket, cx);
                match connection.write_tls(&mut writer) {
                    Ok(_) => continue,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        return Poll::Pending;
                    }
                    Err(_) => return Poll::Ready(Err(TlsFailure::closed())),
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
            match connection.read_tls(&mut SocketReader(&self.socket, cx)) {
                Ok(0) => return Poll::Ready(Err(TlsFailure::closed())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(_) => return Poll::Ready(Err(TlsFailure::closed())),
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
                    // The alert is sent only if the socket takes it at once.
                    drop(connection.write_tls(&mut Writer(&mut self.socket, cx)));
                    return Poll::Ready(Err(TlsFailure::of(&error, report.failure)));
                }
            }
        }
    }

    /// Reads the ClientHello, and selects the settings for it.
    fn poll_client_hello(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TlsFailure>> {
        let TlsState::Accepting(hello, context) = &mut self.state else {
            return Poll::Ready(Ok(()));
        };
        let ReceivedHello { acceptor, bytes } = &mut **hello;
        loop {
            let mut reader = CopyingReader(SocketReader(&self.socket, cx), bytes);
            match acceptor.read_tls(&mut reader) {
                Ok(0) => return Poll::Ready(Err(TlsFailure::closed())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(_) => return Poll::Ready(Err(TlsFailure::closed())),
            }
            let refused = match acceptor.accept() {
                Ok(None) => continue,
                Ok(Some(accepted)) => {
                    let facts = HelloFacts::parse(bytes);
                    let asks_for_staple = facts.is_some_and(|facts| facts.asks_for_staple);
                    let addresses = || self.socket.ip_addresses();
                    let config =
                        context.config_for(&accepted.client_hello(), asks_for_staple, addresses);
                    let connection = accepted.into_connection(config);
                    self.report = take_report();
                    self.stats.stapled(self.report.stapling);
                    match connection {
                        Ok(connection) => {
                            let connection = Connection::Server(connection);
                            self.state = TlsState::Open(Box::new(connection));
                            return Poll::Ready(Ok(()));
                        }
                        Err(refused) => refused,
                    }
                }
                Err(refused) => refused,
            };
            let (error, mut alert) = refused;
            if sends_alert(&error) {
                drop(alert.write(&mut Writer(&mut self.socket, cx)));
            }
            return Poll::Ready(Err(TlsFailure::of(&error, None)));
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

    /// Reads the available plaintext; `WouldBlock` if there is none.
    pub(crate) fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match self.poll_read_some(&mut cx, buffer) {
            Poll::Ready(read) => read,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn read_ready(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let TlsState::Open(connection) = &mut self.state else {
            return Ok(0);
        };
        if self.readable == 0 {
            return Ok(0);
        }
        let count = connection.reader().read(buffer)?;
        self.readable = self.readable.saturating_sub(count);
        Ok(count)
    }

    /// Reads and decrypts what the socket has.
    fn poll_records(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let TlsState::Open(connection) = &mut self.state else {
            self.ended = true;
            return Poll::Ready(Ok(()));
        };
        match connection.read_tls(&mut SocketReader(&self.socket, cx)) {
            // As in Envoy, a connection that is closed without `close_notify` has simply ended.
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
                // Sends responses to key updates. What the socket does not take now is sent with the next write.
                if connection.wants_write() && self.unreported == 0 {
                    drop(connection.write_tls(&mut Writer(&mut self.socket, cx)));
                }
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                drop(connection.write_tls(&mut Writer(&mut self.socket, cx)));
                self.stats.failed(&TlsFailure::of(&error, None));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)))
            }
        }
    }

    /// Encrypts and sends. Ready when the socket has taken everything. A caller that has to wait must call again with
    /// the same bytes, as with `SSL_write`. So bytes that count as sent were sent.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let TlsState::Open(connection) = &mut self.state else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if self.unreported == 0 {
            let mut room = MAX_WRITE;
            for slice in slices {
                let part = slice.get(..slice.len().min(room)).unwrap_or_default();
                let taken = connection.writer().write(part)?;
                self.unreported += taken;
                room -= taken;
                if taken < slice.len() {
                    break;
                }
            }
        }
        ready!(self.poll_flush(cx))?;
        let offered = slices.iter().map(|slice| slice.len()).sum();
        Poll::Ready(Ok(std::mem::take(&mut self.unreported).min(offered)))
    }

    /// Sends all records that are waiting.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let TlsState::Open(connection) = &mut self.state else {
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

    /// Sends `close_notify` and closes the sending side.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let TlsState::Open(connection) = &mut self.state {
            connection.send_close_notify();
        }
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl Drop for TlsStream {
    /// Sends `close_notify` if the socket takes it at once.
    fn drop(&mut self) {
        if let TlsState::Open(connection) = &mut self.state {
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

/// The socket as `rustls` reads from it.
struct SocketReader<'a, 'cx, 'w>(&'a NetworkStream, &'cx mut Context<'w>);

impl io::Read for SocketReader<'_, '_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.poll_read_socket(self.1, buffer) {
            Poll::Ready(read) => read,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// The socket as `rustls` reads from it, with a copy of what it reads.
struct CopyingReader<'a, R>(R, &'a mut Vec<u8>);

impl<R: io::Read> io::Read for CopyingReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        self.1
            .extend_from_slice(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

/// The socket as `rustls` writes to it.
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
