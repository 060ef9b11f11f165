//! `HttpConnectionManager.local_reply_config`: what the configuration changes in local replies.

use bytes::Bytes;
use http::StatusCode;
use outrider_codec::header;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3 as api;
use outrider_config::data_source;

use crate::Captures;
use crate::Stream;
use crate::access_log::AccessLogFilter;
use crate::format::Context;
use crate::format::SubstitutionFormat;
use crate::route::HeaderMutations;

/// What a connection manager changes in its local replies (`LocalReplyConfig`).
#[derive(Debug)]
pub(crate) struct LocalReplyConfig {
    mappers: Box<[ResponseMapper]>,
    body_format: Option<SubstitutionFormat>,
}

/// Changes the replies that a filter selects (`ResponseMapper`).
#[derive(Debug)]
struct ResponseMapper {
    filter: AccessLogFilter,
    status: Option<StatusCode>,
    body: Option<Bytes>,
    headers: HeaderMutations,
    body_format: Option<SubstitutionFormat>,
}

/// The body of a reply after its changes, and its content type.
#[derive(Debug)]
pub(crate) struct RewrittenBody<'c> {
    pub(crate) body: Bytes,
    pub(crate) content_type: &'c str,
    /// Whether `content_type` replaces what the reply had: its body has changed, and no mapper has set that header.
    pub(crate) sets_content_type: bool,
}

impl RewrittenBody<'_> {
    /// A body as it was.
    pub(crate) fn unchanged(body: Bytes) -> RewrittenBody<'static> {
        RewrittenBody {
            body,
            content_type: "text/plain",
            sets_content_type: false,
        }
    }
}

impl LocalReplyConfig {
    /// Builds the field of the connection manager at `path`.
    pub(crate) fn build(
        message: &api::HttpConnectionManager,
        path: &FieldPath,
    ) -> Result<Option<LocalReplyConfig>, ConfigErrors> {
        let Some(config) = &message.local_reply_config else {
            return Ok(None);
        };
        let path = path.field("local_reply_config");
        let mut errors = ConfigErrors::new();
        let mut mappers = Vec::with_capacity(config.mappers.len());
        for (at, mapper) in config.mappers.iter().enumerate() {
            let path = path.field("mappers").index(at);
            mappers.extend(errors.collect(ResponseMapper::build(mapper, &path)));
        }
        let body_format = config.body_format.as_ref();
        let body_format = body_format.and_then(|format| {
            errors.collect(SubstitutionFormat::build(
                format,
                &path.field("body_format"),
            ))
        });
        errors.finish(Some(LocalReplyConfig {
            mappers: mappers.into(),
            body_format,
        }))
    }

    /// Changes the response of `stream`, whose body will be `body`: the first mapper whose filter passes applies, then
    /// the format of the body.
    pub(crate) fn rewrite(&self, stream: &mut Stream, original: Bytes) -> RewrittenBody<'_> {
        let mut body = original.clone();
        let content_type = |stream: &Stream| {
            let response = stream.response.as_ref();
            response.and_then(|response| response.headers.get(&header::CONTENT_TYPE).cloned())
        };
        let mut passing = self.mappers.iter();
        let mapper = passing.find(|mapper| mapper.filter.passes(stream));
        let before = content_type(stream);
        if let Some(mapper) = mapper {
            if let Some(replaced) = &mapper.body {
                body = replaced.clone();
            }
            mapper.headers.apply_to_response(stream, false);
            if let (Some(status), Some(response)) = (mapper.status, &mut stream.response) {
                response.status = status;
            }
        }
        let keeps_content_type = before == content_type(stream);
        let format = mapper.and_then(|mapper| mapper.body_format.as_ref());
        let mut kind = "text/plain";
        if let Some(format) = format.or(self.body_format.as_ref()) {
            let mut text = Vec::new();
            format.write(Context::with_body(stream, &body), &mut text);
            body = text.into();
            kind = format.content_type();
        }
        RewrittenBody {
            sets_content_type: keeps_content_type && body != original,
            body,
            content_type: kind,
        }
    }

    /// Adds the headers that the filters and formats read.
    pub(crate) fn capture(&self, captures: &mut Captures) {
        for mapper in &self.mappers {
            mapper.filter.capture(captures);
            mapper.headers.capture(captures);
            if let Some(format) = &mapper.body_format {
                format.capture(captures);
            }
        }
        if let Some(format) = &self.body_format {
            format.capture(captures);
        }
    }
}

impl ResponseMapper {
    fn build(
        config: &api::ResponseMapper,
        path: &FieldPath,
    ) -> Result<ResponseMapper, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let filter = config.filter.clone().unwrap_or_default();
        let filter = errors.collect(AccessLogFilter::build(&filter, &path.field("filter")));
        let headers = errors.collect(HeaderMutations::additions(
            &config.headers_to_add,
            &path.field("headers_to_add"),
        ));
        let body = config.body.as_ref().and_then(|source| {
            errors.collect(data_source::read(source, None, &path.field("body")))
        });
        let body_format = config.body_format_override.as_ref();
        let body_format = body_format.and_then(|format| {
            errors.collect(SubstitutionFormat::build(
                format,
                &path.field("body_format_override"),
            ))
        });
        let status = config.status_code.and_then(|code| {
            let status = u16::try_from(code).map(StatusCode::from_u16);
            if !matches!(status, Ok(Ok(_))) {
                errors.push(
                    &path.field("status_code"),
                    "expected a status from 200 to 599",
                );
            }
            status.ok()?.ok()
        });
        let (Some(filter), Some(headers)) = (filter, headers) else {
            return Err(errors);
        };
        errors.finish(ResponseMapper {
            filter,
            status,
            body: body.map(Bytes::from),
            headers,
            body_format,
        })
    }
}
