//! The Huffman code of HPACK strings (RFC 7541 appendix B).
//!
//! The code is canonical: codes of the same length are consecutive, in the order of their symbols, and longer codes
//! follow shorter ones. So the lengths below define the code, and the compiler computes all other tables from them.

#![expect(
    clippy::indexing_slicing,
    reason = "tables are computed at compile time, and indices have as many values as the tables have entries"
)]

use super::DecodeError;

/// The length in bits of each byte's code. The last entry is the end-of-string symbol, which never occurs in a string.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// The end-of-string symbol, as an index of [`LENGTHS`].
const EOS: u16 = 256;

/// The length of the longest code in bits.
const LONGEST: usize = 30;

/// How many bits one lookup in [`PAIRS`] decodes: two codes of the most common lengths, 5 and 6. A larger table would
/// displace other data from the first-level cache.
const PEEK: u32 = 12;

/// Each symbol's code in the low bits; [`LENGTHS`] has the number of bits.
const CODES: [u32; 257] = canonical().codes;

/// The symbols, sorted by code.
static SORTED: [u16; 257] = canonical().sorted;

/// The codes of each length, indexed by length.
static CODE_RANGES: [CodeRange; LONGEST + 1] = canonical().code_ranges;

/// Each byte's code and length in one word for the encoder: `code << 8 | length`.
static ENCODE: [u64; 256] = encode_table();

/// What the next [`PEEK`] bits decode to: one or two whole codes, or the beginning of a longer one.
static PAIRS: [Pair; 1 << PEEK] = pair_table();

/// All codes of one length.
#[derive(Clone, Copy)]
struct CodeRange {
    /// The first code.
    code: u32,
    /// The number of codes.
    count: u32,
    /// The position of the first code's symbol in [`SORTED`].
    index: u32,
}

struct Canonical {
    codes: [u32; 257],
    sorted: [u16; 257],
    code_ranges: [CodeRange; LONGEST + 1],
}

const fn canonical() -> Canonical {
    let mut codes = [0; 257];
    let mut sorted = [0; 257];
    let mut code_ranges = [CodeRange {
        code: 0,
        count: 0,
        index: 0,
    }; LONGEST + 1];
    let mut code = 0;
    let mut index = 0;
    let mut length = 1;
    while length <= LONGEST {
        code <<= 1;
        code_ranges[length].code = code;
        code_ranges[length].index = index;
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == length {
                codes[symbol] = code;
                sorted[index as usize] = symbol as u16;
                code_ranges[length].count += 1;
                code += 1;
                index += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    Canonical {
        codes,
        sorted,
        code_ranges,
    }
}

const fn encode_table() -> [u64; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (CODES[byte] as u64) << 8 | LENGTHS[byte] as u64;
        byte += 1;
    }
    table
}

/// One or two decoded bytes. From the low end: 16 bits for the bytes, 5 for the length of both codes, 5 for the length
/// of the first code, and from [`Pair::SHIFT`] on 8 for each byte. Zero if the code is longer than [`PEEK`].
#[derive(Clone, Copy)]
struct Pair(u32);

impl Pair {
    const SHIFT: u32 = 27;

    const fn one(symbol: u32, bits: u32) -> Pair {
        Pair(symbol | bits << 16 | bits << 21 | 8 << Pair::SHIFT)
    }

    const fn two(first: Pair, second: u32, bits: u32) -> Pair {
        let both = first.first_bits() + bits;
        Pair(
            first.bytes() | second << 8 | both << 16 | first.first_bits() << 21 | 16 << Pair::SHIFT,
        )
    }

    #[inline]
    const fn of(bits: u64) -> Pair {
        PAIRS[(bits >> (64 - PEEK)) as usize]
    }

    #[inline]
    const fn bytes(self) -> u32 {
        self.0 & 0xffff
    }

    #[inline]
    const fn bits(self) -> u32 {
        self.0 >> 16 & 31
    }

    #[inline]
    const fn first_bits(self) -> u32 {
        self.0 >> 21 & 31
    }

    /// Eight for each decoded byte.
    #[inline]
    const fn width(self) -> u32 {
        self.0 >> Pair::SHIFT
    }

    #[inline]
    const fn is_longer(self) -> bool {
        self.0 == 0
    }
}

const fn pair_table() -> [Pair; 1 << PEEK] {
    let mut table = [Pair(0); 1 << PEEK];
    // First, every short code with any bits after it. Then, where the following bits are a whole code too, both codes.
    let mut symbol = 0;
    while symbol < 256 {
        let bits = LENGTHS[symbol] as u32;
        if bits <= PEEK {
            let first = (CODES[symbol] as usize) << (PEEK - bits);
            let mut rest = 0;
            while rest < 1 << (PEEK - bits) {
                table[first + rest] = Pair::one(symbol as u32, bits);
                rest += 1;
            }
        }
        symbol += 1;
    }
    let ones = table;
    let mut index = 0;
    while index < 1 << PEEK {
        let first = ones[index];
        let second = ones[(index << first.bits()) & ((1 << PEEK) - 1)];
        if !first.is_longer() && !second.is_longer() && first.bits() + second.bits() <= PEEK {
            table[index] = Pair::two(first, second.bytes(), second.bits());
        }
        index += 1;
    }
    table
}

/// How many bytes [`encode`] appends for `bytes`.
pub(super) fn encoded_len(bytes: &[u8]) -> usize {
    let bits: usize = bytes
        .iter()
        .map(|&byte| usize::from(LENGTHS[usize::from(byte)]))
        .sum();
    bits.div_ceil(8)
}

/// Appends `bytes` in the Huffman code, padded with ones.
pub(super) fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    let mut pending = 0_u64;
    let mut length = 0;
    for &byte in bytes {
        let code = ENCODE[usize::from(byte)];
        let bits = code & 0xff;
        pending = pending << bits | code >> 8;
        length += bits;
        if length >= 32 {
            length -= 32;
            out.extend_from_slice(&((pending >> length) as u32).to_be_bytes());
        }
    }
    if length > 0 {
        let last = pending << (32 - length) | u64::from(u32::MAX) >> length;
        let bytes = (last as u32).to_be_bytes();
        out.extend(bytes.iter().take(length.div_ceil(8) as usize));
    }
}

