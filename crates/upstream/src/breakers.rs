//! Circuit breakers: how much a cluster may have open at once, over all workers together.
//!
//! A breaker is one atomic count against a limit, which the runtime may change. Whoever enters holds a [`Permit`], so that no
//! path forgets to leave.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use outrider_runtime::Snapshot;
use outrider_stats::Lazy;
use outrider_stats::SharedGauge;

use crate::stats::BreakerStats;
use crate::stats::PriorityBreakerStats;
use crate::stats::RemainingStats;

/// A request's priority (`envoy.config.core.v3.RoutingPriority`): each has breakers and connections of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoutingPriority {
    /// `DEFAULT`
    #[default]
    Default,
    /// `HIGH`
    High,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Connections, including those being made.
    Connections,
    /// Requests that wait for a connection.
    PendingRequests,
    /// Requests that have one.
    Requests,
    /// Retries under way.
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
    /// `retry_budget`, which counts in place of `max_retries`.
    pub retry_budget: Option<RetryBudget>,
    /// `max_connection_pools`
    pub max_connection_pools: u64,
    /// `track_remaining`
    pub track_remaining: bool,
    /// `per_host_thresholds[].max_connections`
    pub max_connections_per_host: u64,
}

/// How many retries there may be for the requests that are under way (`CircuitBreakers.Thresholds.RetryBudget`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// `budget_percent`: retries for a hundred requests.
    pub percent: f64,
    /// `min_retry_concurrency`: as many there may be always.
    pub min_concurrency: u64,
}

impl RetryBudget {
    /// The limit while `requests` are under way or wait.
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
    /// As they are configured.
    thresholds: Thresholds,
    connections: Breaker,
    pending_requests: Breaker,
    requests: Breaker,
    retries: Breaker,
    connection_pools: Breaker,
    /// Whether the runtime has ever changed a limit. Gauges can then no longer be counted up and down where a limit is
    /// passed: they are set.
    limits_changed: AtomicBool,
}

/// A count, and what it may come to.
#[derive(Debug)]
struct Breaker {
    count: AtomicU64,
    max: AtomicU64,
}

const RESOURCES: [Resource; 5] = [
    Resource::Connections,
    Resource::PendingRequests,
    Resource::Requests,
    Resource::Retries,
    Resource::ConnectionPools,
];

impl Breakers {
    pub(crate) fn new(default: Thresholds, high: Thresholds, stats: Arc<BreakerStats>) -> Breakers {
        Breakers {
            default: PriorityBreakers::new(default),
            high: PriorityBreakers::new(high),
            stats,
        }
    }

    /// Has the gauges say what remains while nothing is used. Only for a cluster that becomes active: one of the same name
    /// that goes on has the same gauges.
    pub(crate) fn start(&self) {
        start_remaining(&self.default.thresholds, &self.stats.default);
        start_remaining(&self.high.thresholds, &self.stats.high);
    }

    /// Has the limits of the cluster of this name be what the runtime says, and what is configured where it says nothing.
    pub(crate) fn obey(&self, cluster: &str, runtime: &Snapshot) {
        for (priority, name) in [
            (RoutingPriority::Default, "default"),
            (RoutingPriority::High, "high"),
        ] {
            let breakers = self.of(priority);
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
                    // Where nobody ever entered, the gauge stays unused.
                    if breakers.of(resource).count.load(Relaxed) > 0 {
                        self.set_gauges(priority, resource);
                    }
                }
            }
        }
    }

    /// The limits of a priority as they are configured.
    #[must_use]
    pub fn thresholds(&self, priority: RoutingPriority) -> &Thresholds {
        &self.of(priority).thresholds
    }

    /// The limit of a resource now.
    #[must_use]
    pub fn max(&self, priority: RoutingPriority, resource: Resource) -> u64 {
        self.of(priority).max(resource)
    }

    /// How many requests are under way, of all priorities.
    #[must_use]
    pub fn active_requests(&self) -> u64 {
        [&self.default, &self.high]
            .iter()
            .map(|breakers| breakers.requests.count.load(Relaxed))
            .sum()
    }

    /// Enters, unless the limit is reached.
    pub fn enter(
        self: &Arc<Self>,
        priority: RoutingPriority,
        resource: Resource,
    ) -> Option<Permit> {
        let entered = self.enter_without_permit(priority, resource);
        entered.then(|| self.permit(priority, resource))
    }

    /// The same for who says itself when it has [`left`](Breakers::left): a permit holds on to the breakers, which a request
    /// has at hand without that.
    pub(crate) fn enter_without_permit(
        &self,
        priority: RoutingPriority,
        resource: Resource,
    ) -> bool {
        let breakers = self.of(priority);
        let max = breakers.max(resource);
        let count = &breakers.of(resource).count;
        let entered = count.fetch_update(Relaxed, Relaxed, |n| (n < max).then(|| n + 1));
        if let Ok(before) = entered {
            self.entered(priority, resource, before + 1);
        }
        entered.is_ok()
    }

    /// Enters even past the limit: a pool without any connection may always make its first.
    pub(crate) fn enter_always(
        self: &Arc<Self>,
        priority: RoutingPriority,
        resource: Resource,
    ) -> Permit {
        let count = &self.of(priority).of(resource).count;
        let before = count.fetch_add(1, Relaxed);
        self.entered(priority, resource, before + 1);
        self.permit(priority, resource)
    }

    fn permit(self: &Arc<Self>, priority: RoutingPriority, resource: Resource) -> Permit {
        Permit {
            breakers: self.clone(),
            priority,
            resource,
        }
    }

    fn entered(&self, priority: RoutingPriority, resource: Resource, now: u64) {
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

    /// Gives a place back that was taken without a permit.
    pub(crate) fn left(&self, priority: RoutingPriority, resource: Resource) {
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

    /// Sets what the gauges of a resource say from its count and its limit.
    fn set_gauges(&self, priority: RoutingPriority, resource: Resource) {
        let breakers = self.of(priority);
        let stats = self.stats_of(priority);
        let count = breakers.of(resource).count.load(Relaxed);
        let max = breakers.max(resource);
        open_gauge(stats, resource).set(u64::from(count >= max));
        let thresholds = &breakers.thresholds;
        let has_budget = resource == Resource::Retries && thresholds.retry_budget.is_some();
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
            connections: breaker(Resource::Connections),
            pending_requests: breaker(Resource::PendingRequests),
            requests: breaker(Resource::Requests),
            retries: breaker(Resource::Retries),
            connection_pools: breaker(Resource::ConnectionPools),
            limits_changed: AtomicBool::new(false),
            thresholds,
        }
    }

    fn of(&self, resource: Resource) -> &Breaker {
        match resource {
            Resource::Connections => &self.connections,
            Resource::PendingRequests => &self.pending_requests,
            Resource::Requests => &self.requests,
            Resource::Retries => &self.retries,
            Resource::ConnectionPools => &self.connection_pools,
        }
    }

    fn max(&self, resource: Resource) -> u64 {
        if resource == Resource::Retries
            && let Some(budget) = &self.thresholds.retry_budget
        {
            let under_way = |breaker: &Breaker| breaker.count.load(Relaxed);
            return budget.limit(under_way(&self.requests) + under_way(&self.pending_requests));
        }
        self.of(resource).max.load(Relaxed)
    }
}

