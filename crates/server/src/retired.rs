//! Replaced routes, clusters and connection managers, kept until no worker uses them any more.
//!
//! To free ten thousand routes takes milliseconds. A worker that held the last reference would do it between two
//! requests, so the main thread holds one until all workers have dropped theirs.

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::background;
use crate::listener_plan::ListenerPlan;

/// After a replacement, most workers have dropped their references after this long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// A worker without requests keeps the last routes that it used, perhaps for hours.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What was replaced. Clones share one list.
#[derive(Clone, Default)]
pub(crate) struct Retired(Rc<Inner>);

#[derive(Default)]
struct Inner {
    kept: RefCell<Vec<Arc<dyn Any + Send + Sync>>>,
    added: Notify,
}

impl Retired {
    /// Keeps `replaced` for as long as anyone else does.
    pub(crate) fn keep(&self, replaced: Arc<dyn Any + Send + Sync>) {
        self.0.kept.borrow_mut().push(replaced);
        self.0.added.notify_one();
    }

    /// Keeps the connection managers of `replaced`, apart from those that `new` has too.
    pub(crate) fn keep_listener(&self, replaced: &ListenerPlan, new: Option<&ListenerPlan>) {
        for manager in replaced.connection_managers() {
            let mut still_used = new.iter().flat_map(|new| new.connection_managers());
            if !still_used.any(|used| Arc::ptr_eq(used, manager)) {
                self.keep(manager.clone());
            }
        }
    }

    /// Frees what only this list holds, for as long as the process serves, and calls `freed` each time.
    pub(crate) async fn free(self, freed: impl Fn()) {
        let mut pause = FIRST_PAUSE;
        loop {
            if self.0.kept.borrow().is_empty() {
                self.0.added.notified().await;
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(pause).await;
            let is_unused = |kept: &mut Arc<dyn Any + Send + Sync>| Arc::strong_count(kept) == 1;
            let unused: Vec<_> = (self.0.kept.borrow_mut().extract_if(.., is_unused)).collect();
            if !unused.is_empty() {
                // Without a thread, they have been dropped here, on the main thread.
                let _ = background::run("free", move || drop(unused)).await;
                freed();
            }
            pause = match timeout(pause, self.0.added.notified()).await {
                Ok(()) => FIRST_PAUSE,
                Err(_) => (pause * 2).min(LONGEST_PAUSE),
            };
        }
    }
}
