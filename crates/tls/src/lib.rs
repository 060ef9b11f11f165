//! TLS without sockets: turns the TLS contexts of the config into `rustls` configurations, loads certificates, verifies
//! peers, and describes established connections. `net` moves the bytes.

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
mod transport_socket;
mod validation;
mod verifier;

pub use certificate::Certificate;
pub use client::ClientContext;
pub use client::ClientSession;
pub use failure::Check;
pub use failure::TlsFailure;
pub use failure::VerifyFailure;
pub use failure::sends_alert;
pub use info::TlsInfo;
pub use peer::PeerCertificate;
pub use report::Report;
pub use report::take_report;
pub use secrets::Secrets;
pub use server::ServerContext;
pub use stats::ContextStats;
pub use stats::SslStats;
pub use stats::WorkerSsl;
pub use transport_socket::tls_settings;

pub use rustls;
