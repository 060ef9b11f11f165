//! Uses of extensions that `--disable-extensions` disables, including those that a message uses without naming them.

use crate::DisabledExtensions;
use crate::schema::EnumRow;
use crate::schema::ExtensionRow;
use crate::schema::FieldKind;
use crate::value::Any;
use crate::value::Message;
use crate::value::Value;

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const FILTER_CHAIN: &str = "envoy.config.listener.v3.FilterChain";
const CONNECTION_MANAGER: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// Why `any`, which configures `row`, cannot be used.
pub(super) fn named(
    disabled: &DisabledExtensions,
    row: &ExtensionRow,
    any: &Any,
) -> Option<String> {
    disabled.contains(row.category(), row.name()).then(|| {
        format!(
            "Didn't find a registered implementation for '{}' with type URL: '{}': --disable-extensions disables it",
            row.name(),
            any.type_name()
        )
    })
}

/// Why `message` cannot be used: an extension that it uses by default is disabled.
pub(super) fn by_default(disabled: &DisabledExtensions, message: &Message) -> Option<String> {
    if disabled.is_empty() {
        return None;
    }
    uses(message)
        .into_iter()
        .find(|(category, name)| disabled.contains(category, name))
        .map(|(category, name)| {
            format!(
                "Didn't find a registered implementation for '{name}' of {category}, which this uses by default: \
                 --disable-extensions disables it"
            )
        })
}

/// Categories and names of the extensions that `message` uses without an `Any`.
fn uses(message: &Message) -> Vec<(&'static str, String)> {
    let lacks = |field: &str| message.get(field).is_none();
    let mut used = Vec::new();
    match message.message_type.name() {
        CLUSTER => {
            if lacks("cluster_type") {
                let kind = enum_name(message, "type");
                used.push(("envoy.clusters", format!("envoy.cluster.{kind}")));
            }
            if lacks("load_balancing_policy") {
                let policy = enum_name(message, "lb_policy");
                let name = format!("envoy.load_balancing_policies.{policy}");
                used.push(("envoy.load_balancing_policies", name));
            }
            if lacks("transport_socket") {
                let name = "envoy.transport_sockets.raw_buffer".to_owned();
                used.push(("envoy.transport_sockets.upstream", name));
            }
        }
        FILTER_CHAIN if lacks("transport_socket") => {
            let name = "envoy.transport_sockets.raw_buffer".to_owned();
            used.push(("envoy.transport_sockets.downstream", name));
        }
        CONNECTION_MANAGER => {
            if lacks("request_id_extension") {
                let name = "envoy.request_id.uuid".to_owned();
                used.push(("envoy.request_id", name));
            }
            if lacks("original_ip_detection_extensions") {
                let name = "envoy.http.original_ip_detection.xff".to_owned();
                used.push(("envoy.http.original_ip_detection", name));
            }
        }
        _ => {}
    }
    used
}

/// The value of a field of an enum, in small letters.
fn enum_name(message: &Message, field: &str) -> String {
    let number = match message.get(field).map(|value| &value.value) {
        Some(Value::Enum(number)) => *number,
        _ => 0,
    };
    let row = message.message_type.field(field).map(|field| field.kind);
    let value = match row {
        Some(FieldKind::Enum(row)) => EnumRow::at(row).value(number),
        _ => None,
    };
    value.map_or_else(String::new, |value| value.name().to_ascii_lowercase())
}
