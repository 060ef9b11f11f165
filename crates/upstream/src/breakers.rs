//! Circuit breakers: limits on what a cluster may have open at once, over all workers.
//!
//! A breaker is an atomic count with a limit, which the runtime may change. Each user holds a [`Permit`], which counts
//! back when it is dropped.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use arc_swap::ArcSwapOption;
use outrider_runtime::Snapshot;
use outrider_stats::Lazy;
use outrider_stats::SharedGauge;

use crate::stats::BreakerStats;
use crate::stats::PriorityBreakerStats;
use crate::stats::RemainingStats;

/// A request's priority (`envoy.config.core.v3.RoutingPriority`). Each priority has its own breakers and connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoutingPriority {
    /// `DEFAULT`
    #[default]
    Default,
    /// `HIGH`
    High,
}

/// The resources that breakers limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerResource {
    /// Connections, including those that are being established.
    Connections,
    /// Requests that wait for a connection.
    PendingRequests,
    /// Requests that have a connection.
    Requests,
    /// Retries that are under way.
    Retries,
    /// Connection pools.
    ConnectionPools,
}

/// The limits of one priority (`CircuitBreakers.Thresholds`). Defaults are Envoy's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// `max_connections`
    pub max_connections: u64,
    /// `max_pending_requests`
    pub max_pending_requests: u64,
    /// `max_requests`
    pub max_requests: u64,
    /// `max_retries`
    pub max_retries: u64,
    /// `retry_budget`, which replaces `max_retries`.
    pub retry_budget: Option<RetryBudget>,
    /// `max_connection_pools`
    pub max_connection_pools: u64,
    /// `track_remaining`
    pub track_remaining: bool,
    /// `per_host_thresholds[].max_connections`
    pub max_connections_per_host: u64,
}

/// The number of retries allowed for the requests that are under way (`CircuitBreakers.Thresholds.RetryBudget`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// `budget_percent`: retries per hundred requests.
    pub percent: f64,
    /// `min_retry_concurrency`: the number of retries that is always allowed.
    pub min_concurrency: u64,
}

impl RetryBudget {
    /// The limit while `requests` are under way or pending.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of a count of requests, rounded down as Envoy does"
    )]
    fn limit(&self, requests: u64) -> u64 {
        let share = (self.percent / 100.0 * requests as f64) as u64;
        share.max(self.min_concurrency)
    }
}

impl Default for RetryBudget {
    fn default() -> RetryBudget {
        RetryBudget {
            percent: 20.0,
            min_concurrency: 3,
        }
    }
}

impl Default for Thresholds {
    fn default() -> Thresholds {
        Thresholds {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            retry_budget: None,
            max_connection_pools: u64::MAX,
            track_remaining: false,
            max_connections_per_host: u64::from(u32::MAX),
        }
    }
}

/// A cluster's breakers, shared by all workers.
#[derive(Debug)]
pub struct Breakers {
    default: PriorityBreakers,
    high: PriorityBreakers,
    stats: Arc<BreakerStats>,
}

#[derive(Debug)]
struct PriorityBreakers {
    /// The configured limits.
    thresholds: Thresholds,
    connections: Breaker,
    pending_requests: Breaker,
    requests: Breaker,
    retries: Breaker,
    connection_pools: Breaker,
    /// `retry_budget`, as the runtime says now.
    retry_budget: ArcSwapOption<RetryBudget>,
    /// Whether the runtime has ever changed a limit. While it has not, `…_open` changes only when the count reaches the
    /// limit or leaves it. A changed limit may lie on the other side of the count, so from then on each acquisition and
    /// release computes the gauges from both.
    limits_changed: AtomicBool,
}

/// A count and its limit.
#[derive(Debug)]
struct Breaker {
    count: AtomicU64,
    max: AtomicU64,
}

const RESOURCES: [BreakerResource; 5] = [
    BreakerResource::Connections,
    BreakerResource::PendingRequests,
    BreakerResource::Requests,
    BreakerResource::Retries,
    BreakerResource::ConnectionPools,
];

impl Breakers {
    pub(crate) fn new(default: Thresholds, high: Thresholds, stats: Arc<BreakerStats>) -> Breakers {
        Breakers {
            default: PriorityBreakers::new(default),
            high: PriorityBreakers::new(high),
            stats,
        }
    }

    /// Sets the gauges to what is available while nothing is in use. Only for a cluster that becomes active: an
    /// unchanged cluster of the same name shares the gauges.
    pub(crate) fn start(&self) {
        start_remaining(&self.default.thresholds, &self.stats.default);
        start_remaining(&self.high.thresholds, &self.stats.high);
    }

