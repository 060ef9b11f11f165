//! `envoy.filters.network.http_connection_manager`: the entry of the filter, which is the crate `outrider-http`.

use std::rc::Rc;
use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use outrider_config::unpack;
use outrider_http::BuildCx;
use outrider_http::ConnectionManager;
use outrider_http::ConnectionManagerConfig;
use prost_types::Any;

use super::NetworkFilterFactory;
use super::NetworkFilterWorkerCx;
use super::TerminalFilter;
use super::TerminalFilterConfig;

pub(super) const FACTORY: Factory<NetworkFilterFactory> = Factory {
    message: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    build: NetworkFilterFactory::Terminal(build),
};

fn build(
    any: &Any,
    path: &FieldPath,
    cx: &BuildCx<'_>,
) -> Result<Arc<dyn TerminalFilterConfig>, ConfigErrors> {
    let message: HttpConnectionManager = unpack(any, path)?;
    let config = ConnectionManagerConfig::build(&message, path, cx)?;
    Ok(Arc::new(HttpFilter(config)))
}

#[derive(Debug)]
struct HttpFilter(Arc<ConnectionManagerConfig>);

impl TerminalFilterConfig for HttpFilter {
    fn worker(self: Arc<Self>, cx: &NetworkFilterWorkerCx<'_>) -> Rc<dyn TerminalFilter> {
        self.0.worker(cx.worker, cx.clusters, cx.drain)
    }

    fn connection_manager(&self) -> Option<&Arc<ConnectionManagerConfig>> {
        Some(&self.0)
    }
}

impl TerminalFilter for ConnectionManager {}
