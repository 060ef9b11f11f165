//! Why a stream or a connection ended, in Envoy's terms.

use std::fmt;

use crate::Reason;

/// Why a stream ended before its messages were complete. `Display` gives the phrase that Envoy puts after `reset
/// reason: `.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// This side reset the stream.
    LocalReset,
    /// This side refused the stream before any of it was processed.
    LocalRefused,
    /// The peer reset the stream.
    RemoteReset(Reason),
    /// The peer did not process the stream: it sent `REFUSED_STREAM`, or a GOAWAY with a lower last stream. Safe to
    /// retry.
    RemoteRefused,
    /// The connection could not be established, or failed immediately; with the reason.
    ConnectionFailure(String),
    /// This side could not open the connection; with the reason.
    LocalConnectionFailure(String),
    /// The connection was not established in time.
    ConnectionTimeout,
    /// The connection was closed while the stream was open.
    ConnectionTermination,
    /// This side ended the connection on purpose; the text is for `%RESPONSE_CODE_DETAILS%`.
    ConnectionAborted(&'static str),
    /// A circuit breaker or the connection's own stream limit was reached.
    Overflow,
    /// The peer refused a CONNECT request.
    ConnectError,
    /// The peer sent invalid HTTP. The text is Envoy's name for the error, such as `http1.codec_error`.
    ProtocolError(&'static str),
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StreamError::LocalReset => "local reset",
            StreamError::LocalRefused => "local refused stream reset",
            StreamError::RemoteReset(_) => "remote reset",
            StreamError::RemoteRefused => "remote refused stream reset",
            StreamError::ConnectionFailure(_) => "remote connection failure",
            StreamError::LocalConnectionFailure(_) => "local connection failure",
            StreamError::ConnectionTimeout => "connection timeout",
            StreamError::ConnectionTermination | StreamError::ConnectionAborted(_) => {
                "connection termination"
            }
            StreamError::Overflow => "overflow",
            StreamError::ConnectError => "remote error with CONNECT request",
            StreamError::ProtocolError(_) => "protocol error",
        })
    }
}

impl std::error::Error for StreamError {}

/// How a connection ended, for its owner's counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionEnd {
    /// Who ended it, and why.
    pub cause: EndCause,
    /// Streams that were still open.
    pub active_streams: usize,
}

/// Who ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndCause {
    /// The peer closed or reset it.
    Remote,
    /// The peer closed the connection in the middle of a response, which is a protocol error.
    IncompleteResponse,
    /// This side closed it: it drained, was idle, or was told to close.
    Local,
    /// This side closed it because the peer broke the protocol. The text is Envoy's name for the error.
    ProtocolError(&'static str),
    /// This side closed it because a keepalive ping was not answered in time.
    KeepaliveTimeout,
}

impl EndCause {
    /// Whether this side closed the connection (`…_cx_destroy_local`).
    #[must_use]
    pub fn is_local(self) -> bool {
        !matches!(self, EndCause::Remote | EndCause::IncompleteResponse)
    }

    /// Whether the peer broke the protocol (`…_cx_protocol_error`).
    #[must_use]
    pub fn is_protocol_error(self) -> bool {
        matches!(
            self,
            EndCause::IncompleteResponse | EndCause::ProtocolError(_)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_displayed_as_envoys_reset_reasons() {
        let cases = [
            (StreamError::RemoteReset(Reason::CANCEL), "remote reset"),
            (StreamError::RemoteRefused, "remote refused stream reset"),
            (
                StreamError::ConnectionFailure("refused".into()),
                "remote connection failure",
            ),
            (StreamError::ProtocolError("x"), "protocol error"),
        ];
        for (error, text) in cases {
            assert_eq!(error.to_string(), text);
        }
    }
}
