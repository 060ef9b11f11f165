//! Serves one stream: reads the request, runs it through the filters and the router, and sends the response.

use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use http::Method;
use http::StatusCode;
use outrider_codec::Body;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderValue;
use outrider_codec::Responder;
use outrider_codec::header;

use crate::RequestHead;
use crate::Stream;
use crate::UpstreamInfo;
use crate::deadlines::StreamDeadlines;
use crate::filters::LateReplySlot;
use crate::grpc;
use crate::local_reply::LocalReply;
use crate::manager::ConnectionManager;
use crate::manager::ConnectionStreams;
use crate::manager::routes::RoutesInUse;
use crate::request;
use crate::request::Normalized;
use crate::request::Origin;
use crate::route::Action;
use crate::route::MaxStreamDuration;
use crate::route::RequestView;
use crate::router::RouterAnswer;
use crate::router::RouterCx;
use crate::stream::StreamEnd;
use crate::upgrade;
use crate::wait::StopReason;
use crate::wait::StreamWait;

impl ConnectionManager {
    /// Serves one stream to its end.
    pub(super) async fn handle(
        self: Rc<Self>,
        downstream: Rc<ConnectionStreams>,
        head: RequestHead,
        body: Body,
        mut respond: Responder,
    ) {
        let connection = downstream.connection.clone();
        let stream = Stream::new(connection, head, respond.protocol(), self.worker.random());
        let mut end = StreamEnd::new(stream, self.clone(), respond.meter().clone());
        end.stream.set_began(respond.meter().receive_began());
        end.stream.runtime = self.worker.runtime();
        self.count_request(end.stream.protocol);
        let mut deadlines = StreamDeadlines::new(downstream.take_timer(), end.stream.started);
        let late_reply = LateReplySlot::new();
        deadlines.scale_idle(self.overload.stream_idle.as_ref());
        let mut wait = StreamWait {
            respond: &mut respond,
            deadlines: &mut deadlines,
            late_reply: &late_reply,
        };
        let mut body = body;
        let answered = loop {
            match self.answer(&mut end.stream, body, &mut wait).await {
                Ok(RouterAnswer::Response(body)) => break Ok(body),
                Ok(RouterAnswer::Redirected(again)) => {
                    end = self.start_again(end, again.bytes, &mut wait);
                    body = again.body;
                }
                Err(stop) => break Err(stop),
            }
        };
        let body = match answered {
            Ok(body) => body,
            Err(StopReason::Reply(reply)) => self.reply(&mut end.stream, *reply, wait.respond),
            Err(StopReason::ExpiredTimeout(expired)) => {
                self.count_expired(expired);
                let complete = wait.respond.meter().receive_ended().is_some();
                let reply = expired.reply(complete);
                self.reply(&mut end.stream, reply, wait.respond)
            }
            Err(StopReason::ClientGone(error)) => {
                let abort = |why| wait.respond.abort_connection(why);
                downstream.ended_without_answer(&end.stream, &abort);
                return end.client_gone(&error);
            }
        };
        self.send(&mut end, body, &mut wait).await;
        downstream.resets.note_answer();
        downstream.keep_timer(deadlines.into_timer(), end.stream.protocol);
    }
}

impl ConnectionManager {
    /// Ends a stream whose request was redirected, and begins the next.
    fn start_again(
        self: &Rc<Self>,
        mut end: StreamEnd,
        bytes: u64,
        wait: &mut StreamWait<'_>,
    ) -> StreamEnd {
        let mut stream = end.stream.redirected(self.worker.random());
        if let Some(redirects) = &mut stream.redirects {
            redirects.bytes_replayed += bytes;
        }
        end.mark_ended();
        drop(end);
        stream.runtime = self.worker.runtime();
        self.count_request(stream.protocol);
        wait.deadlines.restart(stream.started);
        StreamEnd::new(stream, self.clone(), wait.respond.meter().clone())
    }

    /// Gets the response; its head is in the stream.
    async fn answer(
        &self,
        stream: &mut Stream,
        mut body: Body,
        wait: &mut StreamWait<'_>,
    ) -> Result<RouterAnswer, StopReason> {
        if self.overload.refuses(&self.worker) {
            let stats = &self.stats.requests;
            stats.downstream_rq_overload_close.inc();
            stream.skips_filters = true;
            return Err(self.overload.reply().into());
        }
        self.continue_early(stream, wait.respond);
        let routes = self.routes.current();
        stream.routes = Some(routes.clone());
        self.prepare_request(stream, &routes, wait)?;
        wait.check_client()?;
        if let Some(tracing) = &self.tracing {
            tracing.start(stream, self.worker.random(), &self.stats.tracing);
        }
        if self.filters.is_empty() {
            wait.check_body()?;
        } else {
            self.filter_request(stream, &mut body, wait).await?;
        }
        let Some(router) = &self.config.filters.router else {
            // Envoy accepts an empty filter chain, and never answers.
            return wait.until(pending()).await;
        };
        let mut cx = RouterCx {
            stats: &self.stats,
            listener_stats: &self.listener_stats,
            captures: routes.captures(),
            response: &self.config.response,
            mirrors: &self.mirrors,
            proxy_100_continue: self.config.proxy_100_continue,
            matches_upstream_scheme: self.config.matches_upstream_scheme,
            wait: StreamWait {
                respond: wait.respond,
                deadlines: wait.deadlines,
                late_reply: wait.late_reply,
            },
        };
        router.forward(stream, body, &mut cx).await
    }

