//! The messages to the processor.

use bytes::Bytes;
use outrider_codec::HeaderMap;
use outrider_codec::RequestHead;
use outrider_codec::ResponseHead;
use outrider_config::api::envoy::config::core::v3 as core;
use outrider_config::api::envoy::service::ext_proc::v3::HttpBody;
use outrider_config::api::envoy::service::ext_proc::v3::HttpHeaders;
use outrider_config::api::envoy::service::ext_proc::v3::HttpTrailers;
use outrider_config::api::envoy::service::ext_proc::v3::processing_request::Request;

use crate::Stream;

use super::config::ExtProcConfig;
use super::conversation::Side;

/// The head of a request.
pub(super) fn request_headers(config: &ExtProcConfig, head: &RequestHead, ends: bool) -> Request {
    let mut list = HeaderList::new(config);
    let pseudo = [
        (":authority", head.authority()),
        (
            ":path",
            head.path.as_ref().map_or(&b""[..], |path| path.as_bytes()),
        ),
        (":method", head.method.as_str().as_bytes()),
        (":scheme", head.scheme().as_bytes()),
    ];
    for (name, value) in pseudo {
        if !value.is_empty() {
            list.push(name, value);
        }
    }
    list.extend(&head.headers);
    Request::RequestHeaders(list.into_headers(ends))
}

/// The head of a response.
pub(super) fn response_headers(config: &ExtProcConfig, head: &ResponseHead, ends: bool) -> Request {
    let mut list = HeaderList::new(config);
    list.push(":status", head.status.as_str().as_bytes());
    list.extend(&head.headers);
    Request::ResponseHeaders(list.into_headers(ends))
}

/// A body, or a piece of one.
pub(super) fn body(side: Side, data: &Bytes, ends: bool) -> Request {
    let body = HttpBody {
        body: data.to_vec(),
        end_of_stream: ends,
        ..HttpBody::default()
    };
    match side {
        Side::Request => Request::RequestBody(body),
        Side::Response => Request::ResponseBody(body),
    }
}

/// Trailers.
pub(super) fn trailers(config: &ExtProcConfig, side: Side, trailers: &HeaderMap) -> Request {
    let mut list = HeaderList::new(config);
    list.extend(trailers);
    let message = HttpTrailers {
        trailers: Some(list.map),
    };
    match side {
        Side::Request => Request::RequestTrailers(message),
        Side::Response => Request::ResponseTrailers(message),
    }
}

/// The dynamic metadata of these namespaces.
pub(super) fn metadata(stream: &Stream, namespaces: &[String]) -> core::Metadata {
    let mut selected = core::Metadata::default();
    for name in namespaces {
        if let Some(fields) = stream.dynamic_metadata.namespace(name) {
            let fields = fields.clone();
            selected.filter_metadata.insert(name.clone(), fields);
        }
    }
    selected
}

/// The headers that the processor may see.
struct HeaderList<'a> {
    config: &'a ExtProcConfig,
    map: core::HeaderMap,
}

impl HeaderList<'_> {
    fn new(config: &ExtProcConfig) -> HeaderList<'_> {
        let map = core::HeaderMap::default();
        HeaderList { config, map }
    }

    fn push(&mut self, name: &str, value: &[u8]) {
        if self.config.forwards(name) {
            self.map.headers.push(core::HeaderValue {
                key: name.to_owned(),
                raw_value: value.to_vec(),
                ..core::HeaderValue::default()
            });
        }
    }

    fn extend(&mut self, headers: &HeaderMap) {
        for (name, value) in headers {
            self.push(name.as_str(), value.as_bytes());
        }
    }

    fn into_headers(self, ends: bool) -> HttpHeaders {
        HttpHeaders {
            headers: Some(self.map),
            end_of_stream: ends,
            ..HttpHeaders::default()
        }
    }
}
