//! The counts of one call in the stats of its cluster and host, as Envoy's router counts it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use outrider_codec::HeaderMap;
use outrider_codec::Reason;
use outrider_codec::ResponseHead;
use outrider_codec::StreamError;
use outrider_codec::header;
use outrider_net::clock;
use outrider_upstream::Cluster;
use outrider_upstream::OriginStats;
use outrider_upstream::Pick;
use outrider_upstream::PoolFailure;
use tokio::time::Instant;

use crate::CallFailure;
use crate::grpc;

/// Counts a call by the status of its response, or of the reply that stands for one.
pub(crate) fn count_status(cluster: &Cluster, internal: bool, status: u16) {
    cluster.stats().upstream_rq.record(status);
    origin(cluster, internal).upstream_rq.record(status);
}

/// The cluster's stats of requests of this origin.
fn origin(cluster: &Cluster, internal: bool) -> &OriginStats {
    let stats = cluster.stats();
    match internal {
        true => stats.internal.get(),
        false => stats.external.get(),
    }
}

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallPhase {
    /// It has no connection yet.
    Opening,
    /// It was sent.
    Sent,
    /// The response's head has arrived.
    Responding,
    /// The response has ended, or the call has failed.
    Ended,
}

/// A call to one host.
#[derive(Debug)]
pub(crate) struct CallCounts {
    cluster: Rc<Cluster>,
    pick: Pick,
    /// Whether the call counts as internal: `x-envoy-internal` is sent with it.
    internal: bool,
    is_grpc: bool,
    is_http2: Cell<bool>,
    is_canary: Cell<bool>,
    /// Whether the trailers will tell if the host succeeded.
    awaits_grpc_status: Cell<bool>,
    sent: Cell<Option<Instant>>,
    phase: Cell<CallPhase>,
}

impl CallCounts {
    pub(crate) fn new(
        cluster: Rc<Cluster>,
        pick: Pick,
        internal: bool,
        is_grpc: bool,
    ) -> CallCounts {
        let is_canary = Cell::new(pick.host().is_canary());
        CallCounts {
            cluster,
            pick,
            internal,
            is_grpc,
            is_http2: Cell::new(false),
            is_canary,
            awaits_grpc_status: Cell::new(false),
            sent: Cell::new(None),
            phase: Cell::new(CallPhase::Opening),
        }
    }

    /// Counts the status of a response, or of the reply that stands for one.
    pub(crate) fn status(&self, status: u16) {
        count_status(&self.cluster, self.internal, status);
        if self.is_canary.get() {
            let canary = self.cluster.stats().canary.get();
            canary.upstream_rq.record(status);
        }
        if let Some(zone) = self.pick.zone_stats() {
            zone.upstream_rq.record(status);
        }
    }

    /// Notes that the call is being sent.
    pub(crate) fn sent(&self, is_http2: bool) {
        self.is_http2.set(is_http2);
        self.sent.set(Some(clock::now()));
        self.phase.set(CallPhase::Sent);
    }

    /// Counts the response's head. Returns how long it took, in milliseconds.
    pub(crate) fn head(&self, head: &ResponseHead) -> u64 {
        self.phase.set(CallPhase::Responding);
        let canary = head.headers.get(&header::X_ENVOY_UPSTREAM_CANARY);
        if canary.is_some_and(|value| value == "true") {
            self.is_canary.set(true);
        }
        self.status(head.status.as_u16());
        if !self.is_grpc {
            self.host_answered(head.status.is_server_error());
        } else if let Some(status) = head.headers.get(&header::GRPC_STATUS) {
            self.host_answered(grpc::is_server_error(status));
        } else {
            self.awaits_grpc_status.set(true);
        }
        self.millis_since_sent()
    }

    fn millis_since_sent(&self) -> u64 {
        let sent = self.sent.get().unwrap_or_else(clock::now);
        u64::try_from(clock::since(sent).as_millis()).unwrap_or(u64::MAX)
    }

