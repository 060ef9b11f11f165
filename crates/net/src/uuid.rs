//! Random UUIDs as text, for request ids and for listeners without a name in the config.
//!
//! The `uuid` crate takes 95 more instructions for each, and every request may need one (`docs/dependencies.md`).

/// The text of a version 4 UUID with these random bits. The version and variant overwrite six of them.
#[must_use]
pub fn uuid(high: u64, low: u64) -> [u8; 36] {
    let high = high & !0xf000 | 0x4000;
    let low = low & (u64::MAX >> 2) | 1 << 63;
    let mut text = [b'-'; 36];
    text[..8].copy_from_slice(&hex((high >> 32) as u32));
    let middle = hex(high as u32);
    text[9..13].copy_from_slice(&middle[..4]);
    text[14..18].copy_from_slice(&middle[4..]);
    let middle = hex((low >> 32) as u32);
    text[19..23].copy_from_slice(&middle[..4]);
    text[24..28].copy_from_slice(&middle[4..]);
    text[28..].copy_from_slice(&hex(low as u32));
    text
}

/// The eight hexadecimal digits of `number`, computed together: each digit is one byte of a 64-bit word.
fn hex(number: u32) -> [u8; 8] {
    const ONES: u64 = u64::MAX / 255;
    let halves = u64::from(number);
    let halves = (halves << 16 | halves) & 0x0000_ffff_0000_ffff;
    let bytes = (halves << 8 | halves) & 0x00ff_00ff_00ff_00ff;
    let digits = (bytes << 4 | bytes) & 0x0f0f_0f0f_0f0f_0f0f;
    // Adding 6 carries digits from 10 on, which become letters, into the upper half of their byte.
    let letters = (digits + 6 * ONES) >> 4 & ONES;
    let above = u64::from(b'a' - b'0' - 10);
    (digits + u64::from(b'0') * ONES + letters * above).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_form_of_a_version_4_uuid() {
        assert_eq!(&uuid(0, 0), b"00000000-0000-4000-8000-000000000000");
        assert_eq!(
            &uuid(u64::MAX, u64::MAX),
            b"ffffffff-ffff-4fff-bfff-ffffffffffff"
        );
        assert_eq!(
            &uuid(0x0123_4567_89ab_cdef, 0x0123_4567_89ab_cdef),
            b"01234567-89ab-4def-8123-456789abcdef"
        );
    }
}