impl Thresholds {
    fn of(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Connections => self.max_connections,
            Resource::PendingRequests => self.max_pending_requests,
            Resource::Requests => self.max_requests,
            Resource::Retries => self.max_retries,
            Resource::ConnectionPools => self.max_connection_pools,
        }
    }
}

impl Resource {
    /// The field of its limit, in `Thresholds` and in runtime keys.
    fn field(self) -> &'static str {
        match self {
            Resource::Connections => "max_connections",
            Resource::PendingRequests => "max_pending_requests",
            Resource::Requests => "max_requests",
            Resource::Retries => "max_retries",
            Resource::ConnectionPools => "max_connection_pools",
        }
    }
}

/// One place behind a breaker, given back when this is dropped.
#[derive(Debug)]
#[must_use = "the place is free again when this is dropped"]
pub struct Permit {
    breakers: Arc<Breakers>,
    priority: RoutingPriority,
    resource: Resource,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.breakers.left(self.priority, self.resource);
    }
}

fn open_gauge(stats: &PriorityBreakerStats, resource: Resource) -> &SharedGauge {
    match resource {
        Resource::Connections => &stats.cx_open,
        Resource::PendingRequests => &stats.rq_pending_open,
        Resource::Requests => &stats.rq_open,
        Resource::Retries => &stats.rq_retry_open,
        Resource::ConnectionPools => &stats.cx_pool_open,
    }
}

fn remaining_gauge(stats: &Lazy<RemainingStats>, resource: Resource) -> &SharedGauge {
    let stats = stats.get();
    match resource {
        Resource::Connections => &stats.remaining_cx,
        Resource::PendingRequests => &stats.remaining_pending,
        Resource::Requests => &stats.remaining_rq,
        Resource::Retries => &stats.remaining_retries,
        Resource::ConnectionPools => &stats.remaining_cx_pools,
    }
}

fn start_remaining(thresholds: &Thresholds, stats: &PriorityBreakerStats) {
    if thresholds.track_remaining {
        let stats = stats.remaining.get();
        stats.remaining_cx.set(thresholds.max_connections);
        // A gauge goes up to i64::MAX; without a limit, that stands for it.
        let pools = thresholds
            .max_connection_pools
            .min(i64::MAX.cast_unsigned());
        stats.remaining_cx_pools.set(pools);
        stats.remaining_pending.set(thresholds.max_pending_requests);
        // What remains of a budget changes with each request, and Envoy does not say it.
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
        let enter = || breakers.enter(RoutingPriority::Default, Resource::Requests);
        assert_eq!((open(), remaining()), (0, 2));
        let pools = &breakers.stats.default.remaining.get().remaining_cx_pools;
        assert_eq!(pools.value(), i64::MAX);
        let first = enter().unwrap();
        let second = enter().unwrap();
        assert_eq!((open(), remaining()), (1, 0));
        assert!(enter().is_none());
        drop(first);
        assert_eq!((open(), remaining()), (0, 1));
        drop((enter().unwrap(), second));
        assert_eq!((open(), remaining()), (0, 2));
    }

    #[test]
    fn a_limit_of_zero_refuses_all() {
        let breakers = breakers(0);
        assert!(
            breakers
                .enter(RoutingPriority::Default, Resource::Requests)
                .is_none()
        );
        assert!(
            breakers
                .enter(RoutingPriority::High, Resource::Requests)
                .is_some()
        );
    }

    #[test]
    fn may_be_passed_by_force() {
        let breakers = breakers(1);
        let one = breakers.enter_always(RoutingPriority::Default, Resource::Requests);
        let two = breakers.enter_always(RoutingPriority::Default, Resource::Requests);
        assert_eq!(breakers.stats.default.rq_open.value(), 1);
        drop(two);
        assert_eq!(breakers.stats.default.rq_open.value(), 1);
        drop(one);
        assert_eq!(breakers.stats.default.rq_open.value(), 0);
    }
}
