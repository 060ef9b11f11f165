//! HPACK, the compression of HTTP/2's header fields (RFC 7541).
//!
//! Encoder and decoder each keep a table of fields in step with the peer's. The encoder deliberately omits some
//! compression: see [`Encoder`] for which fields it keeps out of the table and which strings it does not Huffman-code.

mod decoder;
mod encoder;
mod huffman;
mod integer;
mod seen;
mod static_table;
mod table;
#[cfg(test)]
mod tests;

use bytes::Bytes;

use crate::HeaderValue;
use crate::header::HeaderName;

pub(crate) use decoder::Decoder;
pub(crate) use encoder::Encoder;
pub(crate) use encoder::Pseudo;

/// A field's name as decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Method,
    Scheme,
    Authority,
    Path,
    Status,
    Protocol,
    /// Another name that begins with a colon.
    UnknownPseudo,
    Header(HeaderName),
    /// An invalid name: empty, or with upper case, spaces and the like.
    Malformed(Bytes),
}

/// A field's value as decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DecodedValue {
    Valid(HeaderValue),
    /// A value with control characters.
    Malformed(Bytes),
}

impl DecodedValue {
    /// Marks a value that must not enter any compression table (RFC 7541 section 6.2.3).
    fn set_sensitive(&mut self) {
        if let DecodedValue::Valid(value) = self {
            value.set_sensitive(true);
        }
    }
}

/// A malformed header block. It ends the connection with `COMPRESSION_ERROR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DecodeError;
