//! The claims of a token as headers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_types::Struct;
use prost_types::Value;
use prost_types::value::Kind;

use super::token::integer;
use crate::format::values;

/// The claim at a path.
pub(super) fn find<'p>(payload: &'p Struct, path: &[String]) -> Option<&'p Value> {
    let (last, parents) = path.split_last()?;
    let mut fields = payload;
    for name in parents {
        match &fields.fields.get(name)?.kind {
            Some(Kind::StructValue(inner)) => fields = inner,
            _ => return None,
        }
    }
    fields.fields.get(last)
}

/// The claim as the value of a header; `None` if it has none. As in Envoy, a number that is no unsigned integer has six
/// decimals, and lists and objects are JSON in base64.
pub(super) fn header_value(claim: &Value) -> Option<String> {
    let text = match claim.kind.as_ref()? {
        Kind::StringValue(text) => text.clone(),
        Kind::NumberValue(number) => match integer(*number).filter(|_| number.fract() == 0.0) {
            Some(integer) => integer.to_string(),
            None => format!("{number:.6}"),
        },
        Kind::BoolValue(value) => value.to_string(),
        Kind::StructValue(_) | Kind::ListValue(_) => {
            let mut json = Vec::new();
            write_json(claim, &mut json);
            STANDARD.encode(json)
        }
        Kind::NullValue(_) => return None,
    };
    Some(text).filter(|text| !text.is_empty())
}

/// Appends a value as JSON in protobuf's form.
fn write_json(value: &Value, out: &mut Vec<u8>) {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => out.extend_from_slice(b"null"),
        Some(Kind::BoolValue(value)) => out.extend_from_slice(value.to_string().as_bytes()),
        Some(Kind::NumberValue(number)) => values::float(*number, out),
        Some(Kind::StringValue(text)) => write_text(text, out),
        Some(Kind::ListValue(list)) => {
            out.push(b'[');
            for (at, value) in list.values.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_json(value, out);
            }
            out.push(b']');
        }
        Some(Kind::StructValue(fields)) => {
            out.push(b'{');
            for (at, (name, value)) in fields.fields.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_text(name, out);
                out.push(b':');
                write_json(value, out);
            }
            out.push(b'}');
        }
    }
}

/// protobuf also escapes characters that could end a script in HTML.
fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for letter in text.chars() {
        match letter {
            '"' => out.extend_from_slice(br#"\""#),
            '\\' => out.extend_from_slice(br"\\"),
            '\n' => out.extend_from_slice(br"\n"),
            '\r' => out.extend_from_slice(br"\r"),
            '\t' => out.extend_from_slice(br"\t"),
            '\u{8}' => out.extend_from_slice(br"\b"),
            '\u{c}' => out.extend_from_slice(br"\f"),
            '\0'..='\u{1f}' | '<' | '>' | '\u{7f}' => {
                out.extend_from_slice(format!("\\u{:04x}", u32::from(letter)).as_bytes());
            }
            _ => out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}
