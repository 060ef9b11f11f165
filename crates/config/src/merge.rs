//! `MergeFrom`: what `--config-yaml` does to the configuration from the file.
//!
//! Messages are merged field by field, lists are appended to, the entries of maps and everything else are replaced. A
//! member of a oneof replaces the one that was set before.

use crate::value::FieldValue;
use crate::value::MapEntry;
use crate::value::Message;
use crate::value::Value;

/// Merges `from` into `into`, which has the same type.
pub(crate) fn merge(into: &mut Message, from: Message) {
    for value in from.fields {
        field(into, value);
    }
}

fn field(into: &mut Message, from: FieldValue) {
    // A scalar without presence that has its default counts as not set.
    let has_presence = from.field.cardinality != crate::schema::Cardinality::Implicit;
    if !has_presence && from.value.is_default() {
        return;
    }
    if from.field.oneof.is_some() {
        into.fields.retain(|known| {
            known.field.oneof != from.field.oneof || known.field.number == from.field.number
        });
    }
    match into
        .fields
        .iter_mut()
        .find(|known| known.field.number == from.field.number)
    {
        Some(known) => value(known, from),
        None => into.fields.push(from),
    }
}

fn value(into: &mut FieldValue, from: FieldValue) {
    match (&mut into.value, from.value) {
        (Value::Message(into), Value::Message(from)) => merge(into, from),
        (Value::List(into), Value::List(from)) => into.extend(from),
        (Value::Map(into), Value::Map(from)) => {
            for entry in from {
                into.retain(|known| !same_key(known, &entry));
                into.push(entry);
            }
        }
        (into_value, from_value) => {
            *into_value = from_value;
            into.mark = from.mark;
        }
    }
}

fn same_key(a: &MapEntry, b: &MapEntry) -> bool {
    match (&a.key, &b.key) {
        (Value::String(a), Value::String(b)) => a == b,
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::Uint(a), Value::Uint(b)) => a == b,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        _ => false,
    }
}
