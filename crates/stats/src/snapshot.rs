//! All stats at one moment, sorted by name: the input of the renderers.

use std::collections::HashMap;
use std::sync::Arc;

use regex::Regex;

use crate::Metric;
use crate::Options;
use crate::Visitor;
use crate::store::Recorded;
use crate::store::Registered;
use crate::store::Scopes;

/// The current values of a store. Names are stored in two parts, so that a thousand clusters share most of them.
#[derive(Debug, Default)]
pub struct Snapshot {
    scopes: Vec<Box<str>>,
    names: Vec<Arc<str>>,
    texts: Vec<Box<str>>,
    recorded: Vec<Recorded>,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    scope: u32,
    name: u32,
    value: Held,
}

#[derive(Clone, Copy, Debug)]
enum Held {
    Counter(u64),
    Gauge(i64),
    Text(u32),
    /// `None` if nothing was recorded yet.
    Histogram(Option<u32>),
}

/// One stat in a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    snapshot: &'a Snapshot,
    entry: &'a Entry,
}

/// The value of a stat in a snapshot.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// A counter.
    Counter(u64),
    /// A gauge. Shown as 0 if it is negative for a moment because its copies are read one after another.
    Gauge(u64),
    /// A text readout.
    Text(&'a str),
    /// A histogram; `None` if nothing was recorded yet.
    Histogram(Option<&'a Recorded>),
}

impl Value<'_> {
    /// The kind of stat that has this value.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Counter(_) => Kind::Counter,
            Self::Gauge(_) => Kind::Gauge,
            Self::Text(_) => Kind::Text,
            Self::Histogram(_) => Kind::Histogram,
        }
    }
}

/// The four kinds of stats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A counter.
    Counter,
    /// A gauge.
    Gauge,
    /// A text readout.
    Text,
    /// A histogram.
    Histogram,
}

/// Selects stats.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only stats that were ever written (`usedonly`).
    pub used_only: bool,
    /// Only stats whose names match this (`filter`) …
    pub name: Option<Regex>,
    /// … or, if this is set, whose names do not match (`invert_filter`).
    pub invert: bool,
    /// Only stats of this kind (`type`).
    pub kind: Option<Kind>,
}

impl Filter {
    fn admits(&self, name: &str) -> bool {
        self.name
            .as_ref()
            .is_none_or(|regex| regex.is_match(name) != self.invert)
    }
}

impl<'a> Row<'a> {
    /// The full name.
    pub fn name(&self) -> String {
        let mut name = String::new();
        self.write_name(&mut name);
        name
    }

    /// Appends the full name.
    pub(crate) fn write_name(&self, to: &mut String) {
        to.push_str(&self.snapshot.scopes[self.entry.scope as usize]);
        to.push_str(&self.snapshot.names[self.entry.name as usize]);
    }

    /// The first part of the name: the scope, including the dot after it.
    pub(crate) fn scope(&self) -> &'a str {
        &self.snapshot.scopes[self.entry.scope as usize]
    }

    /// The second part of the name, and its number, which is the same in all scopes.
    pub(crate) fn below_scope(&self) -> (usize, &'a str) {
        let number = self.entry.name as usize;
        (number, &self.snapshot.names[number])
    }

    /// The value.
    pub fn value(&self) -> Value<'a> {
        let snapshot = self.snapshot;
        match self.entry.value {
            Held::Counter(value) => Value::Counter(value),
            Held::Gauge(value) => Value::Gauge(level(value)),
            Held::Text(at) => Value::Text(&snapshot.texts[at as usize]),
            Held::Histogram(at) => Value::Histogram(at.map(|at| &snapshot.recorded[at as usize])),
        }
    }
}

/// The level of a gauge. Copies are read one after the other, so a sum can be a little below 0 for a moment: that is 0. The
/// upper half of all numbers belongs to gauges that hold one, such as the hash of a version.
fn level(sum: i64) -> u64 {
    let is_below_zero = sum < 0 && sum > i64::from(i32::MIN);
    if is_below_zero {
        0
    } else {
        sum.cast_unsigned()
    }
}

impl Snapshot {
    /// All stats, sorted by name.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = Row<'_>> {
        self.entries.iter().map(|entry| Row {
            snapshot: self,
            entry,
        })
    }

    /// The stat at `index` in the sorted order.
    pub(crate) fn row(&self, index: usize) -> Option<Row<'_>> {
        let entry = self.entries.get(index)?;
        Some(Row {
            snapshot: self,
            entry,
        })
    }

    pub(crate) fn take(scopes: &Scopes, options: &Options, filter: &Filter) -> Self {
        let mut taking = Taking {
            snapshot: Self::default(),
            options,
            filter,
            names: HashMap::new(),
            full_name: String::new(),
        };
        let mut family_start = 0;
        let mut family = "";
        for (prefix, groups) in scopes {
            if !prefix.starts_with(family) || family.is_empty() {
                taking.sort_from(family_start);
                family_start = taking.snapshot.entries.len();
                family = prefix;
            }
            let scope = taking.snapshot.scopes.len() as u32;
            taking.snapshot.scopes.push(prefix.clone());
            for group in groups {
                taking.add(scope, prefix, group);
            }
        }
        taking.sort_from(family_start);
        taking.snapshot
    }
}

struct Taking<'a> {
    snapshot: Snapshot,
    options: &'a Options,
    filter: &'a Filter,
    /// The index of each second part of a name in `snapshot.names`. All clusters share them.
    names: HashMap<Arc<str>, u32>,
    full_name: String,
}

