//! Translates gRPC-Web to gRPC (`envoy.filters.http.grpc_web`), in binary and in base64.

mod transcode;

use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use outrider_codec::Body;
use outrider_codec::Frame;
use outrider_codec::HeaderValue;
use outrider_codec::header;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::http::grpc_web::v3::GrpcWeb;
use outrider_config::unpack;
use prost_types::Any;

use self::transcode::DecodedRequest;
use self::transcode::EncodedResponse;
use super::FilterBuildCx;
use super::FilterCx;
use super::FilterFactory;
use super::FilterStatus;
use super::FilterWait;
use super::FilterWorkerCx;
use super::HttpFilter;
use super::HttpFilterConfig;
use super::StreamSlot;
use super::grpc_stats::counters::CallCounters;
use super::grpc_stats::counters::MethodCounters;
use super::grpc_stats::counters::Methods;
use crate::Stream;
use outrider_client::grpc;

pub(super) const FACTORY: FilterFactory = FilterFactory {
    message: "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb",
    build,
    routes: None,
};

/// How much of a response that is not gRPC becomes its `grpc-message`.
const MAX_MESSAGE: usize = 16 * 1024;

fn build(
    config: &Any,
    path: &FieldPath,
    _: &FilterBuildCx<'_>,
) -> Result<Arc<dyn HttpFilterConfig>, ConfigErrors> {
    let _: GrpcWeb = unpack(config, path)?;
    Ok(Arc::new(GrpcWebConfig))
}

#[derive(Debug)]
struct GrpcWebConfig;

impl HttpFilterConfig for GrpcWebConfig {
    fn worker(self: Arc<Self>, cx: &FilterWorkerCx<'_>) -> Rc<dyn HttpFilter> {
        let methods = Methods::All {
            replace_dots: false,
        };
        Rc::new(GrpcWebFilter {
            counters: MethodCounters::new(methods, "grpc-web", cx.worker.store.clone()),
            call: cx.slot(),
        })
    }
}

/// The filter on one worker.
#[derive(Debug)]
struct GrpcWebFilter {
    counters: MethodCounters,
    call: StreamSlot<GrpcWebCall>,
}

/// A gRPC-Web call.
struct GrpcWebCall {
    /// Whether the response is in base64.
    is_text_response: bool,
    /// The counters of the method, if the call goes to a cluster.
    counters: Option<Rc<CallCounters>>,
}

/// Whether a content type is gRPC-Web's, and whether it means base64.
fn is_text(content_type: &HeaderValue) -> Option<bool> {
    match content_type.as_bytes() {
        b"application/grpc-web" | b"application/grpc-web+proto" => Some(false),
        b"application/grpc-web-text" | b"application/grpc-web-text+proto" => Some(true),
        _ => None,
    }
}

/// Whether the response already has the form of gRPC or of gRPC-Web in binary.
fn is_grpc_response(status: StatusCode, content_type: Option<&HeaderValue>) -> bool {
    let Some(content_type) = content_type.and_then(HeaderValue::as_str) else {
        return false;
    };
    let media_type = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim_end();
    status == StatusCode::OK
        && (grpc::is_content_type(content_type.as_bytes())
            || media_type.eq_ignore_ascii_case("application/grpc-web")
            || media_type.eq_ignore_ascii_case("application/grpc-web+proto"))
}

impl HttpFilter for GrpcWebFilter {
    fn on_request(&self, stream: &mut Stream, body: &mut Body, cx: &FilterCx<'_>) -> FilterStatus {
        let content_type = stream.request.headers.get(&header::CONTENT_TYPE);
        let Some(is_text_request) = content_type.and_then(is_text) else {
            return FilterStatus::Continue;
        };
        let Some(target) = &stream.request.path else {
            return FilterStatus::Continue;
        };
        let cluster = stream.upstream.as_ref().map(|upstream| &upstream.cluster);
        let counters = cluster.and_then(|cluster| self.counters.find(cluster, target.as_str()));
        let headers = &mut stream.request.headers;
        // It is the length of the client's encoding.
        headers.remove(&header::CONTENT_LENGTH);
        headers.insert(
            &header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        let accept = headers.get(&header::ACCEPT);
        let is_text_response = accept.and_then(is_text) == Some(true);
        headers.insert(&header::TE, HeaderValue::from_static("trailers"));
        headers.insert_if_absent(
            &header::GRPC_ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );
        let call = GrpcWebCall {
            is_text_response,
            counters,
        };
        self.call.set(stream, Rc::new(call));
        if is_text_request && !body.is_end_stream() {
            let decoded = DecodedRequest::new(std::mem::take(body), cx.late_reply());
            *body = Body::wrap(decoded);
        }
        FilterStatus::Continue
    }

    fn on_response(&self, stream: &mut Stream, body: &mut Body, _: &FilterCx<'_>) -> FilterStatus {
        let Some(call) = self.call.share(stream) else {
            return FilterStatus::Continue;
        };
        let Some(response) = &mut stream.response else {
            return FilterStatus::Continue;
        };
        let headers = &mut response.headers;
        if let Some(counters) = &call.counters {
            counters.stats.count(headers.get(&header::GRPC_STATUS));
        }
        let is_grpc = is_grpc_response(response.status, headers.get(&header::CONTENT_TYPE));
        headers.remove(&header::CONTENT_LENGTH);
        let content_type = match call.is_text_response {
            true => "application/grpc-web-text+proto",
            false => "application/grpc-web+proto",
        };
        headers.insert(
            &header::CONTENT_TYPE,
            HeaderValue::from_static(content_type),
        );
        if body.is_end_stream() {
            return FilterStatus::Continue;
        }
        if !is_grpc {
            return FilterStatus::Wait;
        }
        let upstream = stream.upstream.as_ref();
        let upstream = upstream.and_then(|upstream| upstream.request.clone());
        let counters = call.counters.clone();
        let encoded = EncodedResponse::new(
            std::mem::take(body),
            call.is_text_response,
            counters,
            upstream,
        );
        *body = Body::wrap(encoded);
        FilterStatus::Continue
    }

    /// The text of a response that is not gRPC becomes the message of the call's status.
    fn wait_on_response<'a>(
        &'a self,
        stream: &'a mut Stream,
        body: &'a mut Body,
        _: &'a FilterCx<'a>,
    ) -> FilterWait<'a> {
        Box::pin(async move {
            let mut message = Vec::new();
            while let Some(Ok(frame)) = body.frame().await {
                match frame {
                    Frame::Data(data) => {
                        let room = MAX_MESSAGE.saturating_sub(message.len());
                        message.extend(data.iter().take(room));
                    }
                    Frame::Trailers(trailers) => {
                        let call = self.call.get(stream);
                        if let Some(counters) = call.and_then(|call| call.counters.as_ref()) {
                            counters.stats.count(trailers.get(&header::GRPC_STATUS));
                        }
                        break;
                    }
                }
            }
            *body = Body::Empty;
            if let Some(response) = &mut stream.response {
                let status = grpc::status_of(response.status);
                let headers = &mut response.headers;
                let message = grpc::encode_message(&message);
                headers.insert(&header::GRPC_MESSAGE, message);
                headers.insert(&header::GRPC_STATUS, HeaderValue::from(u16::from(status)));
                headers.insert(&header::CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
            Ok(())
        })
    }
}
