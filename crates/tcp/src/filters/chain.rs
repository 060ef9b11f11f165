//! The network filters of a filter chain.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::listener::v3::Filter;
use outrider_config::api::envoy::config::listener::v3::filter::ConfigType;
use outrider_http::BuildCx;
use outrider_http::ConnectionManagerConfig;
use outrider_net::AcceptedConnection;
use outrider_net::ConnectionHandler;

use super::FACTORIES;
use super::FilterWorkerCx;
use super::NetworkFilterFactory;
use super::TerminalFilterConfig;

/// The network filters of a filter chain as configured, shared by all workers.
#[derive(Clone, Debug)]
pub struct NetworkFilterChain {
    /// `None` without filters: connections are closed.
    terminal: Option<Arc<dyn TerminalFilterConfig>>,
}

impl NetworkFilterChain {
    /// The filters found at `path` (`FilterChain.filters`).
    ///
    /// # Errors
    /// All that is wrong with any of them, or not supported. The last must be terminal, and no other.
    pub fn build(
        filters: &[Filter],
        path: &FieldPath,
        cx: &BuildCx<'_>,
    ) -> Result<NetworkFilterChain, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut chain = NetworkFilterChain { terminal: None };
        for (index, filter) in filters.iter().enumerate() {
            let path = path.index(index);
            let config_path = path.field("typed_config");
            let Some(ConfigType::TypedConfig(any)) = &filter.config_type else {
                let message = format!("is required for network filter {}", filter.name);
                errors.push(&config_path, message);
                continue;
            };
            let factory = Factory::find(FACTORIES, "network filter", any, &config_path);
            let Some(factory) = errors.collect(factory) else {
                continue;
            };
            let is_last = index + 1 == filters.len();
            match factory {
                NetworkFilterFactory::Terminal(build) => {
                    if !is_last {
                        errors.push(&path, "ends its chain, so it must be the last");
                    }
                    chain.terminal = errors.collect(build(any, &config_path, cx));
                }
            }
        }
        errors.finish(chain)
    }

    /// The HTTP connection manager, if the chain ends with one.
    #[must_use]
    pub fn connection_manager(&self) -> Option<&Arc<ConnectionManagerConfig>> {
        self.terminal.as_ref()?.connection_manager()
    }

    /// Whether both are the same filters, not only equal ones.
    #[must_use]
    pub fn is_same(&self, other: &NetworkFilterChain) -> bool {
        match (&self.terminal, &other.terminal) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }

    /// What serves the connections on a worker.
    #[must_use]
    pub fn worker(&self, cx: &FilterWorkerCx<'_>) -> Rc<dyn ConnectionHandler> {
        match &self.terminal {
            Some(terminal) => terminal.clone().worker(cx),
            None => Rc::new(Close),
        }
    }
}

/// Serves a filter chain without filters.
struct Close;

impl ConnectionHandler for Close {
    fn serve(self: Rc<Self>, connection: AcceptedConnection) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move { drop(connection) })
    }
}
