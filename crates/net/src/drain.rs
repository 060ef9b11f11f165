//! "Please finish": a state on one worker that connections look at and wait for.

use std::cell::Cell;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

/// Says that a listener, or the whole server, drains. Clones share one state; all stay on one worker.
#[derive(Clone, Debug, Default)]
pub struct Drain(Rc<State>);

#[derive(Debug, Default)]
struct State {
    phase: Cell<Phase>,
    waiting: RefCell<Slab<Waker>>,
}

/// Ready once everything is asked to finish. Polling it again costs next to nothing: connections do with each turn.
#[derive(Debug)]
pub struct Begun {
    state: Rc<State>,
    /// The place among those who wait.
    key: Option<usize>,
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

impl Drain {
    /// A drain that has not begun.
    #[must_use]
    pub fn new() -> Drain {
        Drain::default()
    }

    /// Begins; everybody who waits is woken.
    pub fn begin(&self) {
        self.0.phase.set(Phase::On);
        let waiting: Vec<Waker> = {
            let waiting = self.0.waiting.borrow();
            waiting.iter().map(|(_, waker)| waker.clone()).collect()
        };
        for waker in waiting {
            waker.wake();
        }
    }

    /// Begins gradually: [`is_draining`](Drain::is_draining) is true ever more often, and always after `lasts`. Nobody
    /// who waits is woken.
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

    /// Waits until everything is asked to finish.
    #[must_use]
    pub fn wait(&self) -> Begun {
        Begun {
            state: self.0.clone(),
            key: None,
        }
    }
}

impl Future for Begun {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if matches!(self.state.phase.get(), Phase::On) {
            return Poll::Ready(());
        }
        let mut waiting = self.state.waiting.borrow_mut();
        let replaced = match self.key.and_then(|key| waiting.get_mut(key)) {
            Some(waker) if waker.will_wake(cx.waker()) => None,
            Some(waker) => Some(std::mem::replace(waker, cx.waker().clone())),
            None => {
                let key = waiting.insert(cx.waker().clone());
                drop(waiting);
                self.key = Some(key);
                return Poll::Pending;
            }
        };
        // A waker may be the last hold on a task that waits, too, so it is dropped outside the borrow.
        drop(waiting);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let removed = self
            .key
            .map(|key| self.state.waiting.borrow_mut().try_remove(key));
        // As in `poll`.
        drop(removed);
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
        drain.cancel();
        assert!(!drain.is_draining());
        assert!(drain.0.waiting.borrow().is_empty());
    }

    #[tokio::test]
    async fn who_waits_no_longer_is_forgotten() {
        let drain = Drain::new();
        let mut waits = [drain.wait(), drain.wait()];
        for wait in &mut waits {
            assert!(look(wait).await.is_pending());
        }
        assert_eq!(drain.0.waiting.borrow().len(), 2);
        let [kept, left] = waits;
        drop(left);
        let local = tokio::task::LocalSet::new();
        let waiting = local.spawn_local(kept);
        local
            .run_until(async {
                tokio::task::yield_now().await;
                drain.begin();
                waiting.await.unwrap();
            })
            .await;
        assert!(drain.0.waiting.borrow().is_empty());
    }

    /// What one look at `wait` finds.
    async fn look(wait: &mut Begun) -> Poll<()> {
        std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *wait).poll(cx))).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_gradual_drain_grows() {
        let drain = Drain::new();
        drain.begin_gradually(Duration::from_secs(100));
        let asked = || (0..1000).filter(|_| drain.is_draining()).count();
        assert!(asked() < 50);
        tokio::time::advance(Duration::from_secs(50)).await;
        assert!((350..650).contains(&asked()));
        tokio::time::advance(Duration::from_secs(51)).await;
        assert_eq!(asked(), 1000);
    }
}
