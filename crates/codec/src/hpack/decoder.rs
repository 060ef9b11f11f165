//! Header blocks read (RFC 7541 section 6).

use bytes::Bytes;

use crate::HeaderValue;
use crate::header::HeaderName;

use super::DecodeError;
use super::Name;
use super::Value;
use super::huffman;
use super::integer;
use super::static_table;
use super::table::Field;
use super::table::Table;

/// What a peer may use before it knows our settings (RFC 9113 section 6.5.2).
const INITIAL_TABLE_SIZE: usize = 4096;

/// Decodes the header blocks of one connection. Blocks depend on those before them: none may be left out.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: Table,
    /// The largest size of the table that the peer may choose.
    allowed_size: usize,
    /// The same once it knows our settings.
    max_size: usize,
}

impl Decoder {
    /// A decoder for a peer that is told to use a table of no more than `max_table_size`. Allocates nothing before the peer
    /// uses the table.
    pub(crate) fn new(max_table_size: usize) -> Decoder {
        Decoder {
            table: Table::new(INITIAL_TABLE_SIZE),
            // A peer that has not read our settings yet is not wrong.
            allowed_size: max_table_size.max(INITIAL_TABLE_SIZE),
            max_size: max_table_size,
        }
    }

    /// The peer has read our settings: from now on it may choose no larger table than they say.
    pub(crate) fn settings_acknowledged(&mut self) {
        self.allowed_size = self.max_size;
    }

    /// Decodes one whole header block, and calls `sink` with each field and its bytes of name and value together.
    ///
    /// After an error the table is not what the peer thinks it is: the connection cannot go on.
    pub(crate) fn decode(
        &mut self,
        block: &[u8],
        mut sink: impl FnMut(&Name, &Value, usize),
    ) -> Result<(), DecodeError> {
        let mut rest = self.size_updates(block)?;
        // Used by strings in the Huffman code only, and not kept: idle connections are to be small.
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
                // Sizes change at the beginning of a block only (RFC 7541 section 4.2).
                return Err(DecodeError);
            }
        }
        Ok(())
    }

    /// Follows the changes of the table's size that `block` begins with, and gives the rest.
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
    fn field(&self, index: usize) -> Result<&Field, DecodeError> {
        let field = if index <= static_table::LENGTH {
            static_table::field(index)
        } else {
            self.table.get(index - static_table::LENGTH - 1)
        };
        field.ok_or(DecodeError)
    }

    /// Reads a field of which at least the value is spelled out.
    #[inline]
    fn literal(
        &self,
        first: u8,
        prefix: u32,
        rest: &mut &[u8],
        scratch: &mut Vec<u8>,
    ) -> Result<Field, DecodeError> {
        let index = integer::decode(first, prefix, rest)?;
        let (name, name_len) = if index == 0 {
            let text = string(rest, scratch)?;
            (name(text), length(text)?)
        } else {
            let field = self.field(index)?;
            (field.name.clone(), field.name_len)
        };
        let text = string(rest, scratch)?;
        Ok(Field {
            name,
            value: value(text),
            name_len,
            value_len: length(text)?,
        })
    }

    /// Bytes and number of the table's entries.
    #[cfg(test)]
    pub(super) fn extent(&self) -> (usize, usize) {
        self.table.extent()
    }
}

/// Takes a string off `rest`.
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
fn value(text: &[u8]) -> Value {
    match HeaderValue::from_bytes(text) {
        Ok(value) => Value::Valid(value),
        Err(_) => Value::Malformed(Bytes::copy_from_slice(text)),
    }
}
