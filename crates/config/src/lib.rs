//! Bootstrap YAML and JSON to checked Envoy API messages, with positions and diagnostics.

pub mod address_prefix;
pub mod api;
mod check;
pub mod data_source;
mod diagnostic;
mod disabled;
mod document;
pub mod duration;
mod error;
mod extension;
mod factory;
pub mod json;
mod load;
mod merge;
mod path;
mod position;
pub mod re2;
mod reader;
mod resources;
mod schema;
pub mod string_matcher;
mod unpack;
mod value;
mod wire;

pub use diagnostic::Diagnostic;
pub use diagnostic::Diagnostics;
pub use disabled::DisabledExtensions;
pub use document::yaml_value;
pub use error::ConfigError;
pub use error::ConfigErrors;
pub use extension::Extension;
pub use extension::extensions;
pub use factory::Factory;
pub use load::BootstrapSources;
pub use load::Format;
pub use load::Loaded;
pub use load::MAX_BYTES;
pub use load::Source;
pub use load::load;
pub use load::load_again;
pub use load::load_texts;
pub use load::refuse_irregular;
pub use path::FieldPath;
pub use position::Position;
pub use position::Positions;
pub use reader::nearest;
pub use resources::Resource;
pub use resources::ResourceFile;
pub use resources::ResourceFileError;
pub use resources::load_resources;
pub use resources::read_resource;
pub use unpack::type_name;
pub use unpack::unpack;

/// This program's version, and the Envoy version that it is compatible with, as Envoy writes its own version.
pub const VERSION: &str = concat!(
    "outrider-",
    env!("CARGO_PKG_VERSION"),
    "/1.40.0/Clean/RELEASE/none"
);
