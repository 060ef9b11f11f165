//! From the checked config to everything that runs, before a socket is touched.
//!
//! The only place where crates are wired together: a new network filter is a variant of [`ChainPlan`] and an arm of
//! the `match` in [`ChainPlan::build`].

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::Bootstrap;
use outrider_config::api::envoy::config::listener::v3 as listener;
use outrider_config::api::envoy::config::listener::v3::filter::ConfigType;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use outrider_config::type_name;
use outrider_config::unpack;
use outrider_http::BuildCx;
use outrider_http::ConnectionManagerConfig;
use outrider_http::access_log::LogFiles;
use outrider_net::Address;
use outrider_net::Connection;
use outrider_net::ConnectionHandler;
use outrider_net::ConnectionLimit;
use outrider_net::Drain;
use outrider_net::Limits;
use outrider_net::ListenerConfig;
use outrider_net::WorkerCx;
use outrider_stats::Store;
use outrider_upstream::ClusterManager;
use outrider_upstream::Clusters;
use prost::Name as _;

use crate::cli::IpVersion;
use crate::cli::Options;
use crate::runtime::Runtime;

/// Everything that the config describes, built and not running yet.
pub(crate) struct Plan {
    pub(crate) clusters: Arc<ClusterManager>,
    pub(crate) listeners: Vec<Arc<ListenerPlan>>,
    pub(crate) connections: Connections,
}

/// The downstream connections of all listeners, counted.
#[derive(Clone)]
pub(crate) struct Connections {
    /// All of them, the admin server's too, and the limit that is on them.
    all: Arc<ConnectionLimit>,
    admin: Arc<ConnectionLimit>,
}

impl Connections {
    /// The limits on the admin server.
    pub(crate) fn admin_limits(&self, ignores_global: bool) -> Limits {
        Limits {
            listener: Some(self.admin.clone()),
            global: Some(self.all.clone()),
            ignores_global,
        }
    }

    /// How many there are besides the admin server's.
    pub(crate) fn active(&self) -> u64 {
        self.all.active().saturating_sub(self.admin.active())
    }
}

/// A listener, and what serves its filter chains.
pub(crate) struct ListenerPlan {
    pub(crate) config: Arc<ListenerConfig>,
    pub(crate) limits: Limits,
    /// By filter chain number.
    chains: Vec<ChainPlan>,
}

/// What serves the connections of a filter chain.
enum ChainPlan {
    /// `envoy.filters.network.http_connection_manager`
    Http(Arc<ConnectionManagerConfig>),
    /// No filters: connections are closed.
    Close,
}

impl Plan {
    /// Builds all of `bootstrap`.
    pub(crate) fn build(
        bootstrap: &Bootstrap,
        options: &Options,
        runtime: &Runtime,
        store: &Arc<Store>,
        log_files: &LogFiles,
    ) -> Result<Plan, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let resources = bootstrap.static_resources.as_ref();
        let count = resources.map_or(0, |resources| resources.clusters.len());
        log::info!(target: "config", "loading {count} cluster(s)");
        let clusters = ClusterManager::build(bootstrap, store)?;
        let messages: &[listener::Listener] =
            resources.map_or(&[], |resources| &resources.listeners);
        log::info!(target: "config", "loading {} listener(s)", messages.len());
        let node = bootstrap.node.clone().unwrap_or_default();
        let global = runtime.number("overload.global_downstream_max_connections");
        let connections = Connections {
            all: ConnectionLimit::new(global.unwrap_or(u64::MAX)),
            admin: ConnectionLimit::new(u64::MAX),
        };
        let path = FieldPath::root()
            .field("static_resources")
            .field("listeners");
        let cx = ListenerCx {
            store,
            clusters: &clusters,
            log_files,
            node_cluster: first_of(&node.cluster, &options.service_cluster),
            node_id: first_of(&node.id, &options.service_node),
            runtime,
            connections: &connections,
            prefers_ipv6: options.local_address_ip_version == IpVersion::V6,
        };
        let mut listeners: Vec<Arc<ListenerPlan>> = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            let path = path.index(index);
            if !message.name.is_empty()
                && listeners
                    .iter()
                    .any(|earlier| *earlier.config.name == *message.name)
            {
                log::warn!(target: "config", "{path}: ignored, an earlier listener is called '{}'", message.name);
                continue;
            }
            let built = errors.collect(ListenerPlan::build(message, &path, &cx));
            listeners.extend(built.map(Arc::new));
        }
        refuse_shared_addresses(&listeners, &path, &mut errors);
        errors.finish(Plan {
            clusters,
            listeners,
            connections,
        })
    }
}

fn first_of<'a>(configured: &'a str, flag: &'a str) -> &'a str {
    if configured.is_empty() {
        flag
    } else {
        configured
    }
}

/// Two listeners on one address could not be told apart. Port 0 is another port each time.
fn refuse_shared_addresses(
    listeners: &[Arc<ListenerPlan>],
    path: &FieldPath,
    errors: &mut ConfigErrors,
) {
    let mut seen: HashSet<&Address> = HashSet::new();
    for (index, listener) in listeners.iter().enumerate() {
        for address in listener.config.addresses() {
            let fixed = address.ip().is_none_or(|ip| ip.port() != 0);
            if fixed && !seen.insert(address) {
                let name = &listener.config.name;
                let message = format!(
                    "error adding listener: '{name}' has duplicate address '{address}' as existing listener"
                );
                errors.push(&path.index(index).field("address"), message);
            }
        }
    }
}

