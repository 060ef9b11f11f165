//! An HTTP service as configured (`envoy.config.core.v3.HttpUri`).

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use outrider_codec::HeaderValue;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::HttpUri;
use outrider_config::api::envoy::config::core::v3::http_uri::HttpUpstreamType;
use outrider_config::duration;

use crate::ServiceCx;

/// An HTTP service and how it is called.
#[derive(Clone, Debug)]
pub struct HttpService {
    /// The name of its cluster.
    pub cluster: Arc<str>,
    /// The host of its URI, with the port if there is one.
    pub authority: HeaderValue,
    /// The path of its URI, with the query; `/` if there is none.
    pub path: String,
    /// `timeout`
    pub timeout: Duration,
}

impl HttpService {
    /// Checks the service found at `path`.
    ///
    /// # Errors
    /// If its cluster does not exist, or its URI or timeout is not valid.
    pub fn build(
        message: &HttpUri,
        path: &FieldPath,
        cx: &ServiceCx<'_>,
    ) -> Result<HttpService, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let cluster = match &message.http_upstream_type {
            Some(HttpUpstreamType::Cluster(name)) => cx.cluster(name, &path.field("cluster")),
            None => Err(ConfigError::new(
                &path.field("cluster"),
                "expected a cluster",
            )),
        };
        let cluster = errors.collect(cluster.map_err(ConfigErrors::from));
        let timeout = duration::optional(message.timeout.as_ref(), &path.field("timeout"));
        let timeout = errors
            .collect(timeout.map_err(ConfigErrors::from))
            .flatten();
        let uri = errors.collect(uri(&message.uri, &path.field("uri")).map_err(ConfigErrors::from));
        let (Some(cluster), Some((authority, target))) = (cluster, uri) else {
            return Err(errors);
        };
        errors.finish(HttpService {
            cluster,
            authority,
            path: target,
            timeout: timeout.unwrap_or_default(),
        })
    }
}

/// The authority and the path of a URI. As in Envoy, the scheme may be missing.
fn uri(text: &str, path: &FieldPath) -> Result<(HeaderValue, String), ConfigError> {
    let invalid = || ConfigError::new(path, format!("{text:?} is no HTTP URI"));
    let whole = match text.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    let uri: Uri = whole.parse().map_err(|_| invalid())?;
    let authority = uri.authority().ok_or_else(invalid)?.as_str();
    let authority = HeaderValue::try_from(authority).map_err(|_| invalid())?;
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    Ok((authority, target.to_owned()))
}
