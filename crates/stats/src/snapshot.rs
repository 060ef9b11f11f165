//! All stats at one moment, sorted by name: the input of the renderers.

mod order;

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::Arc;

use regex::bytes::Regex;

use self::order::FamilyOrder;
use crate::Metric;
use crate::StatsOptions;
use crate::Visitor;
use crate::store::RecordedHistogram;
use crate::store::Registered;
use crate::store::Scopes;

/// The current values of a store. Names are stored in two parts, so that a thousand clusters share most of them.
#[derive(Debug, Default)]
pub struct StatsSnapshot {
    scopes: Vec<Box<str>>,
    names: Vec<Arc<str>>,
    texts: Vec<Box<str>>,
    recorded: Vec<RecordedHistogram>,
    entries: Vec<SnapshotEntry>,
}

#[derive(Clone, Copy, Debug)]
struct SnapshotEntry {
    scope: u32,
    name: u32,
    value: EntryValue,
}

#[derive(Clone, Copy, Debug)]
enum EntryValue {
    Counter(u64),
    Gauge(i64),
    Text(u32),
    /// `None` if nothing was recorded yet.
    Histogram(Option<u32>),
}

/// One stat in a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct StatRow<'a> {
    snapshot: &'a StatsSnapshot,
    entry: &'a SnapshotEntry,
}

/// The value of a stat in a snapshot.
#[derive(Clone, Copy, Debug)]
pub enum StatValue<'a> {
    /// A counter.
    Counter(u64),
    /// A gauge. Shown as 0 if it is negative for a moment because its copies are read one after another.
    Gauge(u64),
    /// A text readout.
    Text(&'a str),
    /// A histogram; `None` if nothing was recorded yet.
    Histogram(Option<&'a RecordedHistogram>),
}

impl StatValue<'_> {
    /// The kind of stat that has this value.
    pub fn kind(&self) -> StatKind {
        match self {
            Self::Counter(_) => StatKind::Counter,
            Self::Gauge(_) => StatKind::Gauge,
            Self::Text(_) => StatKind::Text,
            Self::Histogram(_) => StatKind::Histogram,
        }
    }
}

/// The four kinds of stats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatKind {
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
pub struct StatsFilter {
    /// Only stats that were ever written (`usedonly`).
    pub used_only: bool,
    /// Only stats whose names match this (`filter`) …
    pub name: Option<Regex>,
    /// … or, if this is set, whose names do not match (`invert_filter`).
    pub invert: bool,
    /// Only stats of this kind (`type`).
    pub kind: Option<StatKind>,
}

impl StatsFilter {
    fn admits(&self, name: &str) -> bool {
        self.name
            .as_ref()
            .is_none_or(|regex| regex.is_match(name.as_bytes()) != self.invert)
    }
}

impl<'a> StatRow<'a> {
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

    /// The number of the first part of the name, which is the scope: see [`StatsSnapshot::scopes`].
    pub(crate) fn scope(&self) -> usize {
        self.entry.scope as usize
    }

    /// The second part of the name, and its number, which is the same in all scopes.
    pub(crate) fn below_scope(&self) -> (usize, &'a str) {
        let number = self.entry.name as usize;
        (number, &self.snapshot.names[number])
    }

    /// The value.
    pub fn value(&self) -> StatValue<'a> {
        let snapshot = self.snapshot;
        match self.entry.value {
            EntryValue::Counter(value) => StatValue::Counter(value),
            EntryValue::Gauge(value) => StatValue::Gauge(level(value)),
            EntryValue::Text(at) => StatValue::Text(&snapshot.texts[at as usize]),
            EntryValue::Histogram(at) => {
                StatValue::Histogram(at.map(|at| &snapshot.recorded[at as usize]))
            }
        }
    }
}

/// The level of a gauge whose copies sum up to `sum`. Copies are read one after another, so the sum may be slightly
/// negative for a moment: then the level is 0. Very negative sums are gauges that hold a large number, such as a
/// version's hash.
fn level(sum: i64) -> u64 {
    let is_below_zero = sum < 0 && sum > i64::from(i32::MIN);
    if is_below_zero {
        0
    } else {
        sum.cast_unsigned()
    }
}

impl StatsSnapshot {
    /// All stats, sorted by name.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = StatRow<'_>> {
        self.entries.iter().map(|entry| StatRow {
            snapshot: self,
            entry,
        })
    }

    /// The scopes by number, each including the dot after it.
    pub(crate) fn scopes(&self) -> &[Box<str>] {
        &self.scopes
    }

    /// The stat at `index` in the sorted order.
    pub(crate) fn row(&self, index: usize) -> Option<StatRow<'_>> {
        let entry = self.entries.get(index)?;
        Some(StatRow {
            snapshot: self,
            entry,
        })
    }

    pub(crate) fn take(scopes: &Scopes, options: &StatsOptions, filter: &StatsFilter) -> Self {
        let mut builder = SnapshotBuilder {
            snapshot: Self::default(),
            options,
            filter,
            names: HashMap::new(),
            layouts: HashMap::new(),
            order: FamilyOrder::default(),
            full_name: String::new(),
        };
        let mut family_start = 0;
        let mut family = "";
        for (prefix, groups) in scopes {
            if !prefix.starts_with(family) || family.is_empty() {
                builder.sort_from(family_start);
                family_start = builder.snapshot.entries.len();
                family = prefix;
            }
            let scope = builder.snapshot.scopes.len() as u32;
            builder.snapshot.scopes.push(prefix.clone());
            builder.order.add_scope(&prefix[family.len()..]);
            for group in groups {
                builder.add(scope, prefix, group);
            }
        }
        builder.sort_from(family_start);
        builder.snapshot
    }
}

