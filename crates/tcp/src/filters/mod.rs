//! Network filters, and the chains of them.
//!
//! A new filter is a file beside this one and an entry in `FACTORIES`.
//!
//! The last filter of a chain is [terminal](TerminalFilter): it serves the connection to its end. Each
//! [filter before it](NetworkFilter) sees the connection once, when it is new and before its TLS handshake. It lets the
//! connection pass, holds it, or closes it.

mod chain;
mod connection_limit;
mod direct_response;
mod echo;
mod http_connection_manager;
mod local_ratelimit;
mod sni_cluster;

use std::any::Any as AnyValue;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_http::BuildCx;
use outrider_http::ConnectionManagerConfig;
use outrider_http::ResponseFlag;
use outrider_net::AcceptedConnection;
use outrider_net::ConnectionHandler;
use outrider_net::DrainSignal;
use outrider_net::WorkerCx;
use outrider_upstream::Clusters;
use prost_types::Any;

use crate::tcp_proxy;

pub use chain::NetworkFilterChain;

/// All network filters.
const FACTORIES: &[Factory<NetworkFilterFactory>] = &[
    connection_limit::FACTORY,
    direct_response::FACTORY,
    echo::FACTORY,
    http_connection_manager::FACTORY,
    local_ratelimit::FACTORY,
    sni_cluster::FACTORY,
    tcp_proxy::FACTORY,
];

/// Builds network filters of one kind from their message, found at the path.
#[derive(Clone, Copy)]
pub(crate) enum NetworkFilterFactory {
    /// Never the last of its chain.
    Before(Build<dyn NetworkFilterConfig>),
    /// The last of its chain.
    Terminal(Build<dyn TerminalFilterConfig>),
}

pub(crate) type Build<T> = fn(&Any, &FieldPath, &BuildCx<'_>) -> Result<Arc<T>, ConfigErrors>;

/// A terminal filter as configured, shared by all workers.
pub trait TerminalFilterConfig: fmt::Debug + Send + Sync {
    /// The filter on one worker.
    fn worker(self: Arc<Self>, cx: &NetworkFilterWorkerCx<'_>) -> Rc<dyn TerminalFilter>;

    /// The HTTP connection manager, whose routes can be replaced, if it is one.
    fn connection_manager(&self) -> Option<&Arc<ConnectionManagerConfig>> {
        None
    }
}

/// A terminal filter on one worker. By [`ConnectionHandler::serve`] it serves connections that no filter saw before.
pub trait TerminalFilter: ConnectionHandler {
    /// Serves a connection that other filters let pass.
    fn serve_filtered(
        self: Rc<Self>,
        connection: FilteredConnection,
    ) -> Pin<Box<dyn Future<Output = ()>>> {
        let FilteredConnection { accepted, held, .. } = connection;
        let served = self.serve(accepted);
        Box::pin(async move {
            served.await;
            drop(held);
        })
    }

    /// Counts and logs a connection that another filter has closed.
    fn closed_before(self: Rc<Self>, connection: &FilteredConnection) {
        let _ = connection;
    }
}

/// A filter before the terminal one as configured, shared by all workers.
pub trait NetworkFilterConfig: fmt::Debug + Send + Sync {
    /// The filter on one worker.
    fn worker(self: Arc<Self>, cx: &NetworkFilterWorkerCx<'_>) -> Rc<dyn NetworkFilter>;
}

/// A filter before the terminal one, on one worker; its connections share it.
pub trait NetworkFilter {
    /// Handles a new connection, before its TLS handshake.
    fn on_new_connection(&self, connection: &mut FilteredConnection) -> NetworkFilterStatus;

    /// Handles it further, after `on_new_connection` has returned [`NetworkFilterStatus::Wait`]. Must not return that again.
    fn wait_on_new_connection<'a>(
        &'a self,
        connection: &'a mut FilteredConnection,
    ) -> NetworkFilterWait<'a> {
        let _ = connection;
        Box::pin(std::future::ready(NetworkFilterStatus::Continue))
    }
}

/// What happens to a connection after a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkFilterStatus {
    /// The next filter handles it.
    Continue,
    /// It is closed.
    Close,
    /// The filter waits, in `wait_on_new_connection`.
    Wait,
}

/// A filter's wait on behalf of a connection.
pub type NetworkFilterWait<'a> = Pin<Box<dyn Future<Output = NetworkFilterStatus> + 'a>>;

/// A connection with what filters have done to it.
pub struct FilteredConnection {
    /// The connection.
    pub accepted: AcceptedConnection,
    /// The cluster that the TCP proxy is to use (the filter state `envoy.tcp_proxy.cluster`).
    pub cluster: Option<Rc<str>>,
    /// Why a filter closes it, for access logs.
    pub flag: Option<ResponseFlag>,
    /// Dropped when the connection ends.
    pub held: Vec<Box<dyn AnyValue>>,
}

impl FilteredConnection {
    fn new(accepted: AcceptedConnection) -> FilteredConnection {
        FilteredConnection {
            accepted,
            cluster: None,
            flag: None,
            held: Vec::new(),
        }
    }

    /// Keeps a value until the connection ends.
    pub fn hold(&mut self, value: impl AnyValue) {
        self.held.push(Box::new(value));
    }
}

/// What a network filter needs on a worker.
#[derive(Debug)]
pub struct NetworkFilterWorkerCx<'a> {
    /// The worker: its timers, its stats, its random numbers.
    pub worker: &'a Rc<WorkerCx>,
    /// The worker's clusters.
    pub clusters: &'a Rc<Clusters>,
    /// Tells the connections of the chain to finish.
    pub drain: &'a DrainSignal,
}
