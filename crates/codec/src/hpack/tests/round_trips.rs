//! Our encoder and decoder against each other and against those of another implementation.

use super::Decoder;
use super::Encoder;
use super::FieldPair;
use super::decode;
use super::encode;
use super::pair;
use crate::Huffman;
use crate::hpack::huffman;

#[test]
fn huffman_code_of_every_byte() {
    let mut scratch = Vec::new();
    for byte in 0..=255 {
        for count in 1..40 {
            let text = vec![byte; count];
            let mut code = Vec::new();
            huffman::encode(&text, &mut code);
            assert_eq!(code.len(), huffman::encoded_len(&text));
            assert_eq!(huffman::decode(&code, &mut scratch), Ok(&text[..]));
        }
    }
}

#[test]
fn huffman_code_of_random_bytes() {
    let mut random = fastrand::Rng::with_seed(2);
    let mut scratch = Vec::new();
    for _ in 0..20_000 {
        let common = random.bool();
        let text: Vec<u8> = (0..random.usize(0..100))
            .map(|_| {
                if common {
                    random.u8(b' '..127)
                } else {
                    random.u8(..)
                }
            })
            .collect();
        let mut code = Vec::new();
        huffman::encode(&text, &mut code);
        assert_eq!(huffman::decode(&code, &mut scratch), Ok(&text[..]));
    }
}

/// A block of fields, some of which repeat from one block to the next.
fn random_fields(random: &mut fastrand::Rng) -> Vec<FieldPair> {
    const NAMES: [&str; 12] = [
        ":status",
        ":method",
        ":path",
        ":authority",
        ":scheme",
        ":protocol",
        "accept-encoding",
        "content-type",
        "cookie",
        "authorization",
        "x-custom",
        "x-request-id",
    ];
    (0..random.usize(1..20))
        .map(|_| {
            let name = NAMES[random.usize(..NAMES.len())];
            let value = match (name, random.u8(..8)) {
                (":status", _) => random.u16(200..210).to_string(),
                (":method", 0..2) => "GET".into(),
                (":method", _) => "PATCH".into(),
                ("accept-encoding", 0..4) => "gzip, deflate".into(),
                (":path", 0) => "/".into(),
                (":scheme", 0..4) => "https".into(),
                (_, 0) => "v".repeat(random.usize(..3000)),
                (_, 1) => (0..random.usize(..300))
                    .map(|_| random.alphanumeric())
                    .collect(),
                _ => format!("value {}", random.u8(..20)),
            };
            pair(name, &value)
        })
        .collect()
}

#[test]
fn our_encoder_to_both_decoders() {
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..20 {
        let wanted = [4096, 0, 100, 4096, 65536][round % 5];
        let mut encoder = Encoder::new(wanted, Huffman::default());
        let mut ours = Decoder::new(65536);
        let mut theirs = fluke_hpack::Decoder::new();
        theirs.set_max_allowed_table_size(65536);
        let mut indexed = 0;
        for _ in 0..100 {
            if random.u8(..10) == 0 {
                for _ in 0..random.u8(1..4) {
                    encoder.set_peer_table_size(random.u32(..8192));
                }
            }
            let fields = random_fields(&mut random);
            let block = encode(&mut encoder, &fields);
            assert_eq!(decode(&mut ours, &block).as_ref(), Ok(&fields));
            assert_eq!(theirs.decode(&block).unwrap(), fields);
            assert_eq!(ours.extent(), encoder.extent());
            assert!(encoder.extent().0 <= wanted);
            indexed += encoder.extent().1;
        }
        assert_eq!(indexed > 0, wanted > 0);
    }
}

#[test]
fn another_encoder_to_our_decoder() {
    let mut random = fastrand::Rng::with_seed(4);
    let mut encoder = fluke_hpack::Encoder::new();
    let mut decoder = Decoder::new(4096);
    for _ in 0..3000 {
        let fields = random_fields(&mut random);
        let block = encoder.encode(fields.iter().map(|(name, value)| (&name[..], &value[..])));
        assert_eq!(decode(&mut decoder, &block), Ok(fields));
    }
}
