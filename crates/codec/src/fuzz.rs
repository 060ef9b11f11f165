//! Targets for fuzzing: each takes hostile bytes, and panics if a parser breaks a promise.
//!
//! `just fuzz` runs them in libFuzzer (see `fuzz/`); the tests run them with the committed inputs.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a broken promise ends the fuzzer or the test"
)]

mod http1;
mod sessions;

use crate::hpack::DecodedValue;
use crate::hpack::Decoder;
use crate::hpack::Name;

/// A target's name, and what it does with its input.
pub type FuzzTarget = (&'static str, fn(&[u8]));

/// The targets of this crate.
pub const TARGETS: &[FuzzTarget] = &[
    ("hpack", hpack),
    ("http1_request", http1::request),
    ("http1_response", http1::response),
    ("http1_chunks", http1::chunks),
    ("http2_server", sessions::server),
    ("http2_client", sessions::client),
];

/// Splits off the first byte, which chooses where the rest is split.
fn split_position(data: &[u8]) -> Option<(usize, &[u8])> {
    let (&at, text) = data.split_first()?;
    Some((usize::from(at) * text.len() / 255, text))
}

/// Decodes blocks, each behind its length in a byte, and compares them with those of another implementation.
fn hpack(mut data: &[u8]) {
    let mut ours = Decoder::new(4096);
    let mut other = fluke_hpack::Decoder::new();
    while let Some((&length, rest)) = data.split_first() {
        let (block, rest) = rest.split_at(rest.len().min(length.into()));
        data = rest;
        let mut fields = Vec::new();
        let decoded = ours.decode(block, |name, value, _| {
            fields.push((name_text(name), value_text(value)));
        });
        let (Ok(()), Ok(expected)) = (decoded, other.decode(block)) else {
            return;
        };
        assert_eq!(fields.len(), expected.len());
        for (field, expected) in fields.iter().zip(&expected) {
            assert!(field.0 == b":?" || field.0 == expected.0);
            assert_eq!(field.1, expected.1);
        }
    }
}

/// The text of a decoded name.
pub(crate) fn name_text(name: &Name) -> Vec<u8> {
    match name {
        Name::Method => b":method".into(),
        Name::Scheme => b":scheme".into(),
        Name::Authority => b":authority".into(),
        Name::Path => b":path".into(),
        Name::Status => b":status".into(),
        Name::Protocol => b":protocol".into(),
        Name::UnknownPseudo => b":?".into(),
        Name::Header(name) => name.as_str().into(),
        Name::Malformed(name) => name.to_vec(),
    }
}

/// The text of a decoded value.
pub(crate) fn value_text(value: &DecodedValue) -> Vec<u8> {
    match value {
        DecodedValue::Valid(value) => value.as_bytes().into(),
        DecodedValue::Malformed(value) => value.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::TARGETS;

    #[test]
    fn committed_inputs_do_no_harm() {
        let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
        for (name, target) in TARGETS {
            let mut count = 0;
            for input in std::fs::read_dir(all.join(name)).unwrap() {
                target(&std::fs::read(input.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count > 0, "{name} has no inputs");
        }
    }
}
