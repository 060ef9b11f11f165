//! The stats of clusters, under Envoy's names.
//!
//! Stats that add up over workers ([`ClusterStats`]) have a copy on each worker that uses the cluster. The main thread
//! registers one copy at once, so that the names are listed from the start. All other stats have a single copy.

use outrider_stats::Counter;
use outrider_stats::Gauge;
use outrider_stats::Histogram;
use outrider_stats::Lazy;
use outrider_stats::ResponseCodes;
use outrider_stats::SharedCounter;
use outrider_stats::SharedGauge;

outrider_stats::group! {
    /// `cluster.<name>.*`, the part that workers count.
    pub struct ClusterStats {
        bind_errors: Counter,
        lb_healthy_panic: Counter,
        lb_local_cluster_not_ok: Counter,
        lb_recalculate_zone_structures: Counter,
        lb_subsets_active: Gauge,
        lb_subsets_created: Counter,
        lb_subsets_fallback: Counter,
        lb_subsets_fallback_panic: Counter,
        lb_subsets_removed: Counter,
        lb_subsets_selected: Counter,
        lb_zone_cluster_too_small: Counter,
        lb_zone_no_capacity_left: Counter,
        lb_zone_routing_all_directly: Counter,
        lb_zone_routing_cross_zone: Counter,
        lb_zone_routing_sampled: Counter,
        original_dst_host_invalid: Counter,
        retry_or_shadow_abandoned: Counter,
        upstream_cx_active: Gauge,
        upstream_cx_close_notify: Counter,
        upstream_cx_connect_attempts_exceeded: Counter,
        upstream_cx_connect_fail: Counter,
        upstream_cx_connect_ms: Histogram,
        upstream_cx_connect_timeout: Counter,
        upstream_cx_connect_with_0_rtt: Counter,
        upstream_cx_destroy: Counter,
        upstream_cx_destroy_local: Counter,
        upstream_cx_destroy_local_with_active_rq: Counter,
        upstream_cx_destroy_remote: Counter,
        upstream_cx_destroy_remote_with_active_rq: Counter,
        upstream_cx_destroy_with_active_rq: Counter,
        upstream_cx_http1_total: Counter,
        upstream_cx_http2_total: Counter,
        upstream_cx_http3_total: Counter,
        upstream_cx_idle_timeout: Counter,
        upstream_cx_length_ms: Histogram,
        upstream_cx_max_duration_reached: Counter,
        upstream_cx_max_requests: Counter,
        upstream_cx_none_healthy: Counter,
        upstream_cx_overflow: Counter,
        upstream_cx_pool_overflow: Counter,
        upstream_cx_preconnect_skipped: Counter,
        upstream_cx_protocol_error: Counter,
        upstream_cx_rx_bytes_buffered: Gauge,
        upstream_cx_rx_bytes_total: Counter,
        upstream_cx_total: Counter,
        upstream_cx_tx_bytes_buffered: Gauge,
        upstream_cx_tx_bytes_total: Counter,
        upstream_flow_control_backed_up_total: Counter,
        upstream_flow_control_drained_total: Counter,
        upstream_flow_control_paused_reading_total: Counter,
        upstream_flow_control_resumed_reading_total: Counter,
        upstream_http3_broken: Counter,
        upstream_internal_redirect_failed_total: Counter,
        upstream_internal_redirect_succeeded_total: Counter,
        upstream_queue_overloaded: Gauge,
        /// Counted by the router.
        upstream_rq: ResponseCodes,
        upstream_rq_0rtt: Counter,
        upstream_rq_active: Gauge,
        upstream_rq_active_overflow: Counter,
        upstream_rq_cancelled: Counter,
        upstream_rq_maintenance_mode: Counter,
        upstream_rq_max_duration_reached: Counter,
        upstream_rq_pending_active: Gauge,
        upstream_rq_pending_failure_eject: Counter,
        upstream_rq_pending_overflow: Counter,
        upstream_rq_pending_total: Counter,
        upstream_rq_per_cx: Histogram,
        upstream_rq_per_try_idle_timeout: Counter,
        upstream_rq_per_try_timeout: Counter,
        upstream_rq_retry: Counter,
        upstream_rq_retry_backoff_exponential: Counter,
        upstream_rq_retry_backoff_ratelimited: Counter,
        upstream_rq_retry_limit_exceeded: Counter,
        upstream_rq_retry_overflow: Counter,
        upstream_rq_retry_success: Counter,
        upstream_rq_rx_reset: Counter,
        upstream_rq_rx_reset_no_error: Counter,
        /// Milliseconds from the end of the request to the end of the response; listed from the first response on.
        upstream_rq_time: Lazy<Histogram>,
        upstream_rq_timeout: Counter,
        upstream_rq_total: Counter,
        upstream_rq_tx_reset: Counter,
        /// Responses to external clients; listed from the first on.
        external: Lazy<OriginStats>,
        /// Responses to internal requests; listed from the first on.
        internal: Lazy<OriginStats>,
        /// Responses of canary hosts; listed from the first on.
        canary: Lazy<OriginStats>,
        /// Responses that were followed by a retry; listed from the first on.
        retry: Lazy<RetryStats>,
    }
}

