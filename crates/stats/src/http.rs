//! The groups of HTTP stats that both the data path and the admin server count. They are defined here because neither
//! depends on the other.

use crate::Counter;
use crate::Gauge;
use crate::Histogram;
use crate::ResponseClasses;

crate::group! {
    /// `http.<stat_prefix>.downstream_cx_*`: the connections of a connection manager.
    pub struct ConnectionStats {
        downstream_cx_active: Gauge,
        downstream_cx_delayed_close_timeout: Counter,
        downstream_cx_destroy: Counter,
        downstream_cx_destroy_active_rq: Counter,
        downstream_cx_destroy_local: Counter,
        downstream_cx_destroy_local_active_rq: Counter,
        downstream_cx_destroy_remote: Counter,
        downstream_cx_destroy_remote_active_rq: Counter,
        downstream_cx_drain_close: Counter,
        downstream_cx_http1_active: Gauge,
        downstream_cx_http1_soft_drain: Gauge,
        downstream_cx_http1_total: Counter,
        downstream_cx_http2_active: Gauge,
        downstream_cx_http2_total: Counter,
        downstream_cx_http3_active: Gauge,
        downstream_cx_http3_total: Counter,
        downstream_cx_idle_timeout: Counter,
        downstream_cx_length_ms: Histogram,
        downstream_cx_max_duration_reached: Counter,
        downstream_cx_max_requests_reached: Counter,
        downstream_cx_overload_disable_keepalive: Counter,
        downstream_cx_protocol_error: Counter,
        downstream_cx_rx_bytes_buffered: Gauge,
        downstream_cx_rx_bytes_total: Counter,
        downstream_cx_ssl_active: Gauge,
        downstream_cx_ssl_total: Counter,
        downstream_cx_total: Counter,
        downstream_cx_tx_bytes_buffered: Gauge,
        downstream_cx_tx_bytes_total: Counter,
        downstream_cx_upgrades_active: Gauge,
        downstream_cx_upgrades_total: Counter,
        downstream_flow_control_paused_reading_total: Counter,
        downstream_flow_control_resumed_reading_total: Counter,
    }
}

crate::group! {
    /// `http.<stat_prefix>.downstream_rq_*`: the requests of a connection manager.
    pub struct RequestStats {
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
    }
}

crate::group! {
    /// The stats of `http.<stat_prefix>.*` that a router counts; those of the proxy's own calls are in
    /// `http.async-client.*`.
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

crate::group! {
    /// `http1.*` of a cluster, or of all listeners together.
    pub struct Http1Stats {
        dropped_headers_with_underscores: Counter,
        metadata_not_supported_error: Counter,
        requests_rejected_with_underscores_in_headers: Counter,
        response_flood: Counter,
    }
}
