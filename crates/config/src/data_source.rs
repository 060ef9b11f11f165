//! `DataSource`: a text in the configuration, in a file or in the environment.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;

use crate::ConfigError;
use crate::FieldPath;
use crate::api::envoy::config::core::v3::DataSource;
use crate::api::envoy::config::core::v3::data_source::Specifier;

/// Reads `source`, found at `path`, once. `max` is the limit on a file's size, in bytes.
///
/// # Errors
/// When the file or the variable does not exist, or the file is too large.
pub fn read(
    source: &DataSource,
    max: Option<u64>,
    path: &FieldPath,
) -> Result<Vec<u8>, ConfigError> {
    match &source.specifier {
        Some(Specifier::InlineString(text)) => Ok(text.clone().into_bytes()),
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes.clone()),
        Some(Specifier::EnvironmentVariable(name)) => {
            std::env::var(name).map(String::into_bytes).map_err(|_| {
                let path = path.field("environment_variable");
                ConfigError::new(&path, format!("Environment variable doesn't exist: {name}"))
            })
        }
        Some(Specifier::Filename(name)) => {
            read_file(name, max).map_err(|error| ConfigError::new(&path.field("filename"), error))
        }
        None => Ok(Vec::new()),
    }
}

fn read_file(name: &str, max: Option<u64>) -> Result<Vec<u8>, String> {
    let metadata = fs::metadata(name).map_err(|_| format!("file {name} does not exist"))?;
    if metadata.file_type().is_fifo() {
        let text = "a pipe, which cannot be read again when the configuration changes";
        return Err(format!("file {name} is {text}: expected a regular file"));
    }
    let size = metadata.len();
    if let Some(max) = max
        && size > max
    {
        return Err(format!(
            "file {name} size is {size} bytes; maximum is {max}"
        ));
    }
    fs::read(name).map_err(|error| format!("unable to read file {name}: {error}"))
}
