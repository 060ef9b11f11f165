//! Bootstrap YAML and JSON to checked Envoy API messages, with positions and diagnostics.

pub mod api;
pub mod duration;
mod error;
mod path;
mod unpack;

pub use error::ConfigError;
pub use error::ConfigErrors;
pub use path::FieldPath;
pub use unpack::type_name;
pub use unpack::unpack;
