//! The values in `layered_runtime`.
//!
//! Envoy reads some hundred keys from its runtime, and those that the configuration names. Here every value is the one
//! in the configuration itself, so that a layer that would change one is refused.

use crate::FieldPath;
use crate::reader::Problem;
use crate::value::Message;
use crate::value::Value;

/// Keys that change nothing here: they limit the size of regular expressions, which have a limit of their own.
const WITHOUT_EFFECT: [&str; 2] = [
    "re2.max_program_size.error_level",
    "re2.max_program_size.warn_level",
];

/// Keys that are read: the limits on downstream connections, which no field can set.
fn is_obeyed(key: &str) -> bool {
    key == "overload.global_downstream_max_connections"
        || key.starts_with("envoy.resource_limits.listener.") && key.ends_with(".connection_limit")
}

/// Refuses the keys of a `static_layer`, a `google.protobuf.Struct`.
pub(super) fn refuse_keys(layer: &Message, path: &FieldPath, problems: &mut Vec<Problem>) {
    add_keys("", layer, path, problems);
}

fn add_keys(prefix: &str, layer: &Message, path: &FieldPath, problems: &mut Vec<Problem>) {
    let Some(Value::Map(entries)) = layer.get("fields").map(|value| &value.value) else {
        return;
    };
    for entry in entries {
        let (Value::String(key), Value::Message(value)) = (&entry.key, &entry.value) else {
            continue;
        };
        let key = format!("{prefix}{key}");
        match value.get("struct_value").map(|value| &value.value) {
            Some(Value::Message(nested)) if !is_fraction(nested) => {
                add_keys(&format!("{key}."), nested, path, problems);
            }
            _ if WITHOUT_EFFECT.contains(&key.as_str()) || is_obeyed(&key) => {}
            _ => problems.push(Problem {
                mark: entry.mark,
                path: path.key(key.as_str()),
                message: "not supported here: values come from the fields of the configuration"
                    .to_owned(),
            }),
        }
    }
}

/// Whether it is a `FractionalPercent` and no group of keys.
fn is_fraction(value: &Message) -> bool {
    let Some(Value::Map(entries)) = value.get("fields").map(|value| &value.value) else {
        return false;
    };
    entries
        .iter()
        .any(|entry| matches!(&entry.key, Value::String(key) if key == "numerator"))
}
