//! The resource that spans are about: the service, by the configuration and by the environment.

use std::collections::BTreeMap;

use outrider_client::otlp::KeyValue;
use outrider_client::otlp::ResourceMessage;
use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::VERSION;
use outrider_config::api::envoy::config::core::v3::TypedExtensionConfig;
use outrider_config::api::envoy::config::trace::v3::OpenTelemetryConfig as Message;
use outrider_config::api::envoy::extensions::tracers::opentelemetry::resource_detectors::v3::EnvironmentResourceDetectorConfig;
use outrider_config::api::envoy::extensions::tracers::opentelemetry::resource_detectors::v3::StaticConfigResourceDetectorConfig;
use outrider_config::unpack;
use prost_types::Any;

use super::refused;

/// The variable that the environment detector reads.
const VARIABLE: &str = "OTEL_RESOURCE_ATTRIBUTES";

type Attributes = BTreeMap<String, String>;
type Detect = fn(&Any, &FieldPath) -> Result<Attributes, ConfigErrors>;

const DETECTORS: &[Factory<Detect>] = &[
    Factory {
        message: "envoy.extensions.tracers.opentelemetry.resource_detectors.v3.EnvironmentResourceDetectorConfig",
        build: by_environment,
    },
    Factory {
        message: "envoy.extensions.tracers.opentelemetry.resource_detectors.v3.StaticConfigResourceDetectorConfig",
        build: by_config,
    },
];

/// The resource of a tracer. A later detector replaces what an earlier one has found.
pub(super) fn build(message: &Message, path: &FieldPath) -> Result<ResourceMessage, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let mut attributes = Attributes::new();
    if message.set_service_name_resource_attribute.unwrap_or(true) {
        let name = match message.service_name.as_str() {
            "" => "unknown_service:envoy",
            name => name,
        };
        attributes.insert("service.name".to_owned(), name.to_owned());
    }
    if message
        .set_telemetry_sdk_resource_attributes
        .unwrap_or(true)
    {
        for (key, value) in [("language", "cpp"), ("name", "envoy"), ("version", VERSION)] {
            attributes.insert(format!("telemetry.sdk.{key}"), value.to_owned());
        }
    }
    let path = path.field("resource_detectors");
    for (index, detector) in message.resource_detectors.iter().enumerate() {
        let found = detect(detector, &path.index(index).field("typed_config"));
        attributes.extend(errors.collect(found).unwrap_or_default());
    }
    let attributes = attributes.into_iter();
    errors.finish(ResourceMessage {
        attributes: attributes
            .map(|(key, value)| KeyValue::text(key, value))
            .collect(),
    })
}

fn detect(detector: &TypedExtensionConfig, path: &FieldPath) -> Result<Attributes, ConfigErrors> {
    let config = detector.typed_config.as_ref();
    let config = config.ok_or_else(|| refused(path, "expected the configuration of a detector"))?;
    Factory::find(DETECTORS, "resource detector", config, path)?(config, path)
}

fn by_environment(config: &Any, path: &FieldPath) -> Result<Attributes, ConfigErrors> {
    let _: EnvironmentResourceDetectorConfig = unpack(config, path)?;
    let text = std::env::var(VARIABLE).unwrap_or_default();
    Ok(parse(&text))
}

/// `key=value,key=value`; what has another form is left out.
fn parse(text: &str) -> Attributes {
    let pairs = text.split(',').filter(|pair| !pair.is_empty());
    pairs
        .filter_map(|pair| {
            let mut parts = pair.split('=').filter(|part| !part.is_empty());
            match (parts.next(), parts.next(), parts.next()) {
                (Some(key), Some(value), None) => Some((key.to_owned(), value.to_owned())),
                _ => {
                    log::warn!(target: "tracing", "{VARIABLE}: {pair:?} is no key=value, and is left out");
                    None
                }
            }
        })
        .collect()
}

fn by_config(config: &Any, path: &FieldPath) -> Result<Attributes, ConfigErrors> {
    let message: StaticConfigResourceDetectorConfig = unpack(config, path)?;
    let attributes = message.attributes.into_iter();
    Ok(attributes
        .filter(|(key, value)| !key.is_empty() && !value.is_empty())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_has_pairs() {
        let found = parse("a=1,b=2,broken,c=3=4,=5,,d=6");
        let found: Vec<_> = found.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(found, ["a=1", "b=2", "d=6"]);
    }
}
