//! `Bootstrap.bootstrap_extensions`.

use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::Bootstrap;
use outrider_config::api::envoy::extensions::bootstrap::internal_listener::v3::InternalListener;
use outrider_config::unpack;
use outrider_net::DEFAULT_INTERNAL_BUFFER;
use prost_types::Any;

/// Reads an extension. What it sets is the size in bytes of the buffers of internal connections.
type BuildExtension = fn(&Any, &FieldPath) -> Result<usize, ConfigErrors>;

const FACTORIES: &[Factory<BuildExtension>] = &[Factory {
    message: "envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
    build: internal_listener,
}];

/// How many bytes can wait in each direction of a connection to an internal listener; `None` if the bootstrap does not
/// allow internal listeners.
///
/// # Errors
/// An extension is not known, or is malformed.
pub(crate) fn internal_buffer(bootstrap: &Bootstrap) -> Result<Option<usize>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let mut size = None;
    for (index, extension) in bootstrap.bootstrap_extensions.iter().enumerate() {
        let path = FieldPath::root()
            .field("bootstrap_extensions")
            .index(index)
            .field("typed_config");
        let Some(config) = &extension.typed_config else {
            errors.push(&path, "is required");
            continue;
        };
        let build = Factory::find(FACTORIES, "bootstrap extension", config, &path);
        let built = errors.collect(build).map(|build| build(config, &path));
        size = errors.collect(built.transpose()).flatten().or(size);
    }
    errors.finish(size)
}

fn internal_listener(config: &Any, path: &FieldPath) -> Result<usize, ConfigErrors> {
    let message: InternalListener = unpack(config, path)?;
    let size = message.buffer_size_kb;
    Ok(size.map_or(DEFAULT_INTERNAL_BUFFER, |size| size as usize * 1024))
}
