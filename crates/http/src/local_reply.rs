//! Local replies: responses that the proxy makes itself. A failure becomes a [`LocalReply`] where it is understood.
//! Only this module turns a reply into a response: HTTP with a text body, or a trailers-only response to a gRPC call.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use outrider_codec::Body;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::ResponseHead;
use outrider_codec::header;

use crate::ResponseFlag;
use crate::Stream;
use crate::format::Context;
use crate::grpc;
use crate::local_reply_config::LocalReplyConfig;
use crate::local_reply_config::RewrittenBody;
use crate::route::Action;
use crate::route::HeaderMutations;
use crate::route::Route;

/// A response that the proxy makes itself, and the reason for it.
#[derive(Clone, Debug)]
pub struct LocalReply {
    /// The HTTP status; a gRPC call gets the gRPC status that it maps to.
    pub status: StatusCode,
    /// The gRPC status, if it is not the one that the HTTP status maps to.
    pub grpc_status: Option<u8>,
    /// `%RESPONSE_CODE_DETAILS%`
    pub details: Cow<'static, str>,
    /// The flag to set, if any.
    pub flag: Option<ResponseFlag>,
    /// The route whose response headers are added. It need not be set for a route that goes to a cluster.
    pub route: Option<Arc<Route>>,
    /// Headers of the response. They replace what the route adds, unless the route is the one that replies.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether `headers` are added to what the route adds, instead of replacing it.
    pub keeps_route_headers: bool,
    /// Changes of the headers that depend on the stream. They are made after `headers` were added.
    pub mutations: Option<Arc<HeaderMutations>>,
    /// The text; becomes `grpc-message` for gRPC.
    pub body: Bytes,
    /// Whether it is sent as it is: without the headers that the route adds, and without gRPC's form.
    pub as_is: bool,
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
            route: None,
            headers: Vec::new(),
            keeps_route_headers: false,
            mutations: None,
            body: Bytes::new(),
            as_is: false,
        }
    }

    /// A response of a filter. It is sent as it is, also to gRPC calls.
    #[must_use]
    pub fn response(status: StatusCode, details: impl Into<Cow<'static, str>>) -> LocalReply {
        LocalReply {
            as_is: true,
            ..LocalReply::new(status, details)
        }
    }

    /// Sets the body.
    #[must_use]
    pub fn body(self, body: impl Into<Bytes>) -> LocalReply {
        LocalReply {
            body: body.into(),
            ..self
        }
    }

    /// Sets the response flag.
    #[must_use]
    pub fn flag(self, flag: ResponseFlag) -> LocalReply {
        LocalReply {
            flag: Some(flag),
            ..self
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<HeaderName>, value: HeaderValue) -> LocalReply {
        let name = name.into();
        self.headers.push((name, value));
        self
    }

    /// Adds the headers of a response that is not passed on.
    #[must_use]
    pub(crate) fn with_headers_of(self, response: &ResponseHead) -> LocalReply {
        let headers = response.headers.iter();
        LocalReply {
            headers: headers
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            keeps_route_headers: true,
            ..self
        }
    }

    /// Adds the number of attempts in a header, if the virtual host asks for it (`include_attempt_count_in_response`).
    pub(crate) fn after_attempts(self, told: Option<u32>) -> LocalReply {
        match told {
            Some(attempts) => self.header(
                &header::X_ENVOY_ATTEMPT_COUNT,
                HeaderValue::from(u64::from(attempts)),
            ),
            None => self,
        }
    }

    /// Makes this reply the response of `stream`, with the changes of `config`, and returns its body.
    pub(crate) fn write(mut self, stream: &mut Stream, config: Option<&LocalReplyConfig>) -> Body {
        // The flag for a client's protocol error is set after the headers are made: formats in headers do not see it,
        // as in Envoy.
        let is_late = |flag: &mut ResponseFlag| *flag == ResponseFlag::DownstreamProtocolError;
        let late = self.flag.take_if(is_late);
        if let Some(flag) = self.flag {
            stream.flags.set(flag);
        }
        stream.details = Some(self.details);
        let route_replies = |route: &Arc<Route>| !matches!(route.action, Action::Forward(_));
        let first = self.route.as_ref().is_none_or(route_replies);
        let (before, after) = match first {
            true => (self.headers, Vec::new()),
            false => (Vec::new(), self.headers),
        };
        stream.response = Some(ResponseHead {
            status: self.status,
            headers: before.into_iter().collect(),
        });
        let mut body = self.body;
        let mut kind = None;
        if let Some(route) = &self.route {
            route.mutate_response(stream, true);
            if let Action::DirectResponse(direct) = &route.action
                && let Some(format) = &direct.body_format
            {
                let context = Context::local_reply(stream, &body);
                let mut text = Vec::new();
                format.write(context, &mut text);
                body = text.into();
                kind = HeaderValue::try_from(format.content_type()).ok();
            }
        }
        let Some(response) = &mut stream.response else {
            return Body::Empty;
        };
        for (name, value) in after {
            if self.keeps_route_headers {
                response.headers.append(name, value);
            } else {
                response.headers.insert(name, value);
            }
        }
        if let Some(mutations) = &self.mutations {
            mutations.apply_to_response(stream, true);
        }
        let reply = match config {
            Some(config) if !self.as_is => config.rewrite(stream, body),
            _ => RewrittenBody::unchanged(body),
        };
        if let Some(flag) = late {
            stream.flags.set(flag);
        }
        let is_grpc = stream.is_grpc && !self.as_is;
        match &mut stream.response {
            Some(response) if is_grpc => write_grpc(response, self.grpc_status, &reply),
            Some(response) => write_http(response, kind, reply),
            None => Body::Empty,
        }
    }
}

