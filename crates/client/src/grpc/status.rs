//! How a call ended.

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
}

impl Status {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Status {
        let message = message.into();
        Status { code, message }
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
        match failure {
            CallFailure::UnknownCluster => Status::new(Code::UNAVAILABLE, "Cluster not available"),
            CallFailure::NoResponse { status, text } => {
                Status::new(Code(headers::status_of(status).into()), text)
            }
            CallFailure::Reset => Status::new(Code::INTERNAL, ""),
            CallFailure::TooLarge => Status::new(Code::RESOURCE_EXHAUSTED, ""),
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
