//! The decoder's dynamic table (RFC 7541 sections 2.3.2 and 4).

use std::collections::VecDeque;

use super::DecodedValue;
use super::Name;

/// The size added for each entry (RFC 7541 section 4.1).
pub(super) const OVERHEAD: usize = 32;

/// A field of a table. Cloning copies no bytes.
#[derive(Clone, Debug)]
pub(super) struct TableEntry {
    pub(super) name: Name,
    pub(super) value: DecodedValue,
    pub(super) name_len: u32,
    pub(super) value_len: u32,
}

impl TableEntry {
    /// The total length of name and value.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.name_len as usize + self.value_len as usize
    }
}

/// The newest fields that fit into the maximum size.
#[derive(Debug)]
pub(super) struct Table {
    /// Newest first.
    fields: VecDeque<TableEntry>,
    size: usize,
    max_size: usize,
}

impl Table {
    /// An empty table. Allocates nothing before the first insertion.
    pub(super) fn new(max_size: usize) -> Table {
        Table {
            fields: VecDeque::new(),
            size: 0,
            max_size,
        }
    }

    /// The field at `index`; zero is the newest.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<&TableEntry> {
        self.fields.get(index)
    }

    /// Evicts entries to make room for a field of `len` bytes. Returns false if it can never fit; then the table
    /// becomes empty (RFC 7541 section 4.4).
    #[inline]
    pub(super) fn make_room(&mut self, len: usize) -> bool {
        let size = len.saturating_add(OVERHEAD);
        self.evict_to(self.max_size.saturating_sub(size));
        size <= self.max_size
    }

    /// Inserts a field after [`Table::make_room`] has made room for it.
    pub(super) fn insert(&mut self, field: TableEntry) {
        self.size += field.len() + OVERHEAD;
        self.fields.push_front(field);
    }

    /// Changes the maximum size of the table.
    pub(super) fn resize(&mut self, max_size: usize) {
        self.max_size = max_size;
        self.evict_to(max_size);
    }

    fn evict_to(&mut self, size: usize) {
        while self.size > size {
            let Some(field) = self.fields.pop_back() else {
                break;
            };
            self.size -= field.len() + OVERHEAD;
        }
    }

    /// The size in bytes, and the number of entries.
    #[cfg(test)]
    pub(super) fn extent(&self) -> (usize, usize) {
        (self.size, self.fields.len())
    }
}
