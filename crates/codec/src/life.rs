//! How long a downstream connection may live: `idle_timeout`, `max_connection_duration`, `max_requests_per_connection`.

use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use outrider_net::Timer;
use outrider_net::clock;
use tokio::time::Instant;

use crate::ServerOptions;

/// Why a connection should finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// It had no stream for `idle_timeout`.
    Idle,
    /// It is older than `max_connection_duration`.
    Duration,
}

/// One connection's deadlines, on one timer.
///
/// The idle deadline moves with every request, the timer does not: it is looked at anew when it fires.
#[derive(Debug)]
pub(crate) struct Life {
    timer: Timer,
    idle_timeout: Option<Duration>,
    idle_since: Option<Instant>,
    expires: Option<Instant>,
    requests_left: Option<u32>,
}

impl Life {
    pub(crate) fn new(options: &Rc<ServerOptions>) -> Life {
        let now = options.timers.now();
        let expires = options.max_connection_duration.map(|duration| {
            let jitter = options.max_connection_duration_jitter_percent / 100.0;
            now + duration.mul_f64(1.0 + (jitter * fastrand::f64()).max(0.0))
        });
        let mut life = Life {
            timer: options.timers.timer(),
            idle_timeout: options.idle_timeout,
            idle_since: Some(now),
            expires,
            requests_left: options.max_requests_per_connection,
        };
        life.arm(now);
        life
    }

    /// Says how many streams are open; to be called whenever that may have changed, and with each poll of the connection.
    pub(crate) fn poll(&mut self, active: usize, cx: &mut Context<'_>) -> Option<Expiry> {
        if active > 0 {
            self.idle_since = None;
        } else if self.idle_since.is_none() {
            self.idle_since = Some(clock::now());
        }
        while self.timer.poll_elapsed(cx).is_ready() {
            let now = clock::now();
            if self.expires.is_some_and(|expires| expires <= now) {
                self.expires = None;
                self.arm(now);
                return Some(Expiry::Duration);
            }
            if self.idle_deadline().is_some_and(|deadline| deadline <= now) {
                self.idle_timeout = None;
                self.arm(now);
                return Some(Expiry::Idle);
            }
            self.arm(now);
        }
        None
    }

    /// Counts a request, which ends the time without one; true when it is the last that the connection may carry.
    pub(crate) fn note_request(&mut self) -> bool {
        self.idle_since = None;
        match &mut self.requests_left {
            Some(left) => {
                *left = left.saturating_sub(1);
                *left == 0
            }
            None => false,
        }
    }

    fn idle_deadline(&self) -> Option<Instant> {
        Some(self.idle_since? + self.idle_timeout?)
    }

    /// Sets the timer for the earliest moment at which anything can be due.
    fn arm(&mut self, now: Instant) {
        let idle = self
            .idle_timeout
            .map(|timeout| self.idle_since.unwrap_or(now) + timeout);
        self.timer.set(idle.into_iter().chain(self.expires).min());
    }
}