/// Makes the response one to a gRPC call, of trailers only.
fn write_grpc(response: &mut ResponseHead, status: Option<u8>, reply: &RewrittenBody<'_>) -> Body {
    let status = status.unwrap_or_else(|| grpc::status_of(response.status));
    response.status = StatusCode::OK;
    let headers = &mut response.headers;
    headers.insert(
        &header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert(&header::GRPC_STATUS, HeaderValue::from(u16::from(status)));
    // JSON ends with a newline. As in Envoy, it stays if the content type is not the usual one.
    let is_json = reply.content_type == "application/json";
    let line = reply.body.strip_suffix(b"\n").filter(|_| is_json);
    let text = line.unwrap_or(&reply.body);
    if !text.is_empty() {
        headers.insert(&header::GRPC_MESSAGE, grpc::encode_message(text));
    }
    Body::Empty
}

/// Adds the headers that describe the body. `kind` is the content type that the route gives it.
fn write_http(
    response: &mut ResponseHead,
    kind: Option<HeaderValue>,
    reply: RewrittenBody<'_>,
) -> Body {
    let headers = &mut response.headers;
    if reply.body.is_empty() {
        headers.remove(&header::CONTENT_LENGTH);
        headers.remove(&header::CONTENT_TYPE);
        return Body::Empty;
    }
    headers.insert(&header::CONTENT_LENGTH, HeaderValue::from(reply.body.len()));
    let by_format = HeaderValue::try_from(reply.content_type).ok();
    match (kind, by_format) {
        (_, Some(by_format)) if reply.sets_content_type => {
            headers.insert(&header::CONTENT_TYPE, by_format);
        }
        (Some(kind), _) => headers.insert(&header::CONTENT_TYPE, kind),
        (None, by_format) => {
            let plain = HeaderValue::from_static("text/plain");
            headers.insert_if_absent(&header::CONTENT_TYPE, by_format.unwrap_or(plain));
        }
    }
    Body::full(reply.body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn shown(reply: LocalReply, is_grpc: bool) -> Vec<String> {
        let mut stream = testing::stream();
        stream.is_grpc = is_grpc;
        let _ = reply.write(&mut stream, None);
        let response = stream.response.unwrap();
        let headers = response.headers.iter();
        let headers = headers.map(|(name, value)| format!("{name}: {}", value.as_str().unwrap()));
        std::iter::once(response.status.as_str().to_owned())
            .chain(headers)
            .collect()
    }

    #[test]
    fn answers_http_with_text_and_grpc_with_trailers_only() {
        let reply = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "x")
            .header(
                header::X_ENVOY_OVERLOADED.clone(),
                HeaderValue::from_static("true"),
            )
            .body("overflow 100%");
        assert_eq!(
            shown(reply.clone(), false),
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
        assert_eq!(shown(reply, true), want);
    }

    #[test]
    fn keeps_a_content_type_only_with_a_body() {
        let json = HeaderValue::from_static("application/json");
        let reply = LocalReply::new(StatusCode::OK, "x").header(&header::CONTENT_TYPE, json);
        assert_eq!(shown(reply.clone(), false), ["200"]);
        assert!(
            shown(reply.body("{}"), false).contains(&"content-type: application/json".to_owned())
        );
    }

    #[test]
    fn an_explicit_grpc_status_is_used() {
        let reply = LocalReply {
            grpc_status: Some(4),
            ..LocalReply::new(StatusCode::GATEWAY_TIMEOUT, "max_duration_timeout")
        };
        assert!(shown(reply, true).contains(&"grpc-status: 4".to_owned()));
    }
}
