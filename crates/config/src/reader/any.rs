//! `google.protobuf.Any`: a message of the type that `@type` names.

use super::Reader;
use crate::FieldPath;
use crate::document::Key;
use crate::document::Node;
use crate::document::NodeKind;
use crate::position::SourcePosition;
use crate::schema::MessageType;
use crate::schema::WellKnown;
use crate::value::Any;
use crate::value::Message;
use crate::value::Payload;
use crate::value::Value;

/// Messages that name the real type in a field and carry its content as a plain mapping.
const TYPED_STRUCTS: [&str; 2] = ["udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"];

impl Reader {
    pub(super) fn any(&mut self, node: Node, path: &FieldPath) -> Option<Any> {
        let mark = node.mark;
        let NodeKind::Mapping(mut entries) = node.kind else {
            self.problem(
                mark,
                path,
                format!(
                    "expected a mapping with an \"@type\", got {}",
                    node.describe()
                ),
            );
            return None;
        };
        let Some(index) = entries.iter().position(|(key, _)| key.name == "@type") else {
            if let Some((key, _)) = entries.first() {
                let text = "expected an \"@type\" beside the fields, such as \
                            \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
                self.problem(key.mark, path, text);
                return None;
            }
            return Some(Any {
                type_url: String::new(),
                payload: Payload::Opaque(Vec::new()),
                is_typed_struct: false,
            });
        };
        let (key, url) = entries.remove(index);
        let url_mark = url.mark;
        let NodeKind::String(type_url) = url.kind else {
            self.problem(
                url_mark,
                &path.field(key.name),
                format!("expected a type URL, got {}", url.describe()),
            );
            return None;
        };
        self.payload(type_url, url_mark, entries, path)
    }

    /// The content of an `Any` whose type URL is at `mark`.
    fn payload(
        &mut self,
        type_url: String,
        mark: SourcePosition,
        entries: Entries,
        path: &FieldPath,
    ) -> Option<Any> {
        let name = match type_url.rsplit_once('/') {
            Some((host, name)) if !host.is_empty() => name,
            _ => {
                let text = format!(
                    "expected a type URL such as type.googleapis.com/{}, got {type_url:?}",
                    type_url.trim_start_matches('/')
                );
                self.problem(mark, &path.field("@type"), text);
                return None;
            }
        };
        if TYPED_STRUCTS.contains(&name) {
            return self.typed_struct(mark, entries, path);
        }
        let payload = match MessageType::find(name) {
            None => Payload::Opaque(Vec::new()),
            Some(message_type) => {
                let node = Node {
                    mark,
                    kind: NodeKind::Mapping(entries),
                };
                Payload::Message(self.embedded(message_type, node, path)?)
            }
        };
        Some(Any {
            type_url,
            payload,
            is_typed_struct: false,
        })
    }

    /// Types with a JSON form of their own are under the key `value`.
    fn embedded(
        &mut self,
        message_type: MessageType,
        node: Node,
        path: &FieldPath,
    ) -> Option<Message> {
        if message_type.well_known() == WellKnown::No {
            return self.object(message_type, node, path);
        }
        let mark = node.mark;
        let NodeKind::Mapping(entries) = node.kind else {
            return None;
        };
        match entries.into_iter().find(|(key, _)| key.name == "value") {
            None => Some(Message::new(message_type, mark)),
            Some((_, value)) => match self.message(message_type, value, &path.field("value"))? {
                Value::Message(message) => Some(message),
                _ => None,
            },
        }
    }

    fn typed_struct(
        &mut self,
        mark: SourcePosition,
        entries: Entries,
        path: &FieldPath,
    ) -> Option<Any> {
        let mut type_url = None;
        let mut fields = Vec::new();
        for (key, node) in entries {
            match (key.name.as_str(), node.kind) {
                ("type_url" | "typeUrl", NodeKind::String(url)) => {
                    type_url = Some((url, node.mark))
                }
                ("value", NodeKind::Mapping(entries)) => fields = entries,
                ("value", NodeKind::Null) => {}
                _ => {
                    let text =
                        "expected a TypedStruct to have a type_url, a text, and a value, a mapping";
                    self.problem(key.mark, &path.field(key.name), text);
                    return None;
                }
            }
        }
        let Some((type_url, url_mark)) = type_url else {
            self.problem(mark, path, "expected a TypedStruct to have a type_url");
            return None;
        };
        let any = self.payload(type_url, url_mark, fields, path)?;
        Some(Any {
            is_typed_struct: true,
            ..any
        })
    }
}

type Entries = Vec<(Key, Node)>;