    /// Sets the limits of the cluster `cluster` to the runtime's values, or to the configured ones where the runtime
    /// has none.
    pub(crate) fn apply_runtime(&self, cluster: &str, runtime: &Snapshot) {
        for (priority, name) in [
            (RoutingPriority::Default, "default"),
            (RoutingPriority::High, "high"),
        ] {
            let breakers = self.of(priority);
            breakers.obey_retry_budget(&format!("circuit_breakers.{cluster}.{name}"), runtime);
            for resource in RESOURCES {
                let field = resource.field();
                let key = format!("circuit_breakers.{cluster}.{name}.{field}");
                let configured = breakers.thresholds.of(resource);
                let max = runtime.number(&key).unwrap_or(configured);
                if breakers.of(resource).max.swap(max, Relaxed) != max {
                    breakers.limits_changed.store(true, Relaxed);
                }
            }
            if breakers.limits_changed.load(Relaxed) {
                for resource in RESOURCES {
                    // If the resource was never used, the gauge stays unused.
                    if breakers.of(resource).count.load(Relaxed) > 0 {
                        self.set_gauges(priority, resource);
                    }
                }
            }
        }
    }

    /// The configured limits of a priority.
    #[must_use]
    pub fn thresholds(&self, priority: RoutingPriority) -> &Thresholds {
        &self.of(priority).thresholds
    }

    /// The current limit of a resource.
    #[must_use]
    pub fn max(&self, priority: RoutingPriority, resource: BreakerResource) -> u64 {
        self.of(priority).max(resource)
    }

    /// The number of requests under way, of all priorities.
    #[must_use]
    pub fn active_requests(&self) -> u64 {
        [&self.default, &self.high]
            .iter()
            .map(|breakers| breakers.requests.count.load(Relaxed))
            .sum()
    }

    /// Whether a permit could be taken now.
    #[must_use]
    pub fn has_room(&self, priority: RoutingPriority, resource: BreakerResource) -> bool {
        let breakers = self.of(priority);
        breakers.of(resource).count.load(Relaxed) < breakers.max(resource)
    }

    /// Takes a permit; `None` if the limit is reached.
    pub fn acquire(
        self: &Arc<Self>,
        priority: RoutingPriority,
        resource: BreakerResource,
    ) -> Option<Permit> {
        let acquired = self.acquire_without_permit(priority, resource);
        acquired.then(|| self.permit(priority, resource))
    }

    /// Like [`acquire`](Breakers::acquire), but the caller must call [`release`](Breakers::release) itself. A permit
    /// holds a reference to the breakers; a request has one anyway.
    pub(crate) fn acquire_without_permit(
        &self,
        priority: RoutingPriority,
        resource: BreakerResource,
    ) -> bool {
        let breakers = self.of(priority);
        let max = breakers.max(resource);
        let count = &breakers.of(resource).count;
        let acquired = count.fetch_update(Relaxed, Relaxed, |n| (n < max).then(|| n + 1));
        if let Ok(before) = acquired {
            self.count_acquired(priority, resource, before + 1);
        }
        acquired.is_ok()
    }

    /// Takes a permit even above the limit: a pool without connections may always open its first.
    pub(crate) fn acquire_always(
        self: &Arc<Self>,
        priority: RoutingPriority,
        resource: BreakerResource,
    ) -> Permit {
        let count = &self.of(priority).of(resource).count;
        let before = count.fetch_add(1, Relaxed);
        self.count_acquired(priority, resource, before + 1);
        self.permit(priority, resource)
    }

    fn permit(self: &Arc<Self>, priority: RoutingPriority, resource: BreakerResource) -> Permit {
        Permit {
            breakers: self.clone(),
            priority,
            resource,
        }
    }

    fn count_acquired(&self, priority: RoutingPriority, resource: BreakerResource, now: u64) {
        let breakers = self.of(priority);
        if breakers.limits_changed.load(Relaxed) {
            return self.set_gauges(priority, resource);
        }
        let max = breakers.max(resource);
        let stats = self.stats_of(priority);
        let open = open_gauge(stats, resource);
        open.mark_used();
        if now == max {
            open.inc();
        }
        if breakers.thresholds.track_remaining && now <= max {
            remaining_gauge(&stats.remaining, resource).dec();
        }
    }

