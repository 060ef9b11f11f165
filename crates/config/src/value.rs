//! A message whose type is known only at run time, with the position of every value.
//!
//! The reader creates it from a file. It is merged, checked against the rules and the support table, and encoded as
//! protobuf bytes, from which the typed messages are decoded.

use crate::position::SourcePosition;
use crate::schema::FieldRow;
use crate::schema::MessageType;

/// A message: the fields that are set, in the order in which they were.
#[derive(Clone)]
pub(crate) struct Message {
    pub(crate) message_type: MessageType,
    pub(crate) mark: SourcePosition,
    pub(crate) fields: Vec<FieldValue>,
}

/// One field that is set.
#[derive(Clone)]
pub(crate) struct FieldValue {
    pub(crate) field: &'static FieldRow,
    /// The position of the value, or of its key if the value is a message or a list.
    pub(crate) mark: SourcePosition,
    pub(crate) value: Value,
}

#[derive(Clone)]
pub(crate) enum Value {
    Bool(bool),
    /// Every signed integer.
    Int(i64),
    /// Every unsigned integer.
    Uint(u64),
    Float(f32),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
    Enum(i32),
    Message(Message),
    Any(Any),
    List(Vec<Item>),
    Map(Vec<MapEntry>),
}

/// An element of a list.
#[derive(Clone)]
pub(crate) struct Item {
    pub(crate) mark: SourcePosition,
    pub(crate) value: Value,
}

/// A key of a map, and its value.
#[derive(Clone)]
pub(crate) struct MapEntry {
    pub(crate) mark: SourcePosition,
    pub(crate) key: Value,
    pub(crate) value: Value,
}

/// A `google.protobuf.Any`.
#[derive(Clone)]
pub(crate) struct Any {
    /// Empty if the file names no type.
    pub(crate) type_url: String,
    pub(crate) payload: Payload,
    /// The type is the one that a `TypedStruct` names, which Envoy looks up only where it uses the message.
    pub(crate) is_typed_struct: bool,
}

/// What an `Any` holds.
#[derive(Clone)]
pub(crate) enum Payload {
    /// A message of a type in our tables.
    Message(Message),
    /// A message of another type, or without a type.
    Opaque(Vec<u8>),
}

impl Message {
    pub(crate) fn new(message_type: MessageType, mark: SourcePosition) -> Self {
        Self {
            message_type,
            mark,
            fields: Vec::new(),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&FieldValue> {
        self.fields.iter().find(|value| value.field.name() == name)
    }

    /// Sets a field that is known to exist; a table without it leaves the message as it is.
    pub(crate) fn set(&mut self, name: &str, mark: SourcePosition, value: Value) {
        if let Some(field) = self.message_type.field(name) {
            self.fields.push(FieldValue { field, mark, value });
        }
    }
}

impl Value {
    /// Whether this is the value that a field without presence has when it is not set.
    pub(crate) fn is_default(&self) -> bool {
        match self {
            Self::Bool(value) => !value,
            Self::Int(value) => *value == 0,
            Self::Uint(value) => *value == 0,
            Self::Float(value) => value.to_bits() == 0,
            Self::Double(value) => value.to_bits() == 0,
            Self::String(value) => value.is_empty(),
            Self::Bytes(value) => value.is_empty(),
            Self::Enum(value) => *value == 0,
            Self::Message(_) | Self::Any(_) => false,
            Self::List(items) => items.is_empty(),
            Self::Map(entries) => entries.is_empty(),
        }
    }
}

impl Any {
    /// The name of the message type: the type URL after its last slash.
    pub(crate) fn type_name(&self) -> &str {
        self.type_url.rsplit('/').next().unwrap_or_default()
    }
}
