//! JSON formats: a tree of operators, whose values keep their type.

use std::fmt;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use prost_types::Struct;
use prost_types::Value;
use prost_types::value::Kind as ValueKind;

use crate::Captures;
use crate::format::Context;
use crate::format::Formatter;
use crate::format::OutputKind;
use crate::format::metadata::write_json;
use crate::format::operators::Operator;

/// A compiled `json_format`. Keys are sorted by their bytes, as in Envoy.
#[derive(Clone)]
pub(crate) struct JsonFormatter {
    root: Box<[Member]>,
    /// `omit_empty_values`: leaves out members whose value is null or an object without members.
    omit_empty: bool,
}

#[derive(Clone)]
enum JsonNode {
    /// JSON text that is the same for every stream.
    Constant(Box<str>),
    /// One operator, whose value keeps its type.
    Typed(Operator),
    /// Text and operators, written as a string.
    Text(Formatter),
    Object(Box<[Member]>),
    List(Box<[JsonNode]>),
}

#[derive(Clone)]
struct Member {
    /// `"key":`
    key: Box<str>,
    value: JsonNode,
}

impl JsonFormatter {
    pub(crate) fn build(
        format: &Struct,
        omit_empty: bool,
        path: &FieldPath,
    ) -> Result<JsonFormatter, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let compiler = JsonCompiler { omit_empty };
        let root = compiler.members(format, path, &mut errors);
        errors.finish(JsonFormatter { root, omit_empty })
    }

    /// Appends the object and a newline.
    pub(crate) fn write(&self, context: &Context<'_>, out: &mut Vec<u8>) {
        self.object(&self.root, context, out);
        out.push(b'\n');
    }

    /// Appends an object. Returns whether it has a member.
    fn object(&self, members: &[Member], context: &Context<'_>, out: &mut Vec<u8>) -> bool {
        out.push(b'{');
        let empty = out.len();
        for member in members {
            let start = out.len();
            if start > empty {
                out.push(b',');
            }
            out.extend_from_slice(member.key.as_bytes());
            if !self.node(&member.value, context, out) && self.omit_empty {
                out.truncate(start);
            }
        }
        let any = out.len() > empty;
        out.push(b'}');
        any
    }

    /// Appends a value. Returns false if `omit_empty_values` leaves it out.
    fn node(&self, node: &JsonNode, context: &Context<'_>, out: &mut Vec<u8>) -> bool {
        match node {
            JsonNode::Constant(json) => {
                out.extend_from_slice(json.as_bytes());
                **json != *"null"
            }
            JsonNode::Typed(operator) => {
                let start = out.len();
                out.push(b'"');
                match operator.write(context, out) {
                    OutputKind::Text => {
                        escape_since(start + 1, out);
                        out.push(b'"');
                        true
                    }
                    OutputKind::Json => {
                        out.remove(start);
                        true
                    }
                    OutputKind::Absent | OutputKind::Blank => {
                        out.truncate(start);
                        out.extend_from_slice(b"null");
                        false
                    }
                }
            }
            JsonNode::Text(formatter) => {
                out.push(b'"');
                let start = out.len();
                formatter.write(*context, out);
                escape_since(start, out);
                out.push(b'"');
                true
            }
            JsonNode::Object(members) => self.object(members, context, out),
            JsonNode::List(nodes) => {
                out.push(b'[');
                let empty = out.len();
                for node in nodes {
                    let start = out.len();
                    if start > empty {
                        out.push(b',');
                    }
                    if !self.node(node, context, out) && self.omit_empty {
                        out.truncate(start);
                    }
                }
                out.push(b']');
                true
            }
        }
    }

    /// Adds the headers that this format reads.
    pub(crate) fn capture(&self, captures: &mut Captures) {
        for member in &self.root {
            member.value.capture(captures);
        }
    }
}

