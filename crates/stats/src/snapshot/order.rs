//! Sorts the stats of a scope and of the scopes below it.

use std::collections::HashMap;
use std::sync::Arc;

use super::SnapshotEntry;

/// The sorted order of the last family, which is a scope with the scopes below it. It is remembered, because the next
/// family usually has the same names below its own: among a thousand clusters, only one is sorted.
#[derive(Debug, Default)]
pub(super) struct FamilyOrder<'a> {
    /// What each scope's name adds to that of its family, by the number of the scope: an index of `additions`.
    scopes: Vec<u32>,
    additions: Vec<&'a str>,
    numbers: HashMap<&'a str, u32>,
    /// The entries' names before sorting: what the scope adds, and the name below the scope.
    names: Vec<(u32, u32)>,
    /// Where each of the sorted entries was before.
    order: Vec<usize>,
    /// Whether each of the sorted entries has the name of the one before it. Empty if none has.
    repeats: Vec<bool>,
    /// The sorted entries, before they are put back.
    sorted: Vec<SnapshotEntry>,
}

impl<'a> FamilyOrder<'a> {
    /// The next scope, whose name adds `addition` to that of its family.
    pub(super) fn add_scope(&mut self, addition: &'a str) {
        let number = *self.numbers.entry(addition).or_insert_with(|| {
            self.additions.push(addition);
            self.additions.len() as u32 - 1
        });
        self.scopes.push(number);
    }

    /// Sorts the `entries` of one family by name; those of the same name keep their order. Returns which of them have the
    /// name of the one before; nothing if none has.
    pub(super) fn sort(&mut self, entries: &mut [SnapshotEntry], names: &[Arc<str>]) -> &[bool] {
        let scopes = &self.scopes;
        let name = |entry: &SnapshotEntry| (scopes[entry.scope as usize], entry.name);
        if !self.names.iter().copied().eq(entries.iter().map(name)) {
            self.names = entries.iter().map(name).collect();
            self.find_order(names);
        }
        self.sorted.clear();
        let sorted = self.order.iter().map(|at| entries[*at]);
        self.sorted.extend(sorted);
        entries.copy_from_slice(&self.sorted);
        &self.repeats
    }

    fn find_order(&mut self, names: &[Arc<str>]) {
        let text = |at: &usize| {
            let (addition, name) = self.names[*at];
            [self.additions[addition as usize], &names[name as usize]].concat()
        };
        self.order = (0..self.names.len()).collect();
        self.order.sort_by_cached_key(text);
        let texts: Vec<String> = self.order.iter().map(text).collect();
        let is_repeat = |at: usize| at > 0 && texts[at] == texts[at - 1];
        self.repeats = (0..texts.len()).map(is_repeat).collect();
        if !self.repeats.contains(&true) {
            self.repeats.clear();
        }
    }
}
