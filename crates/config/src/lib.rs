//! Bootstrap YAML and JSON to checked Envoy API messages, with positions and diagnostics.

pub mod api;
mod check;
mod diagnostic;
mod document;
pub mod duration;
mod error;
mod extension;
pub mod json;
mod load;
mod merge;
mod path;
mod position;
mod reader;
mod schema;
mod unpack;
mod value;
mod wire;

pub use diagnostic::Diagnostic;
pub use diagnostic::Diagnostics;
pub use document::yaml_value;
pub use error::ConfigError;
pub use error::ConfigErrors;
pub use extension::Extension;
pub use extension::extensions;
pub use load::Format;
pub use load::Loaded;
pub use load::Source;
pub use load::Sources;
pub use load::load;
pub use load::load_texts;
pub use path::FieldPath;
pub use position::Position;
pub use position::Positions;
pub use reader::nearest;
pub use unpack::type_name;
pub use unpack::unpack;
