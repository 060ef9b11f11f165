//! The values in `layered_runtime`: any key may be set, to any value except a list or null.

use crate::FieldPath;
use crate::reader::Problem;
use crate::value::Message;
use crate::value::Value;

/// Refuses values that a `static_layer` (a `google.protobuf.Struct`) cannot have.
pub(super) fn refuse_values(layer: &Message, path: &FieldPath, problems: &mut Vec<Problem>) {
    add_values("", layer, path, problems);
}

fn add_values(prefix: &str, layer: &Message, path: &FieldPath, problems: &mut Vec<Problem>) {
    let Some(Value::Map(entries)) = layer.get("fields").map(|value| &value.value) else {
        return;
    };
    for entry in entries {
        let (Value::String(key), Value::Message(value)) = (&entry.key, &entry.value) else {
            continue;
        };
        let key = format!("{prefix}{key}");
        if let Some(Value::Message(nested)) = value.get("struct_value").map(|value| &value.value) {
            if !is_fraction(nested) {
                add_values(&format!("{key}."), nested, path, problems);
            }
        } else if value.get("list_value").is_some() || value.get("null_value").is_some() {
            problems.push(Problem {
                mark: entry.mark,
                path: path.key(key.as_str()),
                message: format!(
                    "Invalid runtime entry value for {key}: expected a number, a boolean, a string or a FractionalPercent"
                ),
            });
        }
    }
}

/// Whether the value is a `FractionalPercent` rather than a group of keys.
fn is_fraction(value: &Message) -> bool {
    let Some(Value::Map(entries)) = value.get("fields").map(|value| &value.value) else {
        return false;
    };
    let is_member = |key: &Value| matches!(key, Value::String(key) if key == "numerator" || key == "denominator");
    entries.iter().any(|entry| is_member(&entry.key))
}
