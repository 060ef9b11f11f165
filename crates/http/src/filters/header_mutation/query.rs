//! `query_parameter_mutations`.

use std::collections::BTreeMap;

use outrider_codec::Target;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::KeyValueMutation;
use outrider_config::api::envoy::config::core::v3::key_value_append::KeyValueAppendAction;
use prost_types::value::Kind;

use crate::Stream;
use crate::format::Formatter;

/// Removes or adds one query parameter.
#[derive(Debug)]
pub(super) enum QueryMutation {
    Remove(Box<str>),
    Append {
        key: Box<str>,
        value: Formatter,
        action: KeyValueAppendAction,
    },
}

impl QueryMutation {
    /// Builds the list in the message at `path`.
    pub(super) fn list(
        messages: &[KeyValueMutation],
        path: &FieldPath,
        errors: &mut ConfigErrors,
    ) -> Vec<QueryMutation> {
        let path = path.field("query_parameter_mutations");
        let list = messages.iter().enumerate();
        list.filter_map(|(at, message)| {
            errors.collect(QueryMutation::build(message, &path.index(at)))
        })
        .collect()
    }

    fn build(message: &KeyValueMutation, path: &FieldPath) -> Result<QueryMutation, ConfigError> {
        let Some(append) = &message.append else {
            return match message.remove.as_str() {
                "" => Err(ConfigError::new(path, "expected append or remove")),
                key => Ok(QueryMutation::Remove(key.into())),
            };
        };
        let path = path.field("append").field("record");
        let record = append.record.as_ref();
        let record = record.ok_or_else(|| ConfigError::new(&path, "value is required"))?;
        let value = record.value.as_ref().and_then(|value| value.kind.as_ref());
        let Some(Kind::StringValue(format)) = value else {
            return Err(ConfigError::new(
                &path.field("value"),
                "Only string value is allowed for record value.",
            ));
        };
        Ok(QueryMutation::Append {
            key: record.key.as_str().into(),
            value: Formatter::compile_omitting(format, &path.field("value"))?,
            action: append.action(),
        })
    }
}

/// Applies the mutations. As in Envoy, the parameters are in the order of their names afterwards.
pub(super) fn apply(mutations: &[QueryMutation], stream: &mut Stream) {
    let Some(target) = &stream.request.path else {
        return;
    };
    let mut parameters = parse(target.query().unwrap_or_default());
    for mutation in mutations {
        match mutation {
            QueryMutation::Remove(key) => {
                parameters.remove(key.as_bytes());
            }
            QueryMutation::Append { key, value, action } => {
                let known = parameters.contains_key(key.as_bytes());
                let overwrites = match action {
                    KeyValueAppendAction::AppendIfExistsOrAdd => false,
                    KeyValueAppendAction::AddIfAbsent if known => continue,
                    KeyValueAppendAction::AddIfAbsent => false,
                    KeyValueAppendAction::OverwriteIfExistsOrAdd => true,
                    KeyValueAppendAction::OverwriteIfExists if known => true,
                    KeyValueAppendAction::OverwriteIfExists => continue,
                };
                let mut text = Vec::new();
                value.write(&*stream, &mut text);
                let values = parameters.entry(key.as_bytes().to_vec()).or_default();
                if overwrites {
                    values.clear();
                }
                values.push(text);
            }
        }
    }
    let mut changed = target.path().to_owned();
    let pairs = parameters
        .iter()
        .flat_map(|(key, values)| values.iter().map(move |value| (key, value)));
    for (at, (key, value)) in pairs.enumerate() {
        changed.push(if at == 0 { '?' } else { '&' });
        encode(key, &mut changed);
        changed.push('=');
        encode(value, &mut changed);
    }
    if let Ok(changed) = Target::try_from(changed) {
        stream.request.path = Some(changed);
    }
}

/// The parameters of a query, decoded: the values of each name in their order.
fn parse(query: &str) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut parameters: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        parameters
            .entry(decode(key))
            .or_default()
            .push(decode(value));
    }
    parameters
}

fn decode(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.first_chunk::<2>().filter(|_| first == b'%');
        let hex = hex.and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                decoded.push(first);
                rest = after;
            }
        }
    }
    decoded
}

fn encode(bytes: &[u8], out: &mut String) {
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-_.~+".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_and_encodes_as_envoy() {
        for (query, want) in [
            ("%41+b", "A+b"),
            ("%4", "%254"),
            ("x y&z", "x%20y%26z"),
            ("%zz", "%25zz"),
        ] {
            let mut encoded = String::new();
            encode(&decode(query), &mut encoded);
            assert_eq!(encoded, want, "{query}");
        }
    }
}
