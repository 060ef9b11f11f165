//! `query_parameter_mutations`.

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::KeyValueMutation;
use outrider_config::api::envoy::config::core::v3::key_value_append::KeyValueAppendAction;
use prost_types::value::Kind;

use crate::Stream;
use crate::filters::query_parameters::QueryParameters;
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
    let mut parameters = QueryParameters::parse(target.query().unwrap_or_default());
    for mutation in mutations {
        match mutation {
            QueryMutation::Remove(key) => {
                parameters.remove(key);
            }
            QueryMutation::Append { key, value, action } => {
                let known = parameters.first(key).is_some();
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
                if overwrites {
                    parameters.remove(key);
                }
                parameters.append(key, text);
            }
        }
    }
    if let Some(changed) = parameters.target(target.path()) {
        stream.request.path = Some(changed);
    }
}
