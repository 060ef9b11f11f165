//! The server role: the trait that a connection manager implements, and the handle to send a response with.

use std::borrow::Cow;
use std::future::Future;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use http::StatusCode;
use http::Version;
use outrider_net::AcceptedConnection;
use outrider_net::NetworkStream;
use outrider_stats::HeldGauge;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use crate::Body;
use crate::CodecType;
use crate::ConnectionEnd;
use crate::EndCause;
use crate::Meter;
use crate::Reason;
use crate::RequestHead;
use crate::ResponseHead;
use crate::ServerOptions;
use crate::StreamError;
use crate::deadlines::ConnectionDeadlines;
use crate::h1;
use crate::h2;
use crate::stats::ByteCounts;
use crate::stats::ConnectionStats;

/// A request that the codec could not parse, and the response to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MalformedRequest {
    /// The response's status.
    pub status: StatusCode,
    /// The response's body; on HTTP/1 the status's reason phrase.
    pub body: Cow<'static, str>,
    /// `%RESPONSE_CODE_DETAILS%`, such as `http1.codec_error`.
    pub details: &'static str,
}

impl MalformedRequest {
    /// The details if the head was not received within `request_headers_timeout`.
    pub const HEADER_TIMEOUT: &str = "request_header_timeout";
    /// The details if the head was not received within `stream_idle_timeout`.
    pub const IDLE_TIMEOUT: &str = "stream_idle_timeout";

    /// The details if the head was not received within `request_timeout`.
    pub const REQUEST_TIMEOUT: &str = "request_overall_timeout";
    /// The details if the head was not received within `max_stream_duration`.
    pub const MAX_DURATION: &str = "max_duration_timeout";

    /// The head was not received within `request_headers_timeout`.
    pub(crate) fn header_timeout() -> MalformedRequest {
        MalformedRequest::timed_out(MalformedRequest::HEADER_TIMEOUT, "request header timeout")
    }

    /// The head was not received within `stream_idle_timeout`.
    pub(crate) fn idle_timeout() -> MalformedRequest {
        MalformedRequest::timed_out(MalformedRequest::IDLE_TIMEOUT, "stream timeout")
    }

    /// The head was not received within `request_timeout`.
    pub(crate) fn request_timeout() -> MalformedRequest {
        MalformedRequest::timed_out(MalformedRequest::REQUEST_TIMEOUT, "request timeout")
    }

    /// The head was not received within `max_stream_duration`.
    pub(crate) fn max_duration() -> MalformedRequest {
        MalformedRequest::timed_out(
            MalformedRequest::MAX_DURATION,
            "downstream duration timeout",
        )
    }

    fn timed_out(details: &'static str, body: &'static str) -> MalformedRequest {
        MalformedRequest {
            status: StatusCode::REQUEST_TIMEOUT,
            body: body.into(),
            details,
        }
    }

    /// Whether the client was too slow, which is not a protocol error.
    pub(crate) fn is_timeout(&self) -> bool {
        self.status == StatusCode::REQUEST_TIMEOUT
    }
}

/// Why a request ended before its head was complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestHeadError {
    /// The head exceeds a limit. The text is Envoy's name for it, such as `http2.too_many_headers`.
    Limit(&'static str),
    /// The client broke the protocol or closed the connection.
    Error(StreamError),
}

/// Ends a connection, as [`Responder::abort_connection`] does.
pub type AbortConnection<'a> = dyn Fn(&'static str) -> bool + 'a;

/// Serves the streams of connections: the HTTP connection manager.
pub trait Handler: 'static {
    /// How many requests of one connection are started before other connections get their turn
    /// (`http.max_requests_per_io_cycle` of the runtime); the others follow in the next turns.
    fn max_requests_per_turn(&self) -> usize {
        usize::MAX
    }

    /// Serves one stream to its end. The future is dropped when the connection ends.
    fn serve(
        self: Rc<Self>,
        head: RequestHead,
        body: Body,
        respond: Responder,
    ) -> impl Future<Output = ()> + 'static;

    /// Counts and logs a request that ended before its head was complete; no response can be sent. `abort` ends the
    /// connection, as [`Responder::abort_connection`] does.
    fn head_failed(
        self: Rc<Self>,
        refused: RequestHeadError,
        protocol: Version,
        meter: Rc<Meter>,
        abort: &AbortConnection<'_>,
    );

    /// Sends the response to a request that the codec could not parse.
    fn malformed(
        self: Rc<Self>,
        error: MalformedRequest,
        respond: Responder,
    ) -> impl Future<Output = ()> + 'static;
}

