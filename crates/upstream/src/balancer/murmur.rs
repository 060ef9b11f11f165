//! 64-bit MurmurHash2, which `RING_HASH` can use for compatibility with other proxies.

const MULTIPLIER: u64 = 0xc6a4_a793_5bd1_e995;

/// Envoy's seed, which is that of the C++ standard library.
const SEED: u64 = 0xc70f_6907;

pub(super) fn murmur_hash_2(text: &[u8]) -> u64 {
    let mut hash = SEED ^ (text.len() as u64).wrapping_mul(MULTIPLIER);
    let (blocks, rest) = text.as_chunks::<8>();
    for block in blocks {
        let data = mix(u64::from_le_bytes(*block).wrapping_mul(MULTIPLIER));
        hash = (hash ^ data.wrapping_mul(MULTIPLIER)).wrapping_mul(MULTIPLIER);
    }
    if !rest.is_empty() {
        let data = rest
            .iter()
            .rev()
            .fold(0, |data, byte| data << 8 | u64::from(*byte));
        hash = (hash ^ data).wrapping_mul(MULTIPLIER);
    }
    mix(mix(hash).wrapping_mul(MULTIPLIER))
}

fn mix(value: u64) -> u64 {
    value ^ (value >> 47)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_texts_hash_apart() {
        let hashes = ["", "a", "12345678", "123456789"].map(|text| murmur_hash_2(text.as_bytes()));
        assert!(
            (1..4).all(|index| !hashes[..index].contains(&hashes[index])),
            "{hashes:?}"
        );
    }
}
