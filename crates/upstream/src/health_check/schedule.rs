//! When the next check of a host is due.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::Transition;
use super::connection::HealthCheckCx;

/// How long the first check of a host waits (`initial_jitter`); none if it does not.
pub(super) fn initial_delay(cx: &HealthCheckCx) -> Option<Duration> {
    let jitter = cx.config.initial_jitter;
    (!jitter.is_zero()).then(|| with_jitter(cx, Duration::ZERO, jitter))
}

/// How long to wait for the next check after one with this result.
pub(super) fn interval(cx: &HealthCheckCx, healthy: bool, transition: Transition) -> Duration {
    let config = &cx.config;
    let pending = transition == Transition::ChangePending;
    let base = if cx.had_traffic.load(Relaxed) {
        match (healthy, pending) {
            (true, false) => config.interval,
            (true, true) => config.healthy_edge_interval,
            (false, false) => config.unhealthy_interval,
            (false, true) => config.unhealthy_edge_interval,
        }
    } else if healthy && !pending {
        config.no_traffic_healthy_interval
    } else {
        config.no_traffic_interval
    };
    with_jitter(cx, base, config.interval_jitter)
}

fn with_jitter(cx: &HealthCheckCx, base: Duration, jitter: Duration) -> Duration {
    let mut millis = millis(base);
    let share = u64::from(cx.config.interval_jitter_percent) * millis / 100;
    if share > 0 {
        millis += fastrand::u64(0..share);
    }
    let jitter = self::millis(jitter);
    if jitter > 0 {
        millis += fastrand::u64(0..jitter);
    }
    let runtime = cx.runtime.snapshot();
    let number = |key| runtime.number(key);
    let most = number("health_check.max_interval").unwrap_or(u64::MAX);
    let least = number("health_check.min_interval").unwrap_or(0);
    Duration::from_millis(millis.min(most).max(least).max(1))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
