//! From bytes to values.

use std::cell::RefCell;

use prost::encoding::decode_varint;

use super::wire_type;
use crate::position::SourcePosition;
use crate::schema::Cardinality;
use crate::schema::FieldKind;
use crate::schema::FieldRow;
use crate::schema::MessageType;
use crate::schema::WellKnown;
use crate::value::Any;
use crate::value::FieldValue;
use crate::value::Item;
use crate::value::MapEntry;
use crate::value::Message;
use crate::value::Payload;
use crate::value::Value;

/// The deepest nesting that is accepted, which is prost's own limit.
const MAX_DEPTH: usize = 100;

/// The most unknown fields that are named. A peer may send any number of them.
const MAX_UNKNOWN: usize = 16;

/// Decodes `bytes` as a message. All values get `mark` as their position.
///
/// # Errors
/// The bytes are not such a message, or contain fields that it does not have.
pub(crate) fn decode(
    message_type: MessageType,
    bytes: &[u8],
    mark: SourcePosition,
) -> Result<Message, String> {
    let decoder = WireDecoder {
        mark,
        depth: 0,
        unknown: None,
    };
    decoder.message(message_type, bytes)
}

/// Like [`decode`], but leaves out fields that the message does not have. Returns the first of them too, as text.
///
/// # Errors
/// The bytes are not such a message.
pub(crate) fn decode_known(
    message_type: MessageType,
    bytes: &[u8],
    mark: SourcePosition,
) -> Result<(Message, Vec<String>), String> {
    let unknown = RefCell::default();
    let decoder = WireDecoder {
        mark,
        depth: 0,
        unknown: Some(&unknown),
    };
    let message = decoder.message(message_type, bytes)?;
    Ok((message, unknown.into_inner()))
}

#[derive(Clone, Copy)]
struct WireDecoder<'a> {
    mark: SourcePosition,
    depth: usize,
    /// The unknown fields; `None` to refuse them.
    unknown: Option<&'a RefCell<Vec<String>>>,
}

/// One field as it is on the wire.
enum Raw<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Fixed64([u8; 8]),
    Length(&'a [u8]),
}

