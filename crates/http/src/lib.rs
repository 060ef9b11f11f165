//! The HTTP connection manager: from a decoded request to its response.
//!
//! The codecs are in `outrider-codec` and the connections to hosts in `outrider-upstream`; this crate handles each
//! request between the two.

pub mod access_log;
#[cfg(test)]
#[path = "../../../budgets.rs"]
mod budgets;
mod build;
mod date;
mod deadlines;
mod dynamic_host;
pub mod filters;
pub mod format;
mod local_reply;
mod local_reply_config;
pub mod manager;
mod names;
mod rate_limits;
mod read_ahead_body;
mod request;
mod response;
mod response_flags;
pub mod route;
pub mod router;
mod stats;
mod stream;
#[cfg(test)]
mod testing;
mod tracing;
mod upgrade;
mod wait;

use outrider_client::grpc;

pub use build::BuildCx;
pub use local_reply::LocalReply;
pub use manager::ConnectionManager;
pub use manager::ConnectionManagerConfig;
pub use manager::RdsConfig;
pub use outrider_codec::RequestHead;
pub use request::normalize_and_merge;
pub use response_flags::ResponseFlag;
pub use response_flags::ResponseFlags;
pub use stats::ListenerHttpStats;
pub use stats::ManagerStats;
pub use stats::TracingStats;
pub use stream::Capture;
pub use stream::Captures;
pub use stream::Stream;
pub use stream::Traffic;
pub use stream::UpstreamInfo;
pub use tracing::Tracers;
