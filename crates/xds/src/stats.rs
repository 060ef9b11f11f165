//! The stats of a subscription's updates.

use std::time::SystemTime;

use outrider_stats::Counter;
use outrider_stats::Gauge;
use outrider_stats::Histogram;
use outrider_stats::TextReadout;
use xxhash_rust::xxh64::xxh64;

outrider_stats::group! {
    /// The stats of every subscription, as in Envoy, below `cluster_manager.cds.`, `listener_manager.lds.` and so on.
    pub struct UpdateStats {
        init_fetch_timeout: Counter,
        update_attempt: Counter,
        update_duration: Histogram,
        update_failure: Counter,
        update_rejected: Counter,
        update_success: Counter,
        update_time: Gauge,
        version: Gauge,
        version_text: TextReadout,
    }
}

outrider_stats::group! {
    /// `control_plane.*`, of each stream.
    pub struct ControlPlaneStats {
        connected_state: Gauge,
        identifier: TextReadout,
        pending_requests: Gauge,
        rate_limit_enforced: Counter,
    }
}

impl UpdateStats {
    /// Counts an update that was accepted, of this `version_info`.
    pub fn accept(&self, version: &str) {
        self.update_success.inc();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let millis = now.unwrap_or_default().as_millis();
        self.update_time
            .set(u64::try_from(millis).unwrap_or(u64::MAX));
        // As in Envoy, a hash of the version.
        self.version.set(xxh64(version.as_bytes(), 0));
        self.version_text.set(version);
    }
}
