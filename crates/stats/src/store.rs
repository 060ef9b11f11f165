//! The registry of all groups by scope.

use std::any::Any;
use std::any::TypeId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::Distribution;
use crate::Group;
use crate::Metric;
use crate::Scope;
use crate::StatsFilter;
use crate::StatsOptions;
use crate::StatsSnapshot;
use crate::Visitor;

/// All stats of a process. Registering and rendering take its lock; counting does not.
#[derive(Default)]
pub struct Store {
    options: StatsOptions,
    /// Keyed by the scope's name followed by a dot, so that the scopes below a scope follow directly after it.
    scopes: Mutex<Scopes>,
}

pub(crate) type Scopes = BTreeMap<Box<str>, Vec<Registered>>;

/// One type of group under one scope: a copy for each thread that registered it.
///
/// A thread that registers the group again, because a cluster or listener was replaced, gets its existing copy:
/// counters never go back, and a thousand replacements take no more memory than one.
#[derive(Clone)]
pub(crate) struct Registered {
    /// The type of the group.
    pub(crate) kind: TypeId,
    /// Listed only after something in it was counted.
    pub(crate) unlisted: bool,
    pub(crate) copies: Vec<Arc<dyn Group>>,
    /// The thread that writes to each copy, in the order of `copies`.
    owners: Vec<Owner>,
    /// The histograms at the last flush, by name and summed over all copies; only those that recorded something,
    /// because most never do.
    recorded: Option<Arc<BTreeMap<Box<str>, RecordedHistogram>>>,
    /// The counters' sums over all copies at the last reset.
    value_at_reset: Option<Arc<BTreeMap<Box<str>, u64>>>,
}

/// The thread that writes to a copy of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Main,
    Worker(u32),
}

/// A histogram, summed over its copies.
#[derive(Clone, Debug, Default)]
pub struct RecordedHistogram {
    /// Between the last two flushes.
    pub interval: Distribution,
    /// Since the start.
    pub cumulative: Distribution,
}

impl Registered {
    /// The histogram with this name at the last flush, if it recorded something.
    pub(crate) fn recorded(&self, name: &str) -> Option<&RecordedHistogram> {
        self.recorded.as_ref()?.get(name)
    }

    /// The value of the counter with this name at the last reset, which is subtracted.
    pub(crate) fn value_at_reset(&self, name: &str) -> u64 {
        let all = self.value_at_reset.as_ref();
        all.and_then(|all| all.get(name)).copied().unwrap_or(0)
    }

    /// Resets the counters to 0. Only their thread may write them, so the present sums are stored and subtracted when
    /// showing them. A counter that was used stays used (`usedonly`), and an event at the same moment counts on either
    /// side.
    fn reset_counters(&mut self) {
        let mut reached = BTreeMap::<Box<str>, u64>::new();
        for copy in &self.copies {
            copy.visit(&mut Visitor::new(&mut |name, metric| {
                if let Metric::Counter(counter) = metric {
                    *reached.entry(name.into()).or_default() += counter.value();
                }
            }));
        }
        reached.retain(|_, value| *value > 0);
        self.value_at_reset = Some(Arc::new(reached));
    }

    /// Whether a handle is held outside the store. As long as one is, the other copies stay too, because their counts
    /// are part of the sum.
    fn is_alive(&self) -> bool {
        self.copies.iter().any(|copy| Arc::strong_count(copy) > 1)
    }

    /// This thread's existing copy.
    fn copy_of<G: Group>(&self, owner: Owner) -> Option<Arc<G>> {
        let at = self.owners.iter().position(|other| *other == owner)?;
        let copy: Arc<dyn Any + Send + Sync> = self.copies.get(at)?.clone();
        copy.downcast().ok()
    }

    fn flush(&mut self) {
        let recorded = &mut self.recorded;
        for earlier in recorded
            .iter_mut()
            .flat_map(|all| Arc::make_mut(all).values_mut())
        {
            earlier.interval.clear();
        }
        for copy in &self.copies {
            copy.visit(&mut Visitor::new(&mut |name, metric| {
                let Metric::Histogram(histogram) = metric else {
                    return;
                };
                histogram.drain(|lower, count| {
                    let all = Arc::make_mut(recorded.get_or_insert_default());
                    if !all.contains_key(name) {
                        all.insert(name.into(), RecordedHistogram::default());
                    }
                    if let Some(recorded) = all.get_mut(name) {
                        recorded.interval.add(lower, count.into());
                        recorded.cumulative.add(lower, count.into());
                    }
                });
            }));
        }
    }
}