/// Decodes `code` into `out`, replacing its contents, and returns the decoded bytes.
///
/// Reads behind the end of `code` return ones, like the end-of-string symbol. They look like a code longer than
/// [`PEEK`], so that no step needs to check for the end first.
pub(super) fn decode<'a>(code: &[u8], out: &'a mut Vec<u8>) -> Result<&'a [u8], DecodeError> {
    // No code is shorter than 5 bits. Each step writes 8 bytes, even if it decodes fewer.
    let room = code.len() / 5 * 8 + 24;
    if out.len() < room {
        *out = vec![0; room.max(MIN_SCRATCH)];
    }
    let end = code.len() * 8;
    let tail = Tail::of(code);
    let mut written = 0;
    let mut position = 0;
    loop {
        let mut bits = eight_bytes(code, &tail, position);
        let mut bytes = 0_u64;
        let mut width = 0;
        let mut last = Pair(0);
        let start = position;
        // A pair uses at most 12 of at least 57 bits. A longer code uses none, so that the following lookups find it
        // again and decode nothing.
        for _ in 0..4 {
            last = Pair::of(bits);
            bits <<= last.bits();
            position += last.bits() as usize;
            bytes |= u64::from(last.bytes()) << width;
            width += last.width();
        }
        put(out, written, bytes);
        written += width as usize / 8;
        if last.is_longer() {
            let left = end.checked_sub(position).ok_or(DecodeError)?;
            // Longer codes begin with eight ones. Fewer ones are padding.
            if left < 8 {
                return Ok(out.get(..written).unwrap_or_default());
            }
            let (byte, length) = long_code(eight_bytes(code, &tail, position))?;
            put(out, written, u64::from(byte));
            written += 1;
            position += length as usize;
        }
        // A code that extends beyond the end is not padding: padding looks like a longer code.
        if position > end || position == start {
            return Err(DecodeError);
        }
    }
}

/// The minimum size of the scratch buffer; most strings are shorter.
const MIN_SCRATCH: usize = 256;

/// The last seven bytes of the code, followed by ones. Eight-byte reads near the end use it instead of the code.
struct Tail {
    bytes: [u8; 16],
    /// The position of the first of them in the code.
    start: usize,
}

impl Tail {
    fn of(code: &[u8]) -> Tail {
        let start = code.len().saturating_sub(7);
        let mut bytes = [0xff; 16];
        let last = code.get(start..).unwrap_or_default();
        if let Some(to) = bytes.get_mut(..last.len()) {
            to.copy_from_slice(last);
        }
        Tail { bytes, start }
    }
}

/// Decodes the code longer than [`PEEK`] at the beginning of `bits`: its byte and its length.
#[cold]
fn long_code(bits: u64) -> Result<(u8, u32), DecodeError> {
    for length in PEEK + 1..=LONGEST as u32 {
        let range = CODE_RANGES[length as usize];
        let code = (bits >> (64 - length)) as u32;
        let offset = code.wrapping_sub(range.code);
        if offset < range.count {
            let symbol = SORTED.get((range.index + offset) as usize).copied();
            let byte = symbol.filter(|&symbol| symbol != EOS);
            let byte = byte.and_then(|symbol| u8::try_from(symbol).ok());
            return byte.map(|byte| (byte, length)).ok_or(DecodeError);
        }
    }
    Err(DecodeError)
}

/// At least 57 bits from bit `position` on, left-aligned.
#[inline]
fn eight_bytes(code: &[u8], tail: &Tail, position: usize) -> u64 {
    let at = position / 8;
    let in_code = code.get(at..).and_then(<[u8]>::first_chunk);
    let in_tail = || tail.bytes.get(at.wrapping_sub(tail.start)..)?.first_chunk();
    // Never reached: the position is at most the end, and the tail continues with ones.
    let bytes = in_code.or_else(in_tail).unwrap_or(&[0xff; 8]);
    u64::from_be_bytes(*bytes) << (position % 8)
}

/// Writes eight bytes, lowest first. The next write overwrites the bytes that were not decoded.
#[inline]
fn put(out: &mut [u8], at: usize, bytes: u64) {
    if let Some(room) = out.get_mut(at..at + 8) {
        room.copy_from_slice(&bytes.to_le_bytes());
    }
}
