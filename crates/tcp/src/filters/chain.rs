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
use super::FilteredConnection;
use super::NetworkFilter;
use super::NetworkFilterConfig;
use super::NetworkFilterFactory;
use super::NetworkFilterStatus;
use super::NetworkFilterWorkerCx;
use super::TerminalFilter;
use super::TerminalFilterConfig;

/// The network filters of a filter chain as configured, shared by all workers.
#[derive(Clone, Debug)]
pub struct NetworkFilterChain {
    filters: Vec<Arc<dyn NetworkFilterConfig>>,
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
        let mut chain = NetworkFilterChain {
            filters: Vec::new(),
            terminal: None,
        };
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
                NetworkFilterFactory::Before(build) => {
                    if is_last {
                        errors.push(&path, "does not end its chain, so it must not be the last");
                    }
                    let filter = errors.collect(build(any, &config_path, cx));
                    chain.filters.extend(filter);
                }
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
        let mut filters = self.filters.iter().zip(&other.filters);
        let same_filters = self.filters.len() == other.filters.len()
            && filters.all(|(one, other)| Arc::ptr_eq(one, other));
        let same_terminal = match (&self.terminal, &other.terminal) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        same_filters && same_terminal
    }

    /// What serves the connections on a worker.
    #[must_use]
    pub fn worker(&self, cx: &NetworkFilterWorkerCx<'_>) -> Rc<dyn ConnectionHandler> {
        let Some(terminal) = &self.terminal else {
            return Rc::new(Close);
        };
        let terminal = terminal.clone().worker(cx);
        if self.filters.is_empty() {
            return terminal;
        }
        let filters = self.filters.iter();
        Rc::new(FilteredChain {
            filters: filters.map(|filter| filter.clone().worker(cx)).collect(),
            terminal,
        })
    }
}

/// A chain with filters before the terminal one, on a worker.
struct FilteredChain {
    filters: Vec<Rc<dyn NetworkFilter>>,
    terminal: Rc<dyn TerminalFilter>,
}

impl ConnectionHandler for FilteredChain {
    fn serve(self: Rc<Self>, connection: AcceptedConnection) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move {
            let mut connection = FilteredConnection::new(connection);
            let terminal = self.terminal.clone();
            for filter in &self.filters {
                let mut status = filter.on_new_connection(&mut connection);
                if status == NetworkFilterStatus::Wait {
                    status = filter.wait_on_new_connection(&mut connection).await;
                }
                if status == NetworkFilterStatus::Close {
                    return terminal.closed_before(&connection);
                }
            }
            terminal.serve_filtered(connection).await;
        })
    }
}

/// Serves a filter chain without filters.
struct Close;

impl ConnectionHandler for Close {
    fn serve(self: Rc<Self>, connection: AcceptedConnection) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move { drop(connection) })
    }
}
