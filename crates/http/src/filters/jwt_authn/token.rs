//! JSON Web Tokens (RFC 7519) before their signature is checked.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::DecodePaddingMode;
use base64::engine::GeneralPurpose;
use base64::engine::GeneralPurposeConfig;
use prost_types::ListValue;
use prost_types::Struct;
use prost_types::Value;
use prost_types::value::Kind;
use serde::Deserialize;
use serde::Deserializer;
use serde::de;

use super::status::Status;

/// Accepts padding, and does not require it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The algorithms that a token may name.
const ALGORITHMS: [&str; 13] = [
    "ES256", "ES384", "ES512", "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256",
    "PS384", "PS512", "EdDSA",
];

/// A token whose parts were decoded.
#[derive(Clone, Debug)]
pub(super) struct Token {
    /// What is signed: the header and the payload, encoded.
    pub(super) signed: String,
    /// The payload, encoded.
    pub(super) encoded_payload: String,
    pub(super) header: Struct,
    pub(super) payload: Struct,
    pub(super) algorithm: String,
    /// The id of the key; empty if there is none.
    pub(super) key_id: String,
    pub(super) issuer: String,
    pub(super) subject: String,
    pub(super) audiences: Vec<String>,
    /// Seconds since 1970; 0 if it is not set.
    pub(super) not_before: u64,
    /// Seconds since 1970; 0 if it is not set.
    pub(super) expires: u64,
    pub(super) signature: Vec<u8>,
}

impl Token {
    /// Reads a token. The order of the checks is Envoy's, because the client is told the first failure.
    pub(super) fn parse(text: &[u8]) -> Result<Token, Status> {
        let text = std::str::from_utf8(text).map_err(|_| Status::BAD_FORMAT)?;
        let mut parts = text.split('.').filter(|part| !part.is_empty());
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Status::BAD_FORMAT);
        };
        let signed = format!("{header}.{payload}");
        let header = decode(header).ok_or(Status::HEADER_NOT_BASE64)?;
        let header = parse_struct(&header).ok_or(Status::HEADER_NOT_JSON)?;
        let algorithm = match text_of(&header, "alg") {
            Ok(Some(algorithm)) => algorithm.to_owned(),
            Ok(None) | Err(WrongType) => return Err(Status::HEADER_BAD_ALG),
        };
        if !ALGORITHMS.contains(&algorithm.as_str()) {
            return Err(Status::HEADER_UNKNOWN_ALG);
        }
        let key_id = text_of(&header, "kid").map_err(|WrongType| Status::HEADER_BAD_KID)?;
        let key_id = key_id.unwrap_or_default().to_owned();
        let encoded_payload = payload.to_owned();
        let payload = decode(payload).ok_or(Status::PAYLOAD_NOT_BASE64)?;
        let payload = parse_struct(&payload).ok_or(Status::PAYLOAD_NOT_JSON)?;
        let text = |name, status| {
            let value = text_of(&payload, name).map_err(|WrongType| status)?;
            Ok(value.unwrap_or_default().to_owned())
        };
        let issuer = text("iss", Status::ISS_NOT_STRING)?;
        let subject = text("sub", Status::SUB_NOT_STRING)?;
        seconds(
            &payload,
            "iat",
            Status::IAT_NOT_INTEGER,
            Status::IAT_OUT_OF_RANGE,
        )?;
        let not_before = seconds(
            &payload,
            "nbf",
            Status::NBF_NOT_INTEGER,
            Status::NBF_OUT_OF_RANGE,
        )?;
        let expires = seconds(
            &payload,
            "exp",
            Status::EXP_NOT_INTEGER,
            Status::EXP_OUT_OF_RANGE,
        )?;
        text("jti", Status::JTI_NOT_STRING)?;
        let audiences = audiences(&payload).ok_or(Status::AUD_NOT_STRING)?;
        Ok(Token {
            signature: decode(signature).ok_or(Status::SIGNATURE_NOT_BASE64)?,
            signed,
            encoded_payload,
            header,
            payload,
            algorithm,
            key_id,
            issuer,
            subject,
            audiences,
            not_before,
            expires,
        })
    }

    /// Whether the token is valid at `now`, in seconds since 1970, give or take `skew` seconds.
    pub(super) fn check_time(&self, now: u64, skew: u64) -> Result<(), Status> {
        if now.saturating_add(skew) < self.not_before {
            return Err(Status::NOT_YET_VALID);
        }
        if self.expires != 0 && now > self.expires.saturating_add(skew) {
            return Err(Status::EXPIRED);
        }
        Ok(())
    }
}

