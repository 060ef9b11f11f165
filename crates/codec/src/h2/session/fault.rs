//! Why a connection ends before its time, and what that is to its owner and to its streams.

use crate::EndCause;
use crate::Reason;
use crate::StreamError;

use super::super::limits::Flood;
use super::Role;

/// How Envoy words the end of a stream that its connection's codec took along.
const CODEC_ERROR: &str = "codec_error:The_user_callback_function_failed";

/// Why a connection must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::h2) enum Fault {
    /// The peer broke the protocol where Envoy says so by a GOAWAY.
    GoAway(Reason),
    /// The peer broke the protocol where Envoy closes without a word.
    Silent,
    /// The peer passed a limit.
    Flood(Flood),
    /// A ping was not answered.
    KeepaliveTimeout,
    /// The socket failed, or the peer closed it.
    Gone,
}

impl Fault {
    /// The end of the connection, as its owner counts it.
    pub(in crate::h2) fn cause(self, role: Role) -> EndCause {
        match (self, role) {
            (Fault::GoAway(_) | Fault::Silent, _) => EndCause::ProtocolError(CODEC_ERROR),
            // Envoy counts a flood as no error of the protocol, on servers.
            (Fault::Flood(_), Role::Server) => EndCause::Local,
            (Fault::Flood(flood), Role::Client) => EndCause::ProtocolError(flood.details()),
            (Fault::KeepaliveTimeout, _) => EndCause::KeepaliveTimeout,
            (Fault::Gone, _) => EndCause::Remote,
        }
    }

    /// Whether the peer may be given time to read our last words.
    pub(in crate::h2) fn has_last_words(self) -> bool {
        match self {
            Fault::GoAway(_) | Fault::Silent => true,
            // A peer by which frames pile up does not read.
            Fault::Flood(flood) => !flood.is_outbound(),
            Fault::KeepaliveTimeout | Fault::Gone => false,
        }
    }

    pub(super) fn stream_error(self) -> StreamError {
        match self {
            Fault::GoAway(_) | Fault::Silent => StreamError::ProtocolError(CODEC_ERROR),
            Fault::Flood(flood) => StreamError::ProtocolError(flood.details()),
            Fault::KeepaliveTimeout | Fault::Gone => StreamError::ConnectionTermination,
        }
    }
}