outrider_stats::group! {
    /// `cluster.<name>.retry.*`: the statuses of responses that were followed by a retry.
    pub struct RetryStats {
        upstream_rq: ResponseCodes,
    }
}

outrider_stats::group! {
    /// The part of [`ClusterStats`] that is listed without traffic even if the rest is deferred.
    pub struct BalancingStats {
        lb_healthy_panic: Counter,
        lb_local_cluster_not_ok: Counter,
        lb_recalculate_zone_structures: Counter,
        lb_subsets_active: Gauge,
        lb_subsets_created: Counter,
        lb_subsets_fallback: Counter,
        lb_subsets_fallback_panic: Counter,
        lb_subsets_removed: Counter,
        lb_subsets_selected: Counter,
        lb_zone_cluster_too_small: Counter,
        lb_zone_no_capacity_left: Counter,
        lb_zone_routing_all_directly: Counter,
        lb_zone_routing_cross_zone: Counter,
        lb_zone_routing_sampled: Counter,
    }
}

outrider_stats::group! {
    /// `cluster.<name>.{external,internal,canary}.*` and `cluster.<name>.zone.<from>.<to>.*`: responses by the origin
    /// of the request and the host.
    pub struct OriginStats {
        upstream_rq: ResponseCodes,
        upstream_rq_time: Lazy<Histogram>,
    }
}

outrider_stats::group! {
    /// `cluster.<name>.<alternative>.*`: responses to requests that internal clients count separately
    /// (`x-envoy-upstream-alt-stat-name`).
    pub struct AlternativeStats {
        upstream_rq: ResponseCodes,
        upstream_rq_time: Lazy<Histogram>,
        internal: Lazy<OriginStats>,
        canary: Lazy<OriginStats>,
    }
}

outrider_stats::group! {
    /// `cluster.<name>.*`, the part that the main thread writes: hosts and updates.
    pub struct MembershipStats {
        assignment_stale: Counter,
        assignment_timeout_received: Counter,
        assignment_use_cached: Counter,
        /// With `MAGLEV` only.
        maglev_lb: Lazy<MaglevStats>,
        /// With `RING_HASH` only.
        ring_hash_lb: Lazy<RingHashStats>,
        /// With subsets only.
        #[name("")]
        subsets: Lazy<SubsetStats>,
        max_host_weight: Gauge,
        membership_change: Counter,
        membership_degraded: Gauge,
        membership_excluded: Gauge,
        membership_healthy: Gauge,
        membership_total: Gauge,
        update_attempt: Counter,
        update_empty: Counter,
        update_failure: Counter,
        update_no_rebuild: Counter,
        update_success: Counter,
        version: Gauge,
        warming_state: Gauge,
    }
}

outrider_stats::group! {
    /// `cluster.<name>.outlier_detection.*`. `ejections_consecutive_5xx`, `ejections_success_rate` and `ejections_total` are
    /// deprecated in Envoy, and still counted there.
    pub struct OutlierStats {
        ejections_active: Gauge,
        ejections_consecutive_5xx: Counter,
        ejections_detected_consecutive_5xx: Counter,
        ejections_detected_consecutive_gateway_failure: Counter,
        ejections_detected_consecutive_local_origin_failure: Counter,
        ejections_detected_degradation: Counter,
        ejections_detected_failure_percentage: Counter,
        ejections_detected_local_origin_failure_percentage: Counter,
        ejections_detected_local_origin_success_rate: Counter,
        ejections_detected_success_rate: Counter,
        ejections_enforced_consecutive_5xx: Counter,
        ejections_enforced_consecutive_gateway_failure: Counter,
        ejections_enforced_consecutive_local_origin_failure: Counter,
        ejections_enforced_failure_percentage: Counter,
        ejections_enforced_local_origin_failure_percentage: Counter,
        ejections_enforced_local_origin_success_rate: Counter,
        ejections_enforced_success_rate: Counter,
        ejections_enforced_total: Counter,
        ejections_overflow: Counter,
        ejections_success_rate: Counter,
        ejections_total: Counter,
    }
}