    /// Counts the response's end.
    pub(crate) fn end(&self, trailers: Option<&HeaderMap>) {
        if self.phase.replace(CallPhase::Ended) == CallPhase::Ended {
            return;
        }
        if self.awaits_grpc_status.get() {
            let status = trailers.and_then(|trailers| trailers.get(&header::GRPC_STATUS));
            self.host_answered(status.is_none_or(grpc::is_server_error));
        }
        let millis = self.millis_since_sent();
        let stats = self.cluster.stats();
        stats.upstream_rq_time.get().record(millis);
        let origin = origin(&self.cluster, self.internal);
        origin.upstream_rq_time.get().record(millis);
        if self.is_canary.get() {
            stats.canary.get().upstream_rq_time.get().record(millis);
        }
        if let Some(zone) = self.pick.zone_stats() {
            zone.upstream_rq_time.get().record(millis);
        }
    }

    /// The host that was picked for the call.
    pub(crate) fn pick(&self) -> &Pick {
        &self.pick
    }

    /// Counts a call for which the pool has no connection.
    pub(crate) fn fail_in_pool(&self, failure: &PoolFailure) -> CallFailure {
        if !matches!(failure, PoolFailure::PoolOverflow) {
            return self.fail(&failure.reset_reason());
        }
        self.status(503);
        CallFailure::no_healthy_upstream()
    }

    /// Counts a failure of the connection or the stream. Returns the failure of the call.
    pub(crate) fn fail(&self, error: &StreamError) -> CallFailure {
        let error = &match error {
            StreamError::RemoteReset(Reason::PROTOCOL_ERROR) => {
                StreamError::ProtocolError("http2.remote_reset")
            }
            error => error.clone(),
        };
        let stats = self.cluster.stats();
        match error {
            StreamError::ProtocolError(_) if self.is_http2.get() => {
                stats.upstream_rq_tx_reset.inc();
            }
            StreamError::RemoteReset(_) if self.is_http2.get() => stats.upstream_rq_rx_reset.inc(),
            _ => {}
        }
        let has_begun = self.phase.replace(CallPhase::Ended) == CallPhase::Responding;
        if !has_begun || self.awaits_grpc_status.get() {
            self.pick.host().stats.rq_error.inc();
        }
        if has_begun {
            return CallFailure::of_response(error);
        }
        let failure = CallFailure::of_stream(error);
        if let CallFailure::NoResponse { status, .. } = &failure {
            self.status(status.as_u16());
        }
        failure
    }

    /// Counts the end of the call's time. Returns the failure of the call. The stream is dropped after this, which counts
    /// as a reset by this side.
    pub(crate) fn expired(&self) -> CallFailure {
        let host = &self.pick.host().stats;
        self.cluster.stats().upstream_rq_timeout.inc();
        host.rq_timeout.inc();
        host.rq_error.inc();
        if self.phase.get() == CallPhase::Responding {
            return CallFailure::late_timeout("response_timeout");
        }
        self.status(504);
        CallFailure::timeout()
    }

    /// Counts a call that has reached the cluster's `max_stream_duration`. Returns its failure.
    pub(crate) fn max_duration_reached(&self) -> CallFailure {
        self.cluster.stats().upstream_rq_max_duration_reached.inc();
        self.pick.host().stats.rq_error.inc();
        match self.phase.get() {
            CallPhase::Responding => {
                CallFailure::late_timeout("upstream_max_stream_duration_reached")
            }
            _ => CallFailure::max_stream_duration(),
        }
    }

    /// The cluster's `max_stream_duration`.
    pub(crate) fn max_stream_duration(&self) -> Option<Duration> {
        let limit = self.cluster.info().http.max_stream_duration;
        limit.filter(|limit| !limit.is_zero())
    }

    fn host_answered(&self, failed: bool) {
        let host = &self.pick.host().stats;
        match failed {
            true => host.rq_error.inc(),
            false => host.rq_success.inc(),
        }
    }
}

/// A call that is dropped before its end counts as reset by this side.
impl Drop for CallCounts {
    fn drop(&mut self) {
        let is_open = matches!(self.phase.get(), CallPhase::Sent | CallPhase::Responding);
        if is_open && self.is_http2.get() {
            self.cluster.stats().upstream_rq_tx_reset.inc();
        }
    }
}
