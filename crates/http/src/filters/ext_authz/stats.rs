//! The filter's stats, under Envoy's names.

use outrider_stats::Counter;
use outrider_stats::Lazy;

outrider_stats::group! {
    /// `http.<stat_prefix>.ext_authz.*`
    pub(super) struct ExtAuthzStats {
        denied: Counter,
        disabled: Counter,
        error: Counter,
        failure_mode_allowed: Counter,
        filter_state_name_collision: Counter,
        ignored_dynamic_metadata: Counter,
        invalid: Counter,
        ok: Counter,
        omitted_response_headers: Counter,
        request_header_limits_reached: Counter,
    }
}

outrider_stats::group! {
    /// `cluster.<name>.ext_authz.*`: of the cluster that the request is for. Each is listed from the first request on.
    pub(super) struct ClusterAuthzStats {
        denied: Lazy<Counter>,
        error: Lazy<Counter>,
        failure_mode_allowed: Lazy<Counter>,
        invalid: Lazy<Counter>,
        ok: Lazy<Counter>,
    }
}
