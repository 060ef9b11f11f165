//! The tags and events of a span at its end, under Envoy's names.

use std::borrow::Cow;
use std::time::SystemTime;

use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::header;
use outrider_net::Address;
use tokio::time::Instant;

use super::TracingConfig;
use super::span::Span;
use crate::ResponseFlags;
use crate::Stream;
use crate::Traffic;
use crate::format::protocol_name;
use crate::grpc;
use crate::router;
use crate::router::UpstreamRequest;

/// Completes the span of a request that has ended.
pub(super) fn finish_request(span: &mut Span, stream: &Stream, config: &TracingConfig) {
    request_tags(span, stream, config.max_path_tag_length);
    push(
        span,
        "request_size",
        stream.traffic.body_received.to_string(),
    );
    push(span, "response_size", stream.traffic.body_sent.to_string());
    let status = stream.response.as_ref().map(|head| head.status.as_u16());
    common_tags(span, stream, status, &stream.flags);
    let response = stream.response.as_ref().map(|head| &head.headers);
    let trailers = stream.response_trailers.as_ref();
    grpc_response_tags(span, response.into_iter().chain(trailers));
    if config.verbose {
        let upstream = stream.upstream.as_ref().map(|upstream| &upstream.traffic);
        events(span, stream, Some(&stream.traffic), upstream);
    }
    finish(span, stream, status);
}

/// Completes the span of a request to a host.
pub(super) fn finish_attempt(
    span: &mut Span,
    stream: &Stream,
    request: &UpstreamRequest,
    config: &TracingConfig,
) {
    let mut flags = ResponseFlags::default();
    if let Some(error) = request.error() {
        push(span, "error", "true");
        push(span, "error.reason", error.to_string());
        flags.set(router::flag(&error));
    } else if !request.is_complete() {
        push(span, "canceled", "true");
    }
    push(span, "http.protocol", protocol_name(request.protocol()));
    let address = request.host().address().to_string();
    push(span, "upstream_address", address.clone());
    push(span, "peer.address", address);
    let head = request.kept_head();
    let status = head.as_ref().map(|head| head.status.as_u16());
    common_tags(span, stream, status, &flags);
    let head = head.as_ref().map(|head| &head.headers);
    let trailers = request.trailers();
    let trailers = trailers.as_ref().or(stream.response_trailers.as_ref());
    grpc_response_tags(span, head.into_iter().chain(trailers));
    if config.verbose {
        events(span, stream, None, request.traffic().as_ref());
    }
    finish(span, stream, status);
}

/// The tags about the request itself.
fn request_tags(span: &mut Span, stream: &Stream, max_path_length: usize) {
    let headers = &stream.request.headers;
    let text = |name: &HeaderName| headers.get(name).map(text_of);
    let or_dash = |name| text(name).unwrap_or(Cow::Borrowed("-"));
    if let Some(id) = text(&header::X_REQUEST_ID) {
        push(span, "guid:x-request-id", id);
    }
    push(span, "http.url", url(stream, max_path_length));
    push(
        span,
        "http.method",
        stream.request.method.as_str().to_owned(),
    );
    let cluster = or_dash(&header::X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER);
    push(span, "downstream_cluster", cluster);
    push(span, "user_agent", or_dash(&header::USER_AGENT));
    push(span, "http.protocol", protocol_name(Some(stream.protocol)));
    push(span, "peer.address", host_of(&stream.connection.remote));
    if let Some(id) = text(&header::X_CLIENT_TRACE_ID) {
        push(span, "guid:x-client-trace-id", id);
    }
    if grpc::is_request(headers) {
        push(span, "grpc.path", stream.request.path().to_owned());
        push(span, "grpc.authority", stream.request.host().to_owned());
        let names = [
            ("grpc.content_type", &header::CONTENT_TYPE),
            ("grpc.timeout", &header::GRPC_TIMEOUT),
        ];
        for (tag, name) in names {
            if let Some(value) = text(name) {
                push(span, tag, value);
            }
        }
    }
}

/// The tags that all spans have.
fn common_tags(span: &mut Span, stream: &Stream, status: Option<u16>, flags: &ResponseFlags) {
    push(span, "component", "proxy");
    if let Some(upstream) = &stream.upstream {
        push(span, "upstream_cluster", upstream.cluster_raw.to_string());
        push(span, "upstream_cluster.name", upstream.cluster.to_string());
    }
    push(span, "http.status_code", status.unwrap_or(0).to_string());
    push(span, "response_flags", flags.to_string());
}

