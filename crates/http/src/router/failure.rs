//! The replies to requests that failed upstream: status, text, flag and details, as in Envoy.

use http::StatusCode;
use outrider_codec::HeaderValue;
use outrider_codec::Reason;
use outrider_codec::StreamError;
use outrider_codec::header;
use outrider_upstream::Cluster;
use outrider_upstream::LookupFailure;

use crate::ResponseFlag;
use crate::local_reply::LocalReply;

/// The cluster has no healthy host.
pub(super) fn no_healthy_upstream() -> LocalReply {
    LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "no_healthy_upstream")
        .body("no healthy upstream")
        .flag(ResponseFlag::NoHealthyUpstream)
}

/// The cluster has no host for the request, because the name of the host could not be looked up, or for another reason.
pub(super) fn no_host(lookup: Option<LookupFailure>, cluster: &Cluster) -> LocalReply {
    let reply = no_healthy_upstream();
    match lookup {
        None => reply,
        Some(LookupFailure::Overflow) => {
            cluster.stats().upstream_cx_none_healthy.inc();
            LocalReply {
                details: LookupFailure::OVERFLOW.into(),
                ..reply
            }
        }
        Some(LookupFailure::Failed(details)) => LocalReply {
            details: details.to_string().into(),
            ..reply
        },
    }
}

/// The cluster is in maintenance for this request.
pub(super) fn maintenance(suppress_envoy_headers: bool) -> LocalReply {
    let reply = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "maintenance_mode")
        .body("maintenance mode")
        .flag(ResponseFlag::UpstreamOverflow);
    if suppress_envoy_headers {
        return reply;
    }
    reply.header(
        &header::X_ENVOY_OVERLOADED,
        HeaderValue::from_static("true"),
    )
}

/// The request failed before a response began, and was `retried` before that or not. `transport` is the failure reason of
/// the connection, if there is one.
pub(super) fn before_response(
    error: &StreamError,
    transport: &str,
    retried: bool,
    suppress_envoy_headers: bool,
) -> LocalReply {
    let status = match error {
        StreamError::ProtocolError(_) => StatusCode::BAD_GATEWAY,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let separator = if transport.is_empty() { "" } else { "|" };
    let details =
        format!("upstream_reset_before_response_started{{{error}{separator}{transport}}}");
    let which = if retried {
        "retried and the latest reset reason"
    } else {
        "reset reason"
    };
    let body =
        format!("upstream connect error or disconnect/reset before headers. {which}: {error}");
    let reply = LocalReply::new(status, details.replace(' ', "_"))
        .body(body)
        .flag(flag(error));
    if *error == StreamError::Overflow && !suppress_envoy_headers {
        return reply.header(
            &header::X_ENVOY_OVERLOADED,
            HeaderValue::from_static("true"),
        );
    }
    reply
}

/// The request failed after an interim response. To Envoy, the response has begun with it.
pub(super) fn after_interim(error: &StreamError, suppress_envoy_headers: bool) -> LocalReply {
    LocalReply {
        details: after_response(error).into(),
        ..before_response(error, "", false, suppress_envoy_headers)
    }
}

/// Converts an error to the one that Envoy counts: a reset with PROTOCOL_ERROR is a protocol error, and a reset with
/// CONNECT_ERROR has a meaning of its own.
pub(super) fn as_counted_by_envoy(error: StreamError) -> StreamError {
    match error {
        StreamError::RemoteReset(Reason::PROTOCOL_ERROR) => {
            StreamError::ProtocolError("http2.remote_reset")
        }
        StreamError::RemoteReset(Reason::CONNECT_ERROR) => StreamError::ConnectError,
        error => error,
    }
}

/// `%RESPONSE_CODE_DETAILS%` of a response that failed after its head.
pub(crate) fn after_response(error: &StreamError) -> String {
    format!("upstream_reset_after_response_started{{{error}}}").replace(' ', "_")
}

/// The response flag of this error.
pub(crate) fn flag(error: &StreamError) -> ResponseFlag {
    match error {
        StreamError::LocalReset | StreamError::LocalRefused => ResponseFlag::LocalReset,
        StreamError::RemoteReset(_) | StreamError::RemoteRefused | StreamError::ConnectError => {
            ResponseFlag::UpstreamRemoteReset
        }
        StreamError::ConnectionFailure(_)
        | StreamError::LocalConnectionFailure(_)
        | StreamError::ConnectionTimeout => ResponseFlag::UpstreamConnectionFailure,
        StreamError::ConnectionTermination | StreamError::ConnectionAborted(_) => {
            ResponseFlag::UpstreamConnectionTermination
        }
        StreamError::Overflow => ResponseFlag::UpstreamOverflow,
        StreamError::ProtocolError(_) => ResponseFlag::UpstreamProtocolError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_and_details_are_the_same_as_envoys() {
        let reason = |error: StreamError, transport| {
            let reply = before_response(&error, transport, false, false);
            (
                reply.status.as_u16(),
                reply.flag.unwrap().short(),
                reply.details.into_owned(),
            )
        };
        assert_eq!(
            reason(StreamError::ConnectionFailure("x".into()), "delayed connect error: Connection refused"),
            (
                503,
                "UF",
                "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
                    .to_owned()
            )
        );
        let (status, flag, details) = reason(StreamError::ProtocolError("http1.codec_error"), "");
        assert_eq!((status, flag), (502, "UPE"));
        assert_eq!(
            details,
            "upstream_reset_before_response_started{protocol_error}"
        );
        let overflow = before_response(&StreamError::Overflow, "", false, false);
        assert_eq!(overflow.headers[0].0, "x-envoy-overloaded");
        assert!(
            before_response(&StreamError::Overflow, "", false, true)
                .headers
                .is_empty()
        );
    }
}