impl Store {
    /// An empty store with Envoy's defaults.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// An empty store with the options of a bootstrap's `stats_config`.
    pub fn with_options(options: StatsOptions) -> Arc<Self> {
        Arc::new(Self {
            options,
            ..Self::default()
        })
    }

    /// The main thread's copy of `G` under `scope`, created the first time.
    pub fn register<G: Group + Default>(&self, scope: Scope) -> Arc<G> {
        self.add(scope, Owner::Main, false)
    }

    /// Like [`register`](Self::register), for a group that Envoy creates when first needed, such as `http2.*`: it is
    /// listed after something in it was counted.
    pub fn register_unlisted<G: Group + Default>(&self, scope: Scope) -> Arc<G> {
        self.add(scope, Owner::Main, true)
    }

    /// The store for use by a worker, which registers its own copies.
    pub fn of_worker(self: &Arc<Self>, index: u32) -> WorkerStore {
        WorkerStore {
            store: self.clone(),
            owner: Owner::Worker(index),
        }
    }

    fn add<G: Group + Default>(&self, scope: Scope, owner: Owner, unlisted: bool) -> Arc<G> {
        let mut scopes = self.lock();
        let groups = scopes.entry(scope.into_prefix()).or_default();
        groups.retain(Registered::is_alive); // left by a cluster that was removed and is added again
        groups.reserve_exact(1); // scopes have one or two groups, and there are thousands of scopes
        let kind = TypeId::of::<G>();
        let Some(group) = groups.iter_mut().find(|group| group.kind == kind) else {
            let copy = Arc::new(G::default());
            groups.push(Registered {
                kind,
                unlisted,
                copies: vec![copy.clone()],
                owners: vec![owner],
                recorded: None,
                value_at_reset: None,
            });
            return copy;
        };
        if let Some(copy) = group.copy_of(owner) {
            return copy;
        }
        let copy = Arc::new(G::default());
        group.copies.push(copy.clone());
        group.owners.push(owner);
        copy
    }

    /// Collects what the workers' histograms recorded, which ends one interval and starts the next, and removes groups
    /// without handles. To be called every `stats_flush_interval` (5 s): histograms show values only after it.
    pub fn flush(&self) {
        self.lock().retain(|_, groups| {
            groups.retain(Registered::is_alive);
            groups.iter_mut().for_each(Registered::flush);
            !groups.is_empty()
        });
    }

    /// Resets all counters to 0 (`/reset_counters`). Gauges and histograms stay.
    pub fn reset_counters(&self) {
        let mut scopes = self.lock();
        let groups = scopes.values_mut().flatten();
        groups.for_each(Registered::reset_counters);
    }

    /// The current values of all stats that `filter` admits, sorted by name.
    pub fn snapshot(&self, filter: &StatsFilter) -> StatsSnapshot {
        // Cloned, so that a worker that registers meanwhile does not have to wait.
        let scopes = self.lock().clone();
        StatsSnapshot::take(&scopes, &self.options, filter)
    }

    /// How stats are labelled, selected and bucketed.
    pub fn options(&self) -> &StatsOptions {
        &self.options
    }

    fn lock(&self) -> MutexGuard<'_, Scopes> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The store for use by one worker. What it registers twice under one scope is one copy, even for different listeners
/// or clusters.
#[derive(Clone, Debug)]
pub struct WorkerStore {
    store: Arc<Store>,
    owner: Owner,
}

impl WorkerStore {
    /// The worker's copy of `G` under `scope`, created the first time.
    pub fn register<G: Group + Default>(&self, scope: Scope) -> Arc<G> {
        self.store.add(scope, self.owner, false)
    }

