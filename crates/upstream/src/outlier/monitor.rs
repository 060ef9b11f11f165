//! What workers count about one host for outlier detection, by atomics.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use outrider_runtime::Snapshot;

use super::OutlierConfig;
use crate::health::HealthReport;

/// The result of a request, or of the attempt to send it (`Upstream::Outlier::Result` in Envoy).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutlierResult {
    /// The host answered with this status, or with a gRPC status that stands for it.
    Answered(u16),
    /// There is a connection for the request.
    Connected,
    /// There is a connection, and nothing more is asked of the host.
    ConnectedFinally,
    /// The request could not be sent, or was reset.
    ConnectFailed,
    /// No answer came in time; the client got this status.
    TimedOut(u16),
}

/// The thresholds that workers compare with. The main thread changes them when the runtime changes.
#[derive(Debug, Default)]
pub(crate) struct OutlierThresholds {
    consecutive_5xx: AtomicU64,
    consecutive_gateway_failure: AtomicU64,
    consecutive_local_origin_failure: AtomicU64,
    splits_origins: AtomicBool,
}

/// The counts of one host.
#[derive(Debug)]
pub(crate) struct OutlierMonitor {
    thresholds: Arc<OutlierThresholds>,
    consecutive_5xx: AtomicU64,
    consecutive_gateway_failure: AtomicU64,
    consecutive_local_origin_failure: AtomicU64,
    /// By what hosts answer.
    pub(super) external: SuccessRate,
    /// By whether they could be reached; only with `split_external_local_origin_errors`.
    pub(super) local: SuccessRate,
}

/// The success rates over all hosts at the end of an interval, percent; -1 if that is not known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutlierRates {
    /// The mean.
    pub average: f64,
    /// A host with less is an outlier.
    pub ejection_threshold: f64,
}

impl Default for OutlierRates {
    fn default() -> OutlierRates {
        OutlierRates {
            average: -1.0,
            ejection_threshold: -1.0,
        }
    }
}

/// The share of successes in an interval.
#[derive(Debug)]
pub(crate) struct SuccessRate {
    total: AtomicU64,
    successes: AtomicU64,
    /// The bits of what `/clusters` shows, percent; -1 if it is not known.
    shown: AtomicU64,
}

impl OutlierThresholds {
    /// Takes the thresholds that `config` has with these runtime values.
    pub(crate) fn apply_runtime(&self, config: &OutlierConfig, runtime: &Snapshot) {
        self.consecutive_5xx
            .store(config.consecutive_5xx(runtime), Relaxed);
        self.consecutive_gateway_failure
            .store(config.consecutive_gateway_failure(runtime), Relaxed);
        let local = config.consecutive_local_origin_failure(runtime);
        self.consecutive_local_origin_failure.store(local, Relaxed);
        self.splits_origins.store(config.splits_origins(), Relaxed);
    }
}

impl OutlierMonitor {
    pub(crate) fn new(thresholds: Arc<OutlierThresholds>) -> OutlierMonitor {
        OutlierMonitor {
            thresholds,
            consecutive_5xx: AtomicU64::new(0),
            consecutive_gateway_failure: AtomicU64::new(0),
            consecutive_local_origin_failure: AtomicU64::new(0),
            external: SuccessRate::default(),
            local: SuccessRate::default(),
        }
    }

    /// Counts a result. `report` is called for each threshold that it reaches.
    pub(crate) fn count(&self, result: OutlierResult, report: impl Fn(HealthReport)) {
        let split = self.thresholds.splits_origins.load(Relaxed);
        match result {
            OutlierResult::Answered(status) => {
                self.count_status(status, report);
                if split && status < 500 {
                    self.count_local(true, |_| {});
                }
            }
            OutlierResult::Connected | OutlierResult::ConnectedFinally if split => {
                self.count_local(true, report);
            }
            OutlierResult::Connected => {}
            OutlierResult::ConnectedFinally => self.count_status(200, report),
            OutlierResult::ConnectFailed | OutlierResult::TimedOut(_) if split => {
                self.count_local(false, report);
            }
            OutlierResult::ConnectFailed => self.count_status(503, report),
            OutlierResult::TimedOut(status) => self.count_status(status, report),
        }
    }

    fn count_status(&self, status: u16, report: impl Fn(HealthReport)) {
        let failed = (500..600).contains(&status);
        self.external.count(!failed);
        if !failed {
            self.consecutive_5xx.store(0, Relaxed);
            self.consecutive_gateway_failure.store(0, Relaxed);
            return;
        }
        let thresholds = &self.thresholds;
        if matches!(status, 502..=504) {
            let count = self.consecutive_gateway_failure.fetch_add(1, Relaxed) + 1;
            if count == thresholds.consecutive_gateway_failure.load(Relaxed) {
                report(HealthReport::ConsecutiveGatewayFailure);
            }
        } else {
            self.consecutive_gateway_failure.store(0, Relaxed);
        }
        let count = self.consecutive_5xx.fetch_add(1, Relaxed) + 1;
        if count == thresholds.consecutive_5xx.load(Relaxed) {
            report(HealthReport::Consecutive5xx);
        }
    }

    fn count_local(&self, success: bool, report: impl Fn(HealthReport)) {
        self.local.count(success);
        if success {
            self.consecutive_local_origin_failure.store(0, Relaxed);
            return;
        }
        let count = self.consecutive_local_origin_failure.fetch_add(1, Relaxed) + 1;
        if count
            == self
                .thresholds
                .consecutive_local_origin_failure
                .load(Relaxed)
        {
            report(HealthReport::ConsecutiveLocalOriginFailure);
        }
    }

    /// Starts the count of `report` again.
    pub(super) fn reset(&self, report: HealthReport) {
        match report {
            HealthReport::Consecutive5xx => &self.consecutive_5xx,
            HealthReport::ConsecutiveGatewayFailure => &self.consecutive_gateway_failure,
            HealthReport::ConsecutiveLocalOriginFailure => &self.consecutive_local_origin_failure,
            HealthReport::ImmediateFailure => return,
        }
        .store(0, Relaxed);
    }

    /// The success rates that `/clusters` shows, of answers and of the local origin, percent; -1 if one is not known.
    pub(crate) fn success_rates(&self) -> (f64, f64) {
        (self.external.shown(), self.local.shown())
    }
}

impl SuccessRate {
    fn count(&self, success: bool) {
        self.total.fetch_add(1, Relaxed);
        if success {
            self.successes.fetch_add(1, Relaxed);
        }
    }

    /// Ends an interval: the share of successes, percent, and of how many requests; none without requests.
    #[expect(clippy::cast_precision_loss, reason = "a share needs no precision")]
    pub(super) fn take(&self) -> Option<(f64, u64)> {
        let (total, successes) = (self.total.swap(0, Relaxed), self.successes.swap(0, Relaxed));
        (total > 0).then(|| (successes as f64 * 100.0 / total as f64, total))
    }

    pub(super) fn show(&self, percent: f64) {
        self.shown.store(percent.to_bits(), Relaxed);
    }

    pub(super) fn shown(&self) -> f64 {
        f64::from_bits(self.shown.load(Relaxed))
    }
}

impl Default for SuccessRate {
    fn default() -> SuccessRate {
        SuccessRate {
            total: AtomicU64::new(0),
            successes: AtomicU64::new(0),
            shown: AtomicU64::new((-1.0_f64).to_bits()),
        }
    }
}
