//! Encodes header blocks (RFC 7541 section 6).

use std::collections::VecDeque;

use http::Method;
use http::StatusCode;

use crate::HeaderValue;
use crate::Huffman;
use crate::header::HeaderName;
use crate::header::Indexing;
use crate::header::hash as name_hash;

use super::huffman;
use super::integer;
use super::seen::Found;
use super::seen::Insertions;
use super::seen::SeenFields;
use super::seen::SlotPosition;
use super::static_table;
use super::table::OVERHEAD;

/// The size of a peer's table before it announces another (RFC 9113 section 6.5.2).
const INITIAL_TABLE_SIZE: usize = 4096;

/// With `Huffman::Selective`, literals of up to this many bytes are Huffman-coded only if they enter the table: the
/// code saves a quarter of the bytes, but costs both sides more instructions than the rest of the field.
const MAX_RAW_LITERAL: usize = 128;

/// Cookies shorter than this are never indexed, because an attacker's correct guess would show in the length of the
/// block. The limit is nghttp2's.
const MIN_INDEXED_COOKIE: usize = 20;

/// Encodes the header blocks of one connection.
///
/// A field enters the table when it is sent the second time. So fields that are unique to a request (identifiers,
/// dates, lengths) neither evict repeated fields nor cost an insertion, and a repeated field takes one byte from the
/// third time on.
#[derive(Debug)]
pub(crate) struct Encoder {
    /// The dynamic table, newest entry first.
    entries: VecDeque<DynamicEntry>,
    size: usize,
    /// The maximum size of the table: the lower of our wish and the peer's limit.
    max_size: usize,
    wanted_size: usize,
    /// The lowest maximum size since the last block, if it changed: it must be sent to the peer.
    lowest_size: Option<usize>,
    /// The number of insertions so far, modulo 2³².
    insertions: u32,
    seen: SeenFields,
    /// Random, so that hashes differ between connections.
    seed: u64,
    huffman: Huffman,
}

/// An entry of the dynamic table, with its own copy of name and value.
#[derive(Debug)]
struct DynamicEntry {
    /// The name, then the value.
    text: Box<[u8]>,
    name_len: usize,
}

/// A pseudo-header field whose value is text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pseudo {
    Scheme,
    Authority,
    Path,
    Protocol,
}

impl Pseudo {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Pseudo::Scheme => ":scheme",
            Pseudo::Authority => ":authority",
            Pseudo::Path => ":path",
            Pseudo::Protocol => ":protocol",
        }
    }
}

/// A field to encode, and its name's properties.
#[derive(Clone, Copy)]
struct FieldToEncode<'a> {
    name: &'a [u8],
    value: &'a [u8],
    /// The name's index in the static table, or zero.
    index: u8,
}

impl Encoder {
    /// An encoder that uses a table of at most `max_table_size`. Allocates nothing before the first block.
    pub(crate) fn new(max_table_size: usize, huffman: Huffman) -> Encoder {
        let max_size = max_table_size.min(INITIAL_TABLE_SIZE);
        Encoder {
            entries: VecDeque::new(),
            size: 0,
            max_size,
            wanted_size: max_table_size,
            lowest_size: (max_size < INITIAL_TABLE_SIZE).then_some(max_size),
            insertions: 0,
            seen: SeenFields::default(),
            seed: fastrand::u64(..),
            huffman,
        }
    }

    /// Applies the peer's `SETTINGS_HEADER_TABLE_SIZE` from the next block on.
    pub(crate) fn set_peer_table_size(&mut self, size: u32) {
        let size = self.wanted_size.min(size as usize);
        if size == self.max_size {
            return;
        }
        self.lowest_size = Some(self.lowest_size.map_or(size, |lowest| lowest.min(size)));
        self.max_size = size;
        self.evict_to(size);
        self.seen.clear();
    }

