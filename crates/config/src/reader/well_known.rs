//! Messages with a JSON form of their own: durations, wrappers, `Struct`.

use super::Reader;
use crate::FieldPath;
use crate::document::Node;
use crate::document::NodeKind;
use crate::position::SourcePosition;
use crate::schema::FieldKind;
use crate::schema::MessageType;
use crate::schema::WellKnown;
use crate::value::Any;
use crate::value::Item;
use crate::value::MapEntry;
use crate::value::Message;
use crate::value::Payload;
use crate::value::Value;

/// Ten thousand years, protobuf's limit.
const MAX_SECONDS: i64 = 315_576_000_000;

impl Reader {
    /// Reads a message in the JSON form of its type.
    pub(super) fn message(
        &mut self,
        message_type: MessageType,
        node: Node,
        path: &FieldPath,
    ) -> Option<Value> {
        match (message_type.well_known(), &node.kind) {
            (WellKnown::Any, _) => self.any(node, path).map(Value::Any),
            (WellKnown::Duration, NodeKind::Mapping(_)) | (WellKnown::No, _) => {
                self.object(message_type, node, path).map(Value::Message)
            }
            (WellKnown::Wrapper, NodeKind::Mapping(_)) => {
                self.object(message_type, node, path).map(Value::Message)
            }
            (WellKnown::Duration, _) => match duration(message_type, &node) {
                Ok(message) => Some(Value::Message(message)),
                Err(text) => {
                    self.problem(node.mark, path, text);
                    None
                }
            },
            (WellKnown::Wrapper, _) => {
                let mark = node.mark;
                let value = self.single(message_type.field("value")?.kind, node, path)?;
                let mut message = Message::new(message_type, mark);
                message.set("value", mark, value);
                Some(Value::Message(message))
            }
            (WellKnown::Struct, NodeKind::Mapping(_)) => {
                Some(Value::Message(structure(message_type, node)))
            }
            (WellKnown::ListValue, NodeKind::List(_)) => {
                Some(Value::Message(list(message_type, node)))
            }
            (WellKnown::Value, _) => Some(Value::Message(dynamic(message_type, node))),
            (WellKnown::Struct | WellKnown::ListValue, _) => {
                let form = if message_type.well_known() == WellKnown::Struct {
                    "mapping"
                } else {
                    "list"
                };
                self.problem(
                    node.mark,
                    path,
                    format!("expected a {form}, got {}", node.describe()),
                );
                None
            }
        }
    }
}

/// Whether null is a value of this type: only of `google.protobuf.Value`.
pub(super) fn takes_null(message_type: MessageType) -> bool {
    message_type.well_known() == WellKnown::Value
}

/// The value that a null in a list becomes.
pub(super) fn empty(kind: FieldKind, mark: SourcePosition) -> Value {
    match kind {
        FieldKind::Bool => Value::Bool(false),
        FieldKind::Int32 | FieldKind::Int64 => Value::Int(0),
        FieldKind::Uint32 | FieldKind::Uint64 => Value::Uint(0),
        FieldKind::Float => Value::Float(0.0),
        FieldKind::Double => Value::Double(0.0),
        FieldKind::String => Value::String(String::new()),
        FieldKind::Bytes => Value::Bytes(Vec::new()),
        FieldKind::Enum(_) => Value::Enum(0),
        FieldKind::Message(row) => {
            let message_type = MessageType::at(row);
            match message_type.well_known() {
                WellKnown::Any => Value::Any(Any {
                    type_url: String::new(),
                    payload: Payload::Opaque(Vec::new()),
                    is_typed_struct: false,
                }),
                WellKnown::Value => Value::Message(dynamic(
                    message_type,
                    Node {
                        mark,
                        kind: NodeKind::Null,
                    },
                )),
                _ => Value::Message(Message::new(message_type, mark)),
            }
        }
    }
}

fn duration(message_type: MessageType, node: &Node) -> Result<Message, String> {
    let error = || {
        let example = "expected a duration in seconds such as 5s or 0.25s";
        match &node.kind {
            NodeKind::Number(_, spelling) => format!("{example}, got {spelling} without a unit"),
            _ => format!("{example}, got {}", node.describe()),
        }
    };
    let NodeKind::String(text) = &node.kind else {
        return Err(error());
    };
    let (seconds, nanos) = parse_duration(text).ok_or_else(error)?;
    let mut message = Message::new(message_type, node.mark);
    message.set("seconds", node.mark, Value::Int(seconds));
    message.set("nanos", node.mark, Value::Int(nanos));
    Ok(message)
}

