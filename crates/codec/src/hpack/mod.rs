//! HPACK, the compression of HTTP/2's header fields (RFC 7541).
//!
//! Both directions keep a table of fields in step with the peer's. What differs from a textbook is what is left undone: see
//! [`Encoder`] for what it does not put into the table, and what it does not compress.

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

/// A field's name as HPACK carries it.
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
    /// What no field may be called: empty, upper case, spaces and the like.
    Malformed(Bytes),
}

/// A field's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Valid(HeaderValue),
    /// Has control characters.
    Malformed(Bytes),
}

impl Value {
    /// Marks a value that nobody is to keep in a table (RFC 7541 section 6.2.3).
    fn set_sensitive(&mut self) {
        if let Value::Valid(value) = self {
            value.set_sensitive(true);
        }
    }
}

/// A header block that does not follow the rules, and so a connection that is lost: `COMPRESSION_ERROR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DecodeError;
