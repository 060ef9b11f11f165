//! Buffers that a worker's connections take turns with, so that only those with bytes on their way own one.

use std::cell::RefCell;

use crate::io::GATHER;

/// What is gathered, and the frame that makes it enough.
const LENGTH: usize = GATHER + 32 * 1024;
/// Buffers that a worker keeps for its connections.
const KEPT: usize = 4;

/// Bytes on their way; its memory goes back to the worker as soon as it is empty.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// A buffer whose first `end` bytes were just read into `bytes`, which came from [`take`].
    pub(crate) fn filled(bytes: Vec<u8>, end: usize) -> Buffer {
        Buffer {
            bytes,
            start: 0,
            end,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(crate) fn pending(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.is_empty() {
            self.clear();
            self.bytes = take();
        }
        let end = self.end + bytes.len();
        if end > self.bytes.len() {
            self.bytes.resize(end.next_power_of_two(), 0);
        }
        self.bytes[self.end..end].copy_from_slice(bytes);
        self.end = end;
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        if self.is_empty() {
            self.clear();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
        give(std::mem::take(&mut self.bytes));
    }
}

thread_local! {
    // Not state that anybody could see: only memory that is not given back to the allocator.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of at least [`LENGTH`] bytes, with whatever the last user left in it.
pub(crate) fn take() -> Vec<u8> {
    SPARE
        .with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| vec![0; LENGTH])
}

/// Gives a buffer back; one that has grown large goes to the allocator.
pub(crate) fn give(buffer: Vec<u8>) {
    if (LENGTH..=4 * LENGTH).contains(&buffer.len()) {
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < KEPT {
                spare.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_gives_back_what_was_appended_and_owns_nothing_when_empty() {
        let mut buffer = Buffer::default();
        let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        for piece in bytes.chunks(7_001) {
            buffer.append(piece);
        }
        let mut seen = Vec::new();
        while !buffer.is_empty() {
            let count = buffer.pending().len().min(9_999);
            seen.extend_from_slice(&buffer.pending()[..count]);
            buffer.consume(count);
        }
        assert_eq!(seen, bytes);
        assert_eq!(buffer.bytes.capacity(), 0);
    }
}
