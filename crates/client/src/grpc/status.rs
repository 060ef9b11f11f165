//! How a call ended.

use std::borrow::Cow;
use std::fmt;

use outrider_codec::HeaderMap;
use outrider_codec::header;

use super::headers;
use crate::CallFailure;

/// A `grpc-status`, which may be one that gRPC does not define.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub u32);

impl Code {
    /// Success.
    pub const OK: Code = Code(0);
    /// The caller or the server cancelled the call.
    pub const CANCELLED: Code = Code(1);
    /// No usable status.
    pub const UNKNOWN: Code = Code(2);
    /// A message is too long.
    pub const RESOURCE_EXHAUSTED: Code = Code(8);
    /// The server broke the protocol.
    pub const INTERNAL: Code = Code(13);
    /// The server cannot be reached.
    pub const UNAVAILABLE: Code = Code(14);
}

/// How a call ended that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// `grpc-status`
    pub code: Code,
    /// `grpc-message`, or the proxy's own text.
    pub message: String,
    /// Where the status came from, as `%RESPONSE_CODE_DETAILS%` of the call; empty if no call was made.
    pub details: Cow<'static, str>,
}

impl Status {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Status {
        Status {
            code,
            message: message.into(),
            details: Cow::Borrowed("via_upstream"),
        }
    }

    /// The status in the trailers of a response, or in its head if that is all.
    pub(super) fn from_headers(headers: &HeaderMap) -> Status {
        let code = headers.get(&header::GRPC_STATUS);
        let code = code.and_then(|code| code.as_str()?.parse().ok());
        let message = headers.get(&header::GRPC_MESSAGE);
        let message = message.map(|message| headers::decode_message(message.as_bytes()));
        Status::new(
            code.map_or(Code::UNKNOWN, Code),
            message.unwrap_or_default(),
        )
    }
}

/// Envoy turns a reply of its own router into a status as if the service had sent it.
impl From<CallFailure> for Status {
    fn from(failure: CallFailure) -> Status {
        let (code, message, details) = match failure {
            CallFailure::UnknownCluster => {
                let text = Cow::Borrowed("Cluster not available");
                (Code::UNAVAILABLE, text, Cow::Borrowed(""))
            }
            CallFailure::NoResponse {
                status,
                text,
                details,
            } => (Code(headers::status_of(status).into()), text, details),
            CallFailure::Reset { details } => (Code::INTERNAL, Cow::Borrowed(""), details),
            CallFailure::TooLarge => return Status::new(Code::RESOURCE_EXHAUSTED, ""),
        };
        Status {
            code,
            message: message.into_owned(),
            details,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.code.0)?;
        if self.message.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for Status {}
