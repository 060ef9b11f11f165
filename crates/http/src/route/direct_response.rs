//! `DirectResponseAction`: a fixed response.

use bytes::Bytes;
use http::StatusCode;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::route::v3::DirectResponseAction;

use crate::Stream;
use crate::format::SubstitutionFormat;
use outrider_config::data_source;

/// Answers with a fixed response.
#[derive(Debug)]
pub struct DirectResponse {
    /// The status.
    pub status: StatusCode,
    /// The body, before `body_format`.
    pub body: Bytes,
    /// The format that wraps the body.
    pub body_format: Option<SubstitutionFormat>,
}

impl DirectResponse {
    /// `max`: `RouteConfiguration.max_direct_response_body_size_bytes`.
    pub(crate) fn build(
        config: &DirectResponseAction,
        max: u32,
        path: &FieldPath,
    ) -> Result<DirectResponse, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let status = u16::try_from(config.status)
            .ok()
            .and_then(|status| StatusCode::from_u16(status).ok());
        if status.is_none() {
            errors.push(&path.field("status"), "expected a status from 200 to 599");
        }
        let body = match &config.body {
            Some(source) => {
                let path = path.field("body");
                let body = data_source::read(source, Some(max.into()), &path);
                errors.collect(body.and_then(|body| limited(body, max, &path)))
            }
            None => None,
        };
        let body_format = config.body_format.as_ref().and_then(|format| {
            errors.collect(SubstitutionFormat::build(
                format,
                &path.field("body_format"),
            ))
        });
        errors.finish(DirectResponse {
            status: status.unwrap_or_default(),
            body: body.unwrap_or_default().into(),
            body_format,
        })
    }

    /// The `location` header with the request's own address, for 201 and redirect statuses.
    #[must_use]
    pub fn location(&self, stream: &Stream) -> Option<String> {
        let head = &stream.request;
        let has_one = self.status.is_redirection() || self.status == StatusCode::CREATED;
        has_one.then(|| {
            let host = head.host();
            format!("{}://{host}{}", head.scheme(), head.path())
        })
    }
}

fn limited(body: Vec<u8>, max: u32, path: &FieldPath) -> Result<Vec<u8>, ConfigError> {
    if body.len() as u64 > u64::from(max) {
        return Err(ConfigError::new(
            path,
            format!(
                "response body size is {} bytes; maximum is {max}",
                body.len()
            ),
        ));
    }
    Ok(body)
}
