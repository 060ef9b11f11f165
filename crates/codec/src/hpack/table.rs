//! The decoder's dynamic table (RFC 7541 sections 2.3.2 and 4).

use std::collections::VecDeque;

use super::Name;
use super::Value;

/// What each entry costs beyond its bytes (RFC 7541 section 4.1).
pub(super) const OVERHEAD: usize = 32;

/// A field of a table. Cloning it copies no bytes.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) name: Name,
    pub(super) value: Value,
    pub(super) name_len: u32,
    pub(super) value_len: u32,
}

impl Field {
    /// Bytes of the name and of the value.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.name_len as usize + self.value_len as usize
    }
}

/// The newest fields, as many as have room.
#[derive(Debug)]
pub(super) struct Table {
    /// The newest first.
    fields: VecDeque<Field>,
    size: usize,
    max_size: usize,
}

impl Table {
    /// An empty table, which allocates nothing before it has an entry.
    pub(super) fn new(max_size: usize) -> Table {
        Table {
            fields: VecDeque::new(),
            size: 0,
            max_size,
        }
    }

    /// The field of `index`, zero for the newest.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<&Field> {
        self.fields.get(index)
    }

    /// Whether a field of `len` bytes could be in the table. One that could not empties the table (RFC 7541 section 4.4).
    #[inline]
    pub(super) fn make_room(&mut self, len: usize) -> bool {
        let size = len.saturating_add(OVERHEAD);
        self.evict_to(self.max_size.saturating_sub(size));
        size <= self.max_size
    }

    /// Inserts a field that [`Table::make_room`] has made room for.
    pub(super) fn insert(&mut self, field: Field) {
        self.size += field.len() + OVERHEAD;
        self.fields.push_front(field);
    }

    /// Changes how large the table may become.
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

    /// Bytes and number of the entries.
    #[cfg(test)]
    pub(super) fn extent(&self) -> (usize, usize) {
        (self.size, self.fields.len())
    }
}