    /// See [`Store::register_unlisted`].
    pub fn register_unlisted<G: Group + Default>(&self, scope: Scope) -> Arc<G> {
        self.store.add(scope, self.owner, true)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("scopes", &self.lock().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Counter;
    use crate::Gauge;
    use crate::Histogram;
    use crate::StatValue;

    crate::group! {
        struct Sample { cx_total: Counter, cx_active: Gauge, time: Histogram }
    }

    fn scope() -> Scope {
        Scope::new("cluster").name("x")
    }

    fn counter(store: &Store, name: &str) -> Option<u64> {
        let snapshot = store.snapshot(&StatsFilter::default());
        let row = snapshot.rows().find(|row| row.name() == name)?;
        match row.value() {
            StatValue::Counter(value) => Some(value),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn copies_are_summed_while_one_lives() {
        let store = Store::new();
        let first = store.of_worker(0).register::<Sample>(scope());
        let second = store.of_worker(1).register::<Sample>(scope());
        first.cx_total.add(2);
        second.cx_total.inc();
        assert_eq!(counter(&store, "cluster.x.cx_total"), Some(3));

        drop(second);
        store.flush();
        assert_eq!(counter(&store, "cluster.x.cx_total"), Some(3));

        drop(first);
        store.flush();
        assert_eq!(counter(&store, "cluster.x.cx_total"), None);
    }

    #[test]
    fn a_thread_that_registers_again_gets_its_copy() {
        let store = Store::new();
        let worker = store.of_worker(0);
        let other = store.of_worker(1).register::<Sample>(scope());
        worker.register::<Sample>(scope()).cx_total.add(3);
        for _ in 0..100 {
            worker.register::<Sample>(scope()).cx_total.inc();
        }
        assert_eq!(counter(&store, "cluster.x.cx_total"), Some(103));
        let copies = |store: &Store| {
            store
                .lock()
                .values()
                .flatten()
                .map(|g| g.copies.len())
                .sum::<usize>()
        };
        assert_eq!(copies(&store), 2);
        drop(other);
    }

    #[test]
    fn a_scope_that_is_added_again_starts_at_0() {
        let store = Store::new();
        store.register::<Sample>(scope()).cx_total.inc();
        let again = store.register::<Sample>(scope());
        assert_eq!(counter(&store, "cluster.x.cx_total"), Some(0));
        drop(again);
    }

    #[test]
    fn a_held_gauge_keeps_its_group() {
        let store = Store::new();
        let held = store.register::<Sample>(scope()).hold(|s| &s.cx_active);
        store.flush();
        assert_eq!(counter(&store, "cluster.x.cx_total"), Some(0));
        drop(held);
    }

    #[test]
    fn an_unlisted_group_appears_when_used() {
        let store = Store::new();
        let copies =
            [0, 1].map(|index| store.of_worker(index).register_unlisted::<Sample>(scope()));
        assert_eq!(counter(&store, "cluster.x.cx_total"), None);
        copies[1].cx_active.inc();
        assert_eq!(counter(&store, "cluster.x.cx_total"), Some(0));
    }

    #[test]
    fn resets_counters_only() {
        let store = Store::new();
        let stats = store.register::<Sample>(scope());
        stats.cx_total.inc();
        stats.cx_active.inc();
        let other = store.of_worker(0).register::<Sample>(scope());
        other.cx_total.add(2);
        assert_eq!(counter(&store, "cluster.x.cx_total"), Some(3));
        store.reset_counters();
        assert_eq!(counter(&store, "cluster.x.cx_total"), Some(0));
        stats.cx_total.inc();
        assert_eq!(counter(&store, "cluster.x.cx_total"), Some(1));
        store.reset_counters();
        assert_eq!(counter(&store, "cluster.x.cx_total"), Some(0));
        assert_eq!(stats.cx_active.value(), 1);
        let used = StatsFilter {
            used_only: true,
            ..StatsFilter::default()
        };
        let used = store.snapshot(&used);
        assert!(used.rows().any(|row| row.name() == "cluster.x.cx_total"));
    }

    #[test]
    fn a_flush_ends_the_interval() {
        let store = Store::new();
        let workers = [0, 1].map(|index| store.of_worker(index).register::<Sample>(scope()));
        let counts = || {
            let snapshot = store.snapshot(&StatsFilter::default());
            let value = snapshot.rows().find_map(|row| match row.value() {
                StatValue::Histogram(recorded) => recorded.cloned(),
                _ => None,
            });
            value.map(|r| (r.interval.count(), r.cumulative.count()))
        };
        workers.iter().for_each(|worker| worker.time.record(5));
        assert_eq!(counts(), None);
        store.flush();
        assert_eq!(counts(), Some((2, 2)));
        store.flush();
        assert_eq!(counts(), Some((0, 2)));
    }
}