    /// Begins a block: writes pending table size updates.
    pub(crate) fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some(lowest) = self.lowest_size.take() {
            // A table that shrank and grew again has evicted entries: the peer must evict them too.
            if lowest < self.max_size {
                integer::encode(lowest, 5, 0x20, out);
            }
            integer::encode(self.max_size, 5, 0x20, out);
        }
    }

    /// Appends `:status`.
    pub(crate) fn status(&mut self, status: StatusCode, out: &mut Vec<u8>) {
        let index = match status.as_u16() {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => {
                let value = status.as_str().as_bytes();
                return self.pseudo_field(b":status", static_table::STATUS, value, out);
            }
        };
        out.push(0x80 | index);
    }

    /// Appends `:method`.
    pub(crate) fn method(&mut self, method: &Method, out: &mut Vec<u8>) {
        match *method {
            Method::GET => out.push(0x82),
            Method::POST => out.push(0x83),
            _ => {
                let value = method.as_str().as_bytes();
                self.pseudo_field(b":method", static_table::METHOD, value, out);
            }
        }
    }

    /// Appends another pseudo-header field.
    pub(crate) fn pseudo(&mut self, name: Pseudo, value: &[u8], out: &mut Vec<u8>) {
        match (name, value) {
            (Pseudo::Path, b"/") => out.push(0x84),
            (Pseudo::Path, b"/index.html") => out.push(0x85),
            (Pseudo::Scheme, b"http") => out.push(0x86),
            (Pseudo::Scheme, b"https") => out.push(0x87),
            (Pseudo::Path, _) => self.pseudo_field(b":path", static_table::PATH, value, out),
            (Pseudo::Scheme, _) => self.pseudo_field(b":scheme", static_table::SCHEME, value, out),
            (Pseudo::Authority, _) => {
                self.pseudo_field(b":authority", static_table::AUTHORITY, value, out);
            }
            (Pseudo::Protocol, _) => self.pseudo_field(b":protocol", 0, value, out),
        }
    }

    /// Appends a header field.
    pub(crate) fn header(&mut self, name: &HeaderName, value: &HeaderValue, out: &mut Vec<u8>) {
        let known = name.known();
        let name = name.as_str().as_bytes();
        let sensitive = value.is_sensitive();
        let value = value.as_bytes();
        let hash = self.hash(name_hash(name), value);
        let found = if sensitive {
            Found::NotSeen
        } else {
            self.find(hash, name, value)
        };
        if let Found::InTable(age) = found {
            return indexed(age, out);
        }
        let index = known.map_or(0, |known| known.index);
        let field = FieldToEncode { name, value, index };
        match known.map_or(Indexing::Adaptive, |known| known.indexing) {
            _ if sensitive => field.write_literal(LiteralForm::NEVER_INDEXED, self.huffman, out),
            Indexing::Secret => field.write_literal(LiteralForm::NEVER_INDEXED, self.huffman, out),
            Indexing::SecretIfShort if value.len() < MIN_INDEXED_COOKIE => {
                field.write_literal(LiteralForm::NEVER_INDEXED, self.huffman, out);
            }
            Indexing::Unique => field.write_literal(LiteralForm::NOT_INDEXED, self.huffman, out),
            Indexing::Adaptive | Indexing::SecretIfShort => self.adaptive(field, hash, found, out),
        }
    }

    #[inline]
    fn pseudo_field(&mut self, name: &'static [u8], index: u8, value: &[u8], out: &mut Vec<u8>) {
        let hash = self.hash(name_hash(name), value);
        match self.find(hash, name, value) {
            Found::InTable(age) => indexed(age, out),
            found => self.adaptive(FieldToEncode { name, value, index }, hash, found, out),
        }
    }

    /// Appends a field that is not in the dynamic table and may be inserted into it.
    fn adaptive(&mut self, field: FieldToEncode, hash: u64, found: Found, out: &mut Vec<u8>) {
        if field.index == static_table::ACCEPT_ENCODING && field.value == b"gzip, deflate" {
            return out.push(0x80 | field.index);
        }
        match found {
            // One field must not evict all others, and a table of size zero takes no fields.
            _ if field.size() > self.max_size / 4 * 3 => {
                field.write_literal(LiteralForm::NOT_INDEXED, self.huffman, out);
            }
            Found::SeenBefore(place) => {
                field.write_literal(LiteralForm::INDEXED, self.huffman, out);
                self.insert(field, place);
            }
            _ => {
                self.seen.record(hash, self.insertions(), self.max_size);
                field.write_literal(LiteralForm::NOT_INDEXED, self.huffman, out);
            }
        }
    }

    fn insert(&mut self, field: FieldToEncode, place: SlotPosition) {
        self.evict_to(self.max_size.saturating_sub(field.size()));
        self.size += field.size();
        self.entries.push_front(DynamicEntry {
            text: [field.name, field.value].concat().into(),
            name_len: field.name.len(),
        });
        self.insertions = self.insertions.wrapping_add(1);
        self.seen.inserted(place, self.insertions);
    }

    fn evict_to(&mut self, size: usize) {
        while self.size > size {
            let Some(entry) = self.entries.pop_back() else {
                break;
            };
            self.size -= entry.text.len() + OVERHEAD;
        }
    }

    #[inline]
    fn find(&self, hash: u64, name: &[u8], value: &[u8]) -> Found {
        let found = self.seen.find(hash, self.insertions());
        match found {
            Found::InTable(age) => {
                let entry = self.entries.get(age);
                let is_it = entry.is_some_and(|entry| entry.is(name, value));
                if is_it { found } else { Found::NotSeen }
            }
            _ => found,
        }
    }

    #[inline]
    fn insertions(&self) -> Insertions {
        Insertions {
            last: self.insertions,
            kept: self.entries.len(),
        }
    }

    /// The hash of a field, from its name's hash and its value.
    #[inline]
    fn hash(&self, name: u64, value: &[u8]) -> u64 {
        let mut hash = name ^ self.seed;
        let (words, rest) = value.as_chunks();
        for word in words {
            hash = mix(hash ^ u64::from_le_bytes(*word));
        }
        let last = tail_word(value, rest);
        mix(hash ^ last ^ (value.len() as u64) << 56)
    }

    /// The size of the table in bytes, and the number of its entries.
    #[cfg(test)]
    pub(super) fn extent(&self) -> (usize, usize) {
        (self.size, self.entries.len())
    }
}

