//! One attempt at a request: applies the timeouts, gets a stream on a connection to a host, sends the request and waits
//! for the response.

use std::borrow::Cow;
use std::cell::Cell;
use std::cell::RefCell;
use std::future::Future;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use http::StatusCode;
use outrider_codec::Body;
use outrider_codec::HeaderValue;
use outrider_codec::ResponseHead;
use outrider_codec::StreamError;
use outrider_codec::UpstreamExchange;
use outrider_codec::header;
use outrider_net::clock;
use outrider_upstream::Cluster;
use outrider_upstream::Pick;
use outrider_upstream::PoolFailure;
use outrider_upstream::RoutingPriority;
use outrider_upstream::UpstreamStream;

use crate::Stream;
use crate::deadlines::ExpiredTimeout;
use crate::grpc;
use crate::local_reply::LocalReply;
use crate::names;
use crate::read_ahead_body::ReadAheadBody;
use crate::request::Origin;
use crate::route::ForwardAction;
use crate::route::Route;
use crate::router::Router;
use crate::router::RouterCx;
use crate::router::failure;
use crate::router::timeouts::Timeouts;
use crate::router::upstream_request::ExtraStats;
use crate::router::upstream_request::UpstreamRequest;
use crate::router::upstream_request::UpstreamResponseBody;
use crate::wait::StopReason;

/// An attempt in progress.
pub(super) struct UpstreamAttempt<'a> {
    router: &'a Router,
    request: Rc<UpstreamRequest>,
    timeouts: Timeouts,
    priority: RoutingPriority,
    /// `x-envoy-upstream-rq-timeout-alt-response`: replies with 204 after a timeout.
    alternative_on_timeout: bool,
    /// `include_attempt_count_in_response`
    tell_attempts: bool,
}