/// What listeners are built with.
struct ListenerCx<'a> {
    store: &'a Arc<Store>,
    clusters: &'a Arc<ClusterManager>,
    log_files: &'a LogFiles,
    node_cluster: &'a str,
    node_id: &'a str,
    runtime: &'a Runtime,
    connections: &'a Connections,
    prefers_ipv6: bool,
}

impl ListenerPlan {
    fn build(
        message: &listener::Listener,
        path: &FieldPath,
        cx: &ListenerCx<'_>,
    ) -> Result<ListenerPlan, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        refuse_unsupported(message, path, &mut errors);
        let Some(config) = errors.collect(ListenerConfig::build(message, path)) else {
            return Err(errors);
        };
        let scope = config.scope();
        let http = BuildCx {
            store: cx.store,
            clusters: cx.clusters,
            log_files: cx.log_files,
            listener: &scope,
            buffer_limit: config.buffer_limit,
            prefers_ipv6: cx.prefers_ipv6,
            node_cluster: cx.node_cluster,
            node_id: cx.node_id,
        };
        let chains_path = path.field("filter_chains");
        let numbered = message.filter_chains.iter().enumerate();
        let numbered = numbered.map(|(index, chain)| (chain, chains_path.index(index)));
        let default = message
            .default_filter_chain
            .iter()
            .map(|chain| (chain, path.field("default_filter_chain")));
        let chains = numbered
            .chain(default)
            .filter_map(|(chain, path)| errors.collect(ChainPlan::build(chain, &path, &http)))
            .collect();
        let limit_key = format!(
            "envoy.resource_limits.listener.{}.connection_limit",
            config.name
        );
        let limits = Limits {
            listener: cx.runtime.number(&limit_key).map(ConnectionLimit::new),
            global: Some(cx.connections.all.clone()),
            ignores_global: config.ignores_global_limit,
        };
        errors.finish(ListenerPlan {
            config: Arc::new(config),
            limits,
            chains,
        })
    }

    /// A worker's handlers of the filter chains, by number.
    pub(crate) fn worker(
        &self,
        cx: &Rc<WorkerCx>,
        clusters: &Rc<Clusters>,
        drain: &Drain,
    ) -> Vec<Rc<dyn ConnectionHandler>> {
        let handler = |chain: &ChainPlan| -> Rc<dyn ConnectionHandler> {
            match chain {
                ChainPlan::Http(config) => config.worker(cx, clusters, drain),
                ChainPlan::Close => Rc::new(Close),
            }
        };
        self.chains.iter().map(handler).collect()
    }
}

/// What no part of a listener that exists here would obey.
fn refuse_unsupported(message: &listener::Listener, path: &FieldPath, errors: &mut ConfigErrors) {
    for (index, filter) in message.listener_filters.iter().enumerate() {
        let path = path.field("listener_filters").index(index);
        errors.push(
            &path,
            format!("not supported: listener filter {}", filter.name),
        );
    }
}

impl ChainPlan {
    fn build(
        chain: &listener::FilterChain,
        path: &FieldPath,
        cx: &BuildCx<'_>,
    ) -> Result<ChainPlan, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        if let Some(socket) = &chain.transport_socket
            && !socket.name.ends_with("raw_buffer")
        {
            let message = format!(
                "not supported: {}; known is envoy.transport_sockets.raw_buffer",
                socket.name
            );
            errors.push(&path.field("transport_socket"), message);
        }
        let path = path.field("filters");
        let mut plan = ChainPlan::Close;
        for (index, filter) in chain.filters.iter().enumerate() {
            let path = path.index(index);
            if index + 1 < chain.filters.len() {
                errors.push(
                    &path,
                    "every network filter known here ends its chain, so it must be the last",
                );
            }
            let Some(ConfigType::TypedConfig(any)) = &filter.config_type else {
                errors.push(
                    &path.field("typed_config"),
                    format!("is required for network filter {}", filter.name),
                );
                continue;
            };
            let path = path.field("typed_config");
            match type_name(any) {
                name if name == HttpConnectionManager::full_name() => {
                    let message = errors.collect(unpack::<HttpConnectionManager>(any, &path));
                    let built =
                        message.map(|message| ConnectionManagerConfig::build(&message, &path, cx));
                    if let Some(config) = errors.collect(built.transpose()).flatten() {
                        plan = ChainPlan::Http(config);
                    }
                }
                name => {
                    let known = HttpConnectionManager::full_name();
                    errors.push(
                        &path,
                        format!("not supported: network filter {name}; known is {known}"),
                    );
                }
            }
        }
        errors.finish(plan)
    }
}

/// Serves a filter chain without filters.
struct Close;

impl ConnectionHandler for Close {
    fn serve(
        self: Rc<Self>,
        connection: Connection,
    ) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move { drop(connection) })
    }
}
