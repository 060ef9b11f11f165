//! One request to an upstream host: its stats, and the body of its response.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;

use http::StatusCode;
use http::Version;
use outrider_codec::Body;
use outrider_codec::BodyStream;
use outrider_codec::Frame;
use outrider_codec::HeaderMap;
use outrider_codec::Meter;
use outrider_codec::ResponseHead;
use outrider_codec::StreamError;
use outrider_codec::header;
use outrider_net::clock;
use outrider_stats::SharedCounter;
use outrider_upstream::Alternative;
use outrider_upstream::Cluster;
use outrider_upstream::Host;
use outrider_upstream::OriginStats;
use outrider_upstream::OutlierResult;
use outrider_upstream::Pick;
use tokio::time::Instant;

use crate::Captures;
use crate::Stream;
use crate::Traffic;
use crate::deadlines::ExpiredTimeout;
use crate::grpc;
use crate::request::Origin;
use crate::router::failure;
use crate::stats::VirtualClusterStats;

/// The state of one request to a host. The stream and the response's body, which the codec owns, share it.
#[derive(Debug)]
pub(crate) struct UpstreamRequest {
    pub(super) cluster: Rc<Cluster>,
    pub(super) pick: Pick,
    pub(super) origin: Origin,
    /// The stats other than the cluster's that count the request.
    pub(super) extra_stats: ExtraStats,
    /// The headers that formatters read after the heads were sent on.
    pub(super) captures: Rc<Captures>,
    pub(super) counting: StatusCounting,
    /// The status of the reply after a timeout of the router.
    pub(super) timeout_status: StatusCode,
    /// Whether the host or the response is marked as a canary.
    pub(super) canary: Cell<bool>,
    /// The counts of the client's side, which tell when the request ended.
    pub(super) downstream: Rc<Meter>,
    /// The counts of the upstream side, once the request is on a connection.
    pub(super) meter: RefCell<Option<Rc<Meter>>>,
    /// Whether the upstream connection is HTTP/2.
    pub(super) http2: Cell<bool>,
    /// Whether the request is CONNECT or asks for an upgrade.
    pub(super) is_upgrade: bool,
    /// Whether the trailers will tell if the host succeeded.
    pub(super) awaits_grpc_status: Cell<bool>,
    /// Whether both request and response were passed on completely.
    pub(super) complete: Cell<bool>,
    pub(super) response_began: Cell<Option<Instant>>,
    pub(super) response_ended: Cell<Option<Instant>>,
    pub(super) error: RefCell<Option<StreamError>>,
    pub(super) trailers: RefCell<Option<HeaderMap>>,
    /// The status and the captured headers of the response, if the request is traced.
    pub(super) head: RefCell<Option<ResponseHead>>,
}

impl UpstreamRequest {
    /// The host.
    pub(crate) fn host(&self) -> &Host {
        self.pick.host()
    }

    /// Counts a response by its status, the host's or a local reply.
    pub(super) fn count_status(&self, status: u16) {
        self.counting.count(&self.cluster, self.origin, status);
        if self.counting == StatusCounting::Off {
            return;
        }
        self.extra_stats.count_status(self.counting, status);
        if self.canary.get() {
            if let Some(alternative) = &self.extra_stats.alternative {
                let canary = alternative.stats().canary.get();
                canary.upstream_rq.record(status);
            }
            self.cluster.stats().canary.get().upstream_rq.record(status);
        }
        if let Some(zone) = self.pick.zone_stats() {
            zone.upstream_rq.record(status);
            if let Some(zone) = self.extra_stats.zone(self.host()) {
                zone.upstream_rq.record(status);
            }
        }
    }

    /// Counts a response for outlier detection: by its gRPC status, if its head has one, else by its own.
    pub(super) fn put_answer(&self, is_grpc: bool, head: &ResponseHead) {
        let grpc_status = match is_grpc {
            true => head.headers.get(&header::GRPC_STATUS),
            false => None,
        };
        let status = grpc_status.map_or(head.status.as_u16(), grpc::http_status_of);
        self.host().put_result(OutlierResult::Answered(status));
    }

