//! TLS without sockets: what a context of the config means to `rustls`, which certificates there are, how a peer is
//! verified, and what is known of it. `net` moves the bytes.

mod certificate;
mod client;
mod failure;
mod info;
mod parameters;
mod peer;
mod provider;
mod report;
mod sans;
mod secrets;
mod server;
mod stats;
mod validation;
mod verifier;

pub use certificate::Certificate;
pub use client::ClientContext;
pub use client::ClientSession;
pub use failure::Check;
pub use failure::Failure;
pub use failure::VerifyFailure;
pub use failure::is_told;
pub use info::TlsInfo;
pub use peer::PeerCertificate;
pub use report::Report;
pub use report::take_report;
pub use secrets::Secrets;
pub use server::ServerContext;
pub use stats::ContextStats;
pub use stats::SslStats;
pub use stats::WorkerSsl;

pub use rustls;
