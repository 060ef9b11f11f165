//! Resources that come from outside the bootstrap: clusters, listeners, routes and endpoints.
//!
//! A [`FileSource`] says where they come from, a [`FileSubscription`] reads them and waits for the file to be replaced, and
//! [`UpdateStats`] count what came of it. What a resource means is for its user to know.

mod file;
mod source;
mod sources;
mod stats;

pub use file::FileSubscription;
pub use source::FileSource;
pub use sources::FileSources;
pub use stats::UpdateStats;
