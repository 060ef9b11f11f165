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
/// Resting --interval, or a stream after a pause--> Waiting --pong--> Resting
///                                                  Waiting --timeout without any frame--> dead
/// ```
#[derive(Debug)]
pub(super) struct Pinger {
    settings: Keepalive,
    timers: Timers,
    timer: Timer,
    state: State,
    wanted: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Resting,
    /// Waiting for an acknowledgement.
    Waiting {
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
            state: State::Resting,
            wanted: false,
        };
        pinger.rest();
        pinger
    }

    /// Sends a ping at the next poll, unless one is unacknowledged.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// Ready when the connection is dead.
    pub(super) fn poll_dead(&mut self, session: &Session, cx: &mut Context<'_>) -> Poll<()> {
        let (frames, pongs) = session.signs_of_life();
        loop {
            match self.state {
                State::Resting => {
                    if !self.wanted && self.timer.poll_elapsed(cx).is_pending() {
                        return Poll::Pending;
                    }
                    self.wanted = false;
                    session.ping(OPAQUE);
                    self.wait(frames, pongs);
                }
                State::Waiting { pongs: sent, .. } if pongs != sent => self.rest(),
                State::Waiting { frames: seen, .. } => {
                    if self.timer.poll_elapsed(cx).is_pending() {
                        return Poll::Pending;
                    }
                    if seen == frames {
                        return Poll::Ready(());
                    }
                    // Other frames arrived: the peer is alive, and its acknowledgement is queued behind data.
                    self.wait(frames, pongs);
                }
            }
        }
    }

    fn rest(&mut self) {
        self.state = State::Resting;
        self.wanted = false;
        let next = self.settings.interval.map(|interval| {
            let jitter = self.settings.interval_jitter_percent / 100.0 * fastrand::f64();
            Instant::now() + interval.mul_f64(1.0 + jitter.max(0.0))
        });
        self.timer.set(next);
    }

    fn wait(&mut self, frames: u64, pongs: u64) {
        self.state = State::Waiting { frames, pongs };
        self.timer
            .set(Some(self.timers.now() + self.settings.timeout));
    }
}
