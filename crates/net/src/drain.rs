//! "Please finish": a flag on one worker that connections look at and wait for.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;

use tokio::sync::Notify;

/// Says that a listener, or the whole server, drains. Clones share one state; all stay on one worker.
#[derive(Clone, Debug, Default)]
pub struct Drain(Rc<State>);

#[derive(Debug, Default)]
struct State {
    draining: Cell<bool>,
    begun: Notify,
}

impl Drain {
    /// A drain that has not begun.
    #[must_use]
    pub fn new() -> Drain {
        Drain::default()
    }

    /// Begins; everybody who waits is woken. There is no way back.
    pub fn begin(&self) {
        self.0.draining.set(true);
        self.0.begun.notify_waiters();
    }

    /// Whether it has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.draining.get()
    }

    /// Waits until it begins.
    pub fn wait(&self) -> impl Future<Output = ()> + 'static {
        let state = self.0.clone();
        async move {
            while !state.draining.get() {
                state.begun.notified().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wakes_those_who_wait_and_those_who_come_late() {
        let drain = Drain::new();
        let waiting = drain.wait();
        drain.begin();
        waiting.await;
        drain.wait().await;
        assert!(drain.clone().is_draining());
    }
}
