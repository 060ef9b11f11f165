//! HTTP/2, both roles, on the `h2` crate: the crate keeps the protocol's state, this module gives it sockets, limits,
//! time, stats and Envoy's policy.

pub(crate) mod client;
mod exchange;
mod headers;
mod keepalive;
mod pump;
mod recv;
pub(crate) mod respond;
pub(crate) mod server;
mod streams;
mod watch;

pub(crate) use exchange::Exchange;
pub(crate) use recv::RecvBody;

use h2::Reason;

use crate::StreamError;

/// Bytes of a frame's head.
const FRAME_HEAD: usize = 9;

/// What an error of the `h2` crate means for the stream that met it.
fn stream_error(error: &h2::Error) -> StreamError {
    match error.reason() {
        Some(Reason::REFUSED_STREAM) => StreamError::RemoteRefused,
        // Only streams that the peer says it has not looked at meet its GOAWAY.
        Some(_) if error.is_go_away() && error.is_remote() => StreamError::RemoteRefused,
        Some(reason) if error.is_reset() && error.is_remote() => StreamError::RemoteReset(reason),
        Some(_) if error.is_reset() && error.is_library() => {
            StreamError::ProtocolError("http2.violation.of.messaging.rule")
        }
        Some(_) if error.is_go_away() && error.is_library() => {
            StreamError::ProtocolError("http2.protocol_error")
        }
        Some(_) | None => StreamError::ConnectionTermination,
    }
}
