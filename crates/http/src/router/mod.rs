//! The router, at the end of the filter chain: replies as the route says, or forwards the request to a cluster
//! (`envoy.extensions.filters.http.router.v3.Router`).

mod attempt;
mod failure;
mod forwarded_request;
mod host_selection;
mod internal_redirect;
mod mirror;
mod replay;
mod retries;
mod retry;
mod timeouts;
mod upstream_request;

use std::rc::Rc;

use http::StatusCode;
use outrider_codec::Body;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::header;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::http::router::v3::Router as RouterMessage;
use outrider_config::unpack;
use outrider_upstream::Cluster;
use outrider_upstream::Pick;
use prost_types::Any;

use crate::Captures;
use crate::ManagerStats;
use crate::ResponseFlag;
use crate::Stream;
use crate::local_reply::LocalReply;
use crate::response::ResponseOptions;
use crate::route::Action;
use crate::route::ForwardAction;
use crate::route::Route;
use crate::stats::ListenerHttpStats;
use crate::wait::StopReason;
use crate::wait::StreamWait;

use attempt::UpstreamAttempt;
pub(crate) use failure::after_response;
pub(crate) use failure::flag;
use forwarded_request::ForwardedRequest;
use host_selection::HostSelection;
pub(crate) use internal_redirect::FollowedRedirects;
pub(crate) use internal_redirect::RedirectedBody;
pub(crate) use mirror::Mirrors;
use replay::ReplayBuffer;
use upstream_request::ExtraStats;
use upstream_request::StatusCounting;
pub(crate) use upstream_request::UpstreamRequest;

/// The router as configured.
#[derive(Debug)]
pub struct Router {
    /// `dynamic_stats`: whether statuses and times of responses are counted for clusters.
    dynamic_stats: bool,
    /// `suppress_grpc_request_failure_code_stats`
    suppress_grpc_codes: bool,
    /// `suppress_envoy_headers`
    suppress_envoy_headers: bool,
    /// `respect_expected_rq_timeout`
    respect_expected_rq_timeout: bool,
    /// `strict_check_headers`
    strict_check_headers: Vec<HeaderName>,
}

/// The context in which the router serves one stream.
pub(crate) struct RouterCx<'a> {
    pub(crate) stats: &'a ManagerStats,
    pub(crate) listener_stats: &'a ListenerHttpStats,
    pub(crate) captures: &'a Rc<Captures>,
    pub(crate) response: &'a ResponseOptions,
    pub(crate) mirrors: &'a Mirrors,
    /// `proxy_100_continue`
    pub(crate) proxy_100_continue: bool,
    /// `scheme_header_transformation.match_upstream`: the scheme is that of the connection to the host.
    pub(crate) matches_upstream_scheme: bool,
    pub(crate) wait: StreamWait<'a>,
}

/// What becomes of a request.
pub(crate) enum RouterAnswer {
    /// There is a response: its head is in the stream, and this is its body.
    Response(Body),
    /// The request starts again, with the head that is in the stream and this body.
    Redirected(RedirectedBody),
}

impl RouterCx<'_> {
    /// Counts an interim response to the client.
    fn count_interim(&self, status: StatusCode) {
        self.stats.requests.downstream_rq.record(status.as_u16());
        self.listener_stats.downstream_rq.record(status.as_u16());
    }
}

impl Router {
    pub(crate) fn build(config: &Any, path: &FieldPath) -> Result<Router, ConfigErrors> {
        let message: RouterMessage = unpack(config, path)?;
        let mut errors = ConfigErrors::new();
        let strict_path = path.field("strict_check_headers");
        let strict = message
            .strict_check_headers
            .iter()
            .enumerate()
            .filter_map(|(index, name)| {
                let name = HeaderName::try_from(name.as_str())
                    .map_err(|_| format!("{name:?} is no header name"));
                name.map_err(|error| errors.push(&strict_path.index(index), error))
                    .ok()
            });
        let strict_check_headers = strict.collect();
        errors.finish(Router {
            dynamic_stats: message.dynamic_stats.unwrap_or(true),
            suppress_grpc_codes: message.suppress_grpc_request_failure_code_stats,
            suppress_envoy_headers: message.suppress_envoy_headers,
            respect_expected_rq_timeout: message.respect_expected_rq_timeout,
            strict_check_headers,
        })
    }

