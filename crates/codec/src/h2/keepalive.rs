//! Keepalive pings (`connection_keepalive`), in both roles.

use std::task::Context;
use std::task::Poll;

use outrider_net::Timer;
use outrider_net::Timers;
use tokio::time::Instant;

use crate::Keepalive;

use super::session::Session;

/// The payload of our pings. Any acknowledgement counts.
const OPAQUE: [u8; 8] = *b"outrider";

/// Sends pings on a connection and detects when it is dead.
///
/// ```text
/// Idle --interval, or a request after a silence of the peer--> AwaitingPong --acknowledged--> Idle
///                                                      AwaitingPong --timeout without any frame--> dead
/// ```
#[derive(Debug)]
pub(super) struct Pinger {
    settings: Keepalive,
    timers: Timers,
    timer: Timer,
    state: KeepaliveState,
    /// Frames received at the last poll, and when it was seen that there were more.
    last_received: (u64, Instant),
}

#[derive(Clone, Copy, Debug)]
enum KeepaliveState {
    Idle,
    /// Waiting for an acknowledgement.
    AwaitingPong {
        /// Frames received when the timer was set.
        frames: u64,
        /// Acknowledgements received when the ping was sent.
        pongs: u64,
    },
}

impl Pinger {
    pub(super) fn new(settings: Keepalive, timers: &Timers) -> Pinger {
        let mut pinger = Pinger {
            settings,
            timers: timers.clone(),
            timer: timers.timer(),
            state: KeepaliveState::Idle,
            last_received: (0, Instant::now()),
        };
        pinger.schedule_next();
        pinger
    }

    /// Sends a ping before a request if the peer was silent for longer than `connection_idle_interval`, unless one is
    /// unacknowledged.
    pub(super) fn ping_before_request(&mut self, session: &Session) {
        let Some(silence) = self.settings.connection_idle_interval else {
            return;
        };
        let is_idle = matches!(self.state, KeepaliveState::Idle);
        if is_idle && self.last_received.1.elapsed() > silence {
            self.ping(session);
        }
    }

    /// Ready when the connection is dead.
    pub(super) fn poll_dead(&mut self, session: &Session, cx: &mut Context<'_>) -> Poll<()> {
        let (frames, pongs) = session.received_counts();
        if self.settings.connection_idle_interval.is_some() && self.last_received.0 != frames {
            self.last_received = (frames, Instant::now());
        }
        loop {
            match self.state {
                KeepaliveState::Idle => {
                    if self.timer.poll_elapsed(cx).is_pending() {
                        return Poll::Pending;
                    }
                    self.ping(session);
                }
                KeepaliveState::AwaitingPong { pongs: sent, .. } if pongs != sent => {
                    self.schedule_next()
                }
                KeepaliveState::AwaitingPong { frames: seen, .. } => {
                    if self.timer.poll_elapsed(cx).is_pending() {
                        return Poll::Pending;
                    }
                    if seen == frames {
                        return Poll::Ready(());
                    }
                    // Other frames arrived: the peer is alive, and its acknowledgement is queued behind data.
                    self.await_pong(frames, pongs);
                }
            }
        }
    }

    fn schedule_next(&mut self) {
        self.state = KeepaliveState::Idle;
        let next = self.settings.interval.map(|interval| {
            let jitter = self.settings.interval_jitter_percent / 100.0 * fastrand::f64();
            Instant::now() + interval.mul_f64(1.0 + jitter.max(0.0))
        });
        self.timer.set(next);
    }

    fn ping(&mut self, session: &Session) {
        session.ping(OPAQUE);
        let (frames, pongs) = session.received_counts();
        self.await_pong(frames, pongs);
    }

    fn await_pong(&mut self, frames: u64, pongs: u64) {
        self.state = KeepaliveState::AwaitingPong { frames, pongs };
        self.timer
            .set(Some(self.timers.now() + self.settings.timeout));
    }
}
