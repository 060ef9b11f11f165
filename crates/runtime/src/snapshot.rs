//! The values of all layers at one moment, and how threads get the newest ones.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use foldhash::fast::FixedState;

use crate::Entry;
use crate::Fraction;

/// The values of all layers at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// With a fast hash: only operators set keys.
    values: HashMap<Box<str>, Entry, FixedState>,
}

impl Snapshot {
    pub(crate) fn new(values: HashMap<Box<str>, Entry, FixedState>) -> Snapshot {
        Snapshot { values }
    }

    /// A snapshot of texts, for tests.
    #[cfg(test)]
    pub(crate) fn of<const N: usize>(values: [(&str, &str); N]) -> Snapshot {
        let entry = |text| Entry::of_text(text).ok();
        let values = values.into_iter();
        Snapshot::new(
            values
                .filter_map(|(key, text)| Some((key.into(), entry(text)?)))
                .collect(),
        )
    }

    /// How many keys have a value.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether no key has a value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The value as a whole number that is not negative.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        self.values.get(key)?.number()
    }

    /// The value as a flag: `true` or `false`, in any case.
    #[must_use]
    pub fn flag(&self, key: &str) -> Option<bool> {
        let text = self.values.get(key)?.text().trim_ascii();
        let is = |word: &str| text.eq_ignore_ascii_case(word);
        (is("true") || is("false")).then(|| is("true"))
    }

    /// The value as a number of any kind.
    #[must_use]
    pub fn double(&self, key: &str) -> Option<f64> {
        self.values.get(key)?.double()
    }

    /// The value as a share: a `FractionalPercent`, or a number of percent.
    #[must_use]
    pub fn fraction(&self, key: &str) -> Option<Fraction> {
        self.values.get(key)?.fraction()
    }
}

/// The newest snapshot, for all threads.
#[derive(Debug, Default)]
pub struct Runtime {
    current: Arc<ArcSwap<Snapshot>>,
}

impl Runtime {
    /// A runtime that starts with these values.
    #[must_use]
    pub fn new(snapshot: Snapshot) -> Arc<Runtime> {
        Arc::new(Runtime {
            current: Arc::new(ArcSwap::from_pointee(snapshot)),
        })
    }

    /// The newest snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Makes `snapshot` the newest.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.current.store(snapshot);
    }

    /// A reader of the newest snapshot, for one thread. It is cheap to call often.
    #[must_use]
    pub fn reader(&self) -> RuntimeReader {
        RuntimeReader {
            newest: RefCell::new(Cache::new(self.current.clone())),
            seen: RefCell::default(),
        }
    }
}

/// One thread's reference to a snapshot. Cloning it changes no counter that other threads use.
pub type LocalSnapshot = Rc<Arc<Snapshot>>;

/// One thread's reader of the newest snapshot.
pub struct RuntimeReader {
    newest: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    seen: RefCell<Option<LocalSnapshot>>,
}

impl RuntimeReader {
    /// The newest snapshot, or `None` when no key has a value. Keep the result to read several values of one version.
    pub fn current(&self) -> Option<LocalSnapshot> {
        let mut newest = self.newest.borrow_mut();
        let newest = newest.load();
        let mut seen = self.seen.borrow_mut();
        if seen.as_ref().is_none_or(|seen| !Arc::ptr_eq(seen, newest)) {
            *seen = Some(Rc::new(newest.clone()));
        }
        seen.as_ref().filter(|seen| !seen.is_empty()).cloned()
    }
}

impl fmt::Debug for RuntimeReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RuntimeReader")
            .field(&self.seen.borrow())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_what_was_published_last() {
        let runtime = Runtime::new(Snapshot::default());
        let reader = runtime.reader();
        assert!(reader.current().is_none());
        runtime.publish(Arc::new(Snapshot::of([("a", "1")])));
        let held = reader.current();
        runtime.publish(Arc::new(Snapshot::of([("a", "2")])));
        let number = |snapshot: Option<LocalSnapshot>| snapshot.and_then(|s| s.number("a"));
        assert_eq!(number(held), Some(1));
        assert_eq!(number(reader.current()), Some(2));
        assert_eq!(runtime.snapshot().number("a"), Some(2));
    }
}
