//! Resources that come from outside the bootstrap: clusters, listeners, routes and endpoints.
//!
//! A [`FileSource`] says where they come from, a [`FileSubscription`] reads them and waits for the file to be replaced, and
//! [`UpdateStats`] count the outcomes. The crate that uses the resources decodes and applies them.

mod file;
mod secrets;
mod source;
mod sources;
mod stats;

pub use file::FileSubscription;
pub use secrets::DumpedSecret;
pub use secrets::SecretDump;
pub use secrets::SecretManager;
pub use secrets::check_secret_sources;
pub use source::FileSource;
pub use sources::FileSources;
pub use stats::UpdateStats;
