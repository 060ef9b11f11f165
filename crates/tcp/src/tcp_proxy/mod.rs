//! `envoy.filters.network.tcp_proxy`: forwards a connection to a host of a cluster.
//!
//! A [`Session`](session::Session) connects to the host and records what the access log prints; a [`Relay`](relay::Relay)
//! then moves the bytes.

mod config;
mod connect;
mod flow;
mod relay;
mod session;
mod stats;
mod timers;
mod tunnel;

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::unpack;
use outrider_http::BuildCx;
use outrider_http::access_log::WorkerLog;
use outrider_net::AcceptedConnection;
use outrider_net::ConnectionHandler;
use outrider_net::DrainSignal;
use outrider_net::WorkerCx;
use outrider_upstream::Clusters;
use prost_types::Any;

use crate::filters::FilteredConnection;
use crate::filters::NetworkFilterFactory;
use crate::filters::NetworkFilterWorkerCx;
use crate::filters::TerminalFilter;
use crate::filters::TerminalFilterConfig;

use config::TcpProxyConfig;
use session::Session;
use stats::TcpProxyStats;

pub(crate) const FACTORY: Factory<NetworkFilterFactory> = Factory {
    message: "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
    build: NetworkFilterFactory::Terminal(build),
};

/// How many bytes are read at once at most. Connections of a worker share one buffer of this size.
const READ_SIZE: usize = 64 * 1024;

fn build(
    any: &Any,
    path: &FieldPath,
    cx: &BuildCx<'_>,
) -> Result<Arc<dyn TerminalFilterConfig>, ConfigErrors> {
    Ok(Arc::new(TcpProxyConfig::build(
        &unpack(any, path)?,
        path,
        cx,
    )?))
}

impl TerminalFilterConfig for TcpProxyConfig {
    fn worker(self: Arc<Self>, cx: &NetworkFilterWorkerCx<'_>) -> Rc<dyn TerminalFilter> {
        let timers = &cx.worker.timers;
        let access_logs = self.access_logs.iter().map(|log| log.worker(timers));
        Rc::new(TcpProxy {
            stats: cx.worker.store.register(self.scope.clone()),
            access_logs: access_logs.collect(),
            worker: cx.worker.clone(),
            clusters: cx.clusters.clone(),
            drain: cx.drain.clone(),
            read_buffer: RefCell::new(vec![0; READ_SIZE]),
            config: self,
        })
    }
}

/// A TCP proxy on one worker.
struct TcpProxy {
    config: Arc<TcpProxyConfig>,
    stats: Arc<TcpProxyStats>,
    access_logs: Vec<WorkerLog>,
    worker: Rc<WorkerCx>,
    clusters: Rc<Clusters>,
    drain: DrainSignal,
    /// Only used within one poll, so that idle connections have no buffers.
    read_buffer: RefCell<Vec<u8>>,
}

impl ConnectionHandler for TcpProxy {
    fn serve(self: Rc<Self>, connection: AcceptedConnection) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(session::serve(self, connection, None))
    }
}

impl TerminalFilter for TcpProxy {
    fn serve_filtered(
        self: Rc<Self>,
        connection: FilteredConnection,
    ) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move {
            let FilteredConnection {
                accepted,
                cluster,
                held,
                ..
            } = connection;
            session::serve(self, accepted, cluster).await;
            drop(held);
        })
    }

    fn closed_before(self: Rc<Self>, connection: &FilteredConnection) {
        let session = Session::new(self, connection.accepted.info.clone(), None);
        if let Some(flag) = connection.flag {
            session.flag(flag);
        }
    }
}
