//! The stats of a connection manager and its router, under Envoy's names.

use outrider_stats::Counter;
use outrider_stats::Lazy;
use outrider_stats::ResponseClasses;
use outrider_stats::ResponseCodes;
use outrider_stats::SharedCounter;
use outrider_stats::SharedHistogram;
use outrider_stats::http::RequestStats;
use outrider_stats::http::RouterStats;

outrider_stats::group! {
    /// `http.<stat_prefix>.*`, except the stats of connections, which the codec counts.
    pub struct ManagerStats {
        #[name("")]
        requests: RequestStats,
        tracing: TracingStats,
        #[name("")]
        router: RouterStats,
    }
}

outrider_stats::group! {
    /// `http.<stat_prefix>.tracing.*`: requests by the reason for which they are traced or not.
    pub struct TracingStats {
        client_enabled: Counter,
        health_check: Counter,
        not_traceable: Counter,
        random_sampling: Counter,
        service_forced: Counter,
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
