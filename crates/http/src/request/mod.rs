//! Changes that the connection manager makes to a request's head before any filter sees it.

mod client_cert;
pub(crate) mod early_header_mutation;
mod forwarding;
mod host;
mod id;
pub(crate) mod original_ip;
mod path;

pub(crate) use client_cert::ClientCert;
pub(crate) use forwarding::Forwarding;
pub(crate) use forwarding::InternalAddresses;
pub(crate) use forwarding::Origin;
pub(crate) use forwarding::UserAgent;
pub(crate) use forwarding::append_value;
pub(crate) use host::HostOptions;
pub(crate) use host::StripPort;
pub(crate) use host::port;
pub(crate) use original_ip::DetectOriginalIp;
pub(crate) use path::EscapedSlashes;
pub(crate) use path::Normalized;
pub(crate) use path::PathOptions;
pub use path::normalize_and_merge;
