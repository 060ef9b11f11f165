//! Replaced and removed listeners whose connections have not ended: for stats and `/config_dump`.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use outrider_admin::ListenerManagerStats;
use outrider_stats::Gauge;

use crate::listener_plan::ListenerPlan;

/// What an update of listeners has replaced.
#[derive(Default)]
pub(super) struct Replaced {
    pub(super) listeners: Vec<Arc<ListenerPlan>>,
    /// How many filter chains were replaced in listeners that stay.
    pub(super) filter_chains: usize,
}

/// All listeners and filter chains that drain.
pub(super) struct DrainingListeners {
    updates: Rc<RefCell<Vec<Rc<Replaced>>>>,
    stats: Arc<ListenerManagerStats>,
}

/// What one update has replaced; listed until this is dropped.
pub(super) struct ListedUpdate {
    replaced: Rc<Replaced>,
    updates: Rc<RefCell<Vec<Rc<Replaced>>>>,
    stats: Arc<ListenerManagerStats>,
}

impl DrainingListeners {
    pub(super) fn new(stats: Arc<ListenerManagerStats>) -> DrainingListeners {
        DrainingListeners {
            updates: Rc::default(),
            stats,
        }
    }

    /// Lists what an update has replaced.
    pub(super) fn list(&self, replaced: Replaced) -> ListedUpdate {
        let listed = ListedUpdate {
            replaced: Rc::new(replaced),
            updates: self.updates.clone(),
            stats: self.stats.clone(),
        };
        self.updates.borrow_mut().push(listed.replaced.clone());
        listed.count();
        listed
    }

    /// The listeners, the oldest first.
    pub(super) fn all(&self) -> Vec<Arc<ListenerPlan>> {
        let updates = self.updates.borrow();
        let listeners = updates.iter().flat_map(|update| &update.listeners);
        listeners.cloned().collect()
    }
}

impl ListedUpdate {
    fn count(&self) {
        let updates = self.updates.borrow();
        let sum =
            |count: fn(&Replaced) -> usize| updates.iter().map(|one| count(one)).sum::<usize>();
        let (listeners, chains) = (sum(|one| one.listeners.len()), sum(|one| one.filter_chains));
        set(&self.stats.total_listeners_draining, listeners);
        set(&self.stats.total_filter_chains_draining, chains);
    }
}

/// Sets a gauge, except from 0 to 0: `usedonly` leaves out what has never drained, as in Envoy.
fn set(gauge: &Gauge, count: usize) {
    if count > 0 || gauge.value() != 0 {
        gauge.set(count as u64);
    }
}

impl Drop for ListedUpdate {
    fn drop(&mut self) {
        let mut updates = self.updates.borrow_mut();
        updates.retain(|update| !Rc::ptr_eq(update, &self.replaced));
        drop(updates);
        self.count();
    }
}
