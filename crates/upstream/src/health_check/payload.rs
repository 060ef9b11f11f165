//! `HealthCheck.Payload`: bytes to send, or to find in what comes.

use memchr::memmem;
use outrider_config::ConfigError;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::health_check::Payload;
use outrider_config::api::envoy::config::core::v3::health_check::payload;

/// The bytes of `message`, found at `path`.
pub(super) fn bytes(message: &Payload, path: &FieldPath) -> Result<Vec<u8>, ConfigError> {
    match &message.payload {
        Some(payload::Payload::Text(text)) => hex(text).ok_or_else(|| {
            ConfigError::new(&path.field("text"), format!("invalid hex string '{text}'"))
        }),
        Some(payload::Payload::Binary(bytes)) => Ok(bytes.clone()),
        None => Err(ConfigError::new(path, "expected text or binary")),
    }
}

/// The bytes of each of `messages`, a list at `path`.
pub(super) fn all(messages: &[Payload], path: &FieldPath) -> Result<Vec<Vec<u8>>, ConfigError> {
    let messages = messages.iter().enumerate();
    messages
        .map(|(index, message)| bytes(message, &path.index(index)))
        .collect()
}

/// Whether `received` has all of `expected`, one after the other; there may be more between them.
pub(super) fn matches(expected: &[Vec<u8>], received: &[u8]) -> bool {
    let mut rest = received;
    for segment in expected {
        let Some(at) = memmem::find(rest, segment) else {
            return false;
        };
        rest = rest.get(at + segment.len()..).unwrap_or_default();
    }
    true
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if digits.is_empty() || !digits.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    let pairs = digits.chunks_exact(2);
    pairs
        .map(|pair| {
            let pair = std::str::from_utf8(pair).ok()?;
            let valid = pair.bytes().all(|digit| digit.is_ascii_hexdigit());
            valid.then(|| u8::from_str_radix(pair, 16).ok())?
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_follow_each_other() {
        let expected = [b"ab".to_vec(), b"c".to_vec()];
        assert!(matches(&expected, b"xxab..c"));
        assert!(!matches(&expected, b"c..ab"));
        assert!(!matches(&expected, b"ab"));
        assert!(matches(&[], b""));
    }

    #[test]
    fn hexadecimal_text() {
        assert_eq!(hex("00fF"), Some(vec![0, 255]));
        for wrong in ["", "0", "zz", "+1", "é"] {
            assert_eq!(hex(wrong), None, "{wrong}");
        }
    }
}