    /// Returns what [`acquire_without_permit`](Breakers::acquire_without_permit) took.
    pub(crate) fn release(&self, priority: RoutingPriority, resource: BreakerResource) {
        let breakers = self.of(priority);
        let before = breakers.of(resource).count.fetch_sub(1, Relaxed);
        if breakers.limits_changed.load(Relaxed) {
            return self.set_gauges(priority, resource);
        }
        let max = breakers.max(resource);
        let stats = self.stats_of(priority);
        if before == max {
            open_gauge(stats, resource).dec();
        }
        if breakers.thresholds.track_remaining && before <= max {
            remaining_gauge(&stats.remaining, resource).inc();
        }
    }

    /// Sets the gauges of a resource from its count and limit.
    fn set_gauges(&self, priority: RoutingPriority, resource: BreakerResource) {
        let breakers = self.of(priority);
        let stats = self.stats_of(priority);
        let count = breakers.of(resource).count.load(Relaxed);
        let max = breakers.max(resource);
        open_gauge(stats, resource).set(u64::from(count >= max));
        let thresholds = &breakers.thresholds;
        let has_budget =
            resource == BreakerResource::Retries && breakers.retry_budget.load().is_some();
        if thresholds.track_remaining && !has_budget {
            let remaining = max.saturating_sub(count).min(i64::MAX.cast_unsigned());
            remaining_gauge(&stats.remaining, resource).set(remaining);
        }
    }

    fn of(&self, priority: RoutingPriority) -> &PriorityBreakers {
        match priority {
            RoutingPriority::Default => &self.default,
            RoutingPriority::High => &self.high,
        }
    }

    fn stats_of(&self, priority: RoutingPriority) -> &PriorityBreakerStats {
        match priority {
            RoutingPriority::Default => &self.stats.default,
            RoutingPriority::High => &self.stats.high,
        }
    }
}

impl PriorityBreakers {
    fn new(thresholds: Thresholds) -> PriorityBreakers {
        let breaker = |resource| Breaker {
            count: AtomicU64::new(0),
            max: AtomicU64::new(thresholds.of(resource)),
        };
        PriorityBreakers {
            connections: breaker(BreakerResource::Connections),
            pending_requests: breaker(BreakerResource::PendingRequests),
            requests: breaker(BreakerResource::Requests),
            retries: breaker(BreakerResource::Retries),
            connection_pools: breaker(BreakerResource::ConnectionPools),
            retry_budget: ArcSwapOption::from_pointee(thresholds.retry_budget),
            limits_changed: AtomicBool::new(false),
            thresholds,
        }
    }

    /// As in Envoy, one of the two keys alone gives a cluster a budget.
    fn obey_retry_budget(&self, prefix: &str, runtime: &Snapshot) {
        let percent = runtime.double(&format!("{prefix}.retry_budget.budget_percent"));
        let least = runtime.number(&format!("{prefix}.retry_budget.min_retry_concurrency"));
        let configured = self.thresholds.retry_budget;
        let budget = match (percent, least, configured) {
            (None, None, configured) => configured,
            (percent, least, configured) => {
                let configured = configured.unwrap_or_default();
                Some(RetryBudget {
                    percent: percent.unwrap_or(configured.percent),
                    min_concurrency: least.unwrap_or(configured.min_concurrency),
                })
            }
        };
        if self.retry_budget.load().as_deref().copied() != budget {
            self.retry_budget.store(budget.map(Arc::new));
            self.limits_changed.store(true, Relaxed);
        }
    }

    fn of(&self, resource: BreakerResource) -> &Breaker {
        match resource {
            BreakerResource::Connections => &self.connections,
            BreakerResource::PendingRequests => &self.pending_requests,
            BreakerResource::Requests => &self.requests,
            BreakerResource::Retries => &self.retries,
            BreakerResource::ConnectionPools => &self.connection_pools,
        }
    }

    fn max(&self, resource: BreakerResource) -> u64 {
        if resource == BreakerResource::Retries
            && let Some(budget) = self.retry_budget.load().as_deref()
        {
            let under_way = |breaker: &Breaker| breaker.count.load(Relaxed);
            return budget.limit(under_way(&self.requests) + under_way(&self.pending_requests));
        }
        self.of(resource).max.load(Relaxed)
    }
}

impl Thresholds {
    fn of(&self, resource: BreakerResource) -> u64 {
        match resource {
            BreakerResource::Connections => self.max_connections,
            BreakerResource::PendingRequests => self.max_pending_requests,
            BreakerResource::Requests => self.max_requests,
            BreakerResource::Retries => self.max_retries,
            BreakerResource::ConnectionPools => self.max_connection_pools,
        }
    }
}

