//! The admin server's own stats: `http.admin.*` and `listener.admin.*`.

use std::cell::Cell;
use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use hyper::Version;
use outrider_net::LimitReached;
use outrider_stats::Counter;
use outrider_stats::Gauge;
use outrider_stats::Held;
use outrider_stats::Histogram;
use outrider_stats::ResponseClasses;
use outrider_stats::Scope;
use outrider_stats::Store;
use tokio::time::Instant;

use crate::RequestFailure;
use crate::refusal::Refusal;

outrider_stats::group! {
    /// `http.admin.*`: the stats of an HTTP connection manager. Those that this server has no cause to count are
    /// listed as 0, so that sums over all connection managers find them.
    pub(crate) struct HttpStats {
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

outrider_stats::group! {
    /// `listener.admin.*`
    pub(crate) struct ListenerStats {
        connections_accepted_per_socket_event: Histogram,
        downstream_cx_active: Gauge,
        downstream_cx_destroy: Counter,
        downstream_cx_length_ms: Histogram,
        downstream_cx_overflow: Counter,
        downstream_cx_overload_reject: Counter,
        downstream_cx_total: Counter,
        downstream_cx_transport_socket_connect_timeout: Counter,
        downstream_global_cx_overflow: Counter,
        downstream_listener_filter_error: Counter,
        downstream_listener_filter_remote_close: Counter,
        downstream_pre_cx_active: Gauge,
        downstream_pre_cx_timeout: Counter,
        #[name("http.admin.downstream_rq")]
        downstream_rq: ResponseClasses,
        #[name("main_thread.downstream_cx_active")]
        main_thread_cx_active: Gauge,
        #[name("main_thread.downstream_cx_total")]
        main_thread_cx_total: Counter,
        no_filter_chain_match: Counter,
    }
}

outrider_stats::group! {
    /// `http1.*`, which the data path's codec counts too: in Envoy the first connection to the admin port lists them.
    pub(crate) struct CodecStats {
        dropped_headers_with_underscores: Counter,
        metadata_not_supported_error: Counter,
        requests_rejected_with_underscores_in_headers: Counter,
        response_flood: Counter,
    }
}

/// What this server counts.
#[derive(Clone, Debug)]
pub(crate) struct AdminStats {
    http: Arc<HttpStats>,
    listener: Arc<ListenerStats>,
    _codec: Arc<CodecStats>,
}

impl AdminStats {
    pub(crate) fn new(store: &Store) -> Self {
        Self {
            http: store.register(Scope::new("http").name("admin")),
            listener: store.register(Scope::new("listener").name("admin")),
            _codec: store.register(Scope::new("http1")),
        }
    }

    /// Counts that the kernel had a connection.
    pub(crate) fn accepted(&self) {
        self.listener
            .connections_accepted_per_socket_event
            .record(1);
    }

    /// Counts a connection that is closed at once, for it is over `limit`.
    pub(crate) fn refused(&self, limit: LimitReached) {
        match limit {
            LimitReached::Listener => self.listener.downstream_cx_overflow.inc(),
            LimitReached::Global => self.listener.downstream_global_cx_overflow.inc(),
        }
    }

    /// Counts a connection that is served, until the result is dropped.
    pub(crate) fn open(&self) -> OpenConnection {
        let Self { http, listener, .. } = self;
        http.downstream_cx_total.inc();
        http.downstream_cx_rx_bytes_buffered.mark_used();
        listener.downstream_cx_total.inc();
        listener.downstream_pre_cx_active.mark_used();
        listener.main_thread_cx_total.inc();
        OpenConnection {
            stats: self.clone(),
            started: Instant::now(),
            closes_locally: Cell::new(false),
            is_cut_off: Cell::new(false),
            protocol: OnceCell::new(),
            _http: http.hold(|s| &s.downstream_cx_active),
            _listener: [
                listener.hold(|s| &s.downstream_cx_active),
                listener.hold(|s| &s.main_thread_cx_active),
            ],
        }
    }
}

/// The counts of one connection.
pub(crate) struct OpenConnection {
    stats: AdminStats,
    started: Instant,
    closes_locally: Cell<bool>,
    /// Whether a request ended before its answer.
    is_cut_off: Cell<bool>,
    protocol: OnceCell<Held<HttpStats>>,
    _http: Held<HttpStats>,
    _listener: [Held<ListenerStats>; 2],
}

impl OpenConnection {
    pub(crate) fn received(&self, bytes: usize) {
        self.stats
            .http
            .downstream_cx_rx_bytes_total
            .add(bytes as u64);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.stats
            .http
            .downstream_cx_tx_bytes_total
            .add(bytes as u64);
    }

    /// Counts the protocol that the client speaks, once.
    pub(crate) fn protocol(&self, version: Version) {
        let http = &self.stats.http;
        self.protocol.get_or_init(|| match version {
            Version::HTTP_2 => {
                http.downstream_cx_http2_total.inc();
                http.hold(|s| &s.downstream_cx_http2_active)
            }
            _ => {
                http.downstream_cx_http1_total.inc();
                http.hold(|s| &s.downstream_cx_http1_active)
            }
        });
    }

    /// Notes that this side, not the client, ends the connection.
    pub(crate) fn closes_locally(&self) {
        self.closes_locally.set(true);
    }

    /// Counts that the client broke the protocol.
    pub(crate) fn protocol_error(&self) {
        self.stats.http.downstream_cx_protocol_error.inc();
    }

    /// Counts why a request was refused.
    pub(crate) fn refused_request(&self, refusal: &Refusal) {
        let http = &self.stats.http;
        match refusal.details {
            "absolute_path_rejected" => http.downstream_rq_non_relative_path.inc(),
            "path_normalization_failed" => http.downstream_rq_failed_path_normalization.inc(),
            _ if refusal.failure == Some(RequestFailure::Protocol) => self.protocol_error(),
            _ => {}
        }
    }

    /// Counts that a request ended before its answer.
    pub(crate) fn request_reset(&self) {
        self.is_cut_off.set(true);
        self.stats.http.downstream_rq_rx_reset.inc();
    }

    /// Whether no request ended before its answer.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_cut_off.get()
    }

    /// Counts a request, until the result is dropped.
    pub(crate) fn request(&self, version: Version) -> OpenRequest {
        let http = &self.stats.http;
        http.downstream_rq_total.inc();
        match version {
            Version::HTTP_2 => http.downstream_rq_http2_total.inc(),
            _ => http.downstream_rq_http1_total.inc(),
        }
        OpenRequest {
            stats: self.stats.clone(),
            started: Instant::now(),
            _active: http.hold(|s| &s.downstream_rq_active),
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let AdminStats { http, listener, .. } = &self.stats;
        let length = self.started.elapsed().as_millis() as u64;
        http.downstream_cx_destroy.inc();
        match self.closes_locally.get() {
            true => http.downstream_cx_destroy_local.inc(),
            false => http.downstream_cx_destroy_remote.inc(),
        }
        http.downstream_cx_length_ms.record(length);
        listener.downstream_cx_destroy.inc();
        listener.downstream_cx_length_ms.record(length);
    }
}

/// The counts of one request.
pub(crate) struct OpenRequest {
    stats: AdminStats,
    started: Instant,
    _active: Held<HttpStats>,
}

impl OpenRequest {
    /// How long ago the request came.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Counts the answer, before its body is made: what `/stats` shows includes itself.
    pub(crate) fn answered(&self, status: u16) {
        self.stats.http.downstream_rq.record(status);
        self.stats.listener.downstream_rq.record(status);
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let time = self.started.elapsed().as_millis() as u64;
        self.stats.http.downstream_rq_time.record(time);
    }
}
