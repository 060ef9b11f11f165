//! Values of header fields.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::byte_scan::is_field_byte;
use crate::byte_scan::is_field_text;

/// The value of a header field: any bytes except control characters other than tab (RFC 9110 section 5.5). Cloning
/// never allocates: it copies short values and shares long ones.
#[derive(Clone)]
pub struct HeaderValue(ValueRepr);

/// The maximum length of a value that is stored inline, in bytes: long enough for a UUID or a date. The whole value
/// takes five machine words.
const MAX_INLINE: usize = 37;

#[derive(Clone)]
enum ValueRepr {
    Inline {
        sensitive: bool,
        length: u8,
        bytes: [u8; MAX_INLINE],
    },
    Static {
        sensitive: bool,
        bytes: &'static [u8],
    },
    Shared {
        sensitive: bool,
        bytes: Arc<[u8]>,
    },
}

/// The error for an invalid value: it contains control characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidHeaderValue;

impl HeaderValue {
    /// The value `text`.
    ///
    /// # Panics
    ///
    /// If it contains control characters. In a constant this is a compile error.
    #[expect(clippy::indexing_slicing, reason = "the loop ends at the length")]
    #[must_use]
    pub const fn from_static(text: &'static str) -> HeaderValue {
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            assert!(is_field_byte(bytes[at]), "no header value");
            at += 1;
        }
        HeaderValue(ValueRepr::Static {
            sensitive: false,
            bytes,
        })
    }

    /// The value `bytes`.
    ///
    /// # Errors
    ///
    /// If they contain control characters.
    #[inline]
    pub fn from_bytes(bytes: &[u8]) -> Result<HeaderValue, InvalidHeaderValue> {
        if is_field_text(bytes) {
            Ok(HeaderValue::from_valid(bytes))
        } else {
            Err(InvalidHeaderValue)
        }
    }

    /// The value `bytes`, which are known to be valid.
    #[inline]
    fn from_valid(bytes: &[u8]) -> HeaderValue {
        let mut short = [0; MAX_INLINE];
        HeaderValue(
            match (short.get_mut(..bytes.len()), bytes.len().try_into()) {
                (Some(room), Ok(length)) => {
                    room.copy_from_slice(bytes);
                    ValueRepr::Inline {
                        sensitive: false,
                        length,
                        bytes: short,
                    }
                }
                _ => ValueRepr::Shared {
                    sensitive: false,
                    bytes: bytes.into(),
                },
            },
        )
    }

    /// The value's bytes.
    #[must_use]
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            ValueRepr::Inline { length, bytes, .. } => {
                bytes.get(..usize::from(*length)).unwrap_or_default()
            }
            ValueRepr::Static { bytes, .. } => bytes,
            ValueRepr::Shared { bytes, .. } => bytes,
        }
    }

    /// The value as text, if it is plain ASCII.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        let bytes = self.as_bytes();
        if bytes.is_ascii() {
            std::str::from_utf8(bytes).ok()
        } else {
            None
        }
    }

    /// The value as a number, if it consists only of decimal digits (RFC 9110 section 8.6).
    #[must_use]
    pub fn as_number(&self) -> Option<u64> {
        let digits = self.as_bytes();
        digits.first()?;
        digits.iter().try_fold(0_u64, |number, digit| {
            let digit = digit.wrapping_sub(b'0');
            let number = number.checked_mul(10)?.checked_add(digit.into())?;
            (digit < 10).then_some(number)
        })
    }

    /// The value's length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Whether the value is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.as_bytes().is_empty()
    }

    /// Whether the value must not enter any compression table (RFC 7541 section 7.1.3).
    #[must_use]
    #[inline]
    pub fn is_sensitive(&self) -> bool {
        match &self.0 {
            ValueRepr::Inline { sensitive, .. }
            | ValueRepr::Static { sensitive, .. }
            | ValueRepr::Shared { sensitive, .. } => *sensitive,
        }
    }

    /// Sets whether the value must not enter any compression table.
    pub fn set_sensitive(&mut self, is_sensitive: bool) {
        match &mut self.0 {
            ValueRepr::Inline { sensitive, .. }
            | ValueRepr::Static { sensitive, .. }
            | ValueRepr::Shared { sensitive, .. } => *sensitive = is_sensitive,
        }
    }
}