impl WireDecoder<'_> {
    fn message(self, message_type: MessageType, mut bytes: &[u8]) -> Result<Message, String> {
        if self.depth > MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} messages inside one another"));
        }
        let deeper = Self {
            depth: self.depth + 1,
            ..self
        };
        let mut message = Message::new(message_type, self.mark);
        while !bytes.is_empty() {
            let (number, raw) = next(&mut bytes)?;
            let Some(field) = message_type.field_by_number(number) else {
                let text = format!("field {number} is unknown in {}", message_type.name());
                let mut unknown = self.unknown.ok_or_else(|| text.clone())?.borrow_mut();
                if unknown.len() < MAX_UNKNOWN && !unknown.contains(&text) {
                    unknown.push(text);
                }
                continue;
            };
            deeper.field(&mut message, field, raw)?;
        }
        Ok(message)
    }

    fn field(
        self,
        message: &mut Message,
        field: &'static FieldRow,
        raw: Raw<'_>,
    ) -> Result<(), String> {
        let mark = self.mark;
        match field.cardinality {
            Cardinality::Implicit | Cardinality::Explicit => {
                let value = self.value(field.kind, raw)?;
                // The last member of a oneof counts, and the last value of a field.
                message.fields.retain(|known| {
                    let same_oneof = field.oneof.is_some() && known.field.oneof == field.oneof;
                    known.field.number != field.number && !same_oneof
                });
                message.fields.push(FieldValue { field, mark, value });
            }
            Cardinality::Repeated => {
                let mut items = Vec::new();
                match raw {
                    Raw::Length(packed) if is_packable(field.kind) => {
                        let mut packed = packed;
                        while !packed.is_empty() {
                            let raw = unpacked(field.kind, &mut packed)?;
                            items.push(Item {
                                mark,
                                value: self.value(field.kind, raw)?,
                            });
                        }
                    }
                    raw => items.push(Item {
                        mark,
                        value: self.value(field.kind, raw)?,
                    }),
                }
                match message
                    .fields
                    .iter_mut()
                    .find(|known| known.field.number == field.number)
                {
                    Some(FieldValue {
                        value: Value::List(known),
                        ..
                    }) => known.append(&mut items),
                    _ => message.fields.push(FieldValue {
                        field,
                        mark,
                        value: Value::List(items),
                    }),
                }
            }
            Cardinality::Map => {
                let entry = self.entry(field, raw)?;
                match message
                    .fields
                    .iter_mut()
                    .find(|known| known.field.number == field.number)
                {
                    Some(FieldValue {
                        value: Value::Map(known),
                        ..
                    }) => known.push(entry),
                    _ => message.fields.push(FieldValue {
                        field,
                        mark,
                        value: Value::Map(vec![entry]),
                    }),
                }
            }
        }
        Ok(())
    }

    fn entry(self, field: &'static FieldRow, raw: Raw<'_>) -> Result<MapEntry, String> {
        let (Raw::Length(bytes), Some(entry_type)) = (raw, field.message()) else {
            return Err(format!("{} is no map entry", field.name()));
        };
        let mut entry = self.message(entry_type, bytes)?;
        let mut take = |name: &str| {
            let index = entry
                .fields
                .iter()
                .position(|value| value.field.name() == name);
            match index {
                Some(index) => Ok(entry.fields.swap_remove(index).value),
                None => match entry_type.field(name).map(|field| field.kind) {
                    Some(FieldKind::Message(row)) => Ok(Value::Message(Message::new(
                        MessageType::at(row),
                        self.mark,
                    ))),
                    Some(FieldKind::String) => Ok(Value::String(String::new())),
                    _ => Err(format!("{} has an entry without its {name}", field.name())),
                },
            }
        };
        Ok(MapEntry {
            mark: self.mark,
            key: take("key")?,
            value: take("value")?,
        })
    }

    fn value(self, kind: FieldKind, raw: Raw<'_>) -> Result<Value, String> {
        Ok(match (kind, raw) {
            (FieldKind::Bool, Raw::Varint(value)) => Value::Bool(value != 0),
            // A varint has 64 bits on the wire; a narrower type takes the low bits.
            (FieldKind::Int32, Raw::Varint(value)) => Value::Int(i64::from(value as i32)),
            (FieldKind::Int64, Raw::Varint(value)) => Value::Int(value.cast_signed()),
            (FieldKind::Uint32, Raw::Varint(value)) => Value::Uint(u64::from(value as u32)),
            (FieldKind::Uint64, Raw::Varint(value)) => Value::Uint(value),
            (FieldKind::Enum(_), Raw::Varint(value)) => Value::Enum(value as i32),
            (FieldKind::Float, Raw::Fixed32(bytes)) => Value::Float(f32::from_le_bytes(bytes)),
            (FieldKind::Double, Raw::Fixed64(bytes)) => Value::Double(f64::from_le_bytes(bytes)),
            (FieldKind::String, Raw::Length(bytes)) => Value::String(text(bytes)?),
            (FieldKind::Bytes, Raw::Length(bytes)) => Value::Bytes(bytes.to_vec()),
            (FieldKind::Message(row), Raw::Length(bytes)) => {
                let message_type = MessageType::at(row);
                if message_type.well_known() == WellKnown::Any {
                    Value::Any(self.any(bytes)?)
                } else {
                    Value::Message(self.message(message_type, bytes)?)
                }
            }
            _ => return Err("a value has the wire type of another kind".to_owned()),
        })
    }

    fn any(self, mut bytes: &[u8]) -> Result<Any, String> {
        let mut any = Any {
            type_url: String::new(),
            payload: Payload::Opaque(Vec::new()),
            is_typed_struct: false,
        };
        let mut content: &[u8] = &[];
        while !bytes.is_empty() {
            match next(&mut bytes)? {
                (1, Raw::Length(url)) => any.type_url = text(url)?,
                (2, Raw::Length(value)) => content = value,
                (number, _) => {
                    return Err(format!("field {number} is unknown in google.protobuf.Any"));
                }
            }
        }
        any.payload = match MessageType::find(any.type_name()) {
            Some(message_type) => Payload::Message(self.message(message_type, content)?),
            None => Payload::Opaque(content.to_vec()),
        };
        Ok(any)
    }
}

fn next<'a>(bytes: &mut &'a [u8]) -> Result<(u32, Raw<'a>), String> {
    let key = varint(bytes)?;
    let number = u32::try_from(key >> 3).map_err(|_| "a field number is too large".to_owned())?;
    let raw = match (key & 7) as u32 {
        wire_type::VARINT => Raw::Varint(varint(bytes)?),
        wire_type::FIXED32 => Raw::Fixed32(fixed(bytes)?),
        wire_type::FIXED64 => Raw::Fixed64(fixed(bytes)?),
        wire_type::LENGTH => {
            let length = varint(bytes)?;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let (value, rest) = bytes
                .split_at_checked(length)
                .ok_or("the bytes end in the middle of a field")?;
            *bytes = rest;
            Raw::Length(value)
        }
        _ => return Err("a field has an unknown wire type".to_owned()),
    };
    Ok((number, raw))
}

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    decode_varint(bytes).map_err(|error| error.to_string())
}

fn fixed<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], String> {
    let (value, rest) = bytes
        .split_first_chunk()
        .ok_or("the bytes end in the middle of a number")?;
    *bytes = rest;
    Ok(*value)
}

fn text(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a string is not UTF-8".to_owned())
}

fn is_packable(kind: FieldKind) -> bool {
    !matches!(
        kind,
        FieldKind::String | FieldKind::Bytes | FieldKind::Message(_)
    )
}

fn unpacked<'a>(kind: FieldKind, bytes: &mut &[u8]) -> Result<Raw<'a>, String> {
    Ok(match kind {
        FieldKind::Float => Raw::Fixed32(fixed(bytes)?),
        FieldKind::Double => Raw::Fixed64(fixed(bytes)?),
        _ => Raw::Varint(varint(bytes)?),
    })
}
