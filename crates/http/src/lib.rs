//! The HTTP connection manager: from a decoded request to its response.
//!
//! The codecs are in `outrider-codec`, connections to hosts in `outrider-upstream`; here is what happens between them.

pub mod access_log;
mod date;
mod deadlines;
pub mod format;
mod grpc;
mod local_reply;
mod names;
mod request;
mod response;
mod response_flags;
pub mod route;
mod stats;
mod stream;
#[cfg(test)]
mod testing;
mod upgrade;

pub use local_reply::LocalReply;
pub use response_flags::ResponseFlag;
pub use response_flags::ResponseFlags;
pub use stats::ListenerStats;
pub use stats::ManagerStats;
pub use stats::RouterStats;
pub use stats::TracingStats;
pub use stream::Capture;
pub use stream::Captures;
pub use stream::RequestHead;
pub use stream::ResponseHead;
pub use stream::Stream;
pub use stream::Traffic;
pub use stream::Upstream;
