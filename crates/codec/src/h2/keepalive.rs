//! Keepalive pings (`connection_keepalive`), both roles.

use std::task::Context;
use std::task::Poll;

use h2::Ping;
use h2::PingPong;
use outrider_net::Timer;
use outrider_net::Timers;
use tokio::time::Instant;

use crate::Keepalive;

/// Pings a connection and says when it is dead.
///
/// ```text
/// Resting --interval, or a stream after a pause--> Waiting --pong--> Resting
///                                                  Waiting --timeout without any frame--> dead
/// ```
#[derive(Debug)]
pub(super) struct Pinger {
    pings: PingPong,
    settings: Keepalive,
    timers: Timers,
    timer: Timer,
    state: State,
    wanted: bool,
}

#[derive(Debug)]
enum State {
    Resting,
    /// For an answer; holds how many frames had been received when the timer was set.
    Waiting(u64),
}

impl Pinger {
    pub(super) fn new(pings: PingPong, settings: Keepalive, timers: &Timers) -> Pinger {
        let mut pinger = Pinger {
            pings,
            settings,
            timers: timers.clone(),
            timer: timers.timer(),
            state: State::Resting,
            wanted: false,
        };
        pinger.rest();
        pinger
    }

    /// Pings at the next turn, unless a ping is under way.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// Ready when the connection is dead. `received` is the number of frames received until now.
    pub(super) fn poll_dead(&mut self, received: u64, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.state {
                State::Resting => {
                    if !self.wanted && self.timer.poll_elapsed(cx).is_pending() {
                        return Poll::Pending;
                    }
                    self.wanted = false;
                    if self.pings.send_ping(Ping::opaque()).is_err() {
                        // The connection is closing; its end comes by another way.
                        self.timer.set(None);
                        return Poll::Pending;
                    }
                    self.wait(received);
                }
                State::Waiting(seen) => {
                    if let Poll::Ready(answer) = self.pings.poll_pong(cx) {
                        if answer.is_err() {
                            self.timer.set(None);
                            return Poll::Pending;
                        }
                        self.rest();
                    } else if self.timer.poll_elapsed(cx).is_pending() {
                        return Poll::Pending;
                    } else if seen == received {
                        return Poll::Ready(());
                    } else {
                        // Something else came in: the peer lives, its answer is stuck behind data.
                        self.wait(received);
                    }
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

    fn wait(&mut self, received: u64) {
        self.state = State::Waiting(received);
        self.timer
            .set(Some(self.timers.now() + self.settings.timeout));
    }
}
