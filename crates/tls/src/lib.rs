//! TLS without sockets: turns the TLS contexts of the config into `rustls` configurations, loads certificates, verifies
//! peers, and describes established connections. `net` moves the bytes.

mod certificate;
mod client;
mod failure;
mod files;
mod info;
mod parameters;
mod peer;
mod provider;
mod report;
mod sans;
mod secrets;
mod server;
mod sessions;
mod socket_factory;
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
pub use files::files_of;
pub use files::fingerprint;
pub use files::watched_directory;
pub use files::with_contents;
pub use info::TlsInfo;
pub use peer::PeerCertificate;
pub use report::Report;
pub use report::take_report;
pub use secrets::SecretKind;
pub use secrets::SecretReference;
pub use secrets::Secrets;
pub use secrets::StaticSecrets;
pub use server::ServerContext;
pub use socket_factory::ClientTls;
pub use socket_factory::Commit;
pub use socket_factory::ContextCertificates;
pub use socket_factory::SecretUser;
pub use socket_factory::ServerTls;
pub use socket_factory::ShownCertificate;
pub use socket_factory::SocketFactory;
pub use socket_factory::SocketFactoryStats;
pub use socket_factory::TlsContext;
pub use stats::ContextStats;
pub use stats::SslStats;
pub use stats::WorkerSsl;
pub use transport_socket::tls_settings;

pub use rustls;
