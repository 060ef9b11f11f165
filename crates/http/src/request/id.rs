//! `x-request-id`: a random UUID, made fast (`envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig`).

use http::HeaderValue;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// A version 4 UUID of these random bits, six of which are overwritten.
///
/// Marked as sensitive, so that HPACK never puts it into the dynamic table: no other request repeats it, but each would
/// push out, and make the encoder write again, what all requests have in common.
pub(super) fn uuid(high: u64, low: u64) -> HeaderValue {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&high.to_be_bytes());
    bytes[8..].copy_from_slice(&low.to_be_bytes());
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (index, byte) in bytes.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 15)];
        at += 2;
    }
    let mut id = HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("")); // hex digits are always legal
    id.set_sensitive(true);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_form_of_a_version_4_uuid() {
        assert_eq!(uuid(0, 0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(
            uuid(u64::MAX, u64::MAX),
            "ffffffff-ffff-4fff-bfff-ffffffffffff"
        );
        assert_eq!(
            uuid(0x0123_4567_89ab_cdef, 0x0123_4567_89ab_cdef),
            "01234567-89ab-4def-8123-456789abcdef"
        );
    }
}
