//! Outlier detection (`Cluster.outlier_detection`): takes hosts that fail more than others out of use for a while.
//!
//! Workers count results in the [`OutlierMonitor`] of each host and report a host that failed so often in a row that it may have
//! to go. The main thread ejects hosts, compares success rates at each interval, and lets hosts come back, as Envoy does.

mod config;
mod events;
mod monitor;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use outrider_runtime::Runtime;
use outrider_runtime::Snapshot;
use outrider_stats::Store;
use tokio::time::Instant;

use crate::EventFile;
use crate::HealthFlag;
use crate::Host;
use crate::HostHealth;
use crate::SharedCluster;
use crate::health::HealthReport;
use crate::shared::scope;
use crate::stats::OutlierStats;

pub(crate) use config::OutlierConfig;
pub(crate) use monitor::OutlierMonitor;
pub use monitor::OutlierRates;
pub use monitor::OutlierResult;
pub(crate) use monitor::OutlierThresholds;

/// Why a host is ejected (`envoy.data.cluster.v3.OutlierEjectionType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EjectionType {
    Consecutive5xx,
    ConsecutiveGatewayFailure,
    ConsecutiveLocalOriginFailure,
    SuccessRate,
    SuccessRateLocalOrigin,
    FailurePercentage,
    FailurePercentageLocalOrigin,
}

/// Which success rates are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResultOrigin {
    External,
    Local,
}

/// Detects the outliers of one cluster.
pub(crate) struct OutlierDetector {
    config: OutlierConfig,
    stats: Arc<OutlierStats>,
    runtime: Arc<Runtime>,
    cluster: Arc<str>,
    log: Option<Arc<dyn EventFile>>,
    hosts: RefCell<Vec<Watched>>,
    /// See [`SharedCluster::outlier_rates`].
    rates: Arc<ArcSwap<[OutlierRates; 2]>>,
}

/// A host, and what is remembered of its ejections.
struct Watched {
    host: Arc<Host>,
    ejections: u32,
    /// How many times the base ejection time the next ejection lasts.
    backoff: u32,
    ejected: Option<Instant>,
    unejected: Option<Instant>,
    jitter: Duration,
}

/// The hosts whose health an action has changed.
pub(crate) type ChangedHosts = Vec<Arc<Host>>;

impl OutlierDetector {
    /// The detector of `cluster`, if outliers are to be detected.
    pub(crate) fn new(cluster: &SharedCluster, store: &Arc<Store>) -> Option<OutlierDetector> {
        let config = cluster.info.outlier_detection.clone()?;
        Some(OutlierDetector {
            config,
            stats: store.register(scope(&cluster.info).name("outlier_detection")),
            runtime: cluster.process.runtime.clone(),
            cluster: cluster.info.name.clone(),
            log: cluster.info.outlier_log.clone(),
            hosts: RefCell::default(),
            rates: cluster.outlier_rates.clone(),
        })
    }