    /// Notes that the request failed on its connection. If a success of the host was counted already, it is not counted
    /// again, except for a gRPC call, whose success is open until its trailers.
    pub(super) fn fail(&self, error: &StreamError) {
        let stats = self.cluster.stats();
        match error {
            StreamError::RemoteReset(_) if self.http2.get() => stats.upstream_rq_rx_reset.inc(),
            StreamError::ProtocolError(_) if self.http2.get() => stats.upstream_rq_tx_reset.inc(),
            _ => {}
        }
        if self.response_began.get().is_none() || self.awaits_grpc_status.get() {
            self.host().stats.rq_error.inc();
        }
        // No host is to blame for an open circuit breaker.
        if *error != StreamError::Overflow {
            self.host().put_result(OutlierResult::ConnectFailed);
        }
        self.error.replace(Some(error.clone()));
    }

    /// Whether the host's success is still open, because gRPC trailers will tell it.
    pub(crate) fn awaits_grpc_status(&self) -> bool {
        self.awaits_grpc_status.get()
    }

    /// The error that ended the response early, if there was one.
    pub(crate) fn error(&self) -> Option<StreamError> {
        self.error.borrow().clone()
    }

    /// Keeps the trailers that formatters read. A filter that changes trailers calls it again.
    pub(crate) fn capture_trailers(&self, trailers: &HeaderMap) {
        let captured = self.captures.trailers.from(trailers);
        self.trailers.replace(Some(captured));
    }

    /// Keeps what the request's span shows of the response.
    pub(super) fn keep_head(&self, head: &ResponseHead) {
        self.head.replace(Some(ResponseHead {
            status: head.status,
            headers: self.captures.response.from(&head.headers),
        }));
    }

    /// What [`keep_head`](Self::keep_head) has kept.
    pub(crate) fn kept_head(&self) -> Option<ResponseHead> {
        self.head.borrow().clone()
    }

    /// The captured trailers, until they are taken.
    pub(crate) fn trailers(&self) -> Option<HeaderMap> {
        self.trailers.borrow().clone()
    }

    /// Whether both request and response were passed on completely.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete.get()
    }

    /// The protocol of the connection, if there is one.
    pub(crate) fn protocol(&self) -> Option<Version> {
        self.meter.borrow().as_ref()?;
        Some(match self.http2.get() {
            true => Version::HTTP_2,
            false => Version::HTTP_11,
        })
    }

    /// When the response ended.
    pub(crate) fn ended(&self) -> Option<Instant> {
        self.response_ended.get()
    }

    /// The bytes and times so far.
    pub(crate) fn traffic(&self) -> Option<Traffic> {
        let meter = self.meter()?;
        Some(Traffic::client(&meter, self.response_began()))
    }

    /// The response's trailers, if they have arrived.
    pub(crate) fn take_trailers(&self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    /// The counts of the upstream side.
    pub(crate) fn meter(&self) -> Option<Rc<Meter>> {
        self.meter.borrow().clone()
    }

    /// Whether the response has come to its end.
    pub(crate) fn has_ended(&self) -> bool {
        self.response_ended.get().is_some()
    }

    /// Notes the response's end: records its time, and the host's success if only trailers can tell it.
    pub(super) fn end(&self, request_sent: bool, trailers: Option<&HeaderMap>) {
        if self.response_ended.get().is_some() {
            return;
        }
        let now = clock::now();
        self.response_ended.set(Some(now));
        self.complete.set(request_sent);
        if self.awaits_grpc_status.get() {
            let status = trailers.and_then(|trailers| trailers.get(&header::GRPC_STATUS));
            self.count_host(status.is_none_or(grpc::is_server_error));
        }
        let Some(requested) = self
            .downstream
            .receive_ended()
            .filter(|_| self.counting != StatusCounting::Off)
        else {
            return;
        };
        let time = now.saturating_duration_since(requested).as_millis();
        let time = u64::try_from(time).unwrap_or(u64::MAX);
        let stats = self.cluster.stats();
        stats.upstream_rq_time.get().record(time);
        let origin = match self.origin {
            Origin::Internal => stats.internal.get(),
            Origin::External | Origin::Edge => stats.external.get(),
        };
        origin.upstream_rq_time.get().record(time);
        if self.canary.get() {
            stats.canary.get().upstream_rq_time.get().record(time);
            if let Some(alternative) = &self.extra_stats.alternative {
                let canary = alternative.stats().canary.get();
                canary.upstream_rq_time.get().record(time);
            }
        }
        if let Some(zone) = self.pick.zone_stats() {
            zone.upstream_rq_time.get().record(time);
            if let Some(zone) = self.extra_stats.zone(self.host()) {
                zone.upstream_rq_time.get().record(time);
            }
        }
        self.extra_stats.record_time(time);
    }

    /// The error with which the client's stream is reset if the response ends early: a local reset, whatever the
    /// upstream's error was. Only a tunnel that lost its connection passes its error on.
    fn reset_of_client(&self) -> StreamError {
        match &*self.error.borrow() {
            Some(StreamError::ConnectionTermination) if self.is_upgrade => {
                StreamError::ConnectError
            }
            _ => StreamError::LocalReset,
        }
    }

    /// Notes that the request has a stream on a connection of this protocol.
    pub(super) fn set_protocol(&self, protocol: Version) {
        self.http2.set(protocol == Version::HTTP_2);
    }

    /// Notes that the request is being sent.
    pub(super) fn started(&self, meter: &Rc<Meter>) {
        self.meter.replace(Some(meter.clone()));
        for stats in self.extra_stats.iter() {
            stats.upstream_rq_total.inc();
        }
    }

    /// When the response's head arrived.
    pub(crate) fn response_began(&self) -> Option<Instant> {
        self.response_began.get()
    }

    /// Counts a timeout if it is the router's. Returns whether it is.
    pub(crate) fn expired(&self, expired: ExpiredTimeout) -> bool {
        let stats = self.cluster.stats();
        match expired {
            ExpiredTimeout::Response => {
                stats.upstream_rq_timeout.inc();
                self.extra_stats
                    .iter()
                    .for_each(|s| s.upstream_rq_timeout.inc());
            }
            ExpiredTimeout::PerTry => stats.upstream_rq_per_try_timeout.inc(),
            ExpiredTimeout::PerTryIdle => stats.upstream_rq_per_try_idle_timeout.inc(),
            ExpiredTimeout::UpstreamDuration => stats.upstream_rq_max_duration_reached.inc(),
            ExpiredTimeout::Idle | ExpiredTimeout::Request | ExpiredTimeout::Duration => {
                return false;
            }
        }
        if expired != ExpiredTimeout::UpstreamDuration {
            self.host().stats.rq_timeout.inc();
            if self.response_began.get().is_none() {
                self.host()
                    .put_result(OutlierResult::TimedOut(self.timeout_status.as_u16()));
            }
        }
        self.host().stats.rq_error.inc();
        true
    }

    /// Counts the host's success or failure.
    pub(super) fn count_host(&self, failed: bool) {
        let stats = &self.host().stats;
        if failed {
            &stats.rq_error
        } else {
            &stats.rq_success
        }
        .inc();
    }
}

