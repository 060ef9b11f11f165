//! A response's head, in the form that both codecs share.

use http::StatusCode;

use crate::HeaderMap;

/// A response head, final or interim.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// `:status`.
    pub status: StatusCode,
    /// The headers, in the order received.
    pub headers: HeaderMap,
}

/// A head without headers.
impl From<StatusCode> for ResponseHead {
    fn from(status: StatusCode) -> ResponseHead {
        ResponseHead {
            status,
            ..ResponseHead::default()
        }
    }
}

impl ResponseHead {
    /// Whether this is an interim response (1xx). 101 counts as final.
    #[must_use]
    pub fn is_interim(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }
}
