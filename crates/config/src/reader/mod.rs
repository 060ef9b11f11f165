//! Converts a tree of values to messages of the Envoy API.
//!
//! The rules are those of protobuf's JSON reader in the lenient mode that Envoy uses: enums in any letter case, a
//! single value for a list, durations as mappings, numbers in quotes. After an error, the reader continues and reports
//! all errors.

use crate::FieldPath;
use crate::document::Node;
use crate::document::NodeKind;
use crate::position::SourcePosition;
use crate::schema::Cardinality;
use crate::schema::FieldKind;
use crate::schema::FieldRow;
use crate::schema::MessageType;
use crate::schema::WellKnown;
use crate::value::FieldValue;
use crate::value::Item;
use crate::value::MapEntry;
use crate::value::Message;
use crate::value::Value;

mod any;
mod scalar;
mod suggest;
mod well_known;

pub use suggest::nearest;

/// How many unknown fields get a suggestion: the search for the nearest name takes time, and the first few suffice.
const SUGGESTIONS: usize = 200;

/// An error and its position.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) mark: SourcePosition,
    pub(crate) path: FieldPath,
    pub(crate) message: String,
}

/// Reads messages and collects errors.
#[derive(Default)]
pub(crate) struct Reader {
    /// Fields and enum values that do not exist are left out with a warning.
    pub(crate) allow_unknown: bool,
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
}

impl Reader {
    /// Reads the root of a file.
    pub(crate) fn root(&mut self, message_type: MessageType, node: Node) -> Message {
        let mark = node.mark;
        match self.object(message_type, node, &FieldPath::root()) {
            Some(message) => message,
            None => Message::new(message_type, mark),
        }
    }

    /// Reads a resource: a message with the `@type` that names it.
    pub(crate) fn resource(&mut self, node: Node) -> Option<crate::value::Any> {
        self.any(node, &FieldPath::root())
    }

    fn problem(&mut self, mark: SourcePosition, path: &FieldPath, message: impl Into<String>) {
        self.problems.push(Problem {
            mark,
            path: path.clone(),
            message: message.into(),
        });
    }

    /// A name that is not part of the API.
    fn unknown(&mut self, mark: SourcePosition, path: &FieldPath, message: String) {
        let problem = Problem {
            mark,
            path: path.clone(),
            message,
        };
        if self.allow_unknown {
            self.warnings.push(problem)
        } else {
            self.problems.push(problem)
        }
    }

    /// A message written as a mapping of its fields.
    fn object(
        &mut self,
        message_type: MessageType,
        node: Node,
        path: &FieldPath,
    ) -> Option<Message> {
        let NodeKind::Mapping(entries) = node.kind else {
            let message = format!(
                "expected a mapping ({}), got {}",
                message_type.name(),
                node.describe()
            );
            self.problem(node.mark, path, message);
            return None;
        };
        let mut message = Message::new(message_type, node.mark);
        for (key, value) in entries {
            match message_type.field(&key.name) {
                Some(field) => {
                    let path = path.field(field.name());
                    if let Some(value) = self.field(field, key.mark, value, &path) {
                        self.set(&mut message, value, &path);
                    }
                }
                None => {
                    let text = if self.problems.len() + self.warnings.len() < SUGGESTIONS {
                        suggest::no_such_field(message_type, &key.name)
                    } else {
                        format!("no such field in {}", message_type.name())
                    };
                    self.unknown(key.mark, &path.field(key.name), text);
                }
            }
        }
        Some(message)
    }

    /// The value of `field`; `None` for one that is absent or wrong.
    fn field(
        &mut self,
        field: &'static FieldRow,
        key: SourcePosition,
        node: Node,
        path: &FieldPath,
    ) -> Option<FieldValue> {
        let is_value = field.message().is_some_and(well_known::takes_null);
        // Null means absent, except for the one type that has a null value.
        if node.kind == NodeKind::Null && !(is_value && field.cardinality == Cardinality::Explicit)
        {
            return None;
        }
        let is_container = matches!(node.kind, NodeKind::List(_) | NodeKind::Mapping(_));
        let mark = if is_container { key } else { node.mark };
        let value = match field.cardinality {
            Cardinality::Map => self.map(field, node, path)?,
            Cardinality::Repeated => self.list(field, node, path),
            Cardinality::Implicit | Cardinality::Explicit => self.single(field.kind, node, path)?,
        };
        Some(FieldValue { field, mark, value })
    }