impl FromStr for HeaderValue {
    type Err = InvalidHeaderValue;

    fn from_str(text: &str) -> Result<HeaderValue, InvalidHeaderValue> {
        HeaderValue::from_bytes(text.as_bytes())
    }
}

impl TryFrom<&str> for HeaderValue {
    type Error = InvalidHeaderValue;

    fn try_from(text: &str) -> Result<HeaderValue, InvalidHeaderValue> {
        HeaderValue::from_bytes(text.as_bytes())
    }
}

impl TryFrom<String> for HeaderValue {
    type Error = InvalidHeaderValue;

    fn try_from(text: String) -> Result<HeaderValue, InvalidHeaderValue> {
        HeaderValue::from_bytes(text.as_bytes())
    }
}

impl From<u64> for HeaderValue {
    /// The number in decimal digits.
    fn from(number: u64) -> HeaderValue {
        HeaderValue::from_valid(itoa::Buffer::new().format(number).as_bytes())
    }
}

impl From<u16> for HeaderValue {
    fn from(number: u16) -> HeaderValue {
        HeaderValue::from(u64::from(number))
    }
}

impl From<usize> for HeaderValue {
    fn from(number: usize) -> HeaderValue {
        HeaderValue::from(number as u64)
    }
}

impl PartialEq for HeaderValue {
    #[inline]
    fn eq(&self, other: &HeaderValue) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for HeaderValue {}

impl PartialEq<[u8]> for HeaderValue {
    #[inline]
    fn eq(&self, other: &[u8]) -> bool {
        self.as_bytes() == other
    }
}

impl PartialEq<str> for HeaderValue {
    #[inline]
    fn eq(&self, other: &str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl PartialEq<&str> for HeaderValue {
    #[inline]
    fn eq(&self, other: &&str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

/// Does not show sensitive values.
impl fmt::Debug for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_sensitive() {
            return f.write_str("Sensitive");
        }
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

impl fmt::Display for InvalidHeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no value of a header field: it holds control characters")
    }
}

impl std::error::Error for InvalidHeaderValue {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_equal_however_they_are_stored() {
        for length in 0..80 {
            let text = "a".repeat(length);
            let value = HeaderValue::try_from(text.as_str()).unwrap();
            assert_eq!(value, text.as_str());
            assert_eq!(value.clone(), value);
            assert_eq!(value.as_str(), Some(text.as_str()));
            let leaked = HeaderValue::from_static(Box::leak(text.into_boxed_str()));
            assert_eq!((leaked.len(), &leaked), (length, &value));
        }
        assert!(size_of::<HeaderValue>() <= crate::budgets::HEADER_VALUE);
    }

    #[test]
    fn control_characters_are_refused_and_other_bytes_allowed() {
        for wrong in ["a\0", "\n", "\r", "\x7f", "\x1f"] {
            assert_eq!(HeaderValue::try_from(wrong), Err(InvalidHeaderValue));
        }
        let value = HeaderValue::from_bytes(b"\ta\xff\"").unwrap();
        assert_eq!(value.as_str(), None);
        assert_eq!(format!("{value:?}"), r#""\ta\xff\"""#);
    }

    #[test]
    fn numbers_are_written_in_digits() {
        for number in [0, 7, 10, 65535, u64::MAX] {
            assert_eq!(HeaderValue::from(number), number.to_string().as_str());
        }
        assert_eq!(HeaderValue::from(8080_u16), "8080");
    }

    #[test]
    fn only_digits_are_numbers() {
        let number = |text: &str| HeaderValue::try_from(text).unwrap().as_number();
        assert_eq!(number("18446744073709551615"), Some(u64::MAX));
        assert_eq!(number("007"), Some(7));
        for wrong in ["", "18446744073709551616", "+1", "-1", " 1", "1a", "/", ":"] {
            assert_eq!(number(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sensitive_values_are_not_shown_and_their_copies_neither() {
        let long = "b".repeat(MAX_INLINE + 1);
        for text in ["a", &long] {
            let mut secret = HeaderValue::try_from(text).unwrap();
            assert!(!secret.is_sensitive());
            secret.set_sensitive(true);
            assert!(secret.clone().is_sensitive());
            assert_eq!(format!("{secret:?}"), "Sensitive");
        }
    }
}