/// A request that ends early is counted as reset by this proxy, unless the host reset it.
impl Drop for UpstreamRequest {
    fn drop(&mut self) {
        if self.http2.get()
            && !self.complete.get()
            && self.error.borrow().is_none()
            && self.meter.borrow().is_some()
        {
            self.cluster.stats().upstream_rq_tx_reset.inc();
        }
    }
}

/// Stats other than the cluster's that count a request: those of its virtual cluster and its route, and those that the
/// client asks for.
#[derive(Clone, Debug, Default)]
pub(super) struct ExtraStats {
    of_route: [Option<Arc<VirtualClusterStats>>; 2],
    /// The stats that an internal client asks for (`x-envoy-upstream-alt-stat-name`).
    alternative: Option<Rc<Alternative>>,
}

impl ExtraStats {
    /// The stats for a request before its rewrites. Removes the header that asks for stats, and notes the virtual
    /// cluster's name in the stream.
    pub(super) fn of(stream: &mut Stream, cluster: &Cluster) -> ExtraStats {
        let Some(route) = &stream.route else {
            return ExtraStats::default();
        };
        let virtual_cluster = route.virtual_host.clusters.find(&stream.request);
        let virtual_cluster = virtual_cluster.map(|c| (c.stats.clone(), c.name.clone()));
        let (virtual_cluster, name) = virtual_cluster.unzip();
        let of_route = [virtual_cluster, route.stats.clone()];
        stream.virtual_cluster = name.flatten();
        let mut alternative = None;
        if stream.origin == Origin::Internal {
            let headers = &mut stream.request.headers;
            let name = headers.remove(&header::X_ENVOY_UPSTREAM_ALT_STAT_NAME);
            let name = name.as_ref().and_then(|name| name.as_str());
            alternative = name.and_then(|name| cluster.alternative(name));
        }
        ExtraStats {
            of_route,
            alternative,
        }
    }

