//! Malformed header blocks, and well-formed ones with fields that HTTP does not allow.

use bytes::Bytes;

use super::DecodeError;
use super::Decoder;
use super::Name;
use super::decode;
use super::pair;
use crate::HeaderValue;
use crate::hpack::DecodedValue;
use crate::hpack::huffman;

#[test]
fn malformed_blocks_are_refused() {
    let cases: [(&str, &[u8]); 21] = [
        ("index zero", b"\x80"),
        ("index beyond both tables", b"\xbe"),
        ("name's index beyond both tables", b"\x7e\x01a"),
        (
            "name's index beyond both tables, not indexed",
            b"\x0f\x2f\x01a",
        ),
        ("index cut off", b"\xff"),
        ("index cut off after a byte", b"\xff\x80"),
        ("index of more than 32 bits", b"\xff\xff\xff\xff\xff\x0f"),
        ("index of too many bytes", b"\xff\x80\x80\x80\x80\x80\x00"),
        (
            "length of more than 32 bits",
            b"\x00\x7f\xff\xff\xff\xff\x7f",
        ),
        ("no name", b"\x00"),
        ("no value", b"\x00\x01a"),
        ("no value for an indexed name", b"\x44"),
        ("name longer than the block", b"\x00\x05ab"),
        ("value longer than the block", b"\x44\x05/ab"),
        ("size update larger than allowed", b"\x3f\xe2\x1f"),
        ("size update after a field", b"\x82\x20"),
        ("size update cut off", b"\x3f"),
        ("padding of a whole byte", b"\x44\x82\x1f\xff"),
        ("padding of zeros", b"\x44\x81\x18"),
        ("end of string in a string", b"\x44\x85\x1f\xff\xff\xff\xff"),
        (
            "end of string in a long string",
            b"\x44\x8a\xff\xff\xff\xff\0\0\0\0\0\0",
        ),
    ];
    for (name, block) in cases {
        assert_eq!(
            decode(&mut Decoder::new(4096), block),
            Err(DecodeError),
            "{name}"
        );
    }
}

#[test]
fn truncated_fields_are_refused() {
    let block = b"\x40\x0acustom-key\x89\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf";
    assert!(decode(&mut Decoder::new(4096), block).is_ok());
    for end in 1..block.len() {
        assert_eq!(
            decode(&mut Decoder::new(4096), &block[..end]),
            Err(DecodeError),
            "{end}"
        );
    }
}

#[test]
fn padding_is_all_ones_and_shorter_than_a_byte() {
    // Each padding that decodes is encoded as the same byte again, so no other padding passes.
    let mut decoded = 0;
    for last in 0..=255 {
        let result = huffman::decode(&[last], &mut Vec::new()).map(<[u8]>::to_vec);
        let mut again = Vec::new();
        if let Ok(text) = result {
            huffman::encode(&text, &mut again);
            assert_eq!(again, [last]);
            decoded += 1;
        }
    }
    // A byte can hold 74 symbols with their padding: 10 with codes of 5 bits, 26 of 6, 32 of 7 and 6 of 8.
    assert_eq!(decoded, 74);
    assert_eq!(huffman::decode(&[0xff], &mut Vec::new()), Err(DecodeError));
    assert_eq!(
        huffman::decode(&[0x1f, 0xff], &mut Vec::new()),
        Err(DecodeError)
    );
    assert_eq!(huffman::decode(&[], &mut Vec::new()), Ok(&b""[..]));
}

#[test]
fn size_updates_at_the_beginning_are_applied() {
    let mut decoder = Decoder::new(4096);
    decode(&mut decoder, b"\x40\x01a\x01b\x40\x01c\x01d").unwrap();
    assert_eq!(decoder.extent(), (68, 2));
    assert_eq!(
        decode(&mut decoder, b"\x20\x3f\xe1\x1f\x82"),
        Ok(vec![pair(":method", "GET")])
    );
    assert_eq!(decoder.extent(), (0, 0));
    assert_eq!(
        decode(&mut decoder, b"\x3f\x02"),
        Ok(Vec::new()),
        "33 bytes"
    );
    decode(&mut decoder, b"\x40\x01a\x00").unwrap();
    assert_eq!(decoder.extent(), (33, 1));
    decode(&mut decoder, b"\x40\x01a\x01b").unwrap();
    assert_eq!(
        decoder.extent(),
        (0, 0),
        "a field too large empties the table"
    );
}

