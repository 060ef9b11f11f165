//! What is decided once for a request, whatever the number of its attempts.

use std::rc::Rc;
use std::time::Duration;

use outrider_codec::HeaderValue;
use outrider_codec::header;
use outrider_net::ProxyProtocolHeader;
use outrider_upstream::Cluster;
use outrider_upstream::ConnectionNames;
use outrider_upstream::Host;
use outrider_upstream::Pick;

use crate::Stream;
use crate::UpstreamInfo;
use crate::names;
use crate::route::ForwardAction;
use crate::route::RetryPolicy;
use crate::route::Route;
use crate::router::Router;
use crate::router::retry::RetryState;
use crate::router::timeouts::Timeouts;
use crate::router::upstream_request::ExtraStats;

/// A request on its way to a cluster.
#[derive(Debug)]
pub(super) struct ForwardedRequest<'a> {
    pub(super) router: &'a Router,
    pub(super) cluster: Rc<Cluster>,
    pub(super) route: &'a Route,
    pub(super) forward: &'a ForwardAction,
    pub(super) extra_stats: ExtraStats,
    pub(super) timeouts: Timeouts,
    /// `x-envoy-upstream-rq-timeout-alt-response`: replies with 204 after a timeout.
    pub(super) alternative_on_timeout: bool,
    /// The names that the host's connection must have been made for, if the request decides them.
    pub(super) names: Option<Rc<ConnectionNames>>,
    /// What the host is told about the client's connection, if the cluster does that.
    client: Option<Box<ProxyProtocolHeader>>,
    /// Whether the request is a tunnel that ends here.
    pub(super) is_tunnel: bool,
}

impl<'a> ForwardedRequest<'a> {
    /// Prepares the request's head for the upstream: timeouts, rewrites, header mutations; what depends on the host is
    /// left to [`prepare_for`](Self::prepare_for). Also returns the retries, if the route or the request asks for them.
    pub(super) fn new(
        router: &'a Router,
        cluster: Rc<Cluster>,
        (route, forward): (&'a Route, &'a ForwardAction),
        stream: &mut Stream,
    ) -> (ForwardedRequest<'a>, Option<RetryState>) {
        let extra_stats = ExtraStats::of(stream, &cluster);
        let host = &route.virtual_host;
        let policy = forward.retry_policy.as_ref().or(host.retry_policy.as_ref());
        let asks = names::has_envoy_headers(&stream.request.headers);
        let retry = (asks || policy.is_some())
            .then(|| RetryState::new(stream, policy, (&cluster, &extra_stats), forward.priority));
        let headers = &mut stream.request.headers;
        let alternative_on_timeout = asks
            && headers
                .remove(&header::X_ENVOY_UPSTREAM_RQ_TIMEOUT_ALT_RESPONSE)
                .is_some();
        let per_try = policy.and_then(|policy| policy.per_try_timeout);
        let timeouts = router.timeouts((forward, per_try), headers, asks, stream.is_upstream_grpc);
        if asks {
            headers.remove_any(names::RETRY);
        }
        if host.include_request_attempt_count {
            headers.insert(
                &header::X_ENVOY_ATTEMPT_COUNT,
                HeaderValue::from_static("1"),
            );
        }
        let tunnels = forward.tunnels.as_ref();
        let is_tunnel = tunnels.is_some_and(|tunnels| tunnels.applies_to(&stream.request));
        route.mutate_request(stream);
        forward.rewrite(stream, !router.suppress_envoy_headers);
        let names = &cluster.info().http.names;
        let names = names
            .as_ref()
            .map(|names| names.of_request(&stream.request));
        let client = cluster.announces_clients().then(|| {
            let connection = &stream.connection;
            Box::new(connection.proxy_protocol_header(&stream.remote_address))
        });
        let call = ForwardedRequest {
            router,
            cluster,
            route,
            forward,
            extra_stats,
            timeouts,
            alternative_on_timeout,
            names,
            client,
            is_tunnel,
        };
        (call, retry.flatten())
    }