/// Serves a connection to its end. Dropping the future closes the connection.
pub async fn serve<H: Handler>(
    socket: NetworkStream,
    options: Rc<ServerOptions>,
    handler: Rc<H>,
) -> ConnectionEnd {
    let counter = ConnectionCounter::new(&options);
    serve_counted(socket, b"", options, handler, counter).await
}

/// Serves a connection whose client has chosen `protocol` in the TLS handshake; empty if there was no choice.
pub async fn serve_counted<H: Handler>(
    mut socket: NetworkStream,
    protocol: &[u8],
    options: Rc<ServerOptions>,
    handler: Rc<H>,
    counted: ConnectionCounter,
) -> ConnectionEnd {
    let mut deadlines = ConnectionDeadlines::new(&options);
    let stats = &options.stats;
    let chosen = match (options.codec, protocol) {
        (CodecType::Auto, b"h2") => Some(CodecType::Http2),
        (CodecType::Auto, [_, ..]) => Some(CodecType::Http1),
        _ => None,
    };
    let detected = detect_codec(&mut socket, chosen, &options, &mut deadlines).await;
    // Boxed, so that this future is not as large as the larger codec's, which contains the handler's future.
    let end = match detected {
        Ok((CodecType::Http1, initial)) if options.codec != CodecType::Http2 => {
            stats.downstream_cx_http1_total.inc();
            let _active = stats.hold(|stats| &stats.downstream_cx_http1_active);
            let served = h1::server::serve(socket, initial, options.clone(), deadlines, handler);
            Box::pin(served).await
        }
        // A client of another protocol is told so by the HTTP/2 codec.
        Ok((_, initial)) => {
            stats.downstream_cx_http2_total.inc();
            let _active = stats.hold(|stats| &stats.downstream_cx_http2_active);
            let served = h2::server::serve(socket, initial, options.clone(), deadlines, handler);
            Box::pin(served).await
        }
        Err(cause) => ConnectionEnd {
            cause,
            active_streams: 0,
        },
    };
    counted.end(&end);
    end
}

/// The part of the HTTP/2 client preface that Envoy checks.
const PREFACE: &[u8] = b"PRI * HTTP/2";

/// Reads until the bytes show which codec the client uses, unless it has `chosen` one: then until there are any. Returns
/// it with the bytes read.
async fn detect_codec(
    socket: &mut NetworkStream,
    chosen: Option<CodecType>,
    options: &ServerOptions,
    deadlines: &mut ConnectionDeadlines,
) -> Result<(CodecType, Vec<u8>), EndCause> {
    let mut initial = Vec::with_capacity(FIRST_READ);
    loop {
        let read = async {
            tokio::select! {
                biased;
                read = socket.read_buf(&mut initial) => read.map_err(|_| EndCause::Remote),
                expiry = poll_fn(|cx| deadlines.poll(0, cx).map_or(Poll::Pending, Poll::Ready)) => {
                    expiry.count(&options.stats);
                    Err(EndCause::Local)
                }
            }
        };
        let count = read.await?;
        if count == 0 {
            return Err(EndCause::Remote);
        }
        options.stats.received(count as u64);
        if let Some(codec) = chosen {
            return Ok((codec, initial));
        }
        let seen = initial.len().min(PREFACE.len());
        if options.codec == CodecType::Http1 || !PREFACE.iter().zip(&initial).all(|(a, b)| a == b) {
            return Ok((CodecType::Http1, initial));
        }
        if seen == PREFACE.len() {
            return Ok((CodecType::Http2, initial));
        }
    }
}

/// The size of the first read in bytes: enough for most request heads.
const FIRST_READ: usize = 4096;

/// Counts a connection as active while it exists, and its end.
#[derive(Debug)]
pub struct ConnectionCounter {
    stats: Arc<ConnectionStats>,
    started: Instant,
    _active: HeldGauge<ConnectionStats>,
    ssl: Option<HeldGauge<ConnectionStats>>,
}

impl ConnectionCounter {
    /// Counts a connection that is about to be served.
    #[must_use]
    pub fn new(options: &ServerOptions) -> ConnectionCounter {
        let stats = &options.stats;
        stats.downstream_cx_total.inc();
        ConnectionCounter {
            stats: stats.clone(),
            started: options.timers.now(),
            _active: stats.hold(|stats| &stats.downstream_cx_active),
            ssl: None,
        }
    }