impl fmt::Debug for JsonFormatter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.root.iter().map(|member| &member.key);
        f.debug_list().entries(keys).finish()
    }
}

impl JsonNode {
    fn capture(&self, captures: &mut Captures) {
        match self {
            JsonNode::Constant(_) => {}
            JsonNode::Typed(operator) => operator.capture(captures),
            JsonNode::Text(formatter) => formatter.capture(captures),
            JsonNode::Object(members) => {
                for member in members {
                    member.value.capture(captures);
                }
            }
            JsonNode::List(nodes) => {
                for node in nodes {
                    node.capture(captures);
                }
            }
        }
    }
}

struct JsonCompiler {
    omit_empty: bool,
}

impl JsonCompiler {
    fn members(
        &self,
        format: &Struct,
        path: &FieldPath,
        errors: &mut ConfigErrors,
    ) -> Box<[Member]> {
        let mut members = Vec::with_capacity(format.fields.len());
        for (name, value) in &format.fields {
            let mut key = Vec::new();
            write_string(name.as_bytes(), &mut key);
            key.push(b':');
            let path = path.field(name.clone());
            if let Some(value) = self.node(value, &path, errors) {
                // `write_string` writes valid UTF-8.
                let key = String::from_utf8_lossy(&key).into();
                members.push(Member { key, value });
            }
        }
        members.into()
    }

    fn node(&self, value: &Value, path: &FieldPath, errors: &mut ConfigErrors) -> Option<JsonNode> {
        match &value.kind {
            Some(ValueKind::StructValue(object)) => {
                Some(JsonNode::Object(self.members(object, path, errors)))
            }
            Some(ValueKind::ListValue(list)) => {
                let mut nodes = Vec::with_capacity(list.values.len());
                for (at, value) in list.values.iter().enumerate() {
                    nodes.extend(self.node(value, &path.index(at), errors));
                }
                Some(JsonNode::List(nodes.into()))
            }
            Some(ValueKind::StringValue(format)) => {
                let formatter = if self.omit_empty {
                    Formatter::compile_omitting(format, path)
                } else {
                    Formatter::compile(format, path)
                };
                errors
                    .collect(formatter)
                    .map(|formatter| string(&formatter))
            }
            _ => {
                let mut json = Vec::new();
                write_json(value, &mut json);
                Some(constant(&json))
            }
        }
    }
}

fn string(formatter: &Formatter) -> JsonNode {
    if let Some(operator) = formatter.only_operator() {
        return JsonNode::Typed(operator.clone());
    }
    match formatter.constant() {
        Some(text) => {
            let mut json = Vec::new();
            write_string(text.as_bytes(), &mut json);
            constant(&json)
        }
        None => JsonNode::Text(formatter.clone()),
    }
}

fn constant(json: &[u8]) -> JsonNode {
    JsonNode::Constant(String::from_utf8_lossy(json).into())
}

/// Appends `text` as a JSON string.
pub(crate) fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let start = out.len();
    out.extend_from_slice(text);
    escape_since(start, out);
    out.push(b'"');
}

/// Escapes the bytes after `start` for a JSON string. Most values contain nothing to escape.
///
/// As in Envoy, `/` and DEL are not escaped. In a text that is not valid UTF-8, each byte from 0x80 on becomes an
/// escape.
fn escape_since(start: usize, out: &mut Vec<u8>) {
    let special = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
    let text = &out[start..];
    if !text.iter().any(|byte| special(byte) || *byte >= 0x80) {
        return;
    }
    let is_utf8 = std::str::from_utf8(text).is_ok();
    let raw = out.split_off(start);
    for byte in raw {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            0..0x20 => escape(byte, out),
            0x80.. if !is_utf8 => escape(byte, out),
            other => out.push(other),
        }
    }
}

fn escape(byte: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"\\u00");
    out.push(HEX[usize::from(byte >> 4)]);
    out.push(HEX[usize::from(byte & 15)]);
}