    /// Sets a field, unless another member of its oneof is set.
    fn set(&mut self, message: &mut Message, value: FieldValue, path: &FieldPath) {
        let field = value.field;
        if let Some(rival) = oneof_rival(message, field) {
            let text = format!(
                "{} is set too, and only one of the two can be",
                rival.field.name()
            );
            return self.problem(value.mark, path, text);
        }
        // The field is given in both spellings: the later one counts.
        message
            .fields
            .retain(|known| known.field.number != field.number);
        message.fields.push(value);
    }

    /// A list, or the one element of it; lists inside are part of it.
    fn list(&mut self, field: &'static FieldRow, node: Node, path: &FieldPath) -> Value {
        let mut nodes = Vec::new();
        match (field.message().map(MessageType::well_known), node) {
            // Here a list is an element.
            (
                Some(WellKnown::Value | WellKnown::ListValue),
                Node {
                    kind: NodeKind::List(elements),
                    ..
                },
            ) => {
                nodes = elements;
            }
            (_, node) => flatten(node, &mut nodes),
        }
        let items = nodes.into_iter().enumerate().filter_map(|(index, node)| {
            let mark = node.mark;
            let value = self.element(field.kind, node, &path.index(index))?;
            Some(Item { mark, value })
        });
        Value::List(items.collect())
    }

    /// A null in a list or map is an empty element.
    fn element(&mut self, kind: FieldKind, node: Node, path: &FieldPath) -> Option<Value> {
        if node.kind == NodeKind::Null {
            return Some(well_known::empty(kind, node.mark));
        }
        self.single(kind, node, path)
    }

    fn map(&mut self, field: &'static FieldRow, node: Node, path: &FieldPath) -> Option<Value> {
        let NodeKind::Mapping(pairs) = node.kind else {
            self.problem(
                node.mark,
                path,
                format!(
                    "expected a mapping of keys to values, got {}",
                    node.describe()
                ),
            );
            return None;
        };
        let entry = field.message()?;
        let (key_kind, value_kind) = (entry.field("key")?.kind, entry.field("value")?.kind);
        let mut entries = Vec::with_capacity(pairs.len());
        for (key, node) in pairs {
            let path = path.key(key.name.clone());
            let mark = key.mark;
            let key = self.single(
                key_kind,
                Node {
                    mark,
                    kind: NodeKind::String(key.name),
                },
                &path,
            );
            let value = self.element(value_kind, node, &path);
            if let (Some(key), Some(value)) = (key, value) {
                entries.push(MapEntry { mark, key, value });
            }
        }
        Some(Value::Map(entries))
    }

    fn single(&mut self, kind: FieldKind, node: Node, path: &FieldPath) -> Option<Value> {
        match kind {
            FieldKind::Message(row) => self.message(MessageType::at(row), node, path),
            FieldKind::Enum(row) => self.enumeration(row, node, path),
            _ => {
                let mark = node.mark;
                match scalar::read(kind, node) {
                    Ok(value) => Some(value),
                    Err(message) => {
                        self.problem(mark, path, message);
                        None
                    }
                }
            }
        }
    }
}

/// The elements of `node`, and of the lists among them.
fn flatten(node: Node, elements: &mut Vec<Node>) {
    match node.kind {
        NodeKind::List(nodes) => nodes.into_iter().for_each(|node| flatten(node, elements)),
        _ => elements.push(node),
    }
}

/// The member of the same oneof that is set already.
fn oneof_rival<'a>(message: &'a Message, field: &FieldRow) -> Option<&'a FieldValue> {
    field.oneof?;
    message
        .fields
        .iter()
        .find(|known| known.field.oneof == field.oneof && known.field.number != field.number)
}
