//! Which fields the encoder puts into the table, and when it announces the table's size.

use super::Decoder;
use super::Encoder;
use super::FieldPair;
use super::decode;
use super::encode;
use super::pair;
use crate::Huffman;

/// Encodes the same field several times.
fn repeat(encoder: &mut Encoder, field: &FieldPair) -> [Vec<u8>; 4] {
    std::array::from_fn(|_| encode(encoder, std::slice::from_ref(field)))
}

#[test]
fn a_field_is_one_byte_from_the_third_time_on() {
    for (name, value) in [
        (":path", "/pkg.Service/Method"),
        (":authority", "example.com:50051"),
        (":status", "503"),
        (":method", "PUT"),
        ("content-type", "application/grpc"),
        ("x-custom", "a value"),
        ("x-empty", ""),
    ] {
        let [first, second, third, fourth] = repeat(
            &mut Encoder::new(4096, Huffman::default()),
            &pair(name, value),
        );
        assert!(first[0] < 0x10, "{name}: not indexed, {first:x?}");
        assert!(second[0] & 0xc0 == 0x40, "{name}: indexed, {second:x?}");
        assert_eq!(third, [0xbe], "{name}");
        assert_eq!(fourth, [0xbe], "{name}");
    }
}

#[test]
fn fields_of_the_static_table_are_one_byte() {
    let fields = [
        (":method", "GET"),
        (":method", "POST"),
        (":path", "/"),
        (":path", "/index.html"),
        (":scheme", "http"),
        (":scheme", "https"),
        (":status", "200"),
        (":status", "204"),
        (":status", "206"),
        (":status", "304"),
        (":status", "400"),
        (":status", "404"),
        (":status", "500"),
        ("accept-encoding", "gzip, deflate"),
    ];
    let mut encoder = Encoder::new(4096, Huffman::default());
    for (index, (name, value)) in fields.iter().enumerate() {
        let index = index as u8 + if *name == "accept-encoding" { 3 } else { 2 };
        for block in repeat(&mut encoder, &pair(name, value)) {
            assert_eq!(block, [0x80 | index]);
        }
    }
    assert_eq!(encoder.extent(), (0, 0));
}

#[test]
fn secret_headers_are_never_indexed() {
    for (name, value) in [
        ("authorization", "Bearer abcdefghijklmnopqrstuvwxyz"),
        ("proxy-authorization", "Basic YTpi"),
        ("set-cookie", "session=abcdefghijklmnopqrstuvwxyz"),
        ("cookie", "short"),
    ] {
        let mut encoder = Encoder::new(4096, Huffman::default());
        for block in repeat(&mut encoder, &pair(name, value)) {
            assert_eq!(block[0] & 0xf0, 0x10, "{name}");
        }
        assert_eq!(encoder.extent(), (0, 0));
    }
    let [.., last] = repeat(
        &mut Encoder::new(4096, Huffman::default()),
        &pair("cookie", "long enough not to be guessed"),
    );
    assert_eq!(last, [0xbe]);
}

#[test]
fn sensitive_values_are_never_indexed() {
    let mut encoder = Encoder::new(4096, Huffman::default());
    let name = crate::HeaderName::from_static("x-key");
    let mut value = crate::HeaderValue::from_static("a key");
    for _ in 0..3 {
        repeat(&mut encoder, &pair("x-key", "a key"));
        value.set_sensitive(true);
        let mut block = Vec::new();
        encoder.header(&name, &value, &mut block);
        assert_eq!(block, b"\x10\x05x-key\x05a key");
    }
}

#[test]
fn unique_values_are_not_indexed() {
    let mut encoder = Encoder::new(4096, Huffman::default());
    for number in 0..1000 {
        encode(&mut encoder, &[pair("content-length", &number.to_string())]);
        encode(&mut encoder, &[pair("x-request-id", "the same")]);
    }
    assert_eq!(encoder.extent(), (0, 0));
}

#[test]
fn fields_are_found_in_a_full_table() {
    let mut encoder = Encoder::new(4096, Huffman::default());
    let repeated: Vec<_> = (0..20)
        .map(|number| pair(&format!("x-header-{number}"), "value"))
        .collect();
    let mut length = 0;
    for number in 0..100 {
        let mut fields = repeated.clone();
        fields.push(pair(":path", &format!("/items/{number}")));
        length = encode(&mut encoder, &fields).len();
    }
    assert_eq!(length, 20 + 1 + 1 + "/items/99".len());
}

#[test]
fn fields_that_do_not_fit_leave_the_table_unchanged() {
    let mut encoder = Encoder::new(4096, Huffman::default());
    repeat(&mut encoder, &pair("x-custom", "a value"));
    let extent = encoder.extent();
    for length in [4000, 5000, 100_000] {
        let large = pair("x-large", &"v".repeat(length));
        for block in repeat(&mut encoder, &large) {
            assert_eq!(
                decode(&mut Decoder::new(4096), &block),
                Ok(vec![large.clone()])
            );
        }
    }
    assert_eq!(encoder.extent(), extent);
}

#[test]
fn changes_of_the_table_size_are_announced_once() {
    let mut encoder = Encoder::new(4096, Huffman::default());
    let mut begin = |sizes: &[u32]| {
        let mut out = Vec::new();
        sizes
            .iter()
            .for_each(|&size| encoder.set_peer_table_size(size));
        encoder.begin(&mut out);
        out
    };
    assert_eq!(begin(&[]), b"");
    assert_eq!(begin(&[4096]), b"");
    assert_eq!(begin(&[65536]), b"", "no more than is wanted");
    assert_eq!(begin(&[100]), b"\x3f\x45");
    assert_eq!(begin(&[]), b"");
    assert_eq!(begin(&[0, 8192]), b"\x20\x3f\xe1\x1f");
    assert_eq!(begin(&[10, 5, 20]), b"\x25\x34");
    assert_eq!(begin(&[4096]), b"\x3f\xe1\x1f");
}

#[test]
fn non_default_table_sizes_are_announced_first() {
    let mut out = Vec::new();
    Encoder::new(100, Huffman::default()).begin(&mut out);
    assert_eq!(out, b"\x3f\x45");
    let mut encoder = Encoder::new(8192, Huffman::default());
    out.clear();
    encoder.begin(&mut out);
    assert_eq!(out, b"", "the peer has not allowed more yet");
    encoder.set_peer_table_size(65536);
    encoder.begin(&mut out);
    assert_eq!(out, b"\x3f\xe1\x3f");
}

#[test]
fn strings_are_compressed_as_configured() {
    let field = pair("x-text", "a text of some length");
    let sizes = [Huffman::Never, Huffman::Selective, Huffman::Always].map(|huffman| {
        let [first, second, third, _] = repeat(&mut Encoder::new(4096, huffman), &field);
        [first.len(), second.len(), third.len()]
    });
    assert_eq!(sizes, [[30, 30, 1], [30, 23, 1], [23, 23, 1]]);
}
