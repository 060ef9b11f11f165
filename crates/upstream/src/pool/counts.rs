//! The counts of one connection to a host, from its first packet to its last.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use outrider_stats::HeldGauge;
use tokio::time::Instant;

use super::PoolCx;
use super::PoolFailure;
use crate::Host;
use crate::Permit;
use crate::stats::ClusterStats;

/// Counts a connection from its first packet to its last, in the stats of its cluster and host.
pub(super) struct ConnectionCounts {
    pub(super) cx: Rc<PoolCx>,
    pub(super) host: Arc<Host>,
    pub(super) started: Instant,
    _permit: Permit,
    _active: HeldGauge<ClusterStats>,
}

impl ConnectionCounts {
    /// Counts a connection that is about to be made.
    pub(super) fn new(cx: Rc<PoolCx>, host: Arc<Host>, permit: Permit) -> ConnectionCounts {
        let stats = &cx.stats;
        stats.upstream_cx_total.inc();
        cx.had_traffic.store(true, Relaxed);
        host.stats.cx_total.inc();
        host.stats.cx_active.inc();
        ConnectionCounts {
            started: cx.worker.timers.now(),
            _permit: permit,
            _active: stats.hold(|stats| &stats.upstream_cx_active),
            cx,
            host,
        }
    }

    /// The connection could not be established.
    pub(super) fn end_unmade(&self, failure: &PoolFailure) {
        self.cx.stats.upstream_cx_connect_fail.inc();
        self.host.stats.cx_connect_fail.inc();
        self.destroyed(!matches!(failure, PoolFailure::RemoteConnectionFailure(_)));
    }

    /// Counts the end of a connection that still had requests.
    pub(super) fn destroyed_with_requests(&self, local: bool) {
        let stats = &self.cx.stats;
        stats.upstream_cx_destroy_with_active_rq.inc();
        if local {
            stats.upstream_cx_destroy_local_with_active_rq.inc();
        } else {
            stats.upstream_cx_destroy_remote_with_active_rq.inc();
        }
    }

    /// Counts the end of a connection, which this side or the host has closed.
    pub(super) fn destroyed(&self, local: bool) {
        let stats = &self.cx.stats;
        stats.upstream_cx_destroy.inc();
        if local {
            stats.upstream_cx_destroy_local.inc();
        } else {
            stats.upstream_cx_destroy_remote.inc();
        }
        let length = self.started.elapsed().as_millis();
        stats
            .upstream_cx_length_ms
            .record(u64::try_from(length).unwrap_or(u64::MAX));
    }
}

impl Drop for ConnectionCounts {
    fn drop(&mut self) {
        self.host.stats.cx_active.dec();
    }
}

impl fmt::Debug for ConnectionCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionCounts")
            .field("host", self.host.address())
            .finish_non_exhaustive()
    }
}