    /// Says what the connection to a picked host has to be made with.
    pub(super) fn demand(&self, pick: &mut Pick) {
        if let Some(names) = self.names.clone() {
            pick.demand(names);
        }
        if let Some(client) = &self.client {
            pick.announce(|| (**client).clone());
        }
    }

    /// The policy for retries.
    pub(super) fn retry_policy(&self) -> Option<&RetryPolicy> {
        let of_route = self.forward.retry_policy.as_ref();
        let policy = of_route.or(self.route.virtual_host.retry_policy.as_ref());
        policy.map(|policy| &**policy)
    }

    /// Prepares the request's head for the host of its first attempt.
    pub(super) fn prepare_for(&self, host: &Host, stream: &mut Stream) {
        if self.forward.auto_host_rewrite
            && let Some(name) = name_of(host)
        {
            let keep_originals = !self.router.suppress_envoy_headers;
            self.forward.set_host(stream, name, keep_originals);
        }
        if let Some(port) = stream.connect_port
            && let Ok(host) = HeaderValue::try_from(format!("{}:{port}", stream.request.host()))
        {
            stream.request.authority = Some(host);
        }
    }

    /// Prepares the request's head for the host of another attempt. `after_timeout`: whether the last attempt took too
    /// long. `elapsed`: the time since the request's end.
    pub(super) fn prepare_again(
        &self,
        host: &Host,
        after_timeout: bool,
        elapsed: Duration,
        stream: &mut Stream,
    ) {
        if self.forward.auto_host_rewrite
            && let Some(name) = name_of(host)
        {
            stream.request.authority = Some(name);
        }
        let attempts = attempts(stream.upstream.as_deref());
        let headers = &mut stream.request.headers;
        let virtual_host = &self.route.virtual_host;
        if virtual_host.include_request_attempt_count {
            headers.insert(
                &header::X_ENVOY_ATTEMPT_COUNT,
                HeaderValue::from(u64::from(attempts)),
            );
        }
        if virtual_host.include_is_timeout_retry_header {
            let value = if after_timeout { "true" } else { "false" };
            let value = HeaderValue::from_static(value);
            headers.insert(&header::X_ENVOY_IS_TIMEOUT_RETRY, value);
        }
        self.timeouts.tell(headers, elapsed);
    }

    /// How many bytes of the request's body are kept for other attempts. `connection`: the limit of the client's
    /// connection.
    pub(super) fn body_buffer_limit(&self, connection: u32) -> usize {
        let limit = match (
            self.route.buffer_limits.request_body,
            self.route.buffer_limits.per_request,
        ) {
            (Some(limit), _) => limit,
            (None, Some(limit)) => u64::from(limit.min(connection)),
            (None, None) => u64::from(connection),
        };
        usize::try_from(limit).unwrap_or(usize::MAX)
    }

    /// The number of attempts, if responses tell it (`include_attempt_count_in_response`).
    pub(super) fn told_attempts(&self, stream: &Stream) -> Option<u32> {
        let tells = self.route.virtual_host.include_attempt_count_in_response;
        tells.then(|| attempts(stream.upstream.as_deref()))
    }

    /// Writes the number of attempts into the response, if responses tell it.
    pub(super) fn tell_attempts(&self, stream: &mut Stream) {
        if let Some(attempts) = self.told_attempts(stream)
            && let Some(response) = &mut stream.response
        {
            let attempts = HeaderValue::from(u64::from(attempts));
            response
                .headers
                .insert(&header::X_ENVOY_ATTEMPT_COUNT, attempts);
        }
    }
}

/// The number of attempts so far.
pub(super) fn attempts(upstream: Option<&UpstreamInfo>) -> u32 {
    upstream.map_or(1, |upstream| upstream.attempts)
}

fn name_of(host: &Host) -> Option<HeaderValue> {
    let name = host.hostname();
    (!name.is_empty())
        .then(|| HeaderValue::try_from(&**name).ok())
        .flatten()
}
