//! Draining: a state on one worker that connections check with each response, as Envoy's do.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

/// Tells connections that their listener, or the whole server, drains. Clones share one state; all stay on one worker.
#[derive(Clone, Debug, Default)]
pub struct DrainSignal(Rc<DrainSignalState>);

#[derive(Debug, Default)]
struct DrainSignalState {
    phase: Cell<DrainProgress>,
    is_hurried: Cell<bool>,
}

#[derive(Clone, Copy, Debug, Default)]
enum DrainProgress {
    #[default]
    Off,
    /// All connections are asked to finish.
    On,
    /// `--drain-strategy gradual`: each check asks the connection to finish with a probability that grows with time.
    Growing { began: Instant, lasts: Duration },
}

impl DrainSignal {
    /// A drain that has not begun.
    #[must_use]
    pub fn new() -> DrainSignal {
        DrainSignal::default()
    }

    /// Begins the drain.
    pub fn begin(&self) {
        self.0.phase.set(DrainProgress::On);
    }

    /// Begins gradually: [`is_draining`](DrainSignal::is_draining) is true with a probability that grows to 1 over
    /// `lasts`.
    pub fn begin_gradually(&self, lasts: Duration) {
        let began = Instant::now();
        self.0.phase.set(DrainProgress::Growing { began, lasts });
    }

    /// Cancels the drain: `/healthcheck/ok` undoes `/healthcheck/fail`.
    pub fn cancel(&self) {
        self.0.phase.set(DrainProgress::Off);
    }

    /// Everything is asked to finish now, however far the drain is; `false` takes that back, and not the drain.
    pub fn hurry(&self, hurry: bool) {
        self.0.is_hurried.set(hurry);
    }

    /// Whether the connection that checks now should finish.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        if self.0.is_hurried.get() {
            return true;
        }
        match self.0.phase.get() {
            DrainProgress::Off => false,
            DrainProgress::On => true,
            DrainProgress::Growing { began, lasts } => {
                began.elapsed() >= lasts.mul_f64(fastrand::f64())
            }
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

    #[tokio::test(start_paused = true)]
    async fn a_hurried_drain_is_gradual_again_afterwards() {
        let drain = DrainSignal::new();
        drain.begin_gradually(Duration::from_secs(100));
        drain.hurry(true);
        assert!((0..1000).all(|_| drain.is_draining()));
        drain.hurry(false);
        assert!((0..1000).filter(|_| drain.is_draining()).count() < 50);
    }
}