impl DynamicEntry {
    #[inline]
    fn is(&self, name: &[u8], value: &[u8]) -> bool {
        self.text.split_at_checked(self.name_len) == Some((name, value))
    }
}

/// The representation of a literal field: the flag bits of its first byte, and the number of bits for the index.
#[derive(Clone, Copy, PartialEq, Eq)]
struct LiteralForm {
    flags: u8,
    prefix: u32,
}

impl LiteralForm {
    const INDEXED: LiteralForm = LiteralForm {
        flags: 0x40,
        prefix: 6,
    };
    const NOT_INDEXED: LiteralForm = LiteralForm {
        flags: 0,
        prefix: 4,
    };
    const NEVER_INDEXED: LiteralForm = LiteralForm {
        flags: 0x10,
        prefix: 4,
    };
}

impl FieldToEncode<'_> {
    fn size(&self) -> usize {
        self.name.len() + self.value.len() + OVERHEAD
    }

    #[inline]
    fn write_literal(&self, literal: LiteralForm, huffman: Huffman, out: &mut Vec<u8>) {
        let max_raw = match huffman {
            Huffman::Always => 0,
            Huffman::Never => usize::MAX,
            // An entry of the table is decoded once, and takes one byte from then on.
            Huffman::Selective if literal == LiteralForm::INDEXED => 0,
            Huffman::Selective => MAX_RAW_LITERAL,
        };
        integer::encode(usize::from(self.index), literal.prefix, literal.flags, out);
        if self.index == 0 {
            string(self.name, max_raw, out);
        }
        string(self.value, max_raw, out);
    }
}

/// Appends a reference to the dynamic table's entry that was inserted `age` insertions ago.
#[inline]
fn indexed(age: usize, out: &mut Vec<u8>) {
    integer::encode(static_table::LENGTH + 1 + age, 7, 0x80, out);
}

#[inline]
fn string(text: &[u8], max_raw: usize, out: &mut Vec<u8>) {
    if text.len() > max_raw {
        return shortest_string(text, out);
    }
    integer::encode(text.len(), 7, 0, out);
    out.extend_from_slice(text);
}

#[inline(never)]
fn shortest_string(text: &[u8], out: &mut Vec<u8>) {
    let length = huffman::encoded_len(text);
    if length < text.len() {
        integer::encode(length, 7, 0x80, out);
        huffman::encode(text, out);
    } else {
        integer::encode(text.len(), 7, 0, out);
        out.extend_from_slice(text);
    }
}

/// The last eight bytes of `text` as a number, or all bytes if there are fewer. `rest` holds the bytes after the last
/// whole word.
///
/// Some of them were in the last whole word already. Reading them again is faster than reading the others one by one.
#[inline]
fn tail_word(text: &[u8], rest: &[u8]) -> u64 {
    if let Some(last) = text.last_chunk() {
        u64::from_le_bytes(*last)
    } else if let (Some(first), Some(last)) = (rest.first_chunk(), rest.last_chunk()) {
        u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last))
    } else {
        let byte = |at| u64::from(rest.get(at).copied().unwrap_or_default());
        byte(0) | byte(1) << 8 | byte(2) << 16
    }
}

#[inline]
fn mix(hash: u64) -> u64 {
    let product = u128::from(hash) * 0x9e37_79b9_7f4a_7c15;
    product as u64 ^ (product >> 64) as u64
}
