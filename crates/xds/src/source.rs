//! `ConfigSource`: where resources come from.

use std::io;
use std::path::PathBuf;

use outrider_config::ConfigError;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::ConfigSource;
use outrider_config::api::envoy::config::core::v3::config_source::ConfigSourceSpecifier;

/// A file of resources (`envoy.config.core.v3.PathConfigSource`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileSource {
    /// `path`
    pub path: PathBuf,
    /// `watched_directory.path`: if it is set, the file is read again only when something is moved into this directory.
    pub watched_directory: Option<PathBuf>,
}

impl FileSource {
    /// Checks that the file exists; Envoy does not start without it.
    ///
    /// # Errors
    /// The file does not exist.
    pub fn check(&self) -> io::Result<()> {
        if self.path.exists() {
            return Ok(());
        }
        let path = self.path.display();
        let text =
            format!("paths must refer to an existing path in the system: '{path}' does not exist");
        Err(io::Error::new(io::ErrorKind::NotFound, text))
    }

    /// Reads the source found at `path`.
    ///
    /// # Errors
    /// Sources other than files are not supported.
    pub fn build(source: &ConfigSource, path: &FieldPath) -> Result<FileSource, ConfigError> {
        let refused = |field: &'static str| {
            let text = "not supported: use path_config_source";
            Err(ConfigError::new(&path.field(field), text))
        };
        match &source.config_source_specifier {
            Some(ConfigSourceSpecifier::PathConfigSource(file)) => Ok(FileSource {
                path: PathBuf::from(&file.path),
                watched_directory: file
                    .watched_directory
                    .as_ref()
                    .map(|directory| PathBuf::from(&directory.path)),
            }),
            #[expect(deprecated, reason = "Envoy 1.40 still obeys it")]
            Some(ConfigSourceSpecifier::Path(file)) => Ok(FileSource {
                path: PathBuf::from(file),
                watched_directory: None,
            }),
            Some(ConfigSourceSpecifier::ApiConfigSource(_)) => refused("api_config_source"),
            Some(ConfigSourceSpecifier::Ads(_)) => refused("ads"),
            Some(ConfigSourceSpecifier::Self_(_)) => refused("self"),
            None => Err(ConfigError::new(path, "expected path_config_source")),
        }
    }
}
