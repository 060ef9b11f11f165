//! Decodes header blocks (RFC 7541 section 6).

use bytes::Bytes;

use crate::HeaderValue;
use crate::header::HeaderName;

use super::DecodeError;
use super::DecodedValue;
use super::Name;
use super::huffman;
use super::integer;
use super::static_table;
use super::table::Table;
use super::table::TableEntry;

/// The table size that a peer may use before it has received our settings (RFC 9113 section 6.5.2).
const INITIAL_TABLE_SIZE: usize = 4096;

/// Decodes the header blocks of one connection. Every block must be decoded, because later blocks refer to earlier
/// ones.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: Table,
    /// The largest table size that the peer may choose now.
    allowed_size: usize,
    /// The largest table size that the peer may choose after it has acknowledged our settings.
    max_size: usize,
}

impl Decoder {
    /// A decoder whose settings limit the peer's table to `max_table_size`. Allocates nothing until the peer uses the
    /// table.
    pub(crate) fn new(max_table_size: usize) -> Decoder {
        Decoder {
            table: Table::new(INITIAL_TABLE_SIZE),
            // A peer that has not received our settings yet may use the initial size.
            allowed_size: max_table_size.max(INITIAL_TABLE_SIZE),
            max_size: max_table_size,
        }
    }

    /// The peer has acknowledged our settings: from now on it may not choose a larger table.
    pub(crate) fn settings_acknowledged(&mut self) {
        self.allowed_size = self.max_size;
    }

    /// Decodes one complete header block, and calls `sink` with each field and the total length of its name and value.
    ///
    /// After an error the table no longer matches the peer's, so the connection must end.
    pub(crate) fn decode(
        &mut self,
        block: &[u8],
        mut sink: impl FnMut(&Name, &DecodedValue, usize),
    ) -> Result<(), DecodeError> {
        let mut rest = self.size_updates(block)?;
        // Only needed for Huffman-coded strings. It is not kept, because idle connections should be small.
        let mut scratch = Vec::new();
        while let Some((&first, after)) = rest.split_first() {
            rest = after;
            if first & 0x80 != 0 {
                let field = self.field(integer::decode(first, 7, &mut rest)?)?;
                sink(&field.name, &field.value, field.len());
            } else if first & 0x40 != 0 {
                let field = self.literal(first, 6, &mut rest, &mut scratch)?;
                let len = field.len();
                sink(&field.name, &field.value, len);
                if self.table.make_room(len) {
                    self.table.insert(field);
                }
            } else if first & 0x20 == 0 {
                let mut field = self.literal(first, 4, &mut rest, &mut scratch)?;
                if first & 0x10 != 0 {
                    field.value.set_sensitive();
                }
                sink(&field.name, &field.value, field.len());
            } else {
                // Table size updates are only allowed at the beginning of a block (RFC 7541 section 4.2).
                return Err(DecodeError);
            }
        }
        Ok(())
    }

    /// Applies the table size updates at the beginning of `block`, and returns the remaining bytes.
    fn size_updates<'a>(&mut self, mut block: &'a [u8]) -> Result<&'a [u8], DecodeError> {
        while let Some((&first, mut rest)) = block.split_first()
            && first & 0xe0 == 0x20
        {
            let size = integer::decode(first, 5, &mut rest)?;
            if size > self.allowed_size {
                return Err(DecodeError);
            }
            self.table.resize(size);
            block = rest;
        }
        Ok(block)
    }

    #[inline]
    fn field(&self, index: usize) -> Result<&TableEntry, DecodeError> {
        let field = if index <= static_table::LENGTH {
            static_table::field(index)
        } else {
            self.table.get(index - static_table::LENGTH - 1)
        };
        field.ok_or(DecodeError)
    }

    /// Reads a literal field: its value, and possibly its name, are in the block.
    #[inline]
    fn literal(
        &self,
        first: u8,
        prefix: u32,
        rest: &mut &[u8],
        scratch: &mut Vec<u8>,
    ) -> Result<TableEntry, DecodeError> {
        let index = integer::decode(first, prefix, rest)?;
        let (name, name_len) = if index == 0 {
            let text = string(rest, scratch)?;
            (name(text), length(text)?)
        } else {
            let field = self.field(index)?;
            (field.name.clone(), field.name_len)
        };
        let text = string(rest, scratch)?;
        Ok(TableEntry {
            name,
            value: value(text),
            name_len,
            value_len: length(text)?,
        })
    }

    /// The size of the table in bytes, and the number of its entries.
    #[cfg(test)]
    pub(super) fn extent(&self) -> (usize, usize) {
        self.table.extent()
    }
}

/// Reads a string from `rest` and advances it.
#[inline]
fn string<'s, 'block: 's>(
    rest: &mut &'block [u8],
    scratch: &'s mut Vec<u8>,
) -> Result<&'s [u8], DecodeError> {
    let (&first, mut after) = rest.split_first().ok_or(DecodeError)?;
    let length = integer::decode(first, 7, &mut after)?;
    let (text, after) = after.split_at_checked(length).ok_or(DecodeError)?;
    *rest = after;
    if first & 0x80 == 0 {
        Ok(text)
    } else {
        huffman::decode(text, scratch)
    }
}

#[inline]
fn length(text: &[u8]) -> Result<u32, DecodeError> {
    u32::try_from(text.len()).map_err(|_| DecodeError)
}

fn name(text: &[u8]) -> Name {
    if let Ok(name) = HeaderName::from_lowercase(text) {
        return Name::Header(name);
    }
    match text {
        b":method" => Name::Method,
        b":scheme" => Name::Scheme,
        b":authority" => Name::Authority,
        b":path" => Name::Path,
        b":status" => Name::Status,
        b":protocol" => Name::Protocol,
        [b':', ..] => Name::UnknownPseudo,
        _ => Name::Malformed(Bytes::copy_from_slice(text)),
    }
}

#[inline]
fn value(text: &[u8]) -> DecodedValue {
    match HeaderValue::from_bytes(text) {
        Ok(value) => DecodedValue::Valid(value),
        Err(_) => DecodedValue::Malformed(Bytes::copy_from_slice(text)),
    }
}