    /// Counts something of the virtual cluster and the route.
    pub(super) fn count(&self, counter: impl Fn(&VirtualClusterStats) -> &SharedCounter) {
        for stats in self.iter() {
            counter(stats).inc();
        }
    }

    pub(super) fn count_status(&self, counting: StatusCounting, status: u16) {
        for stats in self.iter() {
            stats.upstream_rq.get().record(status);
        }
        if let Some(alternative) = &self.alternative {
            let stats = alternative.stats();
            stats.upstream_rq.record(counting.shown(status));
            stats.internal.get().upstream_rq.record(status);
        }
    }

    fn record_time(&self, millis: u64) {
        for stats in self.iter() {
            stats.upstream_rq_time.get().record(millis);
        }
        if let Some(alternative) = &self.alternative {
            let stats = alternative.stats();
            stats.upstream_rq_time.get().record(millis);
            let internal = stats.internal.get();
            internal.upstream_rq_time.get().record(millis);
        }
    }

    /// The stats that the client asks for, by the zones of the proxy and `host`.
    fn zone(&self, host: &Host) -> Option<Arc<OriginStats>> {
        self.alternative.as_ref()?.zone_stats(host)
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<VirtualClusterStats>> {
        self.of_route.iter().flatten()
    }
}

/// Which statuses and times are counted, by the router's options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatusCounting {
    /// All of them.
    Full,
    /// `suppress_grpc_request_failure_code_stats`: for gRPC requests, the cluster counts no status.
    WithoutStatus,
    /// `dynamic_stats` is off: nothing is counted.
    Off,
}

impl StatusCounting {
    /// Counts a response of `cluster` by its status.
    pub(super) fn count(self, cluster: &Cluster, origin: Origin, status: u16) {
        if self == StatusCounting::Off {
            return;
        }
        let stats = cluster.stats();
        stats.upstream_rq.record(self.shown(status));
        let origin = match origin {
            Origin::Internal => stats.internal.get(),
            Origin::External | Origin::Edge => stats.external.get(),
        };
        origin.upstream_rq.record(status);
    }

    /// The status that the cluster counts.
    fn shown(self, status: u16) -> u16 {
        /// No status: the response is only counted as completed.
        const NONE: u16 = 0;
        match self {
            StatusCounting::Full => status,
            StatusCounting::WithoutStatus | StatusCounting::Off => NONE,
        }
    }
}

/// A response's body, which notes its end, its trailers and its error.
#[derive(Debug)]
pub(super) struct UpstreamResponseBody {
    body: Body,
    /// Whether the response has failed. The client's stream is reset at the next turn, so that data before the error is
    /// sent first.
    failed: bool,
    request: Rc<UpstreamRequest>,
}

impl UpstreamResponseBody {
    pub(super) fn new(body: Body, request: Rc<UpstreamRequest>) -> UpstreamResponseBody {
        UpstreamResponseBody {
            body,
            failed: false,
            request,
        }
    }

    /// Whether the response has no body; if so, notes its end.
    pub(super) fn ends_with_head(&self) -> bool {
        let ends = self.body.is_end_stream();
        if ends {
            self.end(None);
        }
        ends
    }

    fn end(&self, trailers: Option<&HeaderMap>) {
        let sent = match &self.body {
            Body::Exchange(exchange) => exchange.request_sent(),
            _ => true,
        };
        self.request.end(sent, trailers);
    }
}

impl BodyStream for UpstreamResponseBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        if self.failed {
            return Poll::Ready(Some(Err(self.request.reset_of_client())));
        }
        let frame = std::task::ready!(self.body.poll_frame(cx));
        match &frame {
            Some(Ok(Frame::Data(_))) if !self.body.is_end_stream() => {}
            Some(Ok(Frame::Data(_))) | None => self.end(None),
            Some(Ok(Frame::Trailers(trailers))) => {
                self.end(Some(trailers));
                self.request.capture_trailers(trailers);
            }
            Some(Err(error)) => {
                self.request
                    .fail(&failure::as_counted_by_envoy(error.clone()));
                self.failed = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn set_paused(&mut self, paused: bool) {
        let stats = self.request.cluster.stats();
        if paused {
            stats.upstream_flow_control_paused_reading_total.inc();
        } else {
            stats.upstream_flow_control_resumed_reading_total.inc();
        }
    }
}