    /// Answers `expect: 100-continue`, unless the upstream has to.
    fn continue_early(&self, stream: &mut Stream, respond: &mut Responder) {
        if self.config.proxy_100_continue {
            return;
        }
        let headers = &mut stream.request.headers;
        let expects = headers.get(&header::EXPECT);
        if expects.is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
            headers.remove(&header::EXPECT);
            self.count_status(StatusCode::CONTINUE);
            if let Err(error) = respond.informational(StatusCode::CONTINUE.into()) {
                log::debug!("100 Continue not sent: {error}");
            }
        }
    }

    /// Checks and changes a request before the first filter sees it. An error is the reply to a refused request.
    fn prepare_request(
        &self,
        stream: &mut Stream,
        routes: &RoutesInUse,
        wait: &mut StreamWait<'_>,
    ) -> Result<(), LocalReply> {
        let is_connect = stream.request.method == Method::CONNECT;
        self.check_target(stream, is_connect)?;
        for mutation in &self.config.early_mutations {
            mutation.apply_to_request(stream);
        }
        let upgrade = upgrade::requested(&stream.request.headers).cloned();
        let is_upgrade = is_connect || upgrade.is_some();
        stream.is_upgrade = is_upgrade;
        stream.is_websocket = upgrade
            .as_ref()
            .is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"));
        let local_port = stream.connection.local.ip().map(|address| address.port());
        if let Some(host) = &stream.request.authority
            && let Some(host) = self.config.hosts.apply(host, local_port)
        {
            if is_connect && request::port(&host).is_none() {
                stream.connect_port = stream.request.authority.as_ref().and_then(request::port);
            }
            stream.request.authority = Some(host);
        }
        // A redirected request has these headers already.
        if stream.redirects.is_none() {
            self.prepare_headers(stream, upgrade.is_some(), routes)?;
        }
        self.find_route(stream);
        self.set_deadlines(stream, wait);
        let protocol = if is_connect {
            Some(HeaderValue::from_static("connect"))
        } else {
            upgrade
        };
        let Some(protocol) = protocol else {
            return Ok(());
        };
        let allowed = match &stream.route {
            Some(route) => self.allows_upgrade(&route.action, &protocol),
            None => self.config.upgrades.allow(&protocol),
        };
        if allowed {
            wait.respond.accept_upgrade();
        }
        if allowed || stream.route.is_none() {
            return Ok(());
        }
        self.stats.requests.downstream_rq_ws_on_non_ws_route.inc();
        // The client's next bytes may belong to the other protocol.
        wait.respond.close_connection_after();
        Err(LocalReply::new(StatusCode::FORBIDDEN, "upgrade_failed"))
    }

    /// Finds out who the client is, and sets and removes headers accordingly.
    fn prepare_headers(
        &self,
        stream: &mut Stream,
        is_upgrade: bool,
        routes: &RoutesInUse,
    ) -> Result<(), LocalReply> {
        let random = || (self.worker.random(), self.worker.random());
        let prepared = self.config.forwarding.apply(
            &mut stream.request,
            is_upgrade,
            &stream.connection,
            random,
        );
        let (origin, remote) = prepared.map_err(|status| {
            let stats = &self.stats.requests;
            stats.downstream_rq_rejected_via_ip_detection.inc();
            LocalReply::new(status, "rejecting_because_detection_failed")
        })?;
        stream.origin = origin;
        stream.remote_address = remote;
        if origin != Origin::Internal {
            for name in &routes.table().internal_only_headers {
                stream.request.headers.remove(name);
            }
        }
        Ok(())
    }

    /// Requires a host and a valid path, and normalises the path.
    fn check_target(&self, stream: &mut Stream, is_connect: bool) -> Result<(), LocalReply> {
        if stream.request.authority.is_none() {
            return Err(LocalReply::new(
                StatusCode::BAD_REQUEST,
                "missing_host_header",
            ));
        }
        let Some(path) = &stream.request.path else {
            let reply = LocalReply::new(StatusCode::NOT_FOUND, "missing_path_rejected");
            return if is_connect { Ok(()) } else { Err(reply) };
        };
        if !path.as_str().starts_with('/') {
            self.stats.requests.downstream_rq_non_relative_path.inc();
            return Err(LocalReply::new(
                StatusCode::NOT_FOUND,
                "absolute_path_rejected",
            ));
        }
        let failed = |status| LocalReply::new(status, "path_normalization_failed");
        if path.has_fragment() {
            self.stats
                .requests
                .downstream_rq_failed_path_normalization
                .inc();
            return Err(failed(StatusCode::BAD_REQUEST));
        }
        match self.config.paths.apply(path) {
            Normalized::Unchanged => Ok(()),
            Normalized::Changed(path) => {
                stream.request.path = Some(path);
                Ok(())
            }
            // A gRPC client would not follow a redirect.
            Normalized::Redirect(path) if stream.is_grpc => {
                self.stats
                    .requests
                    .downstream_rq_failed_path_normalization
                    .inc();
                stream.request.path = Some(path);
                Err(failed(StatusCode::BAD_REQUEST))
            }
            Normalized::Redirect(path) => {
                self.stats
                    .requests
                    .downstream_rq_redirected_with_normalized_path
                    .inc();
                let location = HeaderValue::try_from(path.as_str());
                let location = location.unwrap_or(HeaderValue::from_static("/")); // a path is always a valid header value
                stream.request.path = Some(path);
                Err(failed(StatusCode::TEMPORARY_REDIRECT).header(&header::LOCATION, location))
            }
            Normalized::Rejected(path) => {
                if path.is_some() {
                    stream.request.path = path;
                }
                self.stats
                    .requests
                    .downstream_rq_failed_path_normalization
                    .inc();
                Err(failed(StatusCode::BAD_REQUEST))
            }
        }
    }

    /// Finds the route, and the cluster that it chooses.
    pub(super) fn find_route(&self, stream: &mut Stream) {
        let Some(routes) = stream.routes.clone() else {
            return;
        };
        let view = RequestView::of(stream);
        stream.route = routes.table().find(&view).cloned();
        stream.cluster = None;
        stream.upstream = None;
        let Some(route) = &stream.route else {
            return;
        };
        if let Action::Forward(forward) = &route.action
            && let Some(name) = forward.cluster_name(&stream.request)
            && let Some(cluster) = self.clusters.get(name)
        {
            stream.upstream = Some(Box::new(UpstreamInfo::new(
                cluster.observability_name().clone(),
                cluster.name().clone(),
            )));
            stream.cluster = Some(cluster);
        }
    }

    fn allows_upgrade(&self, action: &Action, protocol: &HeaderValue) -> bool {
        let by_route = match action {
            Action::Forward(forward) => forward.upgrades.iter().find(|upgrade| {
                upgrade
                    .protocol
                    .as_bytes()
                    .eq_ignore_ascii_case(protocol.as_bytes())
            }),
            _ => None,
        };
        match by_route {
            Some(upgrade) => upgrade.enabled,
            None => self.config.upgrades.allow(protocol),
        }
    }

    pub(super) fn set_deadlines(&self, stream: &mut Stream, wait: &mut StreamWait<'_>) {
        let (deadlines, respond) = (&mut *wait.deadlines, &*wait.respond);
        let timeouts = &self.config.timeouts;
        let forward = match stream.route.as_deref().map(|route| &route.action) {
            Some(Action::Forward(forward)) => Some(forward),
            _ => None,
        };
        let idle = forward
            .and_then(|forward| forward.idle_timeout)
            .or(timeouts.idle);
        deadlines.set_idle(idle.filter(|idle| !idle.is_zero()));
        let flush = forward.and_then(|forward| forward.flush_timeout);
        let flush = flush.or(timeouts.flush).or(idle);
        let flush = flush.filter(|flush| !flush.is_zero());
        deadlines.set_flush(flush);
        respond.set_flush_timeout(flush);
        deadlines.set_request(timeouts.request.map(|timeout| stream.started + timeout));
        let limits = forward.and_then(|forward| forward.max_stream_duration);
        let headers = &mut stream.request.headers;
        let duration = max_duration(limits, timeouts.max_duration, stream.is_grpc, headers);
        deadlines.set_duration(duration.map(|duration| stream.started + duration));
    }
}

/// The maximum duration of the stream: the request's `grpc-timeout` if the route obeys it, else the route's limit, else
/// the connection manager's. Writes the `grpc-timeout` that applies into the request for the upstream.
fn max_duration(
    route: Option<MaxStreamDuration>,
    manager: Option<Duration>,
    is_grpc: bool,
    headers: &mut HeaderMap,
) -> Option<Duration> {
    let limits = route.unwrap_or_default();
    let asked = limits
        .grpc_timeout_header_max
        .and_then(|max| Some((max, grpc::timeout(headers)?)));
    let Some((max, mut timeout)) = asked else {
        return match limits.max_stream_duration {
            Some(duration) if duration.is_zero() => None,
            Some(duration) => {
                if is_grpc {
                    headers.insert(&header::GRPC_TIMEOUT, grpc::timeout_value(duration));
                }
                Some(duration)
            }
            None => manager,
        };
    };
    if !max.is_zero() && timeout > max {
        timeout = max;
    }
    if let Some(offset) = limits.grpc_timeout_header_offset {
        timeout = timeout.saturating_sub(offset);
    }
    if is_grpc {
        headers.insert(&header::GRPC_TIMEOUT, grpc::timeout_value(timeout));
    }
    Some(timeout)
}
