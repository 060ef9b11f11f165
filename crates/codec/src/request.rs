//! A request's head and its target, in the form that both codecs share.

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;
use http::Method;
use http::uri::Scheme;
use memchr::memchr;

use crate::HeaderValue;
use crate::byte_set::byte_set;
use crate::header::HeaderMap;

/// A request head in HTTP/2's form, also for requests that were received on HTTP/1.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// `:method`.
    pub method: Method,
    /// `:scheme`; `None` on HTTP/1 until the connection manager sets it.
    pub scheme: Option<Scheme>,
    /// `:authority`, or HTTP/1's `host`, or the authority of an absolute target; never in `headers`.
    pub authority: Option<HeaderValue>,
    /// `:path`; `None` only for CONNECT.
    pub path: Option<Target>,
    /// The other headers, in the order received.
    pub headers: HeaderMap,
}

impl RequestHead {
    /// `:scheme`, or `http` if not set.
    #[must_use]
    pub fn scheme(&self) -> &str {
        self.scheme.as_ref().map_or("http", Scheme::as_str)
    }

    /// `:authority`, empty if absent.
    #[must_use]
    pub fn authority(&self) -> &[u8] {
        self.authority.as_ref().map_or(b"", HeaderValue::as_bytes)
    }

    /// `:authority` as text, empty if absent or not valid UTF-8.
    #[must_use]
    pub fn host(&self) -> &str {
        std::str::from_utf8(self.authority()).unwrap_or_default()
    }

    /// `:path` including the query, empty for CONNECT.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path.as_ref().map_or("", Target::as_str)
    }
}

/// A path including its query, unchanged from the client: any bytes except controls, spaces and DEL, as in Envoy.
/// Clones share the bytes.
///
/// HTTP/1 accepts ASCII only. On HTTP/2 a client may send bytes that are not valid UTF-8: they are forwarded unchanged,
/// and text accessors show U+FFFD in their place, as RE2 does.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    text: ByteString,
    /// The original bytes, if they are not valid UTF-8.
    bytes: Option<Bytes>,
}

/// The error for a target that cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidTarget;

impl Target {
    /// `/`
    #[must_use]
    pub fn root() -> Target {
        Target::from_static("/")
    }

    /// `*`, the target of a request to the server itself.
    pub(crate) fn asterisk() -> Target {
        Target::from_static("*")
    }

    /// A target that is known to be valid: no spaces, controls or DEL.
    #[must_use]
    pub fn from_static(text: &'static str) -> Target {
        Target {
            text: ByteString::from_static(text),
            bytes: None,
        }
    }

    /// The bytes on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.bytes {
            Some(bytes) => bytes,
            None => self.text.as_bytes(),
        }
    }

    /// The target as text, with U+FFFD for invalid bytes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The text up to the question mark.
    #[must_use]
    pub fn path(&self) -> &str {
        let text = self.as_str();
        memchr(b'?', text.as_bytes()).map_or(text, |at| &text[..at])
    }

    /// The text after the question mark.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        let text = self.as_str();
        memchr(b'?', text.as_bytes()).map(|at| &text[at + 1..])
    }

    /// Whether the target contains `#`, which is not allowed in requests.
    #[must_use]
    pub fn has_fragment(&self) -> bool {
        memchr(b'#', self.as_bytes()).is_some()
    }
}

impl TryFrom<Bytes> for Target {
    type Error = InvalidTarget;

    fn try_from(bytes: Bytes) -> Result<Target, InvalidTarget> {
        if bytes.is_empty() || bytes.iter().any(|&byte| byte <= b' ' || byte == 0x7f) {
            return Err(InvalidTarget);
        }
        if !bytes.is_ascii() && std::str::from_utf8(&bytes).is_err() {
            return Ok(Target {
                text: String::from_utf8_lossy(&bytes).into_owned().into(),
                bytes: Some(bytes),
            });
        }
        let text = ByteString::try_from(bytes).map_err(|_| InvalidTarget)?;
        Ok(Target { text, bytes: None })
    }
}

impl TryFrom<String> for Target {
    type Error = InvalidTarget;

    fn try_from(text: String) -> Result<Target, InvalidTarget> {
        Target::try_from(Bytes::from(text))
    }
}

impl TryFrom<&str> for Target {
    type Error = InvalidTarget;

    fn try_from(text: &str) -> Result<Target, InvalidTarget> {
        Target::try_from(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// The bytes allowed in a host, a port and user information (RFC 3986 section 3.2).
static AUTHORITY_BYTES: [bool; 256] =
    byte_set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~%!$&'()*+,;=:@[]");

/// Whether `authority` consists only of bytes that are allowed in one.
#[expect(
    clippy::indexing_slicing,
    reason = "the table has an entry for each byte"
)]
pub(crate) fn is_valid_authority(authority: &[u8]) -> bool {
    authority
        .iter()
        .all(|&byte| AUTHORITY_BYTES[usize::from(byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_kept_unchanged() {
        let target = Target::try_from("/a{\"<b>\"}^`|?x=/?y#z").unwrap();
        assert_eq!(target.path(), "/a{\"<b>\"}^`|");
        assert_eq!(target.query(), Some("x=/?y#z"));
        assert!(target.has_fragment());
        let target = Target::try_from("/ä").unwrap();
        assert_eq!(
            (target.as_str(), target.query(), target.has_fragment()),
            ("/ä", None, false)
        );
        for refused in ["", "/a b", "/\t", "/\r\n", "/\0", "/\x7f"] {
            assert_eq!(Target::try_from(refused), Err(InvalidTarget), "{refused:?}");
        }
    }

    #[test]
    fn invalid_utf8_is_kept_unchanged() {
        let target = Target::try_from(Bytes::from_static(b"/\xff?\xc3(")).unwrap();
        assert_eq!(target.as_bytes(), b"/\xff?\xc3(");
        assert_eq!(target.path(), "/\u{fffd}");
        assert_eq!(target.query(), Some("\u{fffd}("));
    }
}