/// Seconds with up to nine decimals and an `s`.
fn parse_duration(text: &str) -> Option<(i64, i64)> {
    let number = text.strip_suffix('s')?;
    let (negative, number) = match number.strip_prefix('-') {
        Some(number) => (true, number),
        None => (false, number),
    };
    let (seconds, fraction) = match number.split_once('.') {
        Some((seconds, fraction)) => (seconds, Some(fraction)),
        None => (number, None),
    };
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(seconds)
        || fraction.is_some_and(|fraction| !is_digits(fraction) || fraction.len() > 9)
    {
        return None;
    }
    let seconds = seconds
        .parse::<i64>()
        .ok()
        .filter(|seconds| *seconds <= MAX_SECONDS)?;
    let nanos = format!("{:0<9}", fraction.unwrap_or_default())
        .parse::<i64>()
        .ok()?;
    Some(if negative {
        (-seconds, -nanos)
    } else {
        (seconds, nanos)
    })
}

fn structure(message_type: MessageType, node: Node) -> Message {
    let mut message = Message::new(message_type, node.mark);
    let value_type = map_value_type(message_type);
    let (NodeKind::Mapping(pairs), Some(value_type)) = (node.kind, value_type) else {
        return message;
    };
    let entries = pairs.into_iter().map(|(key, value)| MapEntry {
        mark: key.mark,
        key: Value::String(key.name),
        value: Value::Message(dynamic(value_type, value)),
    });
    message.set("fields", node.mark, Value::Map(entries.collect()));
    message
}

/// The type of the values in `Struct.fields`.
fn map_value_type(message_type: MessageType) -> Option<MessageType> {
    message_type
        .field("fields")?
        .message()?
        .field("value")?
        .message()
}

fn list(message_type: MessageType, node: Node) -> Message {
    let mut message = Message::new(message_type, node.mark);
    let value_type = message_type
        .field("values")
        .and_then(|field| field.message());
    let (NodeKind::List(nodes), Some(value_type)) = (node.kind, value_type) else {
        return message;
    };
    let items = nodes.into_iter().map(|node| Item {
        mark: node.mark,
        value: Value::Message(dynamic(value_type, node)),
    });
    message.set("values", node.mark, Value::List(items.collect()));
    message
}

/// A `google.protobuf.Value`.
fn dynamic(message_type: MessageType, node: Node) -> Message {
    let mark = node.mark;
    let mut message = Message::new(message_type, mark);
    let nested = |field: &str| message_type.field(field).and_then(|field| field.message());
    match node.kind {
        NodeKind::Null => message.set("null_value", mark, Value::Enum(0)),
        NodeKind::Bool(flag, _) => message.set("bool_value", mark, Value::Bool(flag)),
        NodeKind::Number(text, _) => {
            message.set(
                "number_value",
                mark,
                Value::Double(text.parse().unwrap_or_default()),
            );
        }
        NodeKind::String(text) => message.set("string_value", mark, Value::String(text)),
        NodeKind::Mapping(_) => {
            if let Some(message_type) = nested("struct_value") {
                message.set(
                    "struct_value",
                    mark,
                    Value::Message(structure(message_type, node)),
                );
            }
        }
        NodeKind::List(_) => {
            if let Some(message_type) = nested("list_value") {
                message.set("list_value", mark, Value::Message(list(message_type, node)));
            }
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations_as_protobuf_does() {
        for (text, expected) in [
            ("5s", Some((5, 0))),
            ("0.25s", Some((0, 250_000_000))),
            ("-1.5s", Some((-1, -500_000_000))),
            ("-0.5s", Some((0, -500_000_000))),
            ("1.000000001s", Some((1, 1))),
            ("315576000000s", Some((MAX_SECONDS, 0))),
            ("315576000001s", None),
            ("0.1234567891s", None),
            (".25s", None),
            ("5.s", None),
            ("5", None),
            ("5S", None),
            ("5 s", None),
            ("+5s", None),
            ("1e3s", None),
            ("250ms", None),
            ("1m", None),
            ("s", None),
            ("", None),
        ] {
            assert_eq!(parse_duration(text), expected, "{text}");
        }
    }
}
