//! The admin server: one table of endpoints.
//!
//! [`Admin`] answers on the main thread. It sees the rest of the process through [`ServerControl`], and reads stats
//! from the store. It speaks HTTP through `hyper` and not through the data path's codec, so that it stays reachable if
//! the data path has a fault.

mod config;
mod connection;
mod control;
mod endpoints;
mod exchange;
mod listener;
mod process;
mod refusal;
mod request;
mod request_body;
mod response;
mod socket;
mod stats;

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use outrider_net::ConnectionLimits;
use outrider_stats::Store;

pub use config::AdminConfig;
pub use control::ConfigDump;
pub use control::DrainListeners;
pub use control::DumpedMessage;
pub use control::DynamicDump;
pub use control::DynamicListener;
pub use control::FailedUpdate;
pub use control::ListenerView;
pub use control::ReloadResponse;
pub use control::RuntimeView;
pub use control::SecretsDump;
pub use control::ServerControl;
pub use control::ServerInfo;
pub use control::ServerState;
pub use control::UnreadyTargets;
pub use control::VersionedMessage;
pub use listener::AdminListener;
pub use listener::serve;
pub use process::ListenerManagerStats;
pub use process::ProcessStats;
pub use process::RuntimeStats;
pub use process::ServerStats;
pub use process::allocated_memory;
pub use request::AdminRequest;
pub use request::AdminRequestHead;
pub use request::RequestFailure;

/// The admin server. A process has one, on the main thread.
pub struct Admin {
    config: AdminConfig,
    store: Arc<Store>,
    control: Rc<dyn ServerControl>,
    access_log: Box<dyn Fn(&AdminRequest)>,
    limits: ConnectionLimits,
    stats: stats::AdminStats,
}

impl Admin {
    /// An admin server that shows `store`, and shows and controls the rest of the process through `control`.
    pub fn new(config: AdminConfig, store: Arc<Store>, control: Rc<dyn ServerControl>) -> Self {
        Self {
            config,
            stats: stats::AdminStats::new(&store),
            store,
            control,
            access_log: Box::new(|_| {}),
            limits: ConnectionLimits::default(),
        }
    }

    /// Calls `log` when a request ends (`admin.access_log`).
    #[must_use]
    pub fn with_access_log(mut self, log: Box<dyn Fn(&AdminRequest)>) -> Self {
        self.access_log = log;
        self
    }

    /// Sets the limits; connections over them are closed.
    #[must_use]
    pub fn with_limits(mut self, limits: ConnectionLimits) -> Self {
        self.limits = limits;
        self
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
