//! What is known of a host's health: a set of flags, as Envoy's `/clusters` shows them.
//!
//! The main thread sets the flags, with one exception: a worker marks a host whose response asks for it as excluded. Balancers
//! read them when they are built.

use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use crate::outlier::OutlierMonitor;

/// Whether a host should get requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It should get requests.
    Healthy,
    /// It should when healthy hosts are too few.
    Degraded,
    /// It should not, except in panic.
    Unhealthy,
}

/// Something that is known of a host, apart from what the config says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthFlag {
    /// `/failed_active_hc`: the active health check fails, or was not done yet.
    FailedActiveHc,
    /// `/failed_outlier_check`: outlier detection has ejected it.
    FailedOutlierCheck,
    /// `/degraded_active_hc`: the active health check says that it is degraded.
    DegradedActiveHc,
    /// `/pending_dynamic_removal`: discovery no longer names it, and it stays while it is healthy.
    PendingDynamicRemoval,
    /// `/pending_active_hc`: it was not checked yet, and does not count as a host until it is.
    PendingActiveHc,
    /// `/excluded_via_immediate_hc_fail`: it asked to be excluded.
    ExcludedViaImmediateHcFail,
    /// `/active_hc_timeout`: its last active health check timed out.
    ActiveHcTimeout,
    /// Not shown: the host has active health checks.
    IsChecked,
}

/// The flags of one host. A host that replaces another at the same address takes them over.
#[derive(Debug, Default)]
pub struct HostHealth {
    flags: AtomicU16,
    /// How often it became unhealthy; workers then drain their connections to it.
    failures: AtomicU32,
    /// When a check last made it healthy, ms after it was added.
    passed: AtomicU64,
    /// Where workers report what they see, if anybody listens.
    reports: Option<HealthReports>,
    /// What workers count of it, if its cluster has outlier detection.
    monitor: Option<Box<OutlierMonitor>>,
}

/// What workers see of a host that the main thread has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HealthReport {
    /// A response asked that the host be excluded (`x-envoy-immediate-health-check-fail`).
    ImmediateFailure,
    /// It answered with 5xx so often in a row that it may have to be ejected.
    Consecutive5xx,
    /// It answered with 502, 503 or 504 so often in a row that it may have to be ejected.
    ConsecutiveGatewayFailure,
    /// It could not be reached so often in a row that it may have to be ejected.
    ConsecutiveLocalOriginFailure,
}

/// A report, and the host that it is about.
pub(crate) type HostReport = (Arc<HostHealth>, HealthReport);

/// The workers' end of a cluster's channel of reports. Of each kind of report, the channel holds at most one for each host.
#[derive(Debug)]
pub(crate) struct HealthReports {
    sender: UnboundedSender<HostReport>,
    /// A bit for each kind of report that was not received yet.
    waiting: AtomicU8,
}

impl HostHealth {
    /// The health of a host on which workers report to `sender`.
    pub(crate) fn reporting_to(
        sender: UnboundedSender<HostReport>,
        monitor: Option<OutlierMonitor>,
    ) -> Arc<HostHealth> {
        Arc::new(HostHealth {
            reports: Some(HealthReports {
                sender,
                waiting: AtomicU8::new(0),
            }),
            monitor: monitor.map(Box::new),
            ..HostHealth::default()
        })
    }

    /// What workers count of it, if its cluster has outlier detection.
    pub(crate) fn monitor(&self) -> Option<&OutlierMonitor> {
        self.monitor.as_deref()
    }

    /// The share of successes among the results of the last interval, of answers and of the local origin, percent; -1 if one
    /// is not known.
    #[must_use]
    pub fn success_rates(&self) -> (f64, f64) {
        self.monitor()
            .map_or((-1.0, -1.0), OutlierMonitor::success_rates)
    }

    /// Tells the main thread of `report`, unless it has not read an equal one yet.
    pub(crate) fn report(self: &Arc<Self>, report: HealthReport) {
        if let Some(reports) = &self.reports
            && reports.waiting.fetch_or(report.bit(), Relaxed) & report.bit() == 0
        {
            // The receiver is gone if the cluster is: then nobody needs to know.
            reports.sender.send((self.clone(), report)).ok();
        }
    }

    /// The main thread has read `report`.
    pub(crate) fn note_received(&self, report: HealthReport) {
        if let Some(reports) = &self.reports {
            reports.waiting.fetch_and(!report.bit(), Relaxed);
        }
    }

    /// Whether `flag` is set.
    #[must_use]
    pub fn has(&self, flag: HealthFlag) -> bool {
        self.flags.load(Relaxed) & flag.bit() != 0
    }

    /// Sets or clears `flag`. Returns whether that changed it.
    pub(crate) fn set(&self, flag: HealthFlag, on: bool) -> bool {
        let before = match on {
            true => self.flags.fetch_or(flag.bit(), Relaxed),
            false => self.flags.fetch_and(!flag.bit(), Relaxed),
        };
        (before & flag.bit() != 0) != on
    }

    /// Counts that the host became unhealthy.
    pub(crate) fn count_failure(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    /// Notes that a check passed on a host that did not count as healthy, so long after it was added.
    pub(crate) fn note_pass(&self, age: Duration) {
        let millis = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.passed.store(millis, Relaxed);
    }

    /// How long after it was added a check last made it healthy; zero if none did.
    pub(crate) fn passed_after(&self) -> Duration {
        Duration::from_millis(self.passed.load(Relaxed))
    }

    /// How often the host became unhealthy.
    pub(crate) fn failures(&self) -> u32 {
        self.failures.load(Relaxed)
    }
}

impl HealthReport {
    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl HealthFlag {
    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_independent() {
        let health = HostHealth::default();
        assert!(health.set(HealthFlag::FailedActiveHc, true));
        assert!(!health.set(HealthFlag::FailedActiveHc, true));
        assert!(health.set(HealthFlag::ActiveHcTimeout, true));
        assert!(health.set(HealthFlag::FailedActiveHc, false));
        assert!(!health.has(HealthFlag::FailedActiveHc));
        assert!(health.has(HealthFlag::ActiveHcTimeout));
        assert!(!health.has(HealthFlag::PendingActiveHc));
    }
}
