//! The stats of a connection manager and its router, under Envoy's names.

use outrider_stats::Counter;
use outrider_stats::Gauge;
use outrider_stats::Histogram;
use outrider_stats::Lazy;
use outrider_stats::ResponseClasses;
use outrider_stats::ResponseCodes;
use outrider_stats::SharedCounter;
use outrider_stats::SharedHistogram;

outrider_stats::group! {
    /// `http.<stat_prefix>.*`, apart from what the codec counts of connections.
    pub struct ManagerStats {
        downstream_rq: ResponseClasses,
        downstream_rq_active: Gauge,
        downstream_rq_failed_path_normalization: Counter,
        downstream_rq_header_timeout: Counter,
        downstream_rq_http1_total: Counter,
        downstream_rq_http2_total: Counter,
        downstream_rq_http3_total: Counter,
        downstream_rq_idle_timeout: Counter,
        downstream_rq_max_duration_reached: Counter,
        downstream_rq_non_relative_path: Counter,
        downstream_rq_overload_close: Counter,
        downstream_rq_redirected_with_normalized_path: Counter,
        downstream_rq_rejected_via_ip_detection: Counter,
        downstream_rq_response_before_rq_complete: Counter,
        downstream_rq_rx_reset: Counter,
        downstream_rq_time: Histogram,
        downstream_rq_timeout: Counter,
        downstream_rq_too_large: Counter,
        downstream_rq_too_many_premature_resets: Counter,
        downstream_rq_total: Counter,
        downstream_rq_tx_reset: Counter,
        downstream_rq_ws_on_non_ws_route: Counter,
        rs_too_large: Counter,
        tracing: TracingStats,
        #[name("")]
        router: RouterStats,
    }
}

outrider_stats::group! {
    /// `http.<stat_prefix>.tracing.*`: nothing is traced yet.
    pub struct TracingStats {
        client_enabled: Counter,
        health_check: Counter,
        not_traceable: Counter,
        random_sampling: Counter,
        service_forced: Counter,
    }
}

outrider_stats::group! {
    /// `http.<stat_prefix>.*`, as far as the router counts it.
    pub struct RouterStats {
        no_cluster: Counter,
        no_route: Counter,
        passthrough_internal_redirect_bad_location: Counter,
        passthrough_internal_redirect_no_route: Counter,
        passthrough_internal_redirect_predicate: Counter,
        passthrough_internal_redirect_too_many_redirects: Counter,
        passthrough_internal_redirect_unsafe_scheme: Counter,
        rq_direct_response: Counter,
        rq_overload_local_reply: Counter,
        rq_redirect: Counter,
        rq_reset_after_downstream_response_started: Counter,
        rq_total: Counter,
    }
}

outrider_stats::group! {
    /// `listener.<address>.http.<stat_prefix>.*`
    pub struct ListenerHttpStats {
        downstream_rq: ResponseClasses,
    }
}

outrider_stats::group! {
    /// `vhost.<name>.vcluster.<name>.*` and `vhost.<name>.route.<stat_prefix>.*`: shared by all workers.
    pub struct VirtualClusterStats {
        upstream_rq: Lazy<ResponseCodes<SharedCounter>>,
        upstream_rq_retry: SharedCounter,
        upstream_rq_retry_limit_exceeded: SharedCounter,
        upstream_rq_retry_overflow: SharedCounter,
        upstream_rq_retry_success: SharedCounter,
        upstream_rq_time: Lazy<SharedHistogram>,
        upstream_rq_timeout: SharedCounter,
        upstream_rq_total: SharedCounter,
    }
}
