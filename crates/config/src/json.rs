//! Protobuf bytes as JSON, the way `/config_dump` prints them: snake_case names in the order of the field numbers, without
//! unset fields, and with the decoded content of every `Any`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Map;
use serde_json::Number;
use serde_json::Value as Json;

use crate::position::SourcePosition;
use crate::schema::EnumRow;
use crate::schema::FieldKind;
use crate::schema::MessageType;
use crate::schema::WellKnown;
use crate::value::Any;
use crate::value::FieldValue;
use crate::value::Message;
use crate::value::Payload;
use crate::value::Value;
use crate::wire;

/// The JSON of the message `type_name`, such as `envoy.config.cluster.v3.Cluster`, that `wire` holds.
///
/// # Errors
/// The type is not known here, or the bytes are not a message of this type.
pub fn to_json(type_name: &str, wire: &[u8]) -> Result<Json, String> {
    let message_type =
        MessageType::find(type_name).ok_or_else(|| format!("unknown type {type_name}"))?;
    wire::decode(message_type, wire, SourcePosition::default()).map(|message| object(&message))
}

/// `json` with private keys and their passwords redacted, as Envoy shows them.
#[must_use]
pub fn redacted(json: Json) -> Json {
    match json {
        Json::Object(members) => {
            let members = members.into_iter().map(|(name, value)| {
                let is_secret = match name.as_str() {
                    "private_key" | "pkcs12" | "session_ticket_keys" => true,
                    // The password of a key. Other passwords are not objects.
                    "password" => value.is_object(),
                    _ => false,
                };
                let value = match is_secret {
                    true => redacted_secret(value),
                    false => redacted(value),
                };
                (name, value)
            });
            Json::Object(members.collect())
        }
        Json::Array(items) => items.into_iter().map(redacted).collect(),
        other => other,
    }
}

/// A redacted secret.
fn redacted_secret(json: Json) -> Json {
    const REDACTED: &str = "[redacted]";
    match json {
        Json::Object(members) => {
            let members = members.into_iter().map(|(name, value)| {
                let value = match name.as_str() {
                    "inline_bytes" => Json::String(STANDARD.encode(REDACTED)),
                    _ => redacted_secret(value),
                };
                (name, value)
            });
            Json::Object(members.collect())
        }
        Json::Array(items) => items.into_iter().map(redacted_secret).collect(),
        Json::String(_) => Json::String(REDACTED.to_owned()),
        other => other,
    }
}

fn object(message: &Message) -> Json {
    match message.message_type.well_known() {
        WellKnown::No | WellKnown::Any => Json::Object(fields(message)),
        WellKnown::Duration => Json::String(duration(message)),
        WellKnown::Wrapper => match message.fields.first() {
            Some(value) => single(value.field.kind, &value.value),
            None => empty_wrapper(message.message_type),
        },
        WellKnown::Struct => match message.fields.first() {
            Some(value) => field(value),
            None => Json::Object(Map::new()),
        },
        WellKnown::ListValue => match message.fields.first() {
            Some(value) => field(value),
            None => Json::Array(Vec::new()),
        },
        WellKnown::Value => match message.fields.first() {
            Some(value) if value.field.name() == "null_value" => Json::Null,
            Some(value) => single(value.field.kind, &value.value),
            None => Json::Null,
        },
    }
}

fn fields(message: &Message) -> Map<String, Json> {
    let mut values: Vec<&FieldValue> = message.fields.iter().collect();
    values.sort_by_key(|value| value.field.number);
    values
        .into_iter()
        .map(|value| (value.field.name().to_owned(), field(value)))
        .collect()
}

fn field(value: &FieldValue) -> Json {
    let kind = value.field.kind;
    match &value.value {
        Value::List(items) => items.iter().map(|item| single(kind, &item.value)).collect(),
        Value::Map(entries) => {
            let entry_kind = |name| {
                value
                    .field
                    .message()
                    .and_then(|entry| entry.field(name))
                    .map(|field| field.kind)
            };
            let value_kind = entry_kind("value").unwrap_or(FieldKind::String);
            let mut pairs: Vec<(String, Json)> = entries
                .iter()
                .map(|entry| (key(&entry.key), single(value_kind, &entry.value)))
                .collect();
            // Envoy prints map entries in any order; a stable order makes dumps comparable.
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            Json::Object(pairs.into_iter().collect())
        }
        value => single(kind, value),
    }
}