impl BreakerResource {
    /// The name of its limit in `Thresholds` and in runtime keys.
    fn field(self) -> &'static str {
        match self {
            BreakerResource::Connections => "max_connections",
            BreakerResource::PendingRequests => "max_pending_requests",
            BreakerResource::Requests => "max_requests",
            BreakerResource::Retries => "max_retries",
            BreakerResource::ConnectionPools => "max_connection_pools",
        }
    }
}

/// Counts for one resource of a breaker until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it releases the resource"]
pub struct Permit {
    breakers: Arc<Breakers>,
    priority: RoutingPriority,
    resource: BreakerResource,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.breakers.release(self.priority, self.resource);
    }
}

fn open_gauge(stats: &PriorityBreakerStats, resource: BreakerResource) -> &SharedGauge {
    match resource {
        BreakerResource::Connections => &stats.cx_open,
        BreakerResource::PendingRequests => &stats.rq_pending_open,
        BreakerResource::Requests => &stats.rq_open,
        BreakerResource::Retries => &stats.rq_retry_open,
        BreakerResource::ConnectionPools => &stats.cx_pool_open,
    }
}

fn remaining_gauge(stats: &Lazy<RemainingStats>, resource: BreakerResource) -> &SharedGauge {
    let stats = stats.get();
    match resource {
        BreakerResource::Connections => &stats.remaining_cx,
        BreakerResource::PendingRequests => &stats.remaining_pending,
        BreakerResource::Requests => &stats.remaining_rq,
        BreakerResource::Retries => &stats.remaining_retries,
        BreakerResource::ConnectionPools => &stats.remaining_cx_pools,
    }
}

fn start_remaining(thresholds: &Thresholds, stats: &PriorityBreakerStats) {
    if thresholds.track_remaining {
        let stats = stats.remaining.get();
        stats.remaining_cx.set(thresholds.max_connections);
        // The gauge's maximum is i64::MAX, which stands for no limit.
        let pools = thresholds
            .max_connection_pools
            .min(i64::MAX.cast_unsigned());
        stats.remaining_cx_pools.set(pools);
        stats.remaining_pending.set(thresholds.max_pending_requests);
        // What remains of a retry budget changes with each request; Envoy does not report it.
        if thresholds.retry_budget.is_none() {
            stats.remaining_retries.set(thresholds.max_retries);
        }
        stats.remaining_rq.set(thresholds.max_requests);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breakers(max: u64) -> Arc<Breakers> {
        let default = Thresholds {
            max_requests: max,
            track_remaining: true,
            ..Thresholds::default()
        };
        let breakers = Breakers::new(default, Thresholds::default(), Arc::default());
        breakers.start();
        Arc::new(breakers)
    }

    #[test]
    fn opens_at_its_limit_and_closes_when_a_permit_is_dropped() {
        let breakers = breakers(2);
        let open = || breakers.stats.default.rq_open.value();
        let remaining = || breakers.stats.default.remaining.get().remaining_rq.value();
        let acquire = || breakers.acquire(RoutingPriority::Default, BreakerResource::Requests);
        assert_eq!((open(), remaining()), (0, 2));
        let pools = &breakers.stats.default.remaining.get().remaining_cx_pools;
        assert_eq!(pools.value(), i64::MAX);
        let first = acquire().unwrap();
        let second = acquire().unwrap();
        assert_eq!((open(), remaining()), (1, 0));
        assert!(acquire().is_none());
        drop(first);
        assert_eq!((open(), remaining()), (0, 1));
        drop((acquire().unwrap(), second));
        assert_eq!((open(), remaining()), (0, 2));
    }

    #[test]
    fn a_limit_of_zero_refuses_all() {
        let breakers = breakers(0);
        assert!(
            breakers
                .acquire(RoutingPriority::Default, BreakerResource::Requests)
                .is_none()
        );
        assert!(
            breakers
                .acquire(RoutingPriority::High, BreakerResource::Requests)
                .is_some()
        );
    }

    #[test]
    fn a_permit_may_be_taken_above_the_limit() {
        let breakers = breakers(1);
        let one = breakers.acquire_always(RoutingPriority::Default, BreakerResource::Requests);
        let two = breakers.acquire_always(RoutingPriority::Default, BreakerResource::Requests);
        assert_eq!(breakers.stats.default.rq_open.value(), 1);
        drop(two);
        assert_eq!(breakers.stats.default.rq_open.value(), 1);
        drop(one);
        assert_eq!(breakers.stats.default.rq_open.value(), 0);
    }
}
