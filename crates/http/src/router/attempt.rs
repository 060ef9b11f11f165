//! One attempt at a request: gets a stream on a connection to a host, sends the request and waits for the response.

use std::borrow::Cow;
use std::cell::Cell;
use std::cell::RefCell;
use std::future::Future;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::Version;
use http::uri::Scheme;
use outrider_codec::Body;
use outrider_codec::HeaderValue;
use outrider_codec::ResponseHead;
use outrider_codec::StreamError;
use outrider_codec::UpstreamExchange;
use outrider_codec::header;
use outrider_net::clock;
use outrider_upstream::Host;
use outrider_upstream::OutlierResult;
use outrider_upstream::Pick;
use outrider_upstream::PoolFailure;
use outrider_upstream::TcpConnection;
use outrider_upstream::UpstreamStream;

use crate::Stream;
use crate::deadlines::ExpiredTimeout;
use crate::grpc;
use crate::local_reply::LocalReply;
use crate::read_ahead_body::ReadAheadBody;
use crate::router::RouterCx;
use crate::router::failure;
use crate::router::forwarded_request::ForwardedRequest;
use crate::router::forwarded_request::attempts;
use crate::router::upstream_request::UpstreamRequest;
use crate::router::upstream_request::UpstreamResponseBody;
use crate::tracing;
use crate::wait::StopReason;

/// An attempt in progress.
pub(super) struct UpstreamAttempt<'a> {
    call: &'a ForwardedRequest<'a>,
    pick: Pick,
    request: Rc<UpstreamRequest>,
}

/// The response to an attempt: its head, and the exchange that gives its body.
pub(super) type AttemptResponse = (ResponseHead, UpstreamExchange);

/// What an attempt got from the pool.
enum OpenedUpstream {
    /// A stream on an HTTP connection.
    Http(UpstreamStream),
    /// A connection for a tunnel.
    Tcp(Box<TcpConnection>),
}

/// Why an attempt ended without a response.
#[derive(Debug)]
pub(super) enum AttemptFailure {
    /// The stream ends, for a reason other than this attempt.
    Stopped(StopReason),
    /// A timeout of the router passed.
    TimedOut(ExpiredTimeout),
    /// The cluster has as many connection pools as it may have.
    PoolOverflow,
    /// The stream or its connection failed; with the failure reason of the connection, or an empty text.
    Failed(StreamError, String),
    /// The stream failed between an interim response and the final one.
    FailedAfterInterim(StreamError),
}