impl<'a> UpstreamAttempt<'a> {
    pub(super) fn new(
        router: &'a Router,
        cluster: &Rc<Cluster>,
        pick: &Pick,
        stream: &mut Stream,
        cx: &RouterCx<'_>,
    ) -> UpstreamAttempt<'a> {
        let host = pick.host();
        let extra_stats = ExtraStats::of(stream, cluster);
        let request = Rc::new(UpstreamRequest {
            cluster: cluster.clone(),
            pick: pick.clone(),
            origin: stream.origin,
            extra_stats,
            captures: cx.captures.clone(),
            counting: router.counting(stream),
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
        });
        if let Some(upstream) = &mut stream.upstream {
            upstream.host = Some(host.address().clone());
            upstream.host_name = (!host.hostname().is_empty()).then(|| host.hostname().clone());
            upstream.request = Some(request.clone());
        }
        UpstreamAttempt {
            router,
            request,
            timeouts: Timeouts::default(),
            priority: RoutingPriority::Default,
            alternative_on_timeout: false,
            tell_attempts: false,
        }
    }

    /// Prepares the request's head for the upstream: timeouts, rewrites, header mutations.
    pub(super) fn prepare(
        &mut self,
        stream: &mut Stream,
        route: &Route,
        forward: &ForwardAction,
        pick: &mut Pick,
    ) {
        let headers = &mut stream.request.headers;
        let asks = names::has_envoy_headers(headers);
        self.alternative_on_timeout = asks
            && headers
                .remove(&header::X_ENVOY_UPSTREAM_RQ_TIMEOUT_ALT_RESPONSE)
                .is_some();
        self.timeouts = self
            .router
            .timeouts(forward, headers, asks, stream.is_upstream_grpc);
        self.priority = forward.priority;
        if asks && stream.origin == Origin::Internal {
            headers.remove_any(names::RETRY);
        }
        let host = &route.virtual_host;
        self.tell_attempts = host.include_attempt_count_in_response;
        if host.include_request_attempt_count {
            headers.insert(
                &header::X_ENVOY_ATTEMPT_COUNT,
                HeaderValue::from_static("1"),
            );
        }
        let keep_originals = !self.router.suppress_envoy_headers;
        route.mutate_request(stream);
        forward.rewrite(stream, keep_originals);
        if let Some(names) = &self.request.cluster.info().http.names {
            pick.demand(names.of_request(&stream.request));
        }
        let name = self.request.host().hostname();
        if forward.auto_host_rewrite
            && !name.is_empty()
            && let Ok(name) = HeaderValue::try_from(&**name)
        {
            forward.set_host(stream, name, keep_originals);
        }
        if let Some(port) = stream.connect_port
            && let Ok(host) = HeaderValue::try_from(format!("{}:{port}", stream.request.host()))
        {
            stream.request.authority = Some(host);
        }
    }

    /// Gets a stream on a connection to the picked host. Also returns the request's body, which may have been read in
    /// part.
    pub(super) async fn open(
        &self,
        stream: &mut Stream,
        body: Body,
        pick: &Pick,
        cx: &mut RouterCx<'_>,
    ) -> Result<(UpstreamStream, Body), StopReason> {
        let deadlines = &mut *cx.wait.deadlines;
        deadlines.set_response(self.timeouts.response, self.timeouts.per_try);
        let (opened, body) = match pick.open_at_once(self.priority, stream.protocol) {
            Some(opened) => {
                cx.wait.check_body()?;
                note_ready(stream, Duration::ZERO);
                (opened, ReadAheadBody::new(body, 0).into_body())
            }
            None => {
                let began = clock::now();
                let opened = self.open_when_ready(stream, body, pick, cx).await?;
                note_ready(stream, clock::since(began));
                opened
            }
        };
        let place = match opened {
            Ok(place) => place,
            Err(PoolFailure::PoolOverflow) => {
                forget_host(stream);
                self.request.count_status(503);
                return Err(self.reply(failure::no_healthy_upstream()));
            }
            Err(error) => return Err(self.pool_failed(stream, &error)),
        };
        if let Some(upstream) = &mut stream.upstream {
            let connection = place.connection();
            upstream.local_address = connection.local.clone();
            upstream.connection_id = Some(connection.id);
            upstream.protocol = Some(connection.protocol);
            upstream.tls = connection.tls.clone();
            self.request.set_protocol(connection.protocol);
        }
        let limit = self
            .timeouts
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
        pick: &Pick,
        cx: &mut RouterCx<'_>,
    ) -> Result<(Result<UpstreamStream, PoolFailure>, Body), StopReason> {
        let limit = cx.wait.respond.body_buffer_limit();
        let mut body = ReadAheadBody::new(body, limit as usize);
        let stats = self.request.cluster.stats();
        let mut opening = pin!(pick.open(self.priority, stream.protocol));
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

    fn pool_failed(&self, stream: &mut Stream, error: &PoolFailure) -> StopReason {
        if *error == PoolFailure::Overflow {
            forget_host(stream);
        }
        let transport = error.transport_failure_reason();
        if let Some(upstream) = &mut stream.upstream
            && !transport.is_empty()
        {
            upstream.transport_failure = Some(Cow::Owned(transport.replace(' ', "_")));
        }
        self.failed(&error.reset_reason(), transport)
    }

    /// The reply to a request that failed before its response began.
    fn failed(&self, error: &StreamError, transport: &str) -> StopReason {
        let error = &failure::as_counted_by_envoy(error.clone());
        self.request.fail(error);
        let reply = failure::before_response(error, transport, self.router.suppress_envoy_headers);
        self.request.count_status(reply.status.as_u16());
        self.reply(reply)
    }

    /// Adds to a reply what every reply after an attempt has.
    fn reply(&self, reply: LocalReply) -> StopReason {
        reply.after_attempt(self.tell_attempts).into()
    }

    /// The reply to a request that failed between an interim response and the final one. The cluster does not count its
    /// status.
    fn failed_after_interim(&self, error: &StreamError) -> StopReason {
        let error = &failure::as_counted_by_envoy(error.clone());
        self.request.fail(error);
        self.reply(failure::after_interim(
            error,
            self.router.suppress_envoy_headers,
        ))
    }

    /// Sends the request.
    pub(super) fn send(
        &self,
        stream: &Stream,
        body: Body,
        place: UpstreamStream,
    ) -> Result<UpstreamExchange, StopReason> {
        let exchange = place
            .send(&stream.request, body)
            .map_err(|error| match error {
                // The stream was open, so the connection is closing: the host sent something before the request.
                StreamError::Overflow => {
                    self.failed(&StreamError::ProtocolError("http1.codec_error"), "")
                }
                error => self.failed(&error, ""),
            })?;
        self.request.started(exchange.meter());
        Ok(exchange)
    }

    /// Waits for the response's head. As in Envoy, only the first interim response is passed on.
    pub(super) async fn response(
        &self,
        stream: &mut Stream,
        exchange: &mut UpstreamExchange,
        cx: &mut RouterCx<'_>,
    ) -> Result<ResponseHead, StopReason> {
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
                    let gone = cx.wait.client_gone().await;
                    return Err(gone.unwrap_or_else(|| match begun {
                        true => self.failed_after_interim(&error),
                        false => self.failed(&error, ""),
                    }));
                }
            }
        }
    }

    /// Whether the response to a WebSocket request is neither an upgrade nor an error; then its body is not passed on.
    /// As in Envoy, this applies to HTTP/1 only.
    pub(super) fn is_failed_handshake(&self, status: StatusCode) -> bool {
        !self.request.http2.get()
            && status != StatusCode::SWITCHING_PROTOCOLS
            && !status.is_client_error()
            && !status.is_server_error()
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
        if (head.headers).contains_key(&header::X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL) {
            request.host().fail_immediately();
        }
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
        if !self.router.suppress_envoy_headers
            && let Some(requested) = request.downstream.receive_ended()
        {
            let millis = u64::try_from(clock::since(requested).as_millis()).unwrap_or(u64::MAX);
            head.headers.insert(
                &header::X_ENVOY_UPSTREAM_SERVICE_TIME,
                HeaderValue::from(millis),
            );
        }
        if self.tell_attempts {
            head.headers.insert(
                &header::X_ENVOY_ATTEMPT_COUNT,
                HeaderValue::from_static("1"),
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

    /// Counts an expired timeout of the router, and replaces it by the reply. Other reasons are returned unchanged.
    fn stopped(&self, stop: StopReason) -> StopReason {
        let StopReason::ExpiredTimeout(expired) = stop else {
            return stop;
        };
        if !self.request.expired(expired) {
            return StopReason::ExpiredTimeout(expired);
        }
        let reply = match (self.alternative_on_timeout, expired) {
            (true, ExpiredTimeout::Response | ExpiredTimeout::PerTry) => LocalReply {
                flag: expired.flag(),
                ..LocalReply::new(StatusCode::NO_CONTENT, expired.details())
            },
            _ => expired.reply(self.request.downstream.receive_ended().is_some()),
        };
        // A limit of the cluster itself does not count as a timeout of its host.
        if expired != ExpiredTimeout::UpstreamDuration {
            self.request.count_status(reply.status.as_u16());
        }
        self.reply(reply)
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
