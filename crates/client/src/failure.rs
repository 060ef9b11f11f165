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
    },
    /// The response began, and did not end.
    Reset,
    /// The response's body is longer than allowed.
    TooLarge,
}

impl CallFailure {
    pub(crate) fn no_healthy_upstream() -> CallFailure {
        CallFailure::unavailable("no healthy upstream")
    }

    pub(crate) fn maintenance() -> CallFailure {
        CallFailure::unavailable("maintenance mode")
    }

    pub(crate) fn timeout() -> CallFailure {
        CallFailure::NoResponse {
            status: StatusCode::GATEWAY_TIMEOUT,
            text: Cow::Borrowed("upstream request timeout"),
        }
    }

    pub(crate) fn max_stream_duration() -> CallFailure {
        CallFailure::NoResponse {
            status: StatusCode::GATEWAY_TIMEOUT,
            text: Cow::Borrowed("upstream max stream duration reached"),
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
        }
    }

    fn unavailable(text: &'static str) -> CallFailure {
        CallFailure::NoResponse {
            status: StatusCode::SERVICE_UNAVAILABLE,
            text: Cow::Borrowed(text),
        }
    }
}

impl fmt::Display for CallFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallFailure::UnknownCluster => f.write_str("the cluster does not exist"),
            CallFailure::NoResponse { text, .. } => f.write_str(text),
            CallFailure::Reset => f.write_str("the response was reset"),
            CallFailure::TooLarge => f.write_str("the response is too large"),
        }
    }
}

impl std::error::Error for CallFailure {}