impl<'a> UpstreamAttempt<'a> {
    pub(super) fn new(
        call: &'a ForwardedRequest<'a>,
        pick: Pick,
        stream: &mut Stream,
        cx: &RouterCx<'_>,
    ) -> UpstreamAttempt<'a> {
        if cx.matches_upstream_scheme {
            stream.request.scheme = Some(match pick.is_secure() {
                true => Scheme::HTTPS,
                false => Scheme::HTTP,
            });
        }
        let host = pick.host();
        let request = Rc::new(UpstreamRequest {
            cluster: call.cluster.clone(),
            pick: pick.clone(),
            origin: stream.origin,
            extra_stats: call.extra_stats.clone(),
            captures: cx.captures.clone(),
            counting: call.router.counting(stream),
            timeout_status: if call.alternative_on_timeout {
                StatusCode::NO_CONTENT
            } else {
                StatusCode::GATEWAY_TIMEOUT
            },
            canary: Cell::new(host.is_canary()),
            downstream: cx.wait.respond.meter().clone(),
            meter: RefCell::default(),
            http2: Cell::new(false),
            is_upgrade: stream.is_upgrade,
            awaits_grpc_status: Cell::new(false),
            complete: Cell::new(false),
            response_began: Cell::new(None),
            response_ended: Cell::new(None),
            error: RefCell::default(),
            trailers: RefCell::default(),
            head: RefCell::default(),
        });
        if let Some(trace) = &mut stream.trace {
            let attempts = attempts(stream.upstream.as_deref());
            trace.begin_attempt(call.cluster.observability_name(), attempts);
        }
        if let Some(upstream) = &mut stream.upstream {
            upstream.host = Some(host.address().clone());
            upstream.host_name = (!host.hostname().is_empty()).then(|| host.hostname().clone());
            if let Some(before) = upstream.request.replace(request.clone()) {
                upstream.keep_counts(&before);
            }
        }
        UpstreamAttempt {
            call,
            pick,
            request,
        }
    }

    /// The request that this is an attempt at.
    pub(super) fn call(&self) -> &'a ForwardedRequest<'a> {
        self.call
    }

    /// The host.
    pub(super) fn host(&self) -> &Arc<Host> {
        self.pick.host()
    }

    /// Whether any part of the request was sent.
    pub(super) fn request_began(&self) -> bool {
        let meter = self.request.meter();
        meter.is_some_and(|meter| meter.activity() > 0)
    }

    /// Counts a response that is followed by a retry as a failure of the host.
    pub(super) fn count_retried(&self, stream: &Stream, (head, exchange): &AttemptResponse) {
        self.request.host().stats.rq_error.inc();
        self.note_health(stream, head);
        self.request.response_began.set(Some(clock::now()));
        let is_complete = exchange.is_end_stream() && exchange.request_sent();
        self.request.complete.set(is_complete);
    }

    /// Ends the attempt's span, before another attempt.
    pub(super) fn end_span(&self, stream: &mut Stream) {
        tracing::end_attempt(stream, &self.request);
    }

    /// Notes what a response says about its host, for health checks and outlier detection.
    fn note_health(&self, stream: &Stream, head: &ResponseHead) {
        if stream.trace.is_some() {
            self.request.keep_head(head);
        }
        if (head.headers).contains_key(&header::X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL) {
            self.request.host().fail_immediately();
        }
        self.request.put_answer(stream.is_upstream_grpc, head);
    }

    /// Sends the request, and waits for the response.
    pub(super) async fn run(
        &self,
        stream: &mut Stream,
        body: Body,
        cx: &mut RouterCx<'_>,
    ) -> Result<AttemptResponse, AttemptFailure> {
        let (place, body) = self.open(stream, body, cx).await?;
        let mut exchange = self.send(stream, body, place)?;
        if stream.is_websocket {
            cx.wait.deadlines.begin_handshake();
        }
        if let Some(policy) = self.call.retry_policy()
            && let Some(idle) = policy.per_try_idle_timeout
        {
            let meter = exchange.meter().clone();
            cx.wait.deadlines.set_try_idle(idle, meter);
        }
        let head = self.response(stream, &mut exchange, cx).await?;
        if stream.is_websocket && self.is_handshake_over(head.status) {
            cx.wait.deadlines.end_handshake();
        }
        Ok((head, exchange))
    }

    /// Gets a stream on a connection to the picked host. Also returns the request's body, which may have been read in
    /// part.
    async fn open(
        &self,
        stream: &mut Stream,
        body: Body,
        cx: &mut RouterCx<'_>,
    ) -> Result<(OpenedUpstream, Body), AttemptFailure> {
        let timeouts = &self.call.timeouts;
        let priority = self.call.forward.priority;
        let opened_at_once = match self.call.is_tunnel {
            false => self.pick.open_at_once(priority, stream.protocol),
            true => None,
        };
        let (opened, body) = match opened_at_once {
            Some(opened) => {
                cx.wait.check_body().map_err(AttemptFailure::Stopped)?;
                note_ready(stream, Duration::ZERO);
                let opened = opened.map(OpenedUpstream::Http);
                (opened, ReadAheadBody::new(body, 0).into_body())
            }
            None => {
                let began = clock::now();
                let opened = self.open_when_ready(stream, body, cx).await?;
                note_ready(stream, clock::since(began));
                opened
            }
        };
        let place = match opened {
            Ok(place) => place,
            Err(PoolFailure::PoolOverflow) => return Err(AttemptFailure::PoolOverflow),
            Err(error) => return Err(self.pool_failed(stream, &error)),
        };
        self.request.host().put_result(OutlierResult::Connected);
        if let Some(upstream) = &mut stream.upstream {
            match &place {
                OpenedUpstream::Http(place) => {
                    let connection = place.connection();
                    upstream.local_address = connection.local.clone();
                    upstream.connection_id = Some(connection.id);
                    upstream.protocol = Some(connection.protocol);
                    upstream.tls = connection.tls.clone();
                    self.request.set_protocol(connection.protocol);
                }
                OpenedUpstream::Tcp(connection) => {
                    upstream.local_address = connection.local.clone();
                    upstream.connection_id = Some(connection.id);
                    upstream.tls = connection.tls.clone();
                }
            }
        }
        if let Some(trace) = &stream.trace {
            trace.inject(&mut stream.request.headers);
        }
        if let Some(timeout) = timeouts.per_try {
            cx.wait.deadlines.begin_try(timeout);
        }
        let limit = timeouts
            .stream
            .or(self.request.cluster.info().http.max_stream_duration);
        let limit = limit.filter(|limit| !limit.is_zero());
        cx.wait
            .deadlines
            .set_upstream_duration(limit.map(|limit| clock::now() + limit));
        Ok((place, body))
    }

    /// Waits for a stream on a connection, and reads the request's body meanwhile.
    async fn open_when_ready(
        &self,
        stream: &Stream,
        body: Body,
        cx: &mut RouterCx<'_>,
    ) -> Result<(Result<OpenedUpstream, PoolFailure>, Body), AttemptFailure> {
        let limit = cx.wait.respond.body_buffer_limit();
        let mut body = ReadAheadBody::new(body, limit as usize);
        let stats = self.request.cluster.stats();
        let mut opening = pin!(self.open_or_connect(stream.protocol));
        let waiting = poll_fn(|task| {
            let opened = opening.as_mut().poll(task);
            if opened.is_pending() && body.read_ahead(task) {
                stats.upstream_flow_control_backed_up_total.inc();
            }
            opened
        });
        let opened = cx.wait.until(waiting).await;
        if body.resume() {
            stats.upstream_flow_control_drained_total.inc();
        }
        let opened = opened.map_err(|stop| self.stopped(stop))?;
        Ok((opened, body.into_body()))
    }

    async fn open_or_connect(&self, downstream: Version) -> Result<OpenedUpstream, PoolFailure> {
        let priority = self.call.forward.priority;
        if !self.call.is_tunnel {
            let opened = self.pick.open(priority, downstream).await;
            return opened.map(OpenedUpstream::Http);
        }
        // Boxed, so that requests without a tunnel need no room for it.
        let connected = Box::pin(self.pick.connect(priority)).await;
        connected.map(|connection| OpenedUpstream::Tcp(Box::new(connection)))
    }

    /// The end of the request if no other attempt follows this one.
    pub(super) fn give_up(&self, stream: &mut Stream, failure: AttemptFailure) -> StopReason {
        let suppress = self.call.router.suppress_envoy_headers;
        let reply = match failure {
            AttemptFailure::Stopped(stop) => return stop,
            AttemptFailure::TimedOut(expired) => return self.timed_out(stream, expired),
            AttemptFailure::PoolOverflow => {
                forget_host(stream);
                failure::no_healthy_upstream()
            }
            AttemptFailure::Failed(error, transport) => {
                let retried = attempts(stream.upstream.as_deref()) > 1;
                failure::before_response(&error, &transport, retried, suppress)
            }
            // The cluster does not count the status of such a request.
            AttemptFailure::FailedAfterInterim(error) => {
                return self.reply(stream, failure::after_interim(&error, suppress));
            }
        };
        self.request.count_status(reply.status.as_u16());
        self.reply(stream, reply)
    }

    /// Notes why no stream was opened.
    fn pool_failed(&self, stream: &mut Stream, error: &PoolFailure) -> AttemptFailure {
        if *error == PoolFailure::Overflow {
            forget_host(stream);
        }
        let transport = error.transport_failure_reason();
        if let Some(upstream) = &mut stream.upstream
            && !transport.is_empty()
        {
            upstream.transport_failure = Some(Cow::Owned(transport.replace(' ', "_")));
        }
        self.failed(error.reset_reason(), transport.to_owned())
    }

    /// The failure of the request's stream or connection, which is counted.
    fn failed(&self, error: StreamError, transport: String) -> AttemptFailure {
        let error = failure::as_counted_by_envoy(error);
        self.request.fail(&error);
        AttemptFailure::Failed(error, transport)
    }

    /// Adds to a reply what every reply after an attempt has.
    fn reply(&self, stream: &Stream, reply: LocalReply) -> StopReason {
        reply.after_attempts(self.call.told_attempts(stream)).into()
    }

    /// Sends the request.
    fn send(
        &self,
        stream: &Stream,
        body: Body,
        place: OpenedUpstream,
    ) -> Result<UpstreamExchange, AttemptFailure> {
        let place = match place {
            OpenedUpstream::Http(place) => place,
            OpenedUpstream::Tcp(connection) => {
                let exchange = connection.into_exchange(Bytes::new(), body);
                self.request.started(exchange.meter());
                return Ok(exchange);
            }
        };
        let exchange = place
            .send(&stream.request, body)
            .map_err(|error| match error {
                // The stream was open, so the connection is closing: the host sent something before the request.
                StreamError::Overflow => self.failed(
                    StreamError::ProtocolError("http1.codec_error"),
                    String::new(),
                ),
                error => self.failed(error, String::new()),
            })?;
        self.request.started(exchange.meter());
        Ok(exchange)
    }

    /// Waits for the response's head. As in Envoy, only the first interim response is passed on.
    async fn response(
        &self,
        stream: &mut Stream,
        exchange: &mut UpstreamExchange,
        cx: &mut RouterCx<'_>,
    ) -> Result<ResponseHead, AttemptFailure> {
        let mut begun = false;
        loop {
            let head = cx
                .wait
                .until(poll_fn(|task| exchange.poll_head(task)))
                .await;
            match head.map_err(|stop| self.stopped(stop))? {
                Ok(head) if head.is_interim() => {
                    if !begun && INTERIM.contains(&head.status.as_u16()) {
                        begun = true;
                        self.interim(stream, head, cx);
                    }
                }
                Ok(head) => return Ok(head),
                Err(error) => {
                    if let Some(gone) = cx.wait.client_gone().await {
                        return Err(AttemptFailure::Stopped(gone));
                    }
                    if !begun {
                        return Err(self.failed(error, String::new()));
                    }
                    let error = failure::as_counted_by_envoy(error);
                    self.request.fail(&error);
                    return Err(AttemptFailure::FailedAfterInterim(error));
                }
            }
        }
    }

    /// Whether a response to a WebSocket request ends the handshake. To Envoy, any response over HTTP/2 does.
    fn is_handshake_over(&self, status: StatusCode) -> bool {
        self.request.http2.get() || status == StatusCode::SWITCHING_PROTOCOLS
    }

    /// Whether the response to a WebSocket request is neither an upgrade nor an error; then its body is not passed on.
    pub(super) fn is_failed_handshake(&self, status: StatusCode) -> bool {
        !self.is_handshake_over(status) && !status.is_client_error() && !status.is_server_error()
    }

    fn interim(&self, stream: &Stream, mut head: ResponseHead, cx: &mut RouterCx<'_>) {
        self.request.count_status(head.status.as_u16());
        if !cx.proxy_100_continue {
            return;
        }
        cx.response
            .apply_to_any(&mut head.headers, &stream.request.headers, false);
        cx.count_interim(head.status);
        if let Err(error) = cx.wait.respond.informational(head) {
            log::debug!("interim response not sent: {error}");
        }
    }

    /// Puts the response's head into the stream, counts the response and returns its body.
    pub(super) fn accept(
        &self,
        stream: &mut Stream,
        mut head: ResponseHead,
        exchange: UpstreamExchange,
    ) -> Body {
        let request = &self.request;
        let status = head.status;
        request.response_began.set(Some(clock::now()));
        if head
            .headers
            .get(&header::X_ENVOY_UPSTREAM_CANARY)
            .is_some_and(|value| value == "true")
            || request.host().is_canary()
        {
            request.canary.set(true);
        }
        request.count_status(status.as_u16());
        self.note_health(stream, &head);
        let body = exchange.into_body();
        if !stream.is_upstream_grpc {
            request.count_host(status.is_server_error());
        } else if let Some(grpc_status) = head.headers.get(&header::GRPC_STATUS) {
            request.count_host(grpc::is_server_error(grpc_status));
        } else if body.is_end_stream() {
            request.count_host(true);
        } else {
            request.awaits_grpc_status.set(true);
        }
        if !self.call.router.suppress_envoy_headers
            && let Some(requested) = request.downstream.receive_ended()
        {
            let millis = u64::try_from(clock::since(requested).as_millis()).unwrap_or(u64::MAX);
            head.headers.insert(
                &header::X_ENVOY_UPSTREAM_SERVICE_TIME,
                HeaderValue::from(millis),
            );
        }
        stream.details = Some(Cow::Borrowed("via_upstream"));
        stream.response = Some(head);
        let body = UpstreamResponseBody::new(body, request.clone());
        if body.ends_with_head() {
            Body::Empty
        } else {
            Body::wrap(body)
        }
    }

    /// Notes the response because of which the request starts again.
    pub(super) fn redirected(
        &self,
        stream: &mut Stream,
        head: ResponseHead,
        exchange: &UpstreamExchange,
    ) {
        self.note_health(stream, &head);
        let is_complete = exchange.is_end_stream() && exchange.request_sent();
        self.request.complete.set(is_complete);
        stream.response = Some(head);
    }

    /// Counts a timeout if it is the router's.
    fn stopped(&self, stop: StopReason) -> AttemptFailure {
        match stop {
            StopReason::ExpiredTimeout(expired) if self.request.expired(expired) => {
                AttemptFailure::TimedOut(expired)
            }
            stop => AttemptFailure::Stopped(stop),
        }
    }

    fn timed_out(&self, stream: &Stream, expired: ExpiredTimeout) -> StopReason {
        let reply = match (self.call.alternative_on_timeout, expired) {
            (
                true,
                ExpiredTimeout::Response | ExpiredTimeout::PerTry | ExpiredTimeout::PerTryIdle,
            ) => LocalReply {
                flag: expired.flag(),
                ..LocalReply::new(StatusCode::NO_CONTENT, expired.details())
            },
            _ => expired.reply(self.request.downstream.receive_ended().is_some()),
        };
        // A limit of the cluster itself does not count as a timeout of its host.
        if expired != ExpiredTimeout::UpstreamDuration {
            self.request.count_status(reply.status.as_u16());
        }
        self.reply(stream, reply)
    }
}

/// Notes how long it took to get a connection, or an error.
fn note_ready(stream: &mut Stream, took: Duration) {
    if let Some(upstream) = &mut stream.upstream {
        upstream.pool_ready = Some(took);
    }
}

/// The interim responses that are passed on: Continue, Processing, Early Hints, Upload Resumption Supported.
const INTERIM: [u16; 4] = [100, 102, 103, 104];

/// No host was asked, so none is logged.
fn forget_host(stream: &mut Stream) {
    if let Some(upstream) = &mut stream.upstream {
        upstream.host = None;
        upstream.host_name = None;
    }
}
