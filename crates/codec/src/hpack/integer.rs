//! HPACK integers (RFC 7541 section 5.1): in the low bits of a byte, continued in further bytes if they do not fit.

use super::DecodeError;

/// The maximum number of bytes after the first: enough for 32 bits.
const MAX_BYTES: u32 = 5;

/// Appends `value`, using the low `prefix` bits of the first byte, whose other bits are `flags`.
#[inline]
pub(super) fn encode(value: usize, prefix: u32, flags: u8, out: &mut Vec<u8>) {
    let max = (1 << prefix) - 1;
    if value < max {
        out.push(flags | value as u8);
    } else {
        encode_long(value - max, flags | max as u8, out);
    }
}

#[inline(never)]
fn encode_long(mut rest: usize, first: u8, out: &mut Vec<u8>) {
    out.push(first);
    while rest >= 128 {
        out.push(rest as u8 | 128);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Reads the integer that begins in the low `prefix` bits of `first` and may continue in `rest`, which it advances.
#[inline]
pub(super) fn decode(first: u8, prefix: u32, rest: &mut &[u8]) -> Result<usize, DecodeError> {
    let max = (1 << prefix) - 1;
    let value = usize::from(first) & max;
    if value < max {
        Ok(value)
    } else {
        decode_long(max, rest)
    }
}

#[inline(never)]
fn decode_long(max: usize, rest: &mut &[u8]) -> Result<usize, DecodeError> {
    let mut value = max as u64;
    for place in 0..MAX_BYTES {
        let (&byte, after) = rest.split_first().ok_or(DecodeError)?;
        *rest = after;
        value += u64::from(byte & 127) << (7 * place);
        if byte < 128 {
            let value = u32::try_from(value).map_err(|_| DecodeError)?;
            return Ok(value as usize);
        }
    }
    Err(DecodeError)
}
