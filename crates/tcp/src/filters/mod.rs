//! Network filters, and the chains of them.
//!
//! A new filter is a file beside this one and an entry in [`FACTORIES`].
//!
//! The last filter of a chain is [terminal](NetworkFilterFactory::Terminal): it serves the connection to its end. Each
//! filter before it sees the connection once, when it is new and before its TLS handshake. It lets the connection pass,
//! holds it, or closes it.

mod chain;
mod http_connection_manager;

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_http::BuildCx;
use outrider_http::ConnectionManagerConfig;
use outrider_net::ConnectionHandler;
use outrider_net::DrainSignal;
use outrider_net::WorkerCx;
use outrider_upstream::Clusters;
use prost_types::Any;

use crate::tcp_proxy;

pub use chain::NetworkFilterChain;

/// All network filters.
const FACTORIES: &[Factory<NetworkFilterFactory>] =
    &[http_connection_manager::FACTORY, tcp_proxy::FACTORY];

/// Builds network filters of one kind from their message, found at the path.
#[derive(Clone, Copy)]
pub(crate) enum NetworkFilterFactory {
    /// The last of its chain.
    Terminal(Build<dyn TerminalFilterConfig>),
}

pub(crate) type Build<T> = fn(&Any, &FieldPath, &BuildCx<'_>) -> Result<Arc<T>, ConfigErrors>;

/// A terminal filter as configured, shared by all workers.
pub trait TerminalFilterConfig: fmt::Debug + Send + Sync {
    /// The filter on one worker.
    fn worker(self: Arc<Self>, cx: &FilterWorkerCx<'_>) -> Rc<dyn ConnectionHandler>;

    /// The HTTP connection manager, whose routes can be replaced, if it is one.
    fn connection_manager(&self) -> Option<&Arc<ConnectionManagerConfig>> {
        None
    }
}

/// What a network filter needs on a worker.
#[derive(Debug)]
pub struct FilterWorkerCx<'a> {
    /// The worker: its timers, its stats, its random numbers.
    pub worker: &'a Rc<WorkerCx>,
    /// The worker's clusters.
    pub clusters: &'a Rc<Clusters>,
    /// Tells the connections of the chain to finish.
    pub drain: &'a DrainSignal,
}
