//! `envoy.config.route.v3.FilterConfig`: the message around the configuration of an HTTP filter for some routes.

use crate::schema::FieldRow;
use crate::value::Any;
use crate::value::FieldValue;
use crate::value::Message;
use crate::value::Value;

const MESSAGE: &str = "envoy.config.route.v3.FilterConfig";
const CATEGORY: &str = "envoy.filters.http";

/// Whether `any` is this message where the configuration of a filter is expected.
pub(super) fn is_wrapper(any: &Any, category: &str) -> bool {
    category == CATEGORY && any.type_name() == MESSAGE
}

/// Whether `field` of `message` has no effect, because the filter is disabled.
pub(super) fn is_ignored(message: &Message, field: &FieldRow) -> bool {
    let is_disabled = || {
        let disabled = message.get("disabled").map(|value| &value.value);
        matches!(disabled, Some(Value::Bool(true)))
    };
    field.name() == "config" && message.message_type.name() == MESSAGE && is_disabled()
}

/// Whether `value` is a `config` without a type. It only enables the filter.
pub(super) fn only_enables(message: &Message, value: &FieldValue) -> bool {
    let untyped = matches!(&value.value, Value::Any(any) if any.type_url.is_empty());
    untyped && value.field.name() == "config" && message.message_type.name() == MESSAGE
}
