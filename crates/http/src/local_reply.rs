//! Answers that the proxy gives itself. Every failure becomes a [`LocalReply`] where it is understood; here, and only
//! here, it becomes a response: HTTP with a text body, or a trailers-only answer to a gRPC call.

use std::borrow::Cow;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Response;
use http::StatusCode;
use http::header;
use outrider_codec::Body;

use crate::ResponseFlag;
use crate::grpc;
use crate::names;

/// What to answer, and why.
#[derive(Clone, Debug)]
pub struct LocalReply {
    /// The HTTP status; a gRPC call is told the status that stands for it.
    pub status: StatusCode,
    /// The gRPC status, where it is another.
    pub grpc_status: Option<u8>,
    /// `%RESPONSE_CODE_DETAILS%`
    pub details: Cow<'static, str>,
    /// The flag to set, if any.
    pub flag: Option<ResponseFlag>,
    /// Headers of its own.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The text; becomes `grpc-message` for gRPC.
    pub body: Bytes,
}

impl LocalReply {
    /// A reply without a body.
    #[must_use]
    pub fn new(status: StatusCode, details: impl Into<Cow<'static, str>>) -> LocalReply {
        LocalReply {
            status,
            grpc_status: None,
            details: details.into(),
            flag: None,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// With this body.
    #[must_use]
    pub fn body(self, body: impl Into<Bytes>) -> LocalReply {
        LocalReply {
            body: body.into(),
            ..self
        }
    }

    /// With this flag.
    #[must_use]
    pub fn flag(self, flag: ResponseFlag) -> LocalReply {
        LocalReply {
            flag: Some(flag),
            ..self
        }
    }

    /// With this header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> LocalReply {
        self.headers.push((name, value));
        self
    }

    /// The response itself. `edit` changes its headers before those that describe the body are added.
    pub(crate) fn render(self, is_grpc: bool, edit: impl FnOnce(&mut HeaderMap)) -> Response<Body> {
        let mut response = Response::new(Body::Empty);
        let headers = response.headers_mut();
        for (name, value) in self.headers {
            headers.append(name, value);
        }
        edit(headers);
        if is_grpc {
            let status = self
                .grpc_status
                .unwrap_or_else(|| grpc::status_of(self.status));
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            );
            headers.insert(&names::GRPC_STATUS, HeaderValue::from(u16::from(status)));
            if !self.body.is_empty() {
                let message = grpc::encode_message(&String::from_utf8_lossy(&self.body));
                headers.insert(&names::GRPC_MESSAGE, message);
            }
            return response;
        }
        if self.body.is_empty() {
            headers.remove(header::CONTENT_LENGTH);
            headers.remove(header::CONTENT_TYPE);
        } else {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(self.body.len()));
            headers
                .entry(header::CONTENT_TYPE)
                .or_insert(HeaderValue::from_static("text/plain"));
        }
        *response.status_mut() = self.status;
        *response.body_mut() = Body::full(self.body);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(response: &Response<Body>) -> Vec<String> {
        let headers = response.headers().iter();
        let headers = headers.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
        std::iter::once(response.status().as_str().to_owned())
            .chain(headers)
            .collect()
    }

    #[test]
    fn answers_http_with_text_and_grpc_with_trailers_only() {
        let reply = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "x")
            .header(names::OVERLOADED.clone(), HeaderValue::from_static("true"))
            .body("overflow 100%");
        assert_eq!(
            shown(&reply.clone().render(false, |_| {})),
            [
                "503",
                "x-envoy-overloaded: true",
                "content-length: 13",
                "content-type: text/plain"
            ]
        );
        let want = [
            "200",
            "x-envoy-overloaded: true",
            "content-type: application/grpc",
            "grpc-status: 14",
            "grpc-message: overflow 100%25",
        ];
        assert_eq!(shown(&reply.render(true, |_| {})), want);
    }

    #[test]
    fn keeps_a_content_type_but_none_without_a_body() {
        let json = |headers: &mut HeaderMap| {
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            );
        };
        let reply = LocalReply::new(StatusCode::OK, "direct_response");
        assert_eq!(shown(&reply.clone().render(false, json)), ["200"]);
        assert!(
            shown(&reply.body("{}").render(false, json))
                .contains(&"content-type: application/json".to_owned())
        );
    }

    #[test]
    fn a_grpc_status_of_its_own_wins() {
        let reply = LocalReply {
            grpc_status: Some(4),
            ..LocalReply::new(StatusCode::GATEWAY_TIMEOUT, "max_duration_timeout")
        };
        assert_eq!(reply.render(true, |_| {}).headers()["grpc-status"], "4");
    }
}
