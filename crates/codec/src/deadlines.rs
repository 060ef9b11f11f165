//! The deadlines of a downstream connection: `idle_timeout`, `max_connection_duration`, `drain_timeout`; and
//! `max_requests_per_connection`.

use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use outrider_net::TimeoutScale;
use outrider_net::Timer;
use outrider_net::clock;
use outrider_net::scaled;
use tokio::time::Instant;

use crate::ServerOptions;
use crate::stats::ConnectionStats;

/// Why a connection should finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// It had no stream for `idle_timeout`. Reported once per idle period.
    Idle,
    /// It is older than `max_connection_duration`.
    Duration,
    /// It has been draining for `drain_timeout`.
    Drained,
}

impl Expiry {
    /// Counts the expiry as Envoy does.
    pub(crate) fn count(self, stats: &ConnectionStats) {
        match self {
            Expiry::Idle => stats.downstream_cx_idle_timeout.inc(),
            Expiry::Duration => stats.downstream_cx_max_duration_reached.inc(),
            Expiry::Drained => {}
        }
    }
}

/// One connection's deadlines, on one timer.
///
/// The idle deadline moves with every request, but the timer is not reset: when it fires, the deadlines are checked
/// again.
#[derive(Debug)]
pub(crate) struct ConnectionDeadlines {
    timer: Timer,
    idle_timeout: Option<Duration>,
    idle_scale: Option<TimeoutScale>,
    idle_since: Option<Instant>,
    /// The current idle period has already been reported.
    idle_reported: bool,
    began: Instant,
    /// `None` also once it has been reported.
    max_duration: Option<Duration>,
    max_duration_scale: Option<TimeoutScale>,
    drain: DrainState,
    requests_left: Option<u32>,
}

/// The state of the connection's drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DrainState {
    Inactive,
    Until(Instant),
    Elapsed,
}

impl ConnectionDeadlines {
    pub(crate) fn new(options: &Rc<ServerOptions>) -> ConnectionDeadlines {
        let now = options.timers.now();
        let max_duration = options.max_connection_duration.map(|duration| {
            let jitter = options.max_connection_duration_jitter_percent / 100.0;
            duration.mul_f64(1.0 + (jitter * fastrand::f64()).max(0.0))
        });
        let (idle_scale, max_duration_scale) = (
            options.overload.idle.clone(),
            options.overload.max_duration.clone(),
        );
        let timer = match idle_scale.is_some() || max_duration_scale.is_some() {
            true => options.timers.scaled_timer(),
            false => options.timers.timer(),
        };
        let mut deadlines = ConnectionDeadlines {
            timer,
            idle_timeout: options.idle_timeout,
            idle_scale,
            idle_since: Some(now),
            idle_reported: false,
            began: now,
            max_duration,
            max_duration_scale,
            drain: DrainState::Inactive,
            requests_left: options.max_requests_per_connection,
        };
        deadlines.arm(now);
        deadlines
    }

    /// Checks the deadlines while `active` streams are open. The caller repeats it until it returns `None`, with each
    /// poll of the connection and whenever the number of streams may have changed.
    pub(crate) fn poll(&mut self, active: usize, cx: &mut Context<'_>) -> Option<Expiry> {
        if active > 0 {
            self.end_idle();
        } else if self.idle_since.is_none() && !self.idle_reported {
            self.idle_since = Some(clock::now());
        }
        while self.timer.poll_elapsed(cx).is_ready() {
            let now = clock::now();
            if self
                .max_duration_at()
                .is_some_and(|deadline| deadline <= now)
            {
                self.max_duration = None;
                self.arm(now);
                return Some(Expiry::Duration);
            }
            if self.idle_deadline().is_some_and(|deadline| deadline <= now) {
                self.idle_since = None;
                self.idle_reported = true;
                self.arm(now);
                return Some(Expiry::Idle);
            }
            if matches!(self.drain, DrainState::Until(end) if end <= now) {
                self.drain = DrainState::Elapsed;
                self.arm(now);
                return Some(Expiry::Drained);
            }
            self.arm(now);
        }
        None
    }

    /// Starts the drain, unless it has started already.
    pub(crate) fn drain(&mut self, timeout: Duration) {
        if self.drain == DrainState::Inactive {
            let now = clock::now();
            self.drain = DrainState::Until(now + timeout);
            self.arm(now);
        }
    }

    /// Whether a deadline can expire while streams are open.
    pub(crate) fn can_expire_with_streams(&self) -> bool {
        self.max_duration.is_some() || matches!(self.drain, DrainState::Until(_))
    }

    /// Counts a request, which ends the idle period. Returns true if it is the last one that the connection may carry.
    pub(crate) fn note_request(&mut self) -> bool {
        self.end_idle();
        match &mut self.requests_left {
            Some(left) => {
                *left = left.saturating_sub(1);
                *left == 0
            }
            None => false,
        }
    }

    fn end_idle(&mut self) {
        self.idle_since = None;
        self.idle_reported = false;
    }

    fn idle_deadline(&self) -> Option<Instant> {
        Some(self.idle_since? + self.idle_timeout()?)
    }

    /// What the overload manager leaves of the idle timeout.
    fn idle_timeout(&self) -> Option<Duration> {
        let timeout = self.idle_timeout?;
        Some(scaled(timeout, self.idle_scale.as_ref()))
    }

    fn max_duration_at(&self) -> Option<Instant> {
        let duration = self.max_duration?;
        Some(self.began + scaled(duration, self.max_duration_scale.as_ref()))
    }

    /// Sets the timer for the earliest deadline.
    fn arm(&mut self, now: Instant) {
        let idle = self
            .idle_timeout()
            .map(|timeout| self.idle_since.unwrap_or(now) + timeout);
        let drained = match self.drain {
            DrainState::Until(end) => Some(end),
            DrainState::Inactive | DrainState::Elapsed => None,
        };
        let times = [idle, self.max_duration_at(), drained];
        self.timer.set(times.into_iter().flatten().min());
    }
}
