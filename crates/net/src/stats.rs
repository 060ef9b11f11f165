//! The stats of listeners.

use outrider_stats::Counter;
use outrider_stats::Gauge;
use outrider_stats::Histogram;

outrider_stats::group! {
    /// `listener.<address>.*` and `listener.admin.*`
    pub struct ListenerStats {
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
        no_filter_chain_match: Counter,
    }
}

outrider_stats::group! {
    /// `listener.<address>.worker_<number>.*`
    pub struct WorkerListenerStats { downstream_cx_active: Gauge, downstream_cx_total: Counter }
}

outrider_stats::group! {
    /// `listener.<address>.*`: filters whose configuration did not arrive by ECDS. The admin port has no such filters.
    pub struct ExtensionConfigStats { extension_config_missing: Counter, network_extension_config_missing: Counter }
}
