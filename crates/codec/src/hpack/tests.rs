mod errors;
mod examples;
mod policy;
mod round_trips;

use crate::HeaderValue;
use crate::fuzz::name_text;
use crate::fuzz::value_text;
use crate::header::HeaderName;

use super::DecodeError;
use super::Decoder;
use super::Encoder;
use super::Name;
use super::Pseudo;

/// A field's name and value, to compare.
type FieldPair = (Vec<u8>, Vec<u8>);

/// All fields of a block; each field's size is checked against its text.
fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<FieldPair>, DecodeError> {
    let mut pairs = Vec::new();
    decoder.decode(block, |name, value, size| {
        let pair = (name_text(name), value_text(value));
        if *name != Name::UnknownPseudo {
            assert_eq!(size, pair.0.len() + pair.1.len());
        }
        pairs.push(pair);
    })?;
    Ok(pairs)
}

/// Encodes a block of fields, pseudo-header fields among them.
fn encode(encoder: &mut Encoder, fields: &[FieldPair]) -> Vec<u8> {
    let mut out = Vec::new();
    encoder.begin(&mut out);
    for (name, value) in fields {
        match &**name {
            b":status" => encoder.status(value[..].try_into().unwrap(), &mut out),
            b":method" => encoder.method(&value[..].try_into().unwrap(), &mut out),
            b":scheme" => encoder.pseudo(Pseudo::Scheme, value, &mut out),
            b":authority" => encoder.pseudo(Pseudo::Authority, value, &mut out),
            b":path" => encoder.pseudo(Pseudo::Path, value, &mut out),
            b":protocol" => encoder.pseudo(Pseudo::Protocol, value, &mut out),
            _ => {
                let name = HeaderName::from_bytes(name).unwrap();
                let value = HeaderValue::from_bytes(value).unwrap();
                encoder.header(&name, &value, &mut out);
            }
        }
    }
    out
}

fn pair(name: &str, value: &str) -> FieldPair {
    (name.into(), value.into())
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|byte| u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 16).unwrap())
        .collect()
}
