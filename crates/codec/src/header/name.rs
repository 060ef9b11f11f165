//! Names of header fields, in lower case.

use std::fmt;
use std::hash::Hash;
use std::hash::Hasher;
use std::str::FromStr;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::byte_set::byte_set;

use super::known;
use super::known::KNOWN;
use super::known::KnownName;

/// The name of a header field, in lower case (RFC 9110 section 5.1). A well-known name is stored as one byte.
#[derive(Clone)]
pub struct HeaderName(NameRepr);

#[derive(Clone)]
enum NameRepr {
    /// The position in [`KNOWN`]. Well-known names are always stored this way.
    Known(u8),
    Static(&'static str),
    Shared(Arc<str>),
}

/// The error for an invalid name: it is empty or contains a byte that is not allowed in a token (RFC 9110 section
/// 5.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidHeaderName;

/// A borrowed name for lookups, which needs no allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRef<'n> {
    /// The position of a well-known name.
    #[doc(hidden)]
    Known(u8),
    /// Any other name, in lower case.
    #[doc(hidden)]
    Other(&'n str),
}

impl HeaderName {
    /// The name `text`, which must be a valid name in lower case.
    ///
    /// # Panics
    ///
    /// If it is not. In a constant this is a compile error.
    #[must_use]
    pub const fn from_static(text: &'static str) -> HeaderName {
        match known::index_of(text.as_bytes()) {
            Some(index) => HeaderName(NameRepr::Known(index)),
            None => {
                assert!(is_name(text.as_bytes()), "no header name in lower case");
                HeaderName(NameRepr::Static(text))
            }
        }
    }

    /// The name `text`, given in any case.
    ///
    /// # Errors
    ///
    /// If it is not a valid name.
    #[inline]
    pub fn from_bytes(text: &[u8]) -> Result<HeaderName, InvalidHeaderName> {
        match known::index_of_any_case(text) {
            Some(index) => Ok(HeaderName(NameRepr::Known(index))),
            None => {
                let mut lower = SmallVec::<[u8; 64]>::from_slice(text);
                lower.make_ascii_lowercase();
                HeaderName::unknown(&lower)
            }
        }
    }

    /// The name `text`, given in lower case.
    ///
    /// # Errors
    ///
    /// If it is not in lower case or not a valid name.
    #[inline]
    pub fn from_lowercase(text: &[u8]) -> Result<HeaderName, InvalidHeaderName> {
        match known::index_of(text) {
            Some(index) => Ok(HeaderName(NameRepr::Known(index))),
            None => HeaderName::unknown(text),
        }
    }

    fn unknown(text: &[u8]) -> Result<HeaderName, InvalidHeaderName> {
        if !is_name(text) {
            return Err(InvalidHeaderName);
        }
        let text = std::str::from_utf8(text).map_err(|_| InvalidHeaderName)?;
        Ok(HeaderName(NameRepr::Shared(text.into())))
    }

    /// The name as text.
    #[expect(
        clippy::indexing_slicing,
        reason = "`NameRepr::Known` holds positions in `KNOWN`"
    )]
    #[must_use]
    #[inline]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            NameRepr::Known(index) => KNOWN[usize::from(*index)].text,
            NameRepr::Static(text) => text,
            NameRepr::Shared(text) => text,
        }
    }

    /// The properties of this name, if it is well known.
    #[expect(
        clippy::indexing_slicing,
        reason = "`NameRepr::Known` holds positions in `KNOWN`"
    )]
    #[inline]
    pub(crate) fn known(&self) -> Option<&'static KnownName> {
        match &self.0 {
            NameRepr::Known(index) => Some(&KNOWN[usize::from(*index)]),
            _ => None,
        }
    }
}

impl<'n> NameRef<'n> {
    /// Whether `name` equals this name.
    #[inline]
    pub(super) fn is(self, name: &HeaderName) -> bool {
        match (self, &name.0) {
            (NameRef::Known(one), NameRepr::Known(other)) => one == *other,
            (NameRef::Other(one), NameRepr::Static(other)) => one == *other,
            (NameRef::Other(one), NameRepr::Shared(other)) => one == &**other,
            _ => false,
        }
    }
}

impl<'n> From<&'n HeaderName> for NameRef<'n> {
    #[inline]
    fn from(name: &'n HeaderName) -> NameRef<'n> {
        match &name.0 {
            NameRepr::Known(index) => NameRef::Known(*index),
            NameRepr::Static(text) => NameRef::Other(text),
            NameRepr::Shared(text) => NameRef::Other(text),
        }
    }
}

/// The name must be in lower case; others are never found.
impl<'n> From<&'n str> for NameRef<'n> {
    fn from(name: &'n str) -> NameRef<'n> {
        known::index_of(name.as_bytes()).map_or(NameRef::Other(name), NameRef::Known)
    }
}

impl From<&HeaderName> for HeaderName {
    #[inline]
    fn from(name: &HeaderName) -> HeaderName {
        name.clone()
    }
}

impl PartialEq for HeaderName {
    #[inline]
    fn eq(&self, other: &HeaderName) -> bool {
        NameRef::from(self).is(other)
    }
}

impl Eq for HeaderName {}

impl PartialEq<str> for HeaderName {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for HeaderName {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl Hash for HeaderName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl FromStr for HeaderName {
    type Err = InvalidHeaderName;

    fn from_str(text: &str) -> Result<HeaderName, InvalidHeaderName> {
        HeaderName::from_bytes(text.as_bytes())
    }
}

impl TryFrom<&str> for HeaderName {
    type Error = InvalidHeaderName;

    fn try_from(text: &str) -> Result<HeaderName, InvalidHeaderName> {
        text.parse()
    }
}

impl fmt::Debug for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for InvalidHeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no name of a header field")
    }
}

impl std::error::Error for InvalidHeaderName {}

/// Whether `text` is a token in lower case.
#[expect(
    clippy::indexing_slicing,
    reason = "the loop ends at the length, and the table has an entry for each byte"
)]
const fn is_name(text: &[u8]) -> bool {
    let mut at = 0;
    while at < text.len() {
        if !NAME_BYTES[text[at] as usize] {
            return false;
        }
        at += 1;
    }
    at > 0
}

/// The bytes of a token (RFC 9110 section 5.6.2), except upper-case letters.
static NAME_BYTES: [bool; 256] = byte_set(b"abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_equal_however_they_were_created() {
        let made = |text: &str| HeaderName::from_bytes(text.as_bytes()).unwrap();
        assert_eq!(
            made("Content-TYPE"),
            HeaderName::from_static("content-type")
        );
        assert_eq!(made("X-Own"), HeaderName::from_static("x-own"));
        assert_ne!(made("x-own"), made("x-other"));
        assert_ne!(made("te"), made("x-te"));
        let long = "X-Long".repeat(20);
        assert_eq!(made(&long).as_str(), long.to_ascii_lowercase());
        for text in ["te", "x-own"] {
            assert_eq!(NameRef::from(text), NameRef::from(&made(text)));
        }
    }

    #[test]
    fn names_must_be_tokens() {
        for wrong in ["", "a b", "a:", "\"a\"", "a\0", "ä", "a\u{7f}", "(a)"] {
            assert!(HeaderName::from_bytes(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(HeaderName::from_lowercase(b"Te").is_err());
        assert!(HeaderName::from_lowercase(b"X-Own").is_err());
    }
}
