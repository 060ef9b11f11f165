//! `x-request-id`: a random UUID (`envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig`).

use outrider_codec::HeaderValue;

/// A version 4 UUID of these random bits, six of which are overwritten.
///
/// It is marked as sensitive, so that HPACK never puts it into the dynamic table. No other request repeats the value,
/// and in the table it would push out the headers that requests have in common.
pub(super) fn uuid(high: u64, low: u64) -> HeaderValue {
    let text = outrider_net::uuid(high, low);
    // Hex digits are always valid.
    let mut id = HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""));
    id.set_sensitive(true);
    id
}