/// Decodes base64url. As in Envoy, white space is ignored.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let bytes: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    BASE64.decode(bytes).ok()
}

/// A value that is not of the expected type.
pub(super) struct WrongType;

/// The text under `name`, if there is one.
pub(super) fn text_of<'s>(fields: &'s Struct, name: &str) -> Result<Option<&'s str>, WrongType> {
    match fields.fields.get(name).map(|value| &value.kind) {
        None => Ok(None),
        Some(Some(Kind::StringValue(text))) => Ok(Some(text)),
        Some(_) => Err(WrongType),
    }
}

/// The time under `name`; 0 if there is none.
fn seconds(
    payload: &Struct,
    name: &str,
    not_integer: Status,
    out_of_range: Status,
) -> Result<u64, Status> {
    let Some(value) = payload.fields.get(name) else {
        return Ok(0);
    };
    let Some(Kind::NumberValue(number)) = value.kind else {
        return Err(not_integer);
    };
    match integer(number) {
        Some(seconds) => Ok(seconds),
        None => Err(out_of_range),
    }
}

/// The number without its fraction, if it is in the range of `u64`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the range is checked before"
)]
pub(super) fn integer(number: f64) -> Option<u64> {
    (number >= 0.0 && number < u64::MAX as f64).then_some(number as u64)
}

/// The audiences, which may be one text or a list; `None` if they are neither.
fn audiences(payload: &Struct) -> Option<Vec<String>> {
    let Some(value) = payload.fields.get("aud") else {
        return Some(Vec::new());
    };
    match &value.kind {
        Some(Kind::StringValue(one)) => Some(vec![one.clone()]),
        Some(Kind::ListValue(list)) => {
            let texts = list.values.iter().map(|value| match &value.kind {
                Some(Kind::StringValue(text)) => Some(text.clone()),
                _ => None,
            });
            texts.collect()
        }
        _ => None,
    }
}

/// How many objects and lists may be inside one another, as in Envoy.
const MAX_DEPTH: usize = 100;

/// Reads a JSON object. As in Envoy, an object may not have the same name twice, and texts may have line breaks and other
/// control characters: keys in configurations are often broken into lines.
pub(super) fn parse_struct(json: &[u8]) -> Option<Struct> {
    let parsed = serde_json::from_slice(json);
    let Json(value) = match parsed {
        Err(_) if json.iter().any(u8::is_ascii_control) => {
            serde_json::from_slice(&escape_control_characters(json)).ok()?
        }
        parsed => parsed.ok()?,
    };
    if depth(&value) > MAX_DEPTH {
        return None;
    }
    match value.kind {
        Some(Kind::StructValue(fields)) => Some(fields),
        _ => None,
    }
}

/// The JSON with escapes for the control characters in its texts.
fn escape_control_characters(json: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(json.len());
    let (mut in_text, mut after_backslash) = (false, false);
    for &byte in json {
        if in_text && byte.is_ascii_control() {
            escaped.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
        } else {
            escaped.push(byte);
        }
        if byte == b'"' && !after_backslash {
            in_text = !in_text;
        }
        after_backslash = in_text && byte == b'\\' && !after_backslash;
    }
    escaped
}

/// How many objects and lists are inside one another.
fn depth(value: &Value) -> usize {
    let inner = match &value.kind {
        Some(Kind::StructValue(object)) => object.fields.values().map(depth).max(),
        Some(Kind::ListValue(list)) => list.values.iter().map(depth).max(),
        _ => return 0,
    };
    1 + inner.unwrap_or_default()
}

/// Any JSON value. `serde_json` limits its depth to 128.
struct Json(Value);

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

#[expect(
    clippy::cast_precision_loss,
    reason = "numbers in a Struct are floating-point numbers"
)]
impl<'de> de::Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(json(Kind::NullValue(0)))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(json(Kind::BoolValue(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(json(Kind::NumberValue(value as f64)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(json(Kind::NumberValue(value as f64)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(json(Kind::NumberValue(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(json(Kind::StringValue(value.to_owned())))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        let mut values = Vec::new();
        while let Some(Json(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(json(Kind::ListValue(ListValue { values })))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some((name, Json(value))) = map.next_entry::<String, Json>()? {
            if fields.insert(name, value).is_some() {
                return Err(de::Error::custom("a name is there twice"));
            }
        }
        Ok(json(Kind::StructValue(Struct { fields })))
    }
}

fn json(kind: Kind) -> Json {
    Json(Value { kind: Some(kind) })
}