    /// Counts the TLS connection, and shakes hands on it, for no longer than connections may live. `None` if that failed:
    /// then all is counted.
    pub async fn secure(
        mut self,
        connection: &mut AcceptedConnection,
        options: &Rc<ServerOptions>,
    ) -> Option<ConnectionCounter> {
        // As in Envoy, a connection that came before the secrets does not count as TLS.
        if connection.has_secrets() {
            self.stats.downstream_cx_ssl_total.inc();
            self.ssl = Some(self.stats.hold(|stats| &stats.downstream_cx_ssl_active));
        }
        let mut deadlines = ConnectionDeadlines::new(options);
        let secured = tokio::select! {
            biased;
            secured = connection.secure() => secured.map_err(|failure| {
                // A peer that gets no alert has closed the connection itself.
                match failure.is_closed() {
                    true => EndCause::Remote,
                    false => EndCause::Local,
                }
            }),
            expiry = poll_fn(|cx| deadlines.poll(0, cx).map_or(Poll::Pending, Poll::Ready)) => {
                expiry.count(&options.stats);
                Err(EndCause::Local)
            }
        };
        match secured {
            Ok(()) => Some(self),
            Err(cause) => {
                let active_streams = 0;
                self.end(&ConnectionEnd {
                    cause,
                    active_streams,
                });
                None
            }
        }
    }

    fn end(&self, end: &ConnectionEnd) {
        let stats = &self.stats;
        let active = end.active_streams > 0;
        if end.cause.is_protocol_error() {
            stats.downstream_cx_protocol_error.inc();
        }
        let (side, with_requests) = if end.cause.is_local() {
            (
                &stats.downstream_cx_destroy_local,
                &stats.downstream_cx_destroy_local_active_rq,
            )
        } else {
            (
                &stats.downstream_cx_destroy_remote,
                &stats.downstream_cx_destroy_remote_active_rq,
            )
        };
        side.inc();
        if active {
            with_requests.inc();
            stats.downstream_cx_destroy_active_rq.inc();
        }
    }
}

impl Drop for ConnectionCounter {
    fn drop(&mut self) {
        self.stats.downstream_cx_destroy.inc();
        let lived = self.started.elapsed().as_millis();
        self.stats
            .downstream_cx_length_ms
            .record(u64::try_from(lived).unwrap_or(u64::MAX));
    }
}

/// Sends the response to one request. Dropping it before [`Responder::send`] has completed resets the stream.
#[derive(Debug)]
pub struct Responder {
    kind: ResponderKind,
    /// Counts the stream as an active upgrade.
    upgrade: Option<HeldGauge<ConnectionStats>>,
}

/// Which codec the stream is on.
#[derive(Debug)]
enum ResponderKind {
    H1(h1::H1Responder),
    H2(h2::respond::H2Responder),
}

impl Responder {
    fn new(kind: ResponderKind) -> Responder {
        Responder {
            kind,
            upgrade: None,
        }
    }

    /// Counts the stream as a configured upgrade until it ends.
    pub fn accept_upgrade(&mut self) {
        let stats = match &self.kind {
            ResponderKind::H1(respond) => respond.stats(),
            ResponderKind::H2(respond) => respond.stats(),
        };
        stats.downstream_cx_upgrades_total.inc();
        self.upgrade = Some(stats.hold(|stats| &stats.downstream_cx_upgrades_active));
    }

    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    #[must_use]
    pub fn protocol(&self) -> Version {
        match &self.kind {
            ResponderKind::H1(respond) => respond.protocol(),
            ResponderKind::H2(_) => Version::HTTP_2,
        }
    }

    /// The stream's byte counts.
    #[must_use]
    pub fn meter(&self) -> &Rc<Meter> {
        match &self.kind {
            ResponderKind::H1(respond) => respond.meter(),
            ResponderKind::H2(respond) => respond.meter(),
        }
    }

