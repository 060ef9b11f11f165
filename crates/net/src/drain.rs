//! "Please finish": a state on one worker that connections look at with each response, as Envoy's do.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

/// Says that a listener, or the whole server, drains. Clones share one state; all stay on one worker.
#[derive(Clone, Debug, Default)]
pub struct DrainSignal(Rc<State>);

#[derive(Debug, Default)]
struct State {
    phase: Cell<Phase>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Phase {
    #[default]
    Off,
    /// Everything is asked to finish.
    On,
    /// `--drain-strategy gradual`: the longer it lasts, the more of those who look are asked to finish.
    Growing { began: Instant, lasts: Duration },
}

impl DrainSignal {
    /// A drain that has not begun.
    #[must_use]
    pub fn new() -> DrainSignal {
        DrainSignal::default()
    }

    /// Begins.
    pub fn begin(&self) {
        self.0.phase.set(Phase::On);
    }

    /// Begins gradually: [`is_draining`](DrainSignal::is_draining) is true with a probability that grows to 1 within `lasts`.
    pub fn begin_gradually(&self, lasts: Duration) {
        let began = Instant::now();
        self.0.phase.set(Phase::Growing { began, lasts });
    }

    /// Cancels it: `/healthcheck/ok` takes `/healthcheck/fail` back.
    pub fn cancel(&self) {
        self.0.phase.set(Phase::Off);
    }

    /// Whether whoever asks is to finish now.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        match self.0.phase.get() {
            Phase::Off => false,
            Phase::On => true,
            Phase::Growing { began, lasts } => began.elapsed() >= lasts.mul_f64(fastrand::f64()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_one_state() {
        let drain = DrainSignal::new();
        let clone = drain.clone();
        drain.begin();
        assert!(clone.is_draining());
        clone.cancel();
        assert!(!drain.is_draining());
    }

    #[tokio::test(start_paused = true)]
    async fn a_gradual_drain_grows() {
        let drain = DrainSignal::new();
        drain.begin_gradually(Duration::from_secs(100));
        let asked = || (0..1000).filter(|_| drain.is_draining()).count();
        assert!(asked() < 50);
        tokio::time::advance(Duration::from_secs(50)).await;
        assert!((350..650).contains(&asked()));
        tokio::time::advance(Duration::from_secs(51)).await;
        assert_eq!(asked(), 1000);
    }
}
