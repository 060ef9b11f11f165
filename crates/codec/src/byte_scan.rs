//! Byte searches eight bytes at a time. Header names, lines and values are too short for SIMD searches to pay off.

/// The value 1 in each byte.
const EACH_BYTE: u64 = u64::MAX / 255;
/// The highest bit of each byte.
const HIGH_BITS: u64 = EACH_BYTE << 7;

/// Sets the highest bit of each byte that is zero. Bytes above the lowest zero byte may have it set as well.
const fn zeros(word: u64) -> u64 {
    word.wrapping_sub(EACH_BYTE) & !word & HIGH_BITS
}

/// The position of the first `byte`.
pub(crate) fn find(byte: u8, bytes: &[u8]) -> Option<usize> {
    let pattern = EACH_BYTE * u64::from(byte);
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        // The lowest set bit belongs to the first matching byte.
        let zeros = zeros(u64::from_le_bytes(*word) ^ pattern);
        if zeros != 0 {
            return Some(index * 8 + zeros.trailing_zeros() as usize / 8);
        }
    }
    let at = rest.iter().position(|&other| other == byte)?;
    Some(words.len() * 8 + at)
}

/// Whether `bytes` are valid in a field value (RFC 9110 section 5.5): no control characters except tabs.
#[inline]
pub(crate) fn is_field_text(bytes: &[u8]) -> bool {
    let (words, _) = bytes.as_chunks::<8>();
    // The last eight bytes may overlap with the chunks before.
    let suspicious = bytes.last_chunk().is_none_or(|last| {
        let found = controls(u64::from_le_bytes(*last));
        0 != (words.iter()).fold(found, |found, word| {
            found | controls(u64::from_le_bytes(*word))
        })
    });
    // Tabs are rare. If a control character was found, check whether all of them are tabs.
    !suspicious || bytes.iter().copied().all(is_field_byte)
}

/// Nonzero if any byte of `word` is a control character.
const fn controls(word: u64) -> u64 {
    let below_space = word.wrapping_sub(EACH_BYTE * b' ' as u64) & !word & HIGH_BITS;
    below_space | zeros(word ^ (EACH_BYTE * 0x7f))
}

/// Whether a field value may contain `byte`.
pub(crate) const fn is_field_byte(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f || byte == b'\t'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_found_at_every_position() {
        for length in 0..40 {
            let mut text = vec![b'\x3b'; length];
            assert_eq!(find(b':', &text), None);
            for at in (0..length).rev() {
                text[at] = b':';
                assert_eq!(find(b':', &text), Some(at), "{length}");
                // Similar bytes must not match.
                text[at] = b"\x39\x3b\xba\0"[at % 4];
            }
        }
    }

    #[test]
    fn an_invalid_byte_is_found_at_every_position() {
        for byte in 0..=u8::MAX {
            let legal = byte == b'\t' || byte >= 0x20 && byte != 0x7f;
            assert_eq!(is_field_byte(byte), legal, "{byte}");
            for length in 1..20 {
                for at in 0..length {
                    for around in [b'a', b'\t', b' ', 0x80, 0xff] {
                        let mut text = vec![around; length];
                        text[at] = byte;
                        assert_eq!(is_field_text(&text), legal, "{byte} {around} {at} {length}");
                    }
                }
            }
        }
        assert!(is_field_text(b""));
    }
}
