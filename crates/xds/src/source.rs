//! `ConfigSource`: where resources come from.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::ConfigSource as Message;
use outrider_config::api::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use outrider_config::duration;

use crate::ApiSource;
use crate::Sources;

/// `initial_fetch_timeout` if it is not set.
const INITIAL_FETCH_TIMEOUT: Duration = Duration::from_secs(15);

/// `envoy.config.core.v3.ConfigSource`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConfigSource {
    /// Where the resources are.
    pub origin: Origin,
    /// How long a control plane has for the first response; `None` for no limit.
    pub initial_fetch_timeout: Option<Duration>,
}

/// Where resources are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// `path_config_source` and `path`
    File(FileSource),
    /// `ads`
    Aggregated,
    /// `api_config_source`
    Api(Arc<ApiSource>),
}

/// A file of resources (`envoy.config.core.v3.PathConfigSource`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileSource {
    /// `path`
    pub path: PathBuf,
    /// `watched_directory.path`: if it is set, the file is read again only when something is moved into this directory.
    pub watched_directory: Option<PathBuf>,
}

impl ConfigSource {
    /// Reads the source found at `path`.
    ///
    /// # Errors
    /// The file does not exist, the control plane's cluster does not, or the source is of a kind that is not supported.
    pub fn build(
        source: &Message,
        path: &FieldPath,
        sources: &Sources,
    ) -> Result<ConfigSource, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let timeout = source.initial_fetch_timeout.as_ref();
        let timeout = duration::optional(timeout, &path.field("initial_fetch_timeout"));
        let timeout = errors.collect(timeout).flatten();
        let origin = errors.collect(Origin::build(source, path, sources));
        let Some(origin) = origin else {
            return Err(errors);
        };
        let timeout = timeout.unwrap_or(INITIAL_FETCH_TIMEOUT);
        errors.finish(ConfigSource {
            origin,
            initial_fetch_timeout: (!timeout.is_zero()).then_some(timeout),
        })
    }

    /// Whether a control plane has the resources, so that it may take long until they are there.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        !matches!(self.origin, Origin::File(_))
    }
}

impl Origin {
    fn build(source: &Message, path: &FieldPath, sources: &Sources) -> Result<Self, ConfigErrors> {
        let file = match &source.config_source_specifier {
            Some(ConfigSourceSpecifier::PathConfigSource(file)) => FileSource {
                path: PathBuf::from(&file.path),
                watched_directory: (file.watched_directory.as_ref())
                    .map(|directory| PathBuf::from(&directory.path)),
            },
            #[expect(deprecated, reason = "Envoy 1.40 still obeys it")]
            Some(ConfigSourceSpecifier::Path(file)) => FileSource {
                path: PathBuf::from(file),
                watched_directory: None,
            },
            Some(ConfigSourceSpecifier::ApiConfigSource(api)) => {
                let path = path.field("api_config_source");
                let api = ApiSource::build(api, &path, sources)?;
                sources.check_primary(&api.cluster, &path)?;
                return Ok(Origin::Api(Arc::new(api)));
            }
            Some(ConfigSourceSpecifier::Ads(_)) => return Ok(Origin::Aggregated),
            Some(ConfigSourceSpecifier::Self_(_)) => {
                let text = "not supported: use ads, api_config_source or path_config_source";
                return Err(ConfigError::new(&path.field("self"), text).into());
            }
            None => {
                let text = "expected ads, api_config_source or path_config_source";
                return Err(ConfigError::new(path, text).into());
            }
        };
        file.check()
            .map_err(|error| ConfigError::new(path, error.to_string()))?;
        Ok(Origin::File(file))
    }
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
}
