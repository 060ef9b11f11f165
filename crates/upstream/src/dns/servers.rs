//! The name servers of one list: which is asked next, and how long to wait for it.
//!
//! As in Envoy's resolver library, servers that failed come after those that did not. Occasionally, one of them is sent
//! a copy of a query, to notice when it recovers.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use super::cookie::Cookie;
use super::latency::Latency;

/// The least and the greatest timeout of a server in the first round.
const TIMEOUTS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// How long a failed server is left alone; after that, one in this many queries probes it.
const RETRY_DELAY: Duration = Duration::from_secs(5);
const RETRY_CHANCE: usize = 10;

/// The servers of one list.
#[derive(Debug)]
pub(super) struct Servers {
    addresses: Vec<SocketAddr>,
    /// Whether a random one of the best servers is asked (`rotate`), not the first.
    rotate: bool,
    started: Instant,
    states: Mutex<Vec<NameServerState>>,
}

/// The state of one server.
#[derive(Debug)]
struct NameServerState {
    /// Its number of consecutive failures.
    failures: u32,
    /// When it may be probed although other servers are better.
    retry_at: Instant,
    /// Whether a probe is under way.
    probed: bool,
    latency: Latency,
    cookie: Cookie,
}

impl Servers {
    pub(super) fn new(addresses: Vec<SocketAddr>, rotate: bool) -> Servers {
        let started = Instant::now();
        let state = |_| NameServerState {
            failures: 0,
            retry_at: started,
            probed: false,
            latency: Latency::default(),
            cookie: Cookie::default(),
        };
        Servers {
            states: Mutex::new(addresses.iter().map(state).collect()),
            addresses,
            rotate,
            started,
        }
    }

    pub(super) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub(super) fn is_same(&self, addresses: &[SocketAddr], rotate: bool) -> bool {
        self.addresses == addresses && self.rotate == rotate
    }

    /// The server to ask next: among those with the fewest failures, the first or a random one.
    pub(super) fn choose(&self) -> usize {
        let states = self.states();
        let least = states.iter().map(|state| state.failures).min();
        let best = states.iter().enumerate();
        let mut best = best.filter(|(_, state)| Some(state.failures) == least);
        let index = if self.rotate {
            fastrand::usize(..best.clone().count().max(1))
        } else {
            0
        };
        best.nth(index).map_or(0, |(server, _)| server)
    }

    /// How long to wait for `server` after this many failed attempts. The time doubles with each round, less a random
    /// part.
    pub(super) fn timeout(&self, server: usize, first: Duration, attempts: u64) -> Duration {
        let (least, most) = TIMEOUTS;
        let known = self.states().get(server).and_then(|state| {
            let now = self.started.elapsed();
            state.latency.patience(now)
        });
        let base = known.unwrap_or(first).clamp(least, most);
        let round = attempts / self.addresses.len().max(1) as u64;
        if round == 0 {
            return base;
        }
        let doubled = u32::try_from(round).ok().and_then(|r| 2_u32.checked_pow(r));
        let longest = base.saturating_mul(doubled.unwrap_or(u32::MAX));
        longest.mul_f64(0.5 + 0.5 * fastrand::f64()).max(base)
    }

    /// Records that `server` answered.
    pub(super) fn answered(&self, server: usize, took: Option<Duration>) {
        let now = self.started.elapsed();
        if let Some(state) = self.states().get_mut(server) {
            state.failures = 0;
            if let Some(took) = took {
                state.latency.record(took, now);
            }
        }
    }

    /// Records that `server` did not answer, or answered with an error.
    pub(super) fn failed(&self, server: usize) {
        if let Some(state) = self.states().get_mut(server) {
            state.failures = state.failures.saturating_add(1);
            state.retry_at = Instant::now() + RETRY_DELAY;
        }
    }

    /// A failed server that should get a copy of a query for another server.
    pub(super) fn to_probe(&self, other: usize) -> Option<usize> {
        let mut states = self.states();
        let other = states.get(other)?;
        if other.failures > 0 || states.iter().all(|state| state.failures == 0) {
            return None;
        }
        if fastrand::usize(..RETRY_CHANCE) != 0 {
            return None;
        }
        let now = Instant::now();
        let may =
            |state: &NameServerState| state.failures > 0 && !state.probed && state.retry_at <= now;
        let server = states.iter().position(may)?;
        states.get_mut(server)?.probed = true;
        Some(server)
    }

    /// Records the result of a probe.
    pub(super) fn probed(&self, server: usize, answered: bool) {
        if let Some(state) = self.states().get_mut(server) {
            state.probed = false;
        }
        if answered {
            self.answered(server, None);
        } else {
            self.failed(server);
        }
    }

    /// Calls `change` with the cookie of `server`.
    pub(super) fn cookie<T>(
        &self,
        server: usize,
        with: impl FnOnce(&mut Cookie) -> T,
    ) -> Option<T> {
        self.states().get_mut(server).map(|s| with(&mut s.cookie))
    }

    fn states(&self) -> MutexGuard<'_, Vec<NameServerState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(count: u16, rotate: bool) -> Servers {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Servers::new((1..=count).map(address).collect(), rotate)
    }

    #[test]
    fn the_first_that_failed_least_often_is_asked() {
        let servers = servers(3, false);
        for want in [0, 1, 2, 0] {
            assert_eq!(servers.choose(), want);
            servers.failed(want);
        }
        servers.answered(2, None);
        assert_eq!(servers.choose(), 2);
    }

    #[test]
    fn each_round_has_twice_the_time_less_some() {
        let (servers, second) = (servers(2, false), Duration::from_secs(1));
        for (attempts, least, most) in [(0, 1, 1), (1, 1, 1), (2, 1, 2), (4, 2, 4), (6, 4, 8)] {
            let timeout = servers.timeout(0, second, attempts);
            assert!((least * second..=most * second).contains(&timeout));
        }
        let of = |first| servers.timeout(0, first, 0);
        assert_eq!(of(Duration::from_secs(100)), Duration::from_secs(5));
        assert_eq!(of(Duration::from_millis(1)), Duration::from_millis(250));
        assert!(servers.timeout(0, second, u64::MAX) > Duration::from_secs(1 << 30));
    }

    #[test]
    fn a_server_that_answers_fast_is_not_waited_for_long() {
        let servers = servers(1, true);
        for _ in 0..3 {
            servers.answered(0, Some(Duration::from_millis(1)));
        }
        let timeout = servers.timeout(0, Duration::from_secs(5), 0);
        assert_eq!(timeout, Duration::from_millis(250));
    }
}
