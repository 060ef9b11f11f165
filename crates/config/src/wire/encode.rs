//! From values to bytes.

use prost::encoding::encode_varint;

use super::wire_type;
use crate::schema::Cardinality;
use crate::schema::FieldRow;
use crate::value::Any;
use crate::value::MapEntry;
use crate::value::Message;
use crate::value::Payload;
use crate::value::Value;

/// The bytes of `message`.
pub(crate) fn encode(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    for value in &message.fields {
        field(value.field, &value.value, &mut out);
    }
    out
}

fn field(row: &FieldRow, value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::List(items) => {
            for item in items {
                single(row.number, &item.value, out);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                length_delimited(row.number, &pair(entry), out);
            }
        }
        value if row.cardinality == Cardinality::Implicit && value.is_default() => {}
        value => single(row.number, value, out),
    }
}

fn pair(entry: &MapEntry) -> Vec<u8> {
    let mut out = Vec::new();
    single(1, &entry.key, &mut out);
    single(2, &entry.value, &mut out);
    out
}

fn single(number: u32, value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Bool(value) => varint(number, u64::from(*value), out),
        Value::Int(value) => varint(number, value.cast_unsigned(), out),
        Value::Uint(value) => varint(number, *value, out),
        Value::Enum(value) => varint(number, i64::from(*value).cast_unsigned(), out),
        Value::Float(value) => {
            tag(number, wire_type::FIXED32, out);
            out.extend(value.to_le_bytes());
        }
        Value::Double(value) => {
            tag(number, wire_type::FIXED64, out);
            out.extend(value.to_le_bytes());
        }
        Value::String(value) => length_delimited(number, value.as_bytes(), out),
        Value::Bytes(value) => length_delimited(number, value, out),
        Value::Message(message) => length_delimited(number, &encode(message), out),
        Value::Any(value) => length_delimited(number, &any(value), out),
        // Lists and maps are fields, not values.
        Value::List(_) | Value::Map(_) => {}
    }
}

fn any(any: &Any) -> Vec<u8> {
    let mut out = Vec::new();
    if !any.type_url.is_empty() {
        length_delimited(1, any.type_url.as_bytes(), &mut out);
    }
    match &any.payload {
        Payload::Message(message) => length_delimited(2, &encode(message), &mut out),
        Payload::Opaque(bytes) if bytes.is_empty() => {}
        Payload::Opaque(bytes) => length_delimited(2, bytes, &mut out),
    }
    out
}

fn varint(number: u32, value: u64, out: &mut Vec<u8>) {
    tag(number, wire_type::VARINT, out);
    encode_varint(value, out);
}

fn length_delimited(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    tag(number, wire_type::LENGTH, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn tag(number: u32, wire_type: u32, out: &mut Vec<u8>) {
    encode_varint(u64::from(number << 3 | wire_type), out);
}
