//! Why a connection ends prematurely, and what this means for its owner and its streams.

use crate::EndCause;
use crate::Reason;
use crate::StreamError;

use super::super::limits::Flood;
use super::Role;

/// Envoy's error text for streams that end because their connection's codec failed.
const CODEC_ERROR: &str = "codec_error:The_user_callback_function_failed";

/// Why a connection must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::h2) enum Fault {
    /// The peer broke the protocol, and Envoy sends a GOAWAY.
    GoAway(Reason),
    /// The peer broke the protocol, and Envoy closes the connection without a GOAWAY.
    Close,
    /// The peer exceeded a flood limit.
    Flood(Flood),
    /// This side ended the connection on purpose; streams are told the reason.
    Aborted(&'static str),
    /// A ping was not acknowledged in time.
    KeepaliveTimeout,
    /// The socket failed, or the peer closed the connection.
    Gone,
}

impl Fault {
    /// How the connection ended, for its owner's counters.
    pub(in crate::h2) fn cause(self, role: Role) -> EndCause {
        match (self, role) {
            (Fault::GoAway(_) | Fault::Close, _) => EndCause::ProtocolError(CODEC_ERROR),
            // On servers, Envoy does not count a flood as a protocol error.
            (Fault::Flood(_), Role::Server) | (Fault::Aborted(_), _) => EndCause::Local,
            (Fault::Flood(flood), Role::Client) => EndCause::ProtocolError(flood.details()),
            (Fault::KeepaliveTimeout, _) => EndCause::KeepaliveTimeout,
            (Fault::Gone, _) => EndCause::Remote,
        }
    }

    /// Whether to wait for the peer to read the last frames before closing.
    pub(in crate::h2) fn may_wait_for_close(self) -> bool {
        match self {
            Fault::GoAway(_) | Fault::Close => true,
            // A peer whose outbound queue overflowed does not read.
            Fault::Flood(flood) => !flood.is_outbound(),
            Fault::Aborted(_) | Fault::KeepaliveTimeout | Fault::Gone => false,
        }
    }

    pub(super) fn stream_error(self) -> StreamError {
        match self {
            Fault::GoAway(_) | Fault::Close => StreamError::ProtocolError(CODEC_ERROR),
            Fault::Flood(flood) => StreamError::ProtocolError(flood.details()),
            Fault::Aborted(why) => StreamError::ConnectionAborted(why),
            Fault::KeepaliveTimeout | Fault::Gone => StreamError::ConnectionTermination,
        }
    }
}
