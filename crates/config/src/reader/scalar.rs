//! Booleans, numbers, strings, bytes and enums.

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::GeneralPurpose;
use base64::engine::GeneralPurposeConfig;

use super::Reader;
use super::suggest;
use crate::FieldPath;
use crate::document::Node;
use crate::document::NodeKind;
use crate::schema::EnumRow;
use crate::schema::FieldKind;
use crate::value::Value;

/// Reads a scalar of `kind`; the error says what was expected.
pub(super) fn read(kind: FieldKind, node: Node) -> Result<Value, String> {
    match kind {
        FieldKind::Bool => boolean(&node).map(Value::Bool),
        FieldKind::Int32 => integer(&node, i32::MIN.into(), i32::MAX.into(), signed),
        FieldKind::Int64 => integer(&node, i64::MIN.into(), i64::MAX.into(), signed),
        FieldKind::Uint32 => integer(&node, 0, u32::MAX.into(), unsigned),
        FieldKind::Uint64 => integer(&node, 0, u64::MAX.into(), unsigned),
        FieldKind::Float => number(&node).map(|value| Value::Float(value as f32)),
        FieldKind::Double => number(&node).map(Value::Double),
        FieldKind::String => string(node).map(Value::String),
        FieldKind::Bytes => bytes(&node).map(Value::Bytes),
        FieldKind::Enum(_) | FieldKind::Message(_) => {
            Err(format!("expected a scalar, got {}", node.describe()))
        }
    }
}

/// The quoted words that protobuf accepts. YAML's own booleans were converted before.
fn boolean(node: &Node) -> Result<bool, String> {
    let error = || format!("expected true or false, got {}", node.describe());
    match &node.kind {
        NodeKind::Bool(flag, _) => Ok(*flag),
        NodeKind::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "y" | "1" => Ok(true),
            "false" | "f" | "no" | "n" | "0" => Ok(false),
            _ => Err(error()),
        },
        _ => Err(error()),
    }
}

fn signed(value: i128) -> Value {
    Value::Int(i64::try_from(value).unwrap_or_default())
}

fn unsigned(value: i128) -> Value {
    Value::Uint(u64::try_from(value).unwrap_or_default())
}

/// An integer from `min` to `max`, which must be in the range of the type that `wrap` creates.
fn integer(node: &Node, min: i128, max: i128, wrap: fn(i128) -> Value) -> Result<Value, String> {
    let value = integer_text(node)?;
    if (min..=max).contains(&value) {
        Ok(wrap(value))
    } else {
        Err(format!(
            "expected an integer from {min} to {max}, got {}",
            node.describe()
        ))
    }
}

fn integer_text(node: &Node) -> Result<i128, String> {
    let error = || format!("expected an integer, got {}", node.describe());
    let text = match &node.kind {
        NodeKind::Number(text, _) | NodeKind::String(text) => text,
        _ => return Err(error()),
    };
    if let Ok(value) = text.parse::<i128>() {
        return Ok(value);
    }
    // `8080.0` and `8.08e3` are integers too; all within the 64 bits that the caller checks are exact or refused.
    let value = decimal(text).ok_or_else(error)?;
    if value.fract() != 0.0 {
        return Err(format!(
            "expected an integer, got {} with a fraction",
            node.describe()
        ));
    }
    Ok(value as i128)
}

fn number(node: &Node) -> Result<f64, String> {
    let error = || format!("expected a number, got {}", node.describe());
    match &node.kind {
        NodeKind::Number(text, _) => decimal(text).ok_or_else(error),
        NodeKind::String(text) => match text.as_str() {
            "NaN" => Ok(f64::NAN),
            "Infinity" => Ok(f64::INFINITY),
            "-Infinity" => Ok(f64::NEG_INFINITY),
            _ => decimal(text).ok_or_else(error),
        },
        _ => Err(error()),
    }
}

/// A finite decimal number: digits, sign, point and exponent only.
fn decimal(text: &str) -> Option<f64> {
    let is_decimal = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    text.parse()
        .ok()
        .filter(|value: &f64| is_decimal && value.is_finite())
}

fn string(node: Node) -> Result<String, String> {
    match node.kind {
        NodeKind::String(text) => Ok(text),
        NodeKind::Bool(_, ref spelling) | NodeKind::Number(_, ref spelling) => Err(format!(
            "expected a string, got {}: write it in quotes, \"{spelling}\"",
            node.describe()
        )),
        _ => Err(format!("expected a string, got {}", node.describe())),
    }
}

/// Either alphabet of base64, with padding or without.
fn bytes(node: &Node) -> Result<Vec<u8>, String> {
    const ENGINE: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true),
    );
    let NodeKind::String(text) = &node.kind else {
        return Err(format!("expected base64, got {}", node.describe()));
    };
    let standard = text.replace('-', "+").replace('_', "/");
    ENGINE
        .decode(standard)
        .map_err(|error| format!("expected base64, got {}: {error}", node.describe()))
}

impl Reader {
    pub(super) fn enumeration(&mut self, row: u16, node: Node, path: &FieldPath) -> Option<Value> {
        let values = EnumRow::at(row).values();
        let by_name = |text: &str| {
            values
                .iter()
                .find(|value| value.name().eq_ignore_ascii_case(text))
        };
        let number = match &node.kind {
            NodeKind::String(text) => match by_name(text) {
                Some(value) => Some(value.number),
                None => text.trim().parse().ok(),
            },
            NodeKind::Number(..) => integer_text(&node)
                .ok()
                .and_then(|number| number.try_into().ok()),
            _ => None,
        };
        if number.is_none() {
            let names = values.iter().map(|value| value.name());
            let text = match &node.kind {
                NodeKind::String(text) => suggest::expected_one_of(names, text),
                _ => format!(
                    "expected one of {}, got {}",
                    suggest::join(names),
                    node.describe()
                ),
            };
            self.unknown(node.mark, path, text);
        }
        number.map(Value::Enum)
    }
}