impl Taking<'_> {
    /// Adds the stats of one group, summed over its copies.
    fn add(&mut self, scope: u32, prefix: &str, group: &Registered) {
        let first = self.snapshot.entries.len();
        let mut used = Vec::new();
        for (nth, copy) in group.copies.iter().enumerate() {
            // All copies list their stats in the same order, but some may lack stats that are created when first used.
            let mut at = 0;
            copy.visit(&mut Visitor::new(&mut |name, metric| {
                let entries = &self.snapshot.entries[first..];
                let is_here = |i: usize| *self.snapshot.names[entries[i].name as usize] == *name;
                let known = if nth == 0 { 0 } else { entries.len() };
                let found = (at..known).chain(0..at.min(known)).find(|i| is_here(*i));
                at = found.unwrap_or_else(|| {
                    let value = match metric {
                        Metric::Counter(_) => Held::Counter(group.discounted(name).wrapping_neg()),
                        Metric::Gauge(_) => Held::Gauge(0),
                        Metric::Text(_) => Held::Text(self.text()),
                        Metric::Histogram(_) => Held::Histogram(self.recorded(name, group)),
                    };
                    let name = self.intern(name);
                    self.snapshot.entries.push(Entry { scope, name, value });
                    used.push(false);
                    used.len() - 1
                });
                let entry = &mut self.snapshot.entries[first + at];
                used[at] |= match (&mut entry.value, metric) {
                    (Held::Counter(sum), Metric::Counter(counter)) => {
                        *sum = sum.wrapping_add(counter.value());
                        counter.is_used()
                    }
                    (Held::Gauge(sum), Metric::Gauge(gauge)) => {
                        *sum = sum.wrapping_add(gauge.value());
                        gauge.is_used()
                    }
                    (Held::Text(at), Metric::Text(text)) => match text.value() {
                        Some(text) => {
                            self.snapshot.texts[*at as usize] = text;
                            true
                        }
                        None => false,
                    },
                    (Held::Histogram(at), _) => at.is_some(),
                    _ => false,
                };
                at += 1;
            }));
        }
        if group.unlisted && !used.contains(&true) {
            self.snapshot.entries.truncate(first);
        } else {
            self.drop_unwanted(first, prefix, &used);
        }
    }

    fn text(&mut self) -> u32 {
        self.snapshot.texts.push(Box::default());
        self.snapshot.texts.len() as u32 - 1
    }

    fn recorded(&mut self, name: &str, group: &Registered) -> Option<u32> {
        let recorded = group.recorded(name)?;
        self.snapshot.recorded.push(recorded.clone());
        Some(self.snapshot.recorded.len() as u32 - 1)
    }

    fn intern(&mut self, name: &str) -> u32 {
        if let Some(at) = self.names.get(name) {
            return *at;
        }
        let name: Arc<str> = name.into();
        let at = self.snapshot.names.len() as u32;
        self.snapshot.names.push(name.clone());
        self.names.insert(name, at);
        at
    }

    /// Removes the entries from `first` on that the filter or `stats_matcher` excludes.
    fn drop_unwanted(&mut self, first: usize, prefix: &str, used: &[bool]) {
        let mut kept = first;
        for (offset, used) in used.iter().enumerate() {
            let entry = self.snapshot.entries[first + offset];
            let kind = match entry.value {
                Held::Counter(_) => Kind::Counter,
                Held::Gauge(_) => Kind::Gauge,
                Held::Text(_) => Kind::Text,
                Held::Histogram(_) => Kind::Histogram,
            };
            let mut wanted = (*used || !self.filter.used_only)
                && self.filter.kind.is_none_or(|only| only == kind);
            if wanted && (self.filter.name.is_some() || self.options.has_matcher()) {
                self.full_name.clear();
                self.full_name.push_str(prefix);
                let name = &self.snapshot.names[entry.name as usize];
                self.full_name.push_str(name);
                wanted = self.filter.admits(&self.full_name)
                    && self.options.is_admitted(&self.full_name);
            }
            if wanted {
                self.snapshot.entries[kept] = entry;
                kept += 1;
            }
        }
        self.snapshot.entries.truncate(kept);
    }

    /// Sorts the entries from `first` on, which belong to one scope and the scopes below it, and adds up entries of
    /// different groups with the same name.
    fn sort_from(&mut self, first: usize) {
        let mut tail = self.snapshot.entries.split_off(first);
        let Snapshot { scopes, names, .. } = &self.snapshot;
        let parts = |e: &Entry| (&*scopes[e.scope as usize], &*names[e.name as usize]);
        let full_name = |e: &Entry| {
            let (scope, name) = parts(e);
            [scope, name].concat()
        };
        let same_scope = tail.windows(2).all(|w| w[0].scope == w[1].scope);
        if same_scope {
            tail.sort_by(|a, b| parts(a).cmp(&parts(b)));
        } else {
            tail.sort_by_cached_key(full_name);
        }
        tail.dedup_by(|later, earlier| {
            let same = later.name == earlier.name && later.scope == earlier.scope
                || !same_scope && full_name(later) == full_name(earlier);
            if same {
                match (&mut earlier.value, later.value) {
                    (Held::Counter(sum), Held::Counter(more)) => *sum += more,
                    (Held::Gauge(sum), Held::Gauge(more)) => *sum = sum.wrapping_add(more),
                    (earlier @ Held::Histogram(None), later) => *earlier = later,
                    _ => {}
                }
            }
            same
        });
        self.snapshot.entries.extend(tail);
    }
}

#[cfg(test)]
mod tests;
