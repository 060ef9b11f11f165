//! What the overload manager tells the workers: how far each action is in force, and where load is shed.
//!
//! The main thread writes these values, and workers read them without a lock. A part that obeys an action asks for it
//! once, when it is built; an action that is not configured costs nothing afterwards.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use outrider_stats::SharedCounter;
use outrider_stats::SharedGauge;

use crate::ConnectionLimit;

/// An action of the overload manager that workers take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverloadAction {
    /// `envoy.overload_actions.stop_accepting_requests`
    StopAcceptingRequests,
    /// `envoy.overload_actions.disable_http_keepalive`
    DisableHttpKeepalive,
    /// `envoy.overload_actions.stop_accepting_connections`
    StopAcceptingConnections,
    /// `envoy.overload_actions.reject_incoming_connections`
    RejectIncomingConnections,
}

/// How many kinds of actions there are.
const ACTIONS: usize = 4;

/// A load shed point that is obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadShedPointKind {
    /// `envoy.load_shed_points.http_connection_manager_decode_headers`
    DecodeHeaders,
    /// `envoy.load_shed_points.tcp_listener_accept`
    TcpListenerAccept,
}

impl LoadShedPointKind {
    /// All of them.
    pub const ALL: [LoadShedPointKind; 2] = [
        LoadShedPointKind::DecodeHeaders,
        LoadShedPointKind::TcpListenerAccept,
    ];

    /// The name in the configuration (`LoadShedPoint.name`).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            LoadShedPointKind::DecodeHeaders => {
                "envoy.load_shed_points.http_connection_manager_decode_headers"
            }
            LoadShedPointKind::TcpListenerAccept => "envoy.load_shed_points.tcp_listener_accept",
        }
    }
}

/// A timeout that the overload manager can shorten
/// (`envoy.config.overload.v3.ScaleTimersOverloadActionConfig.TimerType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaledTimer {
    /// `HTTP_DOWNSTREAM_CONNECTION_IDLE`
    ConnectionIdle,
    /// `HTTP_DOWNSTREAM_STREAM_IDLE`
    StreamIdle,
    /// `TRANSPORT_SOCKET_CONNECT`
    TransportSocketConnect,
    /// `HTTP_DOWNSTREAM_CONNECTION_MAX`
    ConnectionMax,
}

/// How many kinds of timers there are.
const TIMERS: usize = 4;

/// How far an action is in force: 0 is not at all, 1 is fully (saturated). Written by the main thread.
#[derive(Debug, Default)]
pub struct OverloadLevel(AtomicU32);

impl OverloadLevel {
    /// The level now, from 0 to 1.
    #[must_use]
    pub fn get(&self) -> f32 {
        f32::from_bits(self.0.load(Ordering::Relaxed))
    }

    /// Sets the level, which is limited to the range from 0 to 1.
    pub fn set(&self, level: f32) {
        let level = level.clamp(0.0, 1.0);
        self.0.store(level.to_bits(), Ordering::Relaxed);
    }

    /// Whether the action is fully in force.
    #[must_use]
    pub fn is_saturated(&self) -> bool {
        self.get() >= 1.0
    }

    /// Whether the action is taken this time, with the level as its probability. `random` gives a number that is
    /// evenly distributed over all `u64`; it is asked only between the extremes.
    pub fn applies(&self, random: impl FnOnce() -> u64) -> bool {
        let bits = self.0.load(Ordering::Relaxed);
        // The common case is one load and one comparison with zero.
        bits != 0 && {
            let level = f32::from_bits(bits);
            level >= 1.0 || unit(random()) < level
        }
    }
}

/// A random number as a fraction, from 0 to below 1.
#[expect(
    clippy::cast_precision_loss,
    reason = "24 bits are exact as a floating-point number"
)]
fn unit(random: u64) -> f32 {
    (random >> 40) as f32 / (1u32 << 24) as f32
}

outrider_stats::group! {
    /// `overload.<load shed point>.*`
    pub struct LoadShedPointStats { scale_percent: SharedGauge, shed_load_count: SharedCounter }
}

/// A place in the life of a connection or request where load may be shed (`envoy.config.overload.v3.LoadShedPoint`).
#[derive(Debug)]
pub struct LoadShedPoint {
    name: Box<str>,
    level: OverloadLevel,
    stats: Arc<LoadShedPointStats>,
}

impl LoadShedPoint {
    /// A point that sheds nothing yet.
    #[must_use]
    pub fn new(name: &str, stats: Arc<LoadShedPointStats>) -> LoadShedPoint {
        LoadShedPoint {
            name: name.into(),
            level: OverloadLevel::default(),
            stats,
        }
    }

    /// Sets the probability that load is shed, from 0 to 1.
    pub fn set(&self, level: f32) {
        self.level.set(level);
        self.stats.scale_percent.set(percent(self.level.get()));
    }

    /// Whether to shed the load that is at this point now. Counts it if so.
    pub fn sheds(&self, random: impl FnOnce() -> u64) -> bool {
        let sheds = self.level.applies(random);
        if sheds {
            self.stats.shed_load_count.inc();
        }
        sheds
    }
}

