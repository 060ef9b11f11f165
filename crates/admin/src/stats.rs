//! The admin server's own stats: `http.admin.*` and `listener.admin.*`.

use std::cell::Cell;
use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use hyper::Version;
use outrider_net::LimitReached;
use outrider_net::ListenerStats;
use outrider_stats::Counter;
use outrider_stats::Gauge;
use outrider_stats::HeldGauge;
use outrider_stats::ResponseClasses;
use outrider_stats::Scope;
use outrider_stats::Store;
use outrider_stats::http::ConnectionStats;
use outrider_stats::http::Http1Stats;
use outrider_stats::http::RequestStats;
use tokio::time::Instant;

use crate::RequestFailure;
use crate::refusal::Refusal;

outrider_stats::group! {
    /// `http.admin.*`: the stats of an HTTP connection manager. This server has no cause to count some of them; they
    /// are listed as 0, so that sums over all connection managers find them.
    pub(crate) struct AdminHttpStats {
        #[name("")]
        connections: ConnectionStats,
        #[name("")]
        requests: RequestStats,
    }
}

outrider_stats::group! {
    /// `listener.admin.*`
    pub(crate) struct AdminListenerStats {
        #[name("")]
        listener: ListenerStats,
        #[name("http.admin.downstream_rq")]
        downstream_rq: ResponseClasses,
        #[name("main_thread.downstream_cx_active")]
        main_thread_cx_active: Gauge,
        #[name("main_thread.downstream_cx_total")]
        main_thread_cx_total: Counter,
    }
}

/// The stats of the admin server.
#[derive(Clone, Debug)]
pub(crate) struct AdminStats {
    http: Arc<AdminHttpStats>,
    listener: Arc<AdminListenerStats>,
    _http1: Arc<Http1Stats>,
}

impl AdminStats {
    pub(crate) fn new(store: &Store) -> Self {
        Self {
            http: store.register(Scope::new("http").name("admin")),
            listener: store.register(Scope::new("listener").name("admin")),
            _http1: store.register(Scope::new("http1")),
        }
    }

    /// Counts a connection that the kernel accepted.
    pub(crate) fn accepted(&self) {
        self.listener
            .listener
            .connections_accepted_per_socket_event
            .record(1);
    }

    /// Counts a connection that is closed at once because it is over `limit`.
    pub(crate) fn refused(&self, limit: LimitReached) {
        match limit {
            LimitReached::Listener => self.listener.listener.downstream_cx_overflow.inc(),
            LimitReached::Global => self.listener.listener.downstream_global_cx_overflow.inc(),
        }
    }

    /// Counts a served connection; it is active until the result is dropped.
    pub(crate) fn open(&self) -> OpenConnection {
        let Self { http, listener, .. } = self;
        http.connections.downstream_cx_total.inc();
        http.connections.downstream_cx_rx_bytes_buffered.mark_used();
        listener.listener.downstream_cx_total.inc();
        listener.listener.downstream_pre_cx_active.mark_used();
        listener.main_thread_cx_total.inc();
        OpenConnection {
            stats: self.clone(),
            started: Instant::now(),
            closes_locally: Cell::new(false),
            had_reset: Cell::new(false),
            protocol: OnceCell::new(),
            _http: http.hold(|s| &s.connections.downstream_cx_active),
            _listener: [
                listener.hold(|s| &s.listener.downstream_cx_active),
                listener.hold(|s| &s.main_thread_cx_active),
            ],
        }
    }
}

/// Counts one connection.
pub(crate) struct OpenConnection {
    stats: AdminStats,
    started: Instant,
    closes_locally: Cell<bool>,
    /// Whether a request ended before its response.
    had_reset: Cell<bool>,
    protocol: OnceCell<HeldGauge<AdminHttpStats>>,
    _http: HeldGauge<AdminHttpStats>,
    _listener: [HeldGauge<AdminListenerStats>; 2],
}

impl OpenConnection {
    pub(crate) fn received(&self, bytes: usize) {
        self.stats
            .http
            .connections
            .downstream_cx_rx_bytes_total
            .add(bytes as u64);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.stats
            .http
            .connections
            .downstream_cx_tx_bytes_total
            .add(bytes as u64);
    }

    /// Counts the protocol that the client speaks, once.
    pub(crate) fn protocol(&self, version: Version) {
        let http = &self.stats.http;
        self.protocol.get_or_init(|| match version {
            Version::HTTP_2 => {
                http.connections.downstream_cx_http2_total.inc();
                http.hold(|s| &s.connections.downstream_cx_http2_active)
            }
            _ => {
                http.connections.downstream_cx_http1_total.inc();
                http.hold(|s| &s.connections.downstream_cx_http1_active)
            }
        });
    }

    /// Notes that the server, not the client, closes the connection.
    pub(crate) fn closes_locally(&self) {
        self.closes_locally.set(true);
    }

    /// Counts a protocol error of the client.
    pub(crate) fn protocol_error(&self) {
        self.stats
            .http
            .connections
            .downstream_cx_protocol_error
            .inc();
    }

    /// Counts a refused request by its reason.
    pub(crate) fn refused_request(&self, refusal: &Refusal) {
        let http = &self.stats.http;
        match refusal.details {
            "absolute_path_rejected" => http.requests.downstream_rq_non_relative_path.inc(),
            "path_normalization_failed" => {
                http.requests.downstream_rq_failed_path_normalization.inc()
            }
            _ if refusal.failure == Some(RequestFailure::Protocol) => self.protocol_error(),
            _ => {}
        }
    }

    /// Counts a request that ended before its response.
    pub(crate) fn request_reset(&self) {
        self.had_reset.set(true);
        self.stats.http.requests.downstream_rq_rx_reset.inc();
    }

    /// Whether every request got its response.
    pub(crate) fn had_no_reset(&self) -> bool {
        !self.had_reset.get()
    }

    /// Counts a request; it is active until the result is dropped.
    pub(crate) fn request(&self, version: Version) -> OpenRequest {
        let http = &self.stats.http;
        http.requests.downstream_rq_total.inc();
        match version {
            Version::HTTP_2 => http.requests.downstream_rq_http2_total.inc(),
            _ => http.requests.downstream_rq_http1_total.inc(),
        }
        OpenRequest {
            stats: self.stats.clone(),
            started: Instant::now(),
            _active: http.hold(|s| &s.requests.downstream_rq_active),
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let AdminStats { http, listener, .. } = &self.stats;
        let length = self.started.elapsed().as_millis() as u64;
        http.connections.downstream_cx_destroy.inc();
        match self.closes_locally.get() {
            true => http.connections.downstream_cx_destroy_local.inc(),
            false => http.connections.downstream_cx_destroy_remote.inc(),
        }
        http.connections.downstream_cx_length_ms.record(length);
        listener.listener.downstream_cx_destroy.inc();
        listener.listener.downstream_cx_length_ms.record(length);
    }
}

/// Counts one request.
pub(crate) struct OpenRequest {
    stats: AdminStats,
    started: Instant,
    _active: HeldGauge<AdminHttpStats>,
}

impl OpenRequest {
    /// How long ago the request began.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Counts the response. Called before the body is made, so that `/stats` includes its own request.
    pub(crate) fn answered(&self, status: u16) {
        self.stats.http.requests.downstream_rq.record(status);
        self.stats.listener.downstream_rq.record(status);
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let time = self.started.elapsed().as_millis() as u64;
        self.stats.http.requests.downstream_rq_time.record(time);
    }
}
