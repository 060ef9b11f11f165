//! `application_log_config`: the form of log lines, from the config instead of the command line.

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::Bootstrap;
use outrider_config::api::envoy::config::bootstrap::v3::bootstrap::application_log_config::log_format::LogFormat;
use prost_types::value::Kind;
use serde_json::Value as Json;

use crate::cli::Options;
use crate::logging::Logging;
use crate::logging::Pattern;

/// Sets the line format that the config gives, if it gives one.
pub(crate) fn apply(
    bootstrap: &Bootstrap,
    options: &Options,
    logging: &Logging,
) -> Result<(), ConfigErrors> {
    let format = bootstrap
        .application_log_config
        .as_ref()
        .and_then(|config| config.log_format.as_ref());
    let Some(format) = format.and_then(|format| format.log_format.as_ref()) else {
        return Ok(());
    };
    let path = FieldPath::root()
        .field("application_log_config")
        .field("log_format");
    let mut errors = ConfigErrors::new();
    if options.log_format.is_some() {
        errors.push(
            &path,
            "only one of ApplicationLogConfig.log_format and --log-format can be specified",
        );
    }
    let pattern = match format {
        LogFormat::TextFormat(text) => Pattern::compile(text),
        LogFormat::JsonFormat(fields) => {
            let pattern = Pattern::compile(&json_object(fields).to_string());
            if pattern.prints_raw_message() {
                errors.push(
                    &path.field("json_format"),
                    "%v would break a line of JSON: use %j or %_",
                );
            }
            pattern
        }
    };
    logging.set_pattern(pattern);
    errors.finish(())
}

fn json_object(fields: &prost_types::Struct) -> Json {
    Json::Object(
        fields
            .fields
            .iter()
            .map(|(name, value)| (name.clone(), json(value)))
            .collect(),
    )
}

fn json(value: &prost_types::Value) -> Json {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(on)) => Json::Bool(*on),
        Some(Kind::NumberValue(number)) => {
            whole(*number).map_or_else(|| Json::from(*number), Json::from)
        }
        Some(Kind::StringValue(text)) => Json::String(text.clone()),
        Some(Kind::ListValue(list)) => Json::Array(list.values.iter().map(json).collect()),
        Some(Kind::StructValue(fields)) => json_object(fields),
    }
}

/// Protobuf has only floating-point numbers; a whole one is printed without its point.
fn whole(number: f64) -> Option<i64> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "what does not fit fails the comparison"
    )]
    let cut = number as i64;
    #[expect(
        clippy::cast_precision_loss,
        reason = "the comparison shows what the conversion cut off"
    )]
    let back = cut as f64;
    (back.to_bits() == number.to_bits()).then_some(cut)
}