struct SnapshotBuilder<'a> {
    snapshot: StatsSnapshot,
    options: &'a StatsOptions,
    filter: &'a StatsFilter,
    /// The index of each second part of a name in `snapshot.names`. All clusters share them.
    names: HashMap<Arc<str>, u32>,
    /// The names of the last group of each type, in the order of its stats. Nearly always, the next group of the type has
    /// the same, which are then not looked up.
    layouts: HashMap<TypeId, Vec<u32>>,
    order: FamilyOrder<'a>,
    full_name: String,
}

impl SnapshotBuilder<'_> {
    /// Adds the stats of one group, summed over its copies.
    fn add(&mut self, scope: u32, prefix: &str, group: &Registered) {
        let first = self.snapshot.entries.len();
        let mut layout = self.layouts.remove(&group.kind).unwrap_or_default();
        let mut used = Vec::with_capacity(layout.len());
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
                        Metric::Counter(_) => {
                            EntryValue::Counter(group.value_at_reset(name).wrapping_neg())
                        }
                        Metric::Gauge(_) => EntryValue::Gauge(0),
                        Metric::Text(_) => EntryValue::Text(self.text()),
                        Metric::Histogram(_) => EntryValue::Histogram(self.recorded(name, group)),
                    };
                    let name = self.intern(name, &mut layout, used.len());
                    self.snapshot
                        .entries
                        .push(SnapshotEntry { scope, name, value });
                    used.push(false);
                    used.len() - 1
                });
                let entry = &mut self.snapshot.entries[first + at];
                used[at] |= match (&mut entry.value, metric) {
                    (EntryValue::Counter(sum), Metric::Counter(counter)) => {
                        *sum = sum.wrapping_add(counter.value());
                        counter.is_used()
                    }
                    (EntryValue::Gauge(sum), Metric::Gauge(gauge)) => {
                        *sum = sum.wrapping_add(gauge.value());
                        gauge.is_used()
                    }
                    (EntryValue::Text(at), Metric::Text(text)) => match text.value() {
                        Some(text) => {
                            self.snapshot.texts[*at as usize] = text;
                            true
                        }
                        None => false,
                    },
                    (EntryValue::Histogram(at), _) => at.is_some(),
                    _ => false,
                };
                at += 1;
            }));
        }
        self.layouts.insert(group.kind, layout);
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

    /// The number of the name of a group's stat at `at`, where `layout` has the names of the last group of the type.
    fn intern(&mut self, name: &str, layout: &mut Vec<u32>, at: usize) -> u32 {
        let names = &mut self.snapshot.names;
        let expected = layout.get(at).copied();
        if let Some(number) = expected.filter(|number| *names[*number as usize] == *name) {
            return number;
        }
        let number = self.names.get(name).copied().unwrap_or_else(|| {
            let name: Arc<str> = name.into();
            names.push(name.clone());
            let number = names.len() as u32 - 1;
            self.names.insert(name, number);
            number
        });
        match layout.get_mut(at) {
            Some(expected) => *expected = number,
            None => layout.push(number),
        }
        number
    }

    /// Removes the entries from `first` on that the filter or `stats_matcher` excludes.
    fn drop_unwanted(&mut self, first: usize, prefix: &str, used: &[bool]) {
        let StatsFilter {
            used_only,
            name,
            invert: _,
            kind,
        } = self.filter;
        if !used_only && name.is_none() && kind.is_none() && !self.options.has_matcher() {
            return;
        }
        let mut kept = first;
        for (offset, used) in used.iter().enumerate() {
            let entry = self.snapshot.entries[first + offset];
            let kind = match entry.value {
                EntryValue::Counter(_) => StatKind::Counter,
                EntryValue::Gauge(_) => StatKind::Gauge,
                EntryValue::Text(_) => StatKind::Text,
                EntryValue::Histogram(_) => StatKind::Histogram,
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
        let StatsSnapshot { names, entries, .. } = &mut self.snapshot;
        let repeats = self.order.sort(&mut entries[first..], names);
        if repeats.is_empty() {
            return;
        }
        let mut kept = first;
        for (offset, is_repeat) in repeats.iter().enumerate() {
            let entry = entries[first + offset];
            if *is_repeat {
                add(&mut entries[kept - 1].value, entry.value);
            } else {
                entries[kept] = entry;
                kept += 1;
            }
        }
        entries.truncate(kept);
    }
}

/// Adds up the values of one stat in two groups.
fn add(to: &mut EntryValue, more: EntryValue) {
    match (to, more) {
        (EntryValue::Counter(sum), EntryValue::Counter(more)) => *sum += more,
        (EntryValue::Gauge(sum), EntryValue::Gauge(more)) => *sum = sum.wrapping_add(more),
        (to @ EntryValue::Histogram(None), more) => *to = more,
        _ => {}
    }
}

#[cfg(test)]
mod tests;
