//! Bytes as text.

/// Text for a protobuf string: each byte that is not UTF-8 becomes `!`, as in Envoy.
#[must_use]
pub fn sanitized_utf8(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '!'));
    }
    text
}