    /// Answers the request by its route.
    pub(crate) async fn forward(
        &self,
        stream: &mut Stream,
        body: Body,
        cx: &mut RouterCx<'_>,
    ) -> Result<RouterAnswer, StopReason> {
        let stats = &cx.stats.router;
        stats.rq_total.inc();
        let Some(route) = stream.route.clone() else {
            stats.no_route.inc();
            return Err(not_found().into());
        };
        let reply = match &route.action {
            Action::Forward(forward) => {
                return self.proxy(stream, body, (&route, forward), cx).await;
            }
            Action::Redirect(redirect) => {
                stats.rq_direct_response.inc();
                let reply = LocalReply::new(redirect.status, "direct_response");
                let keep_original = !self.suppress_envoy_headers;
                with_location(reply, redirect.apply(stream, keep_original))
            }
            Action::DirectResponse(direct) => {
                stats.rq_direct_response.inc();
                let reply =
                    LocalReply::new(direct.status, "direct_response").body(direct.body.clone());
                match direct.location(stream) {
                    Some(location) => with_location(reply, location),
                    None => reply,
                }
            }
            // Only filters can answer on such a route, and no filter did. The router treats it as a route without a
            // cluster.
            Action::NonForwarding => {
                stats.no_cluster.inc();
                LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "cluster_not_found")
                    .flag(ResponseFlag::NoClusterFound)
            }
        };
        let route = Some(route.clone());
        Err(LocalReply { route, ..reply }.into())
    }

    /// Forwards the request to a host of the route's cluster. Puts the response's head into the stream and returns the
    /// body.
    async fn proxy(
        &self,
        stream: &mut Stream,
        mut body: Body,
        (route, forward): (&Route, &ForwardAction),
        cx: &mut RouterCx<'_>,
    ) -> Result<RouterAnswer, StopReason> {
        let Some(cluster) = stream.cluster.clone() else {
            cx.stats.router.no_cluster.inc();
            let reply = LocalReply::new(forward.cluster_not_found_status, "cluster_not_found");
            return Err(reply.flag(ResponseFlag::NoClusterFound).into());
        };
        self.check_strictly(&stream.request.headers)?;
        // The attempt counts even if the cluster has no host to try.
        if let Some(upstream) = &mut stream.upstream {
            upstream.attempts += 1;
        }
        let key = &cluster.info().maintenance_key;
        if let Some(percent) = stream.runtime().and_then(|runtime| runtime.number(key))
            && fastrand::u64(..100) < percent
        {
            cluster.stats().upstream_rq_maintenance_mode.inc();
            let extra_stats = ExtraStats::of(stream, &cluster);
            self.count_unavailable(stream, &cluster, &extra_stats);
            return Err(failure::maintenance(self.suppress_envoy_headers).into());
        }
        let mut selection = HostSelection::of(forward, &cluster, stream);
        let (call, retry) = ForwardedRequest::new(self, cluster, (route, forward), stream);
        let mut pick = self.pick(&call, &mut selection, stream, cx).await?;
        if !forward.mirrors.is_empty() {
            let limit = call.body_buffer_limit(cx.wait.respond.body_buffer_limit());
            body = cx.mirrors.start(&call, limit, stream, body);
        }
        call.prepare_for(pick.host(), stream);
        call.demand(&mut pick);
        cx.wait.deadlines.set_response(call.timeouts.response);
        let attempt = UpstreamAttempt::new(&call, pick, stream, cx);
        let redirects = forward.internal_redirects.as_deref();
        let mut buffer = None;
        if retry.is_some() || redirects.is_some() {
            let limit = call.body_buffer_limit(cx.wait.respond.body_buffer_limit());
            let stats = call.cluster.stats().clone();
            body = buffer.insert(ReplayBuffer::new(body, limit, stats)).body();
        }
        let (attempt, (head, exchange)) = match (retry, &buffer) {
            (Some(retry), Some(buffer)) => {
                let request = (&mut *stream, buffer);
                Box::pin(retries::run(retry, attempt, &selection, request, cx)).await?
            }
            _ => match attempt.run(stream, body, cx).await {
                Ok(answer) => (attempt, answer),
                Err(failure) => return Err(attempt.give_up(stream, failure)),
            },
        };
        if let Some((policy, buffer)) = redirects.zip(buffer) {
            if let Some(body) = policy.follow((&attempt, &buffer), &head, stream, cx.stats) {
                attempt.redirected(stream, head, &exchange);
                return Ok(RouterAnswer::Redirected(body));
            }
            buffer.stop_keeping();
        }
        if stream.is_websocket && attempt.is_failed_handshake(head.status) {
            let reply = LocalReply::new(head.status, "websocket_handshake_unsuccessful");
            return Err(reply.with_headers_of(&head).into());
        }
        let body = attempt.accept(stream, head, exchange);
        selection.set_cookies(stream);
        route.mutate_response(stream, false);
        call.tell_attempts(stream); // Envoy sets this one last.
        Ok(RouterAnswer::Response(body))
    }

    /// Picks the host for the first attempt.
    async fn pick(
        &self,
        call: &ForwardedRequest<'_>,
        selection: &mut HostSelection<'_>,
        stream: &mut Stream,
        cx: &mut RouterCx<'_>,
    ) -> Result<Pick, StopReason> {
        let cluster = &call.cluster;
        let found = selection.find_dynamic_host(cluster, stream, cx).await?;
        match found.map(|()| cluster.pick(selection.request(0))) {
            Ok(Ok(pick)) => Ok(pick),
            failed => {
                self.count_unavailable(stream, cluster, &call.extra_stats);
                let told = call.route.virtual_host.include_attempt_count_in_response;
                let reply = failure::no_host(failed.err(), cluster);
                Err(reply.after_attempts(told.then_some(1)).into())
            }
        }
    }

    /// Counts the 503 of a request for which no host was tried.
    fn count_unavailable(&self, stream: &Stream, cluster: &Cluster, extra_stats: &ExtraStats) {
        let counting = self.counting(stream);
        if counting != StatusCounting::Off {
            extra_stats.count_status(counting, 503);
        }
        counting.count(cluster, stream.origin, 503);
    }

    fn counting(&self, stream: &Stream) -> StatusCounting {
        let counts = self.dynamic_stats && !stream.is_health_check;
        match (counts, self.suppress_grpc_codes && stream.is_upstream_grpc) {
            (false, _) => StatusCounting::Off,
            (true, true) => StatusCounting::WithoutStatus,
            (true, false) => StatusCounting::Full,
        }
    }

    /// `strict_check_headers`: refuses a request with invalid values in these `x-envoy-…` headers.
    fn check_strictly(&self, headers: &HeaderMap) -> Result<(), LocalReply> {
        for name in &self.strict_check_headers {
            let Some(value) = headers.get(name) else {
                continue;
            };
            if timeouts::parse_millis(value).is_none() {
                let shown = String::from_utf8_lossy(value.as_bytes());
                let body = format!("invalid header '{name}' with value '{shown}'");
                let details = format!("request_headers_failed_strict_check{{{name}}}");
                let reply = LocalReply::new(StatusCode::BAD_REQUEST, details).body(body);
                return Err(reply.flag(ResponseFlag::InvalidEnvoyRequestHeaders));
            }
        }
        Ok(())
    }
}

fn not_found() -> LocalReply {
    LocalReply::new(StatusCode::NOT_FOUND, "route_not_found").flag(ResponseFlag::NoRouteFound)
}

fn with_location(reply: LocalReply, location: String) -> LocalReply {
    match HeaderValue::try_from(location) {
        Ok(location) => reply.header(&header::LOCATION, location),
        Err(_) => reply,
    }
}
