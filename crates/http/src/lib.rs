//! The HTTP connection manager: from a decoded request to its response.
//!
//! The codecs are in `outrider-codec`, connections to hosts in `outrider-upstream`; here is what happens between them.

pub mod access_log;
pub mod format;
mod response_flags;
pub mod route;
mod stream;

pub use response_flags::ResponseFlag;
pub use response_flags::ResponseFlags;
pub use stream::Capture;
pub use stream::RequestHead;
pub use stream::ResponseHead;
pub use stream::Stream;
pub use stream::Traffic;
pub use stream::Upstream;