/// The tags of a gRPC response, whose status is in the first of these headers that has one.
fn grpc_response_tags<'h>(span: &mut Span, mut headers: impl Iterator<Item = &'h HeaderMap>) {
    let found = headers.find(|headers| headers.contains_key(&header::GRPC_STATUS));
    let Some((headers, status)) = found.and_then(|headers| {
        let status = headers.get(&header::GRPC_STATUS)?;
        Some((headers, status))
    }) else {
        return;
    };
    push(span, "grpc.status_code", text_of(status));
    if let Some(message) = headers.get(&header::GRPC_MESSAGE) {
        push(span, "grpc.message", text_of(message));
    }
    if grpc::is_server_error(status) {
        span.set_tag("error", "true");
    }
}

/// What each span gets last: the tags of the configuration and the mark of an error.
fn finish(span: &mut Span, stream: &Stream, status: Option<u16>) {
    if let Some(trace) = &stream.trace {
        for tag in trace.custom_tags(stream) {
            tag.set(stream, span);
        }
    }
    if status.is_none_or(|status| status >= 500) {
        span.set_tag("error", "true");
    }
}

/// The times of a request's parts.
fn events(
    span: &mut Span,
    stream: &Stream,
    downstream: Option<&Traffic>,
    upstream: Option<&Traffic>,
) {
    let mut event = |at: Option<Instant>, name| {
        if let Some(at) = at {
            span.events.push((wall(stream, at), name));
        }
    };
    if let Some(traffic) = downstream {
        event(traffic.last_received, "last_downstream_rx_byte_received");
    }
    if let Some(traffic) = upstream {
        event(traffic.first_sent, "first_upstream_tx_byte_sent");
        event(traffic.last_sent, "last_upstream_tx_byte_sent");
        event(traffic.first_received, "first_upstream_rx_byte_received");
        event(traffic.last_received, "last_upstream_rx_byte_received");
    }
    if let Some(traffic) = downstream {
        event(traffic.first_sent, "first_downstream_tx_byte_sent");
        event(traffic.last_sent, "last_downstream_tx_byte_sent");
    }
}

/// The wall clock's time at a moment of the stream.
pub(super) fn wall(stream: &Stream, at: Instant) -> SystemTime {
    let since = at.saturating_duration_since(stream.started);
    let told = stream.start_time.checked_add(since);
    told.unwrap_or(stream.start_time)
}

/// The URL that the client asked for; of its path at most `max_path_length` bytes.
fn url(stream: &Stream, max_path_length: usize) -> String {
    let request = &stream.request;
    let headers = &request.headers;
    let original = headers.get(&header::X_ENVOY_ORIGINAL_PATH);
    let path = match original {
        Some(path) => text_of(path),
        None if request.path.is_none() => return String::new(),
        None => Cow::Owned(
            request
                .path
                .as_ref()
                .map_or("", |path| path.as_str())
                .to_owned(),
        ),
    };
    let mut end = max_path_length.min(path.len());
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    let proto = headers.get(&header::X_FORWARDED_PROTO).map(text_of);
    let (proto, path) = (
        proto.unwrap_or_default(),
        path.get(..end).unwrap_or_default(),
    );
    format!("{proto}://{}{path}", request.host())
}

fn push(span: &mut Span, name: &'static str, value: impl Into<Cow<'static, str>>) {
    span.tags.push((Cow::Borrowed(name), value.into()));
}

fn text_of(value: &HeaderValue) -> Cow<'static, str> {
    Cow::Owned(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// An address without its port.
fn host_of(address: &Address) -> String {
    match address.ip() {
        Some(address) => address.ip().to_string(),
        None => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_url_is_cut_in_its_path() {
        let mut stream = testing::stream();
        let headers = &mut stream.request.headers;
        headers.insert(&header::X_FORWARDED_PROTO, HeaderValue::from_static("http"));
        stream.request.authority = Some(HeaderValue::from_static("shop.example"));
        stream.request.path = Some(outrider_codec::Target::from_static("/a/long/path?query"));
        assert_eq!(url(&stream, 256), "http://shop.example/a/long/path?query");
        assert_eq!(url(&stream, 7), "http://shop.example/a/long");
        let original = HeaderValue::from_static("/before");
        let headers = &mut stream.request.headers;
        headers.insert(&header::X_ENVOY_ORIGINAL_PATH, original);
        assert_eq!(url(&stream, 256), "http://shop.example/before");
        stream
            .request
            .headers
            .remove(&header::X_ENVOY_ORIGINAL_PATH);
        stream.request.path = None;
        assert_eq!(url(&stream, 256), "");
    }
}
