//! YAML as a `google.protobuf.Value`, for values outside of a configuration file.

use prost_types::ListValue;
use prost_types::Struct;
use prost_types::Value;
use prost_types::value::Kind;

use super::Node;
use super::NodeKind;
use super::yaml;

/// The value of a YAML text; an empty text is null.
///
/// # Errors
/// The text is not YAML; with line and column.
pub fn yaml_value(text: &str) -> Result<Value, String> {
    let node = yaml::parse(text, 0).map_err(|error| {
        let (line, column) = (error.mark.line, error.mark.column);
        format!("line {line}, column {column}: {}", error.message)
    })?;
    let kind = node.map_or(Kind::NullValue(0), kind);
    Ok(Value { kind: Some(kind) })
}

fn kind(node: Node) -> Kind {
    let value = |node| Value {
        kind: Some(kind(node)),
    };
    match node.kind {
        NodeKind::Null => Kind::NullValue(0),
        NodeKind::Bool(flag, _) => Kind::BoolValue(flag),
        NodeKind::Number(text, _) => Kind::NumberValue(text.parse().unwrap_or_default()),
        NodeKind::String(text) => Kind::StringValue(text),
        NodeKind::List(nodes) => Kind::ListValue(ListValue {
            values: nodes.into_iter().map(value).collect(),
        }),
        NodeKind::Mapping(pairs) => {
            let fields = pairs.into_iter();
            Kind::StructValue(Struct {
                fields: fields.map(|(key, node)| (key.name, value(node))).collect(),
            })
        }
    }
}