    /// Ready when the client has reset the stream or the connection has ended.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        match &mut self.kind {
            ResponderKind::H1(respond) => respond.poll_reset(cx),
            ResponderKind::H2(respond) => respond.poll_reset(cx),
        }
    }

    /// Why the stream has ended already, if its client has reset it or the connection has ended. On HTTP/1 it is only
    /// known to [`Responder::poll_reset`].
    #[must_use]
    pub fn reset_error(&self) -> Option<StreamError> {
        match &self.kind {
            ResponderKind::H1(_) => None,
            ResponderKind::H2(respond) => respond.reset_error(),
        }
    }

    /// The error in the request's body and the response to it, while a response can still be sent. It takes precedence
    /// over any other result of handling the request.
    #[must_use]
    pub fn malformed_body(&self) -> Option<MalformedRequest> {
        match &self.kind {
            ResponderKind::H1(respond) => respond.malformed_body(),
            // The codec has reset the stream.
            ResponderKind::H2(_) => None,
        }
    }

    /// Whether an invalid message resets only its stream instead of ending the connection
    /// (`stream_error_on_invalid_http_message`).
    #[must_use]
    pub fn has_stream_error_on_invalid_message(&self) -> bool {
        match &self.kind {
            ResponderKind::H1(respond) => respond.has_stream_error_on_invalid_message(),
            ResponderKind::H2(respond) => respond.has_stream_error_on_invalid_message(),
        }
    }

    /// Limits how long a complete response may wait in the codec for the client to read it (`stream_flush_timeout`).
    /// Only HTTP/2 buffers in the codec. `None` sets no limit.
    pub fn set_flush_timeout(&self, timeout: Option<Duration>) {
        match &self.kind {
            ResponderKind::H1(_) => {}
            ResponderKind::H2(respond) => respond.set_flush_timeout(timeout),
        }
    }

    /// How many bytes of the request's body may be buffered: the connection's buffer limit, or on HTTP/2 the stream's
    /// window, as in Envoy.
    #[must_use]
    pub fn body_buffer_limit(&self) -> u32 {
        match &self.kind {
            ResponderKind::H1(respond) => respond.buffer_limit(),
            ResponderKind::H2(respond) => respond.stream_window(),
        }
    }

    /// Sends an interim response, such as 100 or 103.
    pub fn informational(&mut self, head: ResponseHead) -> Result<(), StreamError> {
        match &mut self.kind {
            ResponderKind::H1(respond) => {
                respond.informational(&head);
                Ok(())
            }
            ResponderKind::H2(respond) => {
                respond.informational(&head);
                Ok(())
            }
        }
    }

    /// Sends head, body and trailers. Completes when the last byte was handed to the connection, or the client has
    /// reset the stream.
    pub async fn send(&mut self, head: ResponseHead, body: Body) -> Result<(), StreamError> {
        match &mut self.kind {
            ResponderKind::H1(respond) => respond.send(&head, body).await,
            ResponderKind::H2(respond) => respond.send(&head, body).await,
        }
    }

    /// Resets the stream; on HTTP/1, closes the connection.
    pub fn reset(&mut self, reason: Reason) {
        match &mut self.kind {
            ResponderKind::H1(respond) => respond.reset(),
            ResponderKind::H2(respond) => respond.reset(reason),
        }
    }

    /// Resets a request that continues after its complete response with `reason` instead of NO_ERROR. Only on HTTP/2.
    pub fn reset_unfinished_request(&self, reason: Reason) {
        match &self.kind {
            ResponderKind::H1(_) => {}
            ResponderKind::H2(respond) => respond.reset_unfinished_request(reason),
        }
    }

    /// Ends the connection at once, with all its streams, which are told why; false if it has ended already, or ends with
    /// this stream anyway.
    #[must_use]
    pub fn abort_connection(&self, why: &'static str) -> bool {
        match &self.kind {
            ResponderKind::H1(_) => false,
            ResponderKind::H2(respond) => respond.abort_connection(why),
        }
    }

    /// Closes the connection when its streams have ended: announced by `connection: close` or GOAWAY.
    pub fn close_connection_after(&self) {
        match &self.kind {
            ResponderKind::H1(respond) => respond.close_connection_after(),
            ResponderKind::H2(respond) => respond.close_connection_after(),
        }
    }
}

impl From<h1::H1Responder> for Responder {
    fn from(respond: h1::H1Responder) -> Responder {
        Responder::new(ResponderKind::H1(respond))
    }
}

impl From<h2::respond::H2Responder> for Responder {
    fn from(respond: h2::respond::H2Responder) -> Responder {
        Responder::new(ResponderKind::H2(respond))
    }
}
