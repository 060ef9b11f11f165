//! The context in which the services that a configuration names are checked.

use std::fmt;
use std::sync::Arc;

use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::HeaderValue as HeaderMessage;

/// What checking a service needs from the rest of the process.
#[derive(Clone, Copy)]
pub struct ServiceCx<'a> {
    /// Whether a service may name this cluster.
    pub has_cluster: &'a dyn Fn(&str) -> bool,
    /// Suggests an existing cluster for a name that does not exist.
    pub nearest_cluster: &'a dyn Fn(&str) -> Option<String>,
}

impl fmt::Debug for ServiceCx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServiceCx")
    }
}

impl ServiceCx<'_> {
    /// Checks the name of a cluster.
    ///
    /// # Errors
    /// If there is no such cluster.
    pub fn cluster(&self, name: &str, path: &FieldPath) -> Result<Arc<str>, ConfigError> {
        if (self.has_cluster)(name) {
            return Ok(name.into());
        }
        let nearest = (self.nearest_cluster)(name);
        let nearest = nearest.map_or(String::new(), |name| format!("; did you mean {name:?}?"));
        Err(ConfigError::new(
            path,
            format!("no cluster is named {name:?}{nearest}"),
        ))
    }

    /// Checks headers that are added to each call.
    ///
    /// # Errors
    /// If a header is not valid, or has format operators.
    pub fn headers(
        &self,
        messages: &[HeaderMessage],
        path: &FieldPath,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut headers = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            let path = path.index(index);
            headers.extend(errors.collect(self.header(message, &path).map_err(ConfigErrors::from)));
        }
        errors.finish(headers)
    }

    /// Checks a header that is added to each call.
    ///
    /// # Errors
    /// If it is not valid, or has format operators.
    pub fn header(
        &self,
        message: &HeaderMessage,
        path: &FieldPath,
    ) -> Result<(HeaderName, HeaderValue), ConfigError> {
        header(message, path)
    }
}

fn header(
    message: &HeaderMessage,
    path: &FieldPath,
) -> Result<(HeaderName, HeaderValue), ConfigError> {
    let name = HeaderName::try_from(message.key.as_str());
    let name = name.map_err(|_| {
        let text = format!("{:?} is no header name", message.key);
        ConfigError::new(&path.field("key"), text)
    })?;
    if !message.raw_value.is_empty() {
        let value = HeaderValue::from_bytes(&message.raw_value);
        let invalid = |_| ConfigError::new(&path.field("raw_value"), "not a header value");
        return Ok((name, value.map_err(invalid)?));
    }
    let path = path.field("value");
    if message.value.replace("%%", "").contains('%') {
        let text = "not supported: format operators in the headers of the proxy's own calls; write %% for a percent sign";
        return Err(ConfigError::new(&path, text));
    }
    let value = HeaderValue::try_from(message.value.replace("%%", "%"));
    let value = value.map_err(|_| ConfigError::new(&path, "not a header value"))?;
    Ok((name, value))
}
