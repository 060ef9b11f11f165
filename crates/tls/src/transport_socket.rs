//! `TransportSocket`: plaintext or TLS.

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::TransportSocket;
use outrider_config::api::envoy::config::core::v3::transport_socket::ConfigType;
use outrider_config::api::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use outrider_config::type_name;
use outrider_config::unpack;
use prost::Message;
use prost::Name;

/// The TLS settings in the transport socket found at `path`, as the message `T` of the side that uses it; `None` for
/// plaintext.
///
/// # Errors
/// The transport socket is neither `raw_buffer` nor TLS of this side, or its message is malformed.
pub fn tls_settings<T: Message + Name + Default>(
    socket: Option<&TransportSocket>,
    path: &FieldPath,
) -> Result<Option<T>, ConfigErrors> {
    let Some(socket) = socket else {
        return Ok(None);
    };
    let path = path.field("typed_config");
    match &socket.config_type {
        Some(ConfigType::TypedConfig(any)) if type_name(any) == T::full_name() => {
            Ok(Some(unpack(any, &path)?))
        }
        Some(ConfigType::TypedConfig(any)) if type_name(any) == RawBuffer::full_name() => Ok(None),
        None if socket.name.ends_with("raw_buffer") => Ok(None),
        _ => {
            let mut errors = ConfigErrors::new();
            errors.push(
                &path,
                format!(
                    "not supported: {}; expected one of: envoy.transport_sockets.raw_buffer, \
                     envoy.transport_sockets.tls",
                    socket.name
                ),
            );
            Err(errors)
        }
    }
}