    /// Watches these hosts from now on, and no others.
    pub(crate) fn set_hosts<'h>(&self, hosts: impl Iterator<Item = &'h Arc<Host>>) {
        let mut before: std::collections::HashMap<*const HostHealth, Watched> = (self.hosts.take())
            .into_iter()
            .map(|watched| (Arc::as_ptr(watched.host.state()), watched))
            .collect();
        let mut kept = Vec::new();
        for host in hosts {
            let known = before.remove(&Arc::as_ptr(host.state()));
            kept.push(match known {
                Some(watched) => Watched {
                    host: host.clone(),
                    ..watched
                },
                None => Watched::new(host.clone()),
            });
        }
        for gone in before.into_values() {
            if gone.is_ejected() {
                self.stats.ejections_active.dec();
            }
        }
        self.hosts.replace(kept);
    }

    /// How long until the next comparison of success rates.
    pub(crate) fn interval(&self) -> Duration {
        let interval = self.config.interval(&self.runtime.snapshot());
        interval.max(Duration::from_millis(1))
    }

    /// A worker has seen a host fail so often in a row that it may have to be ejected.
    pub(crate) fn on_report(&self, health: &HostHealth, report: HealthReport) -> ChangedHosts {
        let kind = match report {
            HealthReport::Consecutive5xx => EjectionType::Consecutive5xx,
            HealthReport::ConsecutiveGatewayFailure => EjectionType::ConsecutiveGatewayFailure,
            HealthReport::ConsecutiveLocalOriginFailure => {
                EjectionType::ConsecutiveLocalOriginFailure
            }
            HealthReport::ImmediateFailure => return Vec::new(),
        };
        let mut hosts = self.hosts.borrow_mut();
        let found = hosts
            .iter()
            .position(|watched| std::ptr::eq(&raw const **watched.host.state(), health));
        let Some(index) = found.filter(|index| !hosts[*index].is_ejected()) else {
            return Vec::new();
        };
        self.detected(kind).inc();
        let changed = self.eject(&mut hosts, index, kind);
        if kind == EjectionType::Consecutive5xx {
            self.stats.ejections_consecutive_5xx.inc();
        }
        if let Some(monitor) = health.monitor() {
            monitor.reset(report);
        }
        changed.into_iter().collect()
    }

    /// A health check of a host has passed.
    pub(crate) fn on_check_passed(&self, health: &HostHealth) -> ChangedHosts {
        if !self.config.check_unejects()
            || health.has(HealthFlag::FailedActiveHc)
            || !health.has(HealthFlag::FailedOutlierCheck)
        {
            return Vec::new();
        }
        let mut hosts = self.hosts.borrow_mut();
        let mut watched = hosts.iter_mut();
        let found = watched.find(|watched| std::ptr::eq(&raw const **watched.host.state(), health));
        let changed = found.map(|watched| self.uneject(watched));
        changed.into_iter().collect()
    }

    /// Ends an interval.
    pub(crate) fn on_interval(&self) -> ChangedHosts {
        let runtime = self.runtime.snapshot();
        let now = Instant::now();
        let mut hosts = self.hosts.borrow_mut();
        let mut changed = Vec::new();
        let mut rates = Vec::with_capacity(hosts.len());
        for watched in hosts.iter_mut() {
            if watched.is_ejected() && watched.may_return(&self.config, &runtime, now) {
                changed.push(self.uneject(watched));
            }
            rates.push(watched.host.state().monitor().map(|monitor| {
                monitor.external.show(-1.0);
                monitor.local.show(-1.0);
                (monitor.external.take(), monitor.local.take())
            }));
        }
        self.rates.store(Arc::default());
        let external = rates.iter().map(|rates| rates.and_then(|rates| rates.0));
        self.compare(
            &mut hosts,
            ResultOrigin::External,
            external.collect(),
            &mut changed,
        );
        let local = rates.iter().map(|rates| rates.and_then(|rates| rates.1));
        self.compare(
            &mut hosts,
            ResultOrigin::Local,
            local.collect(),
            &mut changed,
        );
        let interval = self.config.interval(&runtime);
        for watched in hosts.iter_mut().filter(|watched| !watched.is_ejected()) {
            if watched.unejected.is_some_and(|at| now - at >= interval) {
                watched.backoff = watched.backoff.saturating_sub(1);
            }
        }
        changed
    }

    /// Ejects the hosts whose success rate is too low. `rates` has the share of successes of each host and its requests.
    #[expect(clippy::cast_precision_loss, reason = "numbers of hosts are small")]
    fn compare(
        &self,
        hosts: &mut [Watched],
        origin: ResultOrigin,
        rates: Vec<Option<(f64, u64)>>,
        changed: &mut ChangedHosts,
    ) {
        let runtime = self.runtime.snapshot();
        let config = &self.config;
        let least = config.success_rate_minimum_hosts(&runtime);
        let volume = config.success_rate_request_volume(&runtime);
        let failing_least = config.failure_percentage_minimum_hosts(&runtime);
        let failing_volume = config.failure_percentage_request_volume(&runtime);
        let count = hosts.len() as u64;
        if count < least && count < failing_least {
            return;
        }
        let rates = rates.into_iter().enumerate();
        let rates: Vec<(usize, f64, u64)> = rates
            .filter(|(index, _)| !hosts[*index].is_ejected())
            .filter_map(|(index, rate)| rate.map(|(percent, total)| (index, percent, total)))
            .collect();
        for (index, percent, total) in &rates {
            if *total >= volume.min(failing_volume)
                && let Some(monitor) = hosts[*index].host.state().monitor()
            {
                match origin {
                    ResultOrigin::External => monitor.external.show(*percent),
                    ResultOrigin::Local => monitor.local.show(*percent),
                }
            }
        }
        let enough = rates.iter().filter(|rate| rate.2 >= volume);
        let enough: Vec<(usize, f64)> = enough.map(|rate| (rate.0, rate.1)).collect();
        if !enough.is_empty() && enough.len() as u64 >= least {
            let mean = enough.iter().map(|rate| rate.1).sum::<f64>() / enough.len() as f64;
            let squares = enough.iter().map(|rate| (rate.1 - mean).powi(2));
            let deviation = (squares.sum::<f64>() / enough.len() as f64).sqrt();
            let factor = config.success_rate_stdev_factor(&runtime) as f64 / 1000.0;
            let threshold = mean - factor * deviation;
            self.show(origin, mean, threshold);
            let kind = match origin {
                ResultOrigin::External => EjectionType::SuccessRate,
                ResultOrigin::Local => EjectionType::SuccessRateLocalOrigin,
            };
            for (index, _) in enough.iter().filter(|rate| rate.1 < threshold) {
                self.stats.ejections_success_rate.inc();
                self.detected(kind).inc();
                let eject =
                    |of: &mut [Watched]| self.eject_by_rate(of, *index, kind, (mean, threshold));
                changed.extend(eject(hosts));
            }
        }
        let enough = rates.iter().filter(|rate| rate.2 >= failing_volume);
        let enough: Vec<(usize, f64)> = enough.map(|rate| (rate.0, rate.1)).collect();
        if !enough.is_empty() && enough.len() as u64 >= failing_least {
            let threshold = config.failure_percentage_threshold(&runtime) as f64;
            let kind = match origin {
                ResultOrigin::External => EjectionType::FailurePercentage,
                ResultOrigin::Local => EjectionType::FailurePercentageLocalOrigin,
            };
            for (index, _) in enough.iter().filter(|rate| 100.0 - rate.1 >= threshold) {
                self.detected(kind).inc();
                changed.extend(self.eject(hosts, *index, kind));
            }
        }
    }

    /// Publishes the success rates for the admin server.
    fn show(&self, origin: ResultOrigin, average: f64, ejection_threshold: f64) {
        let mut rates = **self.rates.load();
        let shown = OutlierRates {
            average,
            ejection_threshold,
        };
        match origin {
            ResultOrigin::External => rates[0] = shown,
            ResultOrigin::Local => rates[1] = shown,
        }
        self.rates.store(Arc::new(rates));
    }

    fn eject(&self, hosts: &mut [Watched], index: usize, kind: EjectionType) -> Option<Arc<Host>> {
        self.eject_by_rate(hosts, index, kind, (-1.0, -1.0))
    }

    /// Ejects a host, unless too many are ejected. `rates` are the mean of all success rates and the least that is allowed.
    #[expect(clippy::cast_precision_loss, reason = "numbers of hosts are small")]
    fn eject_by_rate(
        &self,
        hosts: &mut [Watched],
        index: usize,
        kind: EjectionType,
        rates: (f64, f64),
    ) -> Option<Arc<Host>> {
        let runtime = self.runtime.snapshot();
        let active = self.stats.ejections_active.value().max(0);
        let most = self.config.max_ejection_percent(&runtime).min(100);
        let percent = 100.0 * (active + 1) as f64 / hosts.len().max(1) as f64;
        let is_first = active == 0 && self.config.always_ejects_one_host();
        if percent > most as f64 && !is_first {
            self.stats.ejections_overflow.inc();
            return None;
        }
        if matches!(
            kind,
            EjectionType::Consecutive5xx | EjectionType::SuccessRate
        ) {
            self.stats.ejections_total.inc();
        }
        let watched = hosts
            .get_mut(index)
            .filter(|watched| !watched.is_ejected())?;
        let chance = self.enforcing(kind, &runtime);
        let enforced = fastrand::u64(0..100) < chance;
        let mut changed = None;
        if enforced {
            self.stats.ejections_active.inc();
            self.stats.ejections_enforced_total.inc();
            self.enforced(kind).inc();
            let health = watched.host.state();
            health.set(HealthFlag::FailedOutlierCheck, true);
            health.count_failure();
            watched.ejections += 1;
            watched.ejected = Some(Instant::now());
            let jitter = self.config.max_ejection_time_jitter(&runtime).as_millis();
            let jitter = u64::try_from(jitter).unwrap_or(u64::MAX - 1);
            watched.jitter = Duration::from_millis(fastrand::u64(0..=jitter));
            let base = self.config.base_ejection_time(&runtime);
            let longest = self.config.max_ejection_time(&runtime);
            if base.saturating_mul(watched.backoff) < longest + base {
                watched.backoff += 1;
            }
            changed = Some(watched.host.clone());
        }
        if let Some(log) = &self.log {
            log.write(events::ejected(
                watched,
                kind,
                enforced,
                rates,
                &self.cluster,
            ));
        }
        changed
    }

    fn uneject(&self, watched: &mut Watched) -> Arc<Host> {
        self.stats.ejections_active.dec();
        let health = watched.host.state();
        health.set(HealthFlag::FailedOutlierCheck, false);
        if let Some(monitor) = health.monitor() {
            monitor.reset(HealthReport::Consecutive5xx);
            monitor.reset(HealthReport::ConsecutiveGatewayFailure);
            monitor.reset(HealthReport::ConsecutiveLocalOriginFailure);
        }
        watched.unejected = Some(Instant::now());
        if let Some(log) = &self.log {
            log.write(events::unejected(watched, &self.cluster));
        }
        watched.host.clone()
    }

    fn enforcing(&self, kind: EjectionType, runtime: &Snapshot) -> u64 {
        let config = &self.config;
        match kind {
            EjectionType::Consecutive5xx => config.enforcing_consecutive_5xx(runtime),
            EjectionType::ConsecutiveGatewayFailure => {
                config.enforcing_consecutive_gateway_failure(runtime)
            }
            EjectionType::ConsecutiveLocalOriginFailure => {
                config.enforcing_consecutive_local_origin_failure(runtime)
            }
            EjectionType::SuccessRate => config.enforcing_success_rate(runtime),
            EjectionType::SuccessRateLocalOrigin => {
                config.enforcing_local_origin_success_rate(runtime)
            }
            EjectionType::FailurePercentage => config.enforcing_failure_percentage(runtime),
            EjectionType::FailurePercentageLocalOrigin => {
                config.enforcing_failure_percentage_local_origin(runtime)
            }
        }
    }

    fn detected(&self, kind: EjectionType) -> &outrider_stats::Counter {
        let stats = &self.stats;
        match kind {
            EjectionType::Consecutive5xx => &stats.ejections_detected_consecutive_5xx,
            EjectionType::ConsecutiveGatewayFailure => {
                &stats.ejections_detected_consecutive_gateway_failure
            }
            EjectionType::ConsecutiveLocalOriginFailure => {
                &stats.ejections_detected_consecutive_local_origin_failure
            }
            EjectionType::SuccessRate => &stats.ejections_detected_success_rate,
            EjectionType::SuccessRateLocalOrigin => {
                &stats.ejections_detected_local_origin_success_rate
            }
            EjectionType::FailurePercentage => &stats.ejections_detected_failure_percentage,
            EjectionType::FailurePercentageLocalOrigin => {
                &stats.ejections_detected_local_origin_failure_percentage
            }
        }
    }

    fn enforced(&self, kind: EjectionType) -> &outrider_stats::Counter {
        let stats = &self.stats;
        match kind {
            EjectionType::Consecutive5xx => &stats.ejections_enforced_consecutive_5xx,
            EjectionType::ConsecutiveGatewayFailure => {
                &stats.ejections_enforced_consecutive_gateway_failure
            }
            EjectionType::ConsecutiveLocalOriginFailure => {
                &stats.ejections_enforced_consecutive_local_origin_failure
            }
            EjectionType::SuccessRate => &stats.ejections_enforced_success_rate,
            EjectionType::SuccessRateLocalOrigin => {
                &stats.ejections_enforced_local_origin_success_rate
            }
            EjectionType::FailurePercentage => &stats.ejections_enforced_failure_percentage,
            EjectionType::FailurePercentageLocalOrigin => {
                &stats.ejections_enforced_local_origin_failure_percentage
            }
        }
    }
}

impl Drop for OutlierDetector {
    fn drop(&mut self) {
        for watched in self.hosts.get_mut() {
            if watched.is_ejected() {
                self.stats.ejections_active.dec();
            }
        }
    }
}

impl Watched {
    fn new(host: Arc<Host>) -> Watched {
        Watched {
            host,
            ejections: 0,
            backoff: 0,
            ejected: None,
            unejected: None,
            jitter: Duration::ZERO,
        }
    }

    fn is_ejected(&self) -> bool {
        self.host.state().has(HealthFlag::FailedOutlierCheck)
    }

    /// Whether an ejected host has been out for long enough.
    fn may_return(&self, config: &OutlierConfig, runtime: &Snapshot, now: Instant) -> bool {
        let base = config.base_ejection_time(runtime);
        let most = config.max_ejection_time(runtime);
        let time = base.saturating_mul(self.backoff).min(most) + self.jitter;
        self.ejected.is_some_and(|ejected| now - ejected >= time)
    }
}
