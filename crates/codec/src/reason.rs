//! HTTP/2 error codes: why a peer ended a stream or a connection (RFC 9113, section 7).

use std::fmt;

/// An error code of RST_STREAM or GOAWAY.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reason(u32);

impl Reason {
    /// No error.
    pub const NO_ERROR: Reason = Reason(0x0);
    /// A protocol error that no other code describes.
    pub const PROTOCOL_ERROR: Reason = Reason(0x1);
    /// The sender had an internal error.
    pub const INTERNAL_ERROR: Reason = Reason(0x2);
    /// The peer sent more than the window allows.
    pub const FLOW_CONTROL_ERROR: Reason = Reason(0x3);
    /// SETTINGS were not acknowledged in time.
    pub const SETTINGS_TIMEOUT: Reason = Reason(0x4);
    /// A frame arrived for a half-closed or closed stream.
    pub const STREAM_CLOSED: Reason = Reason(0x5);
    /// A frame has a length that its type does not allow.
    pub const FRAME_SIZE_ERROR: Reason = Reason(0x6);
    /// The stream was refused before any processing.
    pub const REFUSED_STREAM: Reason = Reason(0x7);
    /// The stream is no longer needed.
    pub const CANCEL: Reason = Reason(0x8);
    /// A header block cannot be decompressed.
    pub const COMPRESSION_ERROR: Reason = Reason(0x9);
    /// The connection opened by a CONNECT request failed.
    pub const CONNECT_ERROR: Reason = Reason(0xa);
    /// The peer causes too much load.
    pub const ENHANCE_YOUR_CALM: Reason = Reason(0xb);
    /// The transport is not secure enough.
    pub const INADEQUATE_SECURITY: Reason = Reason(0xc);
    /// HTTP/1.1 is required instead.
    pub const HTTP_1_1_REQUIRED: Reason = Reason(0xd);

    /// The code on the wire.
    #[must_use]
    pub fn code(self) -> u32 {
        self.0
    }

    fn name(self) -> Option<&'static str> {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        NAMES.get(usize::try_from(self.0).ok()?).copied()
    }
}

/// Accepts any code, also those that no RFC defines.
impl From<u32> for Reason {
    fn from(code: u32) -> Reason {
        Reason(code)
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "Reason({:#x})", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_names_of_the_rfc() {
        assert_eq!(
            format!("{:?}", Reason::HTTP_1_1_REQUIRED),
            "HTTP_1_1_REQUIRED"
        );
        assert_eq!(Reason::from(8), Reason::CANCEL);
        assert_eq!(format!("{:?}", Reason::from(77)), "Reason(0x4d)");
    }
}