#[test]
fn larger_tables_can_be_allowed() {
    let mut decoder = Decoder::new(8192);
    assert_eq!(decode(&mut decoder, b"\x3f\xe1\x3f"), Ok(Vec::new()));
    assert_eq!(decode(&mut decoder, b"\x3f\xe2\x3f"), Err(DecodeError));
}

#[test]
fn a_name_may_refer_to_the_entry_that_it_evicts() {
    let mut decoder = Decoder::new(4096);
    decode(&mut decoder, b"\x3f\x07\x40\x03foo\x03bar").unwrap();
    assert_eq!(
        decode(&mut decoder, b"\x7e\x03baz"),
        Ok(vec![pair("foo", "baz")])
    );
    assert_eq!(decoder.extent(), (38, 1));
}

/// Decodes a block with a literal field that enters the table, then a reference to it; returns the field.
fn field(name: &[u8], value: &[u8]) -> (Name, DecodedValue) {
    let mut block = vec![0x40, name.len() as u8];
    block.extend_from_slice(name);
    block.push(value.len() as u8);
    block.extend_from_slice(value);
    block.push(0xbe);
    let mut fields = Vec::new();
    let mut decoder = Decoder::new(4096);
    decoder
        .decode(&block, |name, value, size| {
            fields.push((name.clone(), value.clone(), size));
        })
        .unwrap();
    let [first, second] = &fields[..] else {
        panic!("two fields");
    };
    assert_eq!(first, second);
    assert_eq!(first.2, name.len() + value.len());
    (first.0.clone(), first.1.clone())
}

#[test]
fn malformed_names_are_reported() {
    for name in [
        "", "A", "Foo", "a b", "a:", "a\"", "a\0", "a\u{e9}", "x-fOo", "host ",
    ] {
        let expected = Name::Malformed(Bytes::copy_from_slice(name.as_bytes()));
        assert_eq!(field(name.as_bytes(), b"").0, expected, "{name:?}");
    }
    assert_eq!(
        field(&[b'a'; 100], b"").0,
        Name::Header("a".repeat(100).parse().unwrap())
    );
    assert_eq!(
        field(b"x!#$%&'*+-.^_`|~0", b"").0,
        Name::Header("x!#$%&'*+-.^_`|~0".parse().unwrap())
    );
}

#[test]
fn pseudo_header_fields() {
    for (name, expected) in [
        (":method", Name::Method),
        (":scheme", Name::Scheme),
        (":authority", Name::Authority),
        (":path", Name::Path),
        (":status", Name::Status),
        (":protocol", Name::Protocol),
        (":foo", Name::UnknownPseudo),
        (":", Name::UnknownPseudo),
        (":Method", Name::UnknownPseudo),
    ] {
        assert_eq!(field(name.as_bytes(), b"x").0, expected);
    }
}

#[test]
fn values() {
    for byte in 0..=255 {
        let value = [b'a', byte];
        let is_valid = byte == b'\t' || byte >= b' ' && byte != 127;
        let expected = if is_valid {
            DecodedValue::Valid(HeaderValue::from_bytes(&value[..]).unwrap())
        } else {
            DecodedValue::Malformed(Bytes::copy_from_slice(&value))
        };
        assert_eq!(field(b"a", &value).1, expected);
    }
    assert_eq!(
        field(b"a", b" b\t").1,
        DecodedValue::Valid(" b\t".parse().unwrap())
    );
}

#[test]
fn fields_never_to_be_indexed_are_sensitive() {
    let mut sensitive = Vec::new();
    let block = b"\x10\x01a\x01b\x00\x01a\x01b";
    let sink = |_: &Name, value: &DecodedValue, _| {
        sensitive.push(matches!(value, DecodedValue::Valid(value) if value.is_sensitive()));
    };
    Decoder::new(4096).decode(block, sink).unwrap();
    assert_eq!(sensitive, [true, false]);
}

#[test]
fn random_input_neither_panics_nor_exceeds_the_table_size() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut decoder = Decoder::new(4096);
    let mut decoded = 0;
    for _ in 0..100_000 {
        let mut block = vec![0; random.usize(1..64)];
        random.fill(&mut block);
        // Short lengths and small indices, so that some blocks decode to the end.
        block
            .iter_mut()
            .skip(1)
            .for_each(|byte| *byte &= random.u8(..));
        decoded += usize::from(decode(&mut decoder, &block).is_ok());
        let (size, entries) = decoder.extent();
        assert!(size <= 4096 && entries <= 128);
    }
    assert!(decoded > 1000, "{decoded}");
}