outrider_stats::group! {
    /// `cluster.<name>.health_check.*`
    pub struct HealthCheckStats {
        attempt: Counter,
        degraded: Gauge,
        failure: Counter,
        healthy: Gauge,
        network_failure: Counter,
        passive_failure: Counter,
        success: Counter,
        verify_cluster: Counter,
    }
}

outrider_stats::group! {
    /// `cluster.<name>.ring_hash_lb.*`: the latest ring.
    pub struct RingHashStats {
        max_hashes_per_host: Gauge,
        min_hashes_per_host: Gauge,
        size: Gauge,
    }
}

outrider_stats::group! {
    /// `cluster.<name>.*`, for clusters with subsets.
    pub struct SubsetStats {
        /// Hosts that are left out because their subset, which may have one host only, has another.
        lb_subsets_single_host_per_subset_duplicate: Gauge,
    }
}

outrider_stats::group! {
    /// `cluster.<name>.maglev_lb.*`: the latest table.
    pub struct MaglevStats {
        max_entries_per_host: Gauge,
        min_entries_per_host: Gauge,
    }
}

outrider_stats::group! {
    /// `cluster.<name>.<transport socket match>.*`
    pub struct MatchStats {
        /// Hosts created for this transport socket.
        total_match_count: Counter,
    }
}

outrider_stats::group! {
    /// `cluster.<name>.circuit_breakers.*`. All workers share it, as they share the breakers.
    pub struct BreakerStats {
        default: PriorityBreakerStats,
        high: PriorityBreakerStats,
    }
}

outrider_stats::group! {
    /// `cluster.<name>.circuit_breakers.<priority>.*`: 1 while a breaker is open.
    pub struct PriorityBreakerStats {
        cx_open: SharedGauge,
        cx_pool_open: SharedGauge,
        rq_open: SharedGauge,
        rq_pending_open: SharedGauge,
        rq_retry_open: SharedGauge,
        /// With `track_remaining` only.
        #[name("")]
        remaining: Lazy<RemainingStats>,
    }
}

outrider_stats::group! {
    /// What remains until each breaker of one priority opens.
    pub struct RemainingStats {
        remaining_cx: SharedGauge,
        remaining_cx_pools: SharedGauge,
        remaining_pending: SharedGauge,
        remaining_retries: SharedGauge,
        remaining_rq: SharedGauge,
    }
}

outrider_stats::group! {
    /// `cluster_manager.*`
    pub struct ClusterManagerStats {
        active_clusters: Gauge,
        cluster_added: Counter,
        cluster_modified: Counter,
        cluster_removed: Counter,
        cluster_updated: Counter,
        cluster_updated_via_merge: Counter,
        update_merge_cancelled: Counter,
        update_out_of_merge_window: Counter,
        warming_clusters: Gauge,
    }
}

outrider_stats::group! {
    /// `dns.cares.*`: the names are those of Envoy's resolver library; the counts are those of Outrider's resolver.
    pub struct DnsStats {
        get_addr_failure: Counter,
        not_found: Counter,
        pending_resolutions: Gauge,
        reinits: Counter,
        resolve_total: Counter,
        timeouts: Counter,
    }
}

outrider_stats::group! {
    /// `dns_cache.<name>.*`
    pub struct DnsCacheStats {
        circuit_breakers: DnsCacheBreakerStats,
        dns_address_filter_out: SharedCounter,
        dns_query_attempt: SharedCounter,
        dns_query_failure: SharedCounter,
        dns_query_success: SharedCounter,
        dns_query_timeout: SharedCounter,
        dns_rq_pending_overflow: SharedCounter,
        host_added: SharedCounter,
        host_address_changed: SharedCounter,
        host_overflow: SharedCounter,
        host_removed: SharedCounter,
        num_hosts: SharedGauge,
    }
}

outrider_stats::group! {
    /// `dns_cache.<name>.circuit_breakers.*`
    pub struct DnsCacheBreakerStats {
        rq_pending_open: SharedGauge,
        rq_pending_remaining: SharedGauge,
    }
}

outrider_stats::group! {
    /// `thread_local_cluster_manager.<thread>.*`
    pub struct ThreadLocalClusterManagerStats { clusters_inflated: Gauge }
}