fn key(key: &Value) -> String {
    match key {
        Value::String(text) => text.clone(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        _ => String::new(),
    }
}

fn single(kind: FieldKind, value: &Value) -> Json {
    match value {
        Value::Bool(value) => Json::Bool(*value),
        // JSON numbers are doubles: 64 bits go into a string.
        Value::Int(value) if kind == FieldKind::Int64 => Json::String(value.to_string()),
        Value::Uint(value) if kind == FieldKind::Uint64 => Json::String(value.to_string()),
        Value::Int(value) => Json::from(*value),
        Value::Uint(value) => Json::from(*value),
        Value::Float(value) => number(f64::from(*value), &value.to_string()),
        Value::Double(value) => number(*value, &value.to_string()),
        Value::String(text) => Json::String(text.clone()),
        Value::Bytes(bytes) => Json::String(STANDARD.encode(bytes)),
        Value::Enum(number) => match kind {
            FieldKind::Enum(row) => EnumRow::at(row).value(*number).map_or_else(
                || Json::from(*number),
                |value| Json::String(value.name().to_owned()),
            ),
            _ => Json::from(*number),
        },
        Value::Message(message) => object(message),
        Value::Any(value) => any(value),
        Value::List(_) | Value::Map(_) => Json::Null,
    }
}

/// A number that prints as `text`: an integer without a point, `NaN` and infinities as strings.
fn number(value: f64, text: &str) -> Json {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.is_nan() {
        Json::String("NaN".to_owned())
    } else if value.is_infinite() {
        Json::String(if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned())
    } else if value.fract() == 0.0 && value.abs() < EXACT {
        Json::from(value as i64)
    } else {
        // Converted through text, so that a float is not printed with the digits of a double.
        text.parse()
            .ok()
            .and_then(Number::from_f64)
            .map_or(Json::Null, Json::Number)
    }
}

fn any(any: &Any) -> Json {
    let mut map = Map::new();
    if any.type_url.is_empty() {
        return Json::Object(map);
    }
    map.insert("@type".to_owned(), Json::String(any.type_url.clone()));
    match &any.payload {
        Payload::Message(message) if message.message_type.well_known() == WellKnown::No => {
            map.extend(fields(message))
        }
        Payload::Message(message) => {
            map.insert("value".to_owned(), object(message));
        }
        Payload::Opaque(bytes) => {
            map.insert("value".to_owned(), Json::String(STANDARD.encode(bytes)));
        }
    }
    Json::Object(map)
}

/// Seconds with none, three, six or nine decimals.
fn duration(message: &Message) -> String {
    let part = |name: &str| match message.get(name).map(|value| &value.value) {
        Some(Value::Int(value)) => *value,
        _ => 0,
    };
    let (seconds, nanos) = (part("seconds"), part("nanos"));
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    let (seconds, nanos) = (seconds.unsigned_abs(), nanos.unsigned_abs());
    match nanos {
        0 => format!("{sign}{seconds}s"),
        nanos if nanos % 1_000_000 == 0 => format!("{sign}{seconds}.{:03}s", nanos / 1_000_000),
        nanos if nanos % 1_000 == 0 => format!("{sign}{seconds}.{:06}s", nanos / 1_000),
        nanos => format!("{sign}{seconds}.{nanos:09}s"),
    }
}

/// A wrapper around the default, which has no field on the wire.
fn empty_wrapper(message_type: MessageType) -> Json {
    match message_type.field("value").map(|field| field.kind) {
        Some(FieldKind::Bool) => Json::Bool(false),
        Some(FieldKind::String | FieldKind::Bytes) => Json::String(String::new()),
        Some(FieldKind::Int64 | FieldKind::Uint64) => Json::String("0".to_owned()),
        _ => Json::from(0),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use serde_json::json;

    use super::*;
    use crate::Format;
    use crate::Source;
    use crate::load_texts;

    #[test]
    fn prints_what_envoy_prints() {
        let text = r#"
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
node: {id: nn, metadata: {a: 1.5, b: [1, on, ~], c: {x: z}}}
stats_flush_interval: 0.25s
static_resources:
  clusters:
  - load_assignment: {cluster_name: c}
    connect_timeout: 1.000001s
    per_connection_buffer_limit_bytes: 60
    name: c
    wait_for_warm_on_init: false
    lb_policy: round_robin
    dns_lookup_family: v4_only
    common_lb_config: {healthy_panic_threshold: {value: 12.5}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        explicit_http_config: {http2_protocol_options: {}}
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
"#;
        let source = Source {
            name: "e.yaml".to_owned(),
            text: text.into(),
            format: Format::Yaml,
        };
        let loaded = load_texts(&[source], false).unwrap();
        let printed = to_json("envoy.config.bootstrap.v3.Bootstrap", &loaded.wire).unwrap();
        let expected = json!({
            "node": {"id": "nn", "metadata": {"a": "1.5", "b": [1, true, null], "c": {"x": "z"}}},
            "static_resources": {"clusters": [{
                "name": "c",
                "connect_timeout": "1.000001s",
                "per_connection_buffer_limit_bytes": 60,
                "dns_lookup_family": "V4_ONLY",
                "wait_for_warm_on_init": false,
                "common_lb_config": {"healthy_panic_threshold": {"value": 12.5}},
                "load_assignment": {"cluster_name": "c"},
                "typed_extension_protocol_options": {
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                        "explicit_http_config": {"http2_protocol_options": {}},
                    },
                },
            }]},
            "stats_flush_interval": "0.250s",
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        });
        assert_eq!(printed, expected);
        let cluster = printed["static_resources"]["clusters"][0]
            .as_object()
            .unwrap();
        assert_eq!(cluster.keys().next().map(String::as_str), Some("name"));
        let decoded =
            crate::api::envoy::config::bootstrap::v3::Bootstrap::decode(loaded.wire.as_slice());
        assert_eq!(decoded, Ok(loaded.bootstrap));
    }
}
