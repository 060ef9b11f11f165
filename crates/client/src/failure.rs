//! Why a call failed.

use std::borrow::Cow;
use std::fmt;

use http::StatusCode;
use outrider_codec::StreamError;

/// Why a call got no complete response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallFailure {
    /// There is no cluster of this name now.
    UnknownCluster,
    /// No response began. The status and the text are those with which Envoy's router would reply, and for its own
    /// calls Envoy treats this reply as the response.
    NoResponse {
        /// 503, 504, or 502 if the host broke the protocol.
        status: StatusCode,
        /// The reason.
        text: Cow<'static, str>,
        /// The reason as `%RESPONSE_CODE_DETAILS%` of Envoy's router.
        details: Cow<'static, str>,
    },
    /// The response began, and did not end.
    Reset {
        /// The reason as `%RESPONSE_CODE_DETAILS%` of Envoy's router.
        details: Cow<'static, str>,
    },
    /// The response's body is longer than allowed.
    TooLarge,
}

impl CallFailure {
    pub(crate) fn no_healthy_upstream() -> CallFailure {
        CallFailure::unavailable("no healthy upstream", "no_healthy_upstream")
    }

    pub(crate) fn maintenance() -> CallFailure {
        CallFailure::unavailable("maintenance mode", "maintenance_mode")
    }

    pub(crate) fn timeout() -> CallFailure {
        CallFailure::NoResponse {
            status: StatusCode::GATEWAY_TIMEOUT,
            text: Cow::Borrowed("upstream request timeout"),
            details: Cow::Borrowed("response_timeout"),
        }
    }

    pub(crate) fn max_stream_duration() -> CallFailure {
        CallFailure::NoResponse {
            status: StatusCode::GATEWAY_TIMEOUT,
            text: Cow::Borrowed("upstream max stream duration reached"),
            details: Cow::Borrowed("upstream_max_stream_duration_reached"),
        }
    }

    /// The failure of a request whose response has not begun.
    pub(crate) fn of_stream(error: &StreamError) -> CallFailure {
        let text = format!(
            "upstream connect error or disconnect/reset before headers. reset reason: {error}"
        );
        CallFailure::NoResponse {
            status: match error {
                StreamError::ProtocolError(_) => StatusCode::BAD_GATEWAY,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            },
            text: Cow::Owned(text),
            details: before_response(error),
        }
    }

    /// The failure of a request whose response has begun.
    pub(crate) fn of_response(error: &StreamError) -> CallFailure {
        let details = format!("upstream_reset_after_response_started{{{error}}}");
        CallFailure::Reset {
            details: details.replace(' ', "_").into(),
        }
    }

    /// The failure of a request whose time is over after the response has begun.
    pub(crate) fn late_timeout(details: &'static str) -> CallFailure {
        CallFailure::Reset {
            details: Cow::Borrowed(details),
        }
    }

    fn unavailable(text: &'static str, details: &'static str) -> CallFailure {
        CallFailure::NoResponse {
            status: StatusCode::SERVICE_UNAVAILABLE,
            text: Cow::Borrowed(text),
            details: Cow::Borrowed(details),
        }
    }
}

/// The details of a response that did not begin.
fn before_response(error: &StreamError) -> Cow<'static, str> {
    let transport = match error {
        StreamError::ConnectionFailure(why) | StreamError::LocalConnectionFailure(why) => why,
        _ => "",
    };
    let separator = if transport.is_empty() { "" } else { "|" };
    let details =
        format!("upstream_reset_before_response_started{{{error}{separator}{transport}}}");
    details.replace(' ', "_").into()
}

impl fmt::Display for CallFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallFailure::UnknownCluster => f.write_str("the cluster does not exist"),
            CallFailure::NoResponse { text, .. } => f.write_str(text),
            CallFailure::Reset { .. } => f.write_str("the response was reset"),
            CallFailure::TooLarge => f.write_str("the response is too large"),
        }
    }
}

impl std::error::Error for CallFailure {}