/// A level as a percentage, as the stats show it.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a level is between 0 and 1"
)]
pub fn percent(level: f32) -> u64 {
    (level * 100.0) as u64
}

/// The shortest that a timeout becomes (`ScaleTimer.overload_adjust`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TimeoutMinimum {
    /// `min_timeout`
    Absolute(Duration),
    /// `min_scale`, from 0 to 1: this share of the configured timeout.
    Share(f64),
}

/// How the overload manager shortens a timeout.
#[derive(Clone, Debug)]
pub struct TimeoutScale {
    level: Arc<OverloadLevel>,
    minimum: TimeoutMinimum,
}

impl TimeoutScale {
    /// Shortens timeouts down to `minimum` as `level` rises to 1.
    #[must_use]
    pub fn new(level: Arc<OverloadLevel>, minimum: TimeoutMinimum) -> TimeoutScale {
        TimeoutScale { level, minimum }
    }

    /// What remains of `timeout` at the moment.
    #[must_use]
    pub fn apply(&self, timeout: Duration) -> Duration {
        let level = self.level.get();
        if level <= 0.0 {
            return timeout;
        }
        let minimum = match self.minimum {
            TimeoutMinimum::Absolute(minimum) => minimum.min(timeout),
            TimeoutMinimum::Share(share) => timeout.mul_f64(share.clamp(0.0, 1.0)),
        };
        let scaled = (timeout - minimum).mul_f64(f64::from(1.0 - level));
        minimum + scaled
    }
}

/// `timeout` as `scale` shortens it at the moment; unchanged if it is not scaled.
#[must_use]
pub fn scaled(timeout: Duration, scale: Option<&TimeoutScale>) -> Duration {
    scale.map_or(timeout, |scale| scale.apply(timeout))
}

/// The overload manager as workers see it. Empty if none is configured.
#[derive(Debug, Default)]
pub struct OverloadState {
    actions: [Option<Arc<OverloadLevel>>; ACTIONS],
    timers: [Option<TimeoutScale>; TIMERS],
    points: Vec<Arc<LoadShedPoint>>,
    /// `envoy.resource_monitors.global_downstream_max_connections`
    connections: Option<Arc<ConnectionLimit>>,
}

impl OverloadState {
    /// The level of an action; `None` if the action is not configured.
    #[must_use]
    pub fn action(&self, action: OverloadAction) -> Option<Arc<OverloadLevel>> {
        self.actions[action as usize].clone()
    }

    /// How a timeout is shortened; `None` if it never is.
    #[must_use]
    pub fn timer(&self, timer: ScaledTimer) -> Option<TimeoutScale> {
        self.timers[timer as usize].clone()
    }

    /// The load shed point of this kind; `None` if it is not configured.
    #[must_use]
    pub fn point(&self, kind: LoadShedPointKind) -> Option<Arc<LoadShedPoint>> {
        let mut points = self.points.iter();
        points.find(|point| &*point.name == kind.name()).cloned()
    }

    /// The limit on the connections of all listeners together; `None` if the overload manager does not limit them.
    #[must_use]
    pub fn connections(&self) -> Option<&Arc<ConnectionLimit>> {
        self.connections.as_ref()
    }

    /// Adds an action with its level.
    pub fn set_action(&mut self, action: OverloadAction, level: Arc<OverloadLevel>) {
        self.actions[action as usize] = Some(level);
    }

    /// Adds the scale of a timeout.
    pub fn set_timer(&mut self, timer: ScaledTimer, scale: TimeoutScale) {
        self.timers[timer as usize] = Some(scale);
    }

    /// Adds a load shed point.
    pub fn add_point(&mut self, point: Arc<LoadShedPoint>) {
        self.points.push(point);
    }

    /// Sets the limit on the connections of all listeners.
    pub fn set_connections(&mut self, limit: Arc<ConnectionLimit>) {
        self.connections = Some(limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_is_taken_with_its_level_as_probability() {
        let level = OverloadLevel::default();
        assert!(!level.applies(|| 0));
        level.set(0.5);
        assert!(level.applies(|| u64::MAX / 4));
        assert!(!level.applies(|| u64::MAX / 4 * 3));
        level.set(7.0);
        assert!(level.is_saturated());
        assert!(level.applies(|| u64::MAX));
    }

    #[test]
    fn a_timeout_shrinks_to_its_minimum() {
        let level = Arc::new(OverloadLevel::default());
        let seconds = Duration::from_secs;
        let absolute = TimeoutScale::new(level.clone(), TimeoutMinimum::Absolute(seconds(2)));
        let share = TimeoutScale::new(level.clone(), TimeoutMinimum::Share(0.1));
        assert_eq!(absolute.apply(seconds(600)), seconds(600));
        level.set(1.0);
        assert_eq!(absolute.apply(seconds(600)), seconds(2));
        assert_eq!(absolute.apply(seconds(1)), seconds(1));
        assert_eq!(share.apply(seconds(600)), seconds(60));
        level.set(0.5);
        assert_eq!(absolute.apply(seconds(600)), seconds(301));
        assert_eq!(scaled(seconds(600), None), seconds(600));
    }
}
