//! Tells the connections of one worker how far the shutdown of the process has come.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use slab::Slab;

/// The stage of the shutdown. Clones share one state; all stay on one worker.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(Rc<ShutdownState>);

#[derive(Debug, Default)]
struct ShutdownState {
    stage: Cell<ShutdownStage>,
    waiting: RefCell<Slab<Waker>>,
}

/// The stages of the shutdown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ShutdownStage {
    /// No shutdown has been requested.
    #[default]
    Serving,
    /// Connections are asked to finish. New requests are still served.
    Begun,
    /// No new request is accepted.
    Ended,
}

/// Tells one connection about each new stage while it is open. Connections poll it with each turn, so polling it again
/// is cheap.
#[derive(Debug)]
pub struct ShutdownWatch {
    state: Rc<ShutdownState>,
    told: ShutdownStage,
    /// Its index among the waiting connections.
    key: Option<usize>,
}

impl Shutdown {
    /// Enters a stage and wakes all watchers.
    pub fn enter(&self, stage: ShutdownStage) {
        self.0.stage.set(stage);
        let waiting: Vec<Waker> = {
            let waiting = self.0.waiting.borrow();
            waiting.iter().map(|(_, waker)| waker.clone()).collect()
        };
        for waker in waiting {
            waker.wake();
        }
    }

    /// Watches for the stages after the current one.
    #[must_use]
    pub fn watch(&self) -> ShutdownWatch {
        ShutdownWatch {
            state: self.0.clone(),
            told: self.0.stage.get(),
            key: None,
        }
    }
}

impl ShutdownWatch {
    /// The next stage that was not reported yet.
    pub fn poll_next(&mut self, cx: &Context<'_>) -> Poll<ShutdownStage> {
        let stage = self.state.stage.get();
        if stage > self.told {
            self.told = stage;
            return Poll::Ready(stage);
        }
        let mut waiting = self.state.waiting.borrow_mut();
        let replaced = match self.key.and_then(|key| waiting.get_mut(key)) {
            Some(waker) if waker.will_wake(cx.waker()) => None,
            Some(waker) => Some(std::mem::replace(waker, cx.waker().clone())),
            None => {
                self.key = Some(waiting.insert(cx.waker().clone()));
                None
            }
        };
        // The waker may be the last reference to a task that also watches, so it is dropped outside the borrow.
        drop(waiting);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for ShutdownWatch {
    fn drop(&mut self) {
        let removed = self
            .key
            .map(|key| self.state.waiting.borrow_mut().try_remove(key));
        // As in `poll_next`.
        drop(removed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn each_stage_is_told_once_and_wakes() {
        let shutdown = Shutdown::default();
        let mut watch = shutdown.watch();
        let look = |watch: &mut ShutdownWatch| watch.poll_next(&Context::from_waker(Waker::noop()));
        assert!(look(&mut watch).is_pending());
        let local = tokio::task::LocalSet::new();
        let waiting = local.spawn_local(async move {
            let stage = poll_fn(|cx| watch.poll_next(cx)).await;
            (stage, watch)
        });
        let begin = async {
            tokio::task::yield_now().await;
            shutdown.enter(ShutdownStage::Begun);
            waiting.await.unwrap()
        };
        let (stage, mut watch) = local.run_until(begin).await;
        assert_eq!(stage, ShutdownStage::Begun);
        assert!(look(&mut watch).is_pending());
        // A late watcher is told only about later stages.
        let mut late = shutdown.watch();
        assert!(look(&mut late).is_pending());
        shutdown.enter(ShutdownStage::Ended);
        for watch in [&mut watch, &mut late] {
            assert_eq!(look(watch), Poll::Ready(ShutdownStage::Ended));
        }
        drop((watch, late));
        assert!(shutdown.0.waiting.borrow().is_empty());
    }
}
