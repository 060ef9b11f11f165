//! The message inside a `google.protobuf.Any`.

use prost::Message;
use prost::Name;
use prost_types::Any;

use crate::ConfigError;
use crate::FieldPath;

/// The name of the message that `any` holds: its type URL after the last slash.
pub fn type_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

/// Decodes `any`, found at `path`, as a `T`.
///
/// # Errors
/// When `any` holds another message, or bytes that are not one.
pub fn unpack<T: Message + Name + Default>(any: &Any, path: &FieldPath) -> Result<T, ConfigError> {
    let name = type_name(any);
    if name != T::full_name() {
        return Err(ConfigError::new(
            path,
            format!("expected a {}, got {name:?}", T::full_name()),
        ));
    }
    T::decode(any.value.as_slice())
        .map_err(|error| ConfigError::new(path, format!("malformed {name}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::envoy::config::core::v3::Locality;
    use crate::api::envoy::config::core::v3::Pipe;

    #[test]
    fn unpacks_only_its_own_type() {
        let pipe = Pipe {
            path: "/run/x.sock".to_owned(),
            ..Default::default()
        };
        let any = Any {
            type_url: Pipe::type_url(),
            value: pipe.encode_to_vec(),
        };
        let path = FieldPath::root().field("typed_config");
        assert_eq!(unpack::<Pipe>(&any, &path), Ok(pipe));
        let error = unpack::<Locality>(&any, &path).unwrap_err();
        assert_eq!(
            error.to_string(),
            "typed_config: expected a envoy.config.core.v3.Locality, got \"envoy.config.core.v3.Pipe\""
        );
    }
}
