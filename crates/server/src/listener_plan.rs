//! Builds listeners from the config, before any socket is opened.

use std::collections::HashMap;
use std::hash::DefaultHasher;
use std::hash::Hasher as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::listener::v3 as listener;
use outrider_config::api::envoy::config::listener::v3::filter::ConfigType;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use outrider_config::api::envoy::config::core::v3::TransportSocket;
use outrider_config::api::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;
use outrider_config::duration;
use outrider_config::type_name;
use outrider_http::BuildCx;
use outrider_http::ConnectionManagerConfig;
use outrider_http::Tracers;
use outrider_http::access_log::LogFiles;
use outrider_http::route::RouteTable;
use outrider_net::Address;
use outrider_net::ChainTls;
use outrider_net::ConnectionHandler;
use outrider_net::ConnectionLimit;
use outrider_net::DrainSignal;
use outrider_net::ConnectionLimits;
use outrider_net::ListenerConfig;
use outrider_net::OverloadState;
use outrider_net::WorkerCx;
use outrider_stats::Scope;
use outrider_stats::Store;
use outrider_tcp::NetworkFilterChain;
use outrider_tcp::filters::NetworkFilterWorkerCx;
use outrider_tls::SecretUser as _;
use outrider_tls::Secrets;
use outrider_tls::ServerTls;
use outrider_tls::tls_settings;
use outrider_upstream::ClusterNames;
use outrider_upstream::Clusters;
use outrider_upstream::DnsCaches;
use outrider_xds::Sources;
use outrider_xds::check_secret_sources;
use prost::Message as _;
use prost::Name as _;

use crate::build::DownstreamConnections;
use crate::dump::DynamicResource;
use crate::retired::Retired;
use crate::runtime::RuntimeLoader;

/// A listener's settings and the handlers of its filter chains.
#[derive(Clone)]
pub(crate) struct ListenerPlan {
    pub(crate) config: Arc<ListenerConfig>,
    pub(crate) limits: ConnectionLimits,
    /// By filter chain number.
    pub(crate) chains: Vec<Arc<ChainPlan>>,
    /// The listener's message without its name and filter chains, as protobuf bytes.
    settings: Vec<u8>,
    /// The config gives it no name; `config` has a generated one.
    pub(crate) is_nameless: bool,
    /// The message of the dynamic source (LDS) that it came from. `None` for listeners of the bootstrap.
    pub(crate) resource: Option<Arc<DynamicResource>>,
}

/// A filter chain, and what serves its connections.
pub(crate) struct ChainPlan {
    filters: NetworkFilterChain,
    tls: Option<Arc<ServerTls>>,
    /// `transport_socket_connect_timeout`
    handshake_timeout: Option<Duration>,
    /// The filter chain's message without the routes of its connection manager, as protobuf bytes.
    settings: Vec<u8>,
    /// The routes of its connection manager, as protobuf bytes.
    routes: Vec<u8>,
}

/// Builds listeners at start-up and whenever the config changes.
pub(crate) struct ListenerFactory {
    pub(crate) store: Arc<Store>,
    pub(crate) log_files: Arc<LogFiles>,
    pub(crate) node_cluster: String,
    pub(crate) node_id: String,
    pub(crate) zone: String,
    pub(crate) tracers: Tracers,
    pub(crate) runtime: Arc<RuntimeLoader>,
    pub(crate) connections: DownstreamConnections,
    pub(crate) overload: Arc<OverloadState>,
    pub(crate) prefers_ipv6: bool,
    /// What files and control planes give.
    pub(crate) sources: Sources,
    /// The DNS caches of clusters and filters.
    pub(crate) dns_caches: Arc<DnsCaches>,
    /// How many bytes can wait on connections to internal listeners; `None` without the bootstrap extension.
    pub(crate) internal_buffer_size: Option<usize>,
}

/// How a listener differs from the running one of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListenerChange {
    /// Only in its routes, or not at all.
    Routes,
    /// In its filter chains. Unchanged filter chains keep their connections.
    FilterChains,
    /// In other settings: it replaces the running one, which drains.
    Whole,
}

/// New routes for a running connection manager.
pub(crate) struct RouteChange {
    manager: Arc<ConnectionManagerConfig>,
    routes: Arc<RouteTable>,
}

impl RouteChange {
    /// Makes the new routes effective for requests that begin from now on.
    pub(crate) fn apply(self, retired: &Retired) {
        retired.keep(self.manager.set_routes(self.routes));
    }
}

impl ListenerFactory {
    /// Builds the listeners found at `path`. Of several with one name, the first counts, as in Envoy.
    ///
    /// # Errors
    /// All that is wrong with any of them.
    pub(crate) fn build_all(
        &self,
        messages: &[listener::Listener],
        path: &FieldPath,
        (clusters, secrets): (&ClusterNames, &Secrets),
    ) -> Result<Vec<Arc<ListenerPlan>>, ConfigErrors> {
        let mut errors = ConfigErrors::new();
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
            let built = errors.collect(self.build(message, &path, (clusters, secrets)));
            listeners.extend(built.map(Arc::new));
        }
        refuse_shared_addresses(&listeners, path, &mut errors);
        errors.finish(listeners)
    }

    /// Builds the listener found at `path`.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub(crate) fn build(
        &self,
        message: &listener::Listener,
        path: &FieldPath,
        (clusters, secrets): (&ClusterNames, &Secrets),
    ) -> Result<ListenerPlan, ConfigErrors> {
        self.runtime.limit_regular_expressions();
        let mut errors = ConfigErrors::new();
        let Some(config) = errors.collect(ListenerConfig::build(message, path)) else {
            return Err(errors);
        };
        let config = match self.internal_buffer_size {
            Some(bytes) => config.with_internal_buffer(bytes),
            None if config.is_internal() => {
                let message = "internal listeners need the bootstrap extension envoy.bootstrap.internal_listener: add it \
                               to bootstrap_extensions";
                errors.push(&path.field("internal_listener"), message);
                return Err(errors);
            }
            None => config,
        };
        let scope = config.scope();
        let cx = BuildCx {
            runtime: &self.runtime.runtime().snapshot(),
            store: &self.store,
            clusters,
            log_files: &self.log_files,
            listener: &scope,
            buffer_limit: config.buffer_limit,
            bypasses_overload_manager: config.bypasses_overload_manager,
            prefers_ipv6: self.prefers_ipv6,
            node_cluster: &self.node_cluster,
            node_id: &self.node_id,
            zone: &self.zone,
            is_outbound: config.is_outbound(),
            tracers: &self.tracers,
            sources: &self.sources,
            dns_caches: &self.dns_caches,
        };
        let chains_path = path.field("filter_chains");
        let numbered = message.filter_chains.iter().enumerate();
        let numbered = numbered.map(|(index, chain)| (chain, chains_path.index(index)));
        let default = message.default_filter_chain.iter();
        let default = default.map(|chain| (chain, path.field("default_filter_chain")));
        let chains: Vec<Arc<ChainPlan>> = numbered
            .chain(default)
            .filter_map(|(chain, path)| {
                errors.collect(ChainPlan::build(chain, &path, (&cx, secrets)))
            })
            .map(Arc::new)
            .collect();
        for tls in chains.iter().filter_map(|chain| chain.tls.as_ref()) {
            errors.collect(check_secret_sources(&**tls, &self.sources));
        }
        let limits = self.limits(&config);
        errors.finish(ListenerPlan {
            config: Arc::new(config),
            limits,
            chains,
            settings: settings_of(message),
            is_nameless: message.name.is_empty(),
            resource: None,
        })
    }

    /// The limits of the listener's connections.
    fn limits(&self, config: &ListenerConfig) -> ConnectionLimits {
        let limit_key = format!(
            "envoy.resource_limits.listener.{}.connection_limit",
            config.name
        );
        // A limit makes each connection update a counter that all workers share, so there is none unless the runtime
        // sets a limit or can set one later.
        let runtime = self.runtime.runtime();
        let is_set = || runtime.snapshot().number(&limit_key).is_some();
        let is_limited = self.runtime.can_change() || is_set();
        let limit = || ConnectionLimit::of_runtime(runtime.clone(), &limit_key);
        ConnectionLimits {
            listener: is_limited.then(limit),
            global: Some(self.connections.all.clone()),
            ignores_global: config.ignores_global_limit,
            overload: (self.overload.connections())
                .filter(|_| !config.ignores_global_limit && !config.bypasses_overload_manager)
                .cloned(),
        }
    }
}

/// The message without its name and filter chains.
fn settings_of(message: &listener::Listener) -> Vec<u8> {
    let settings = listener::Listener {
        name: String::new(),
        filter_chains: Vec::new(),
        default_filter_chain: None,
        ..message.clone()
    };
    settings.encode_to_vec()
}

/// The text about a listener whose address another one has. It is Envoy's.
pub(crate) fn shared_address(name: &str, address: &Address) -> String {
    format!(
        "error adding listener: '{name}' has duplicate address '{address}' as existing listener, to check if the listener has \
         duplicated addresses with other listeners or 'enable_reuse_port' is set to 'false' for the listener"
    )
}

/// Refuses two listeners with the same address. With port 0 the kernel chooses another port for each.
fn refuse_shared_addresses(
    listeners: &[Arc<ListenerPlan>],
    path: &FieldPath,
    errors: &mut ConfigErrors,
) {
    let mut seen: HashMap<&Address, usize> = HashMap::new();
    for (index, listener) in listeners.iter().enumerate() {
        for address in listener.config.addresses() {
            let fixed = address.ip().is_none_or(|ip| ip.port() != 0);
            // One listener may name an address twice: its sockets share it.
            if fixed && *seen.entry(address).or_insert(index) != index {
                let name = &listener.config.name;
                let message = shared_address(name, address);
                errors.push(&path.index(index).field("address"), message);
            }
        }
    }
}

impl ListenerPlan {
    /// The TLS of its filter chains.
    pub(crate) fn tls(&self) -> impl Iterator<Item = &Arc<ServerTls>> {
        self.chains.iter().filter_map(|chain| chain.tls.as_ref())
    }

    /// The connection managers of its filter chains.
    pub(crate) fn connection_managers(
        &self,
    ) -> impl Iterator<Item = &Arc<ConnectionManagerConfig>> {
        let chains = self.chains.iter();
        chains.filter_map(|chain| chain.filters.connection_manager())
    }

    /// Whether a control plane has its routes or secrets.
    pub(crate) fn waits_for_control_plane(&self) -> bool {
        let mut managers = self.connection_managers();
        managers.any(|manager| manager.rds().is_some_and(|rds| rds.source.is_remote()))
            || self
                .tls()
                .flat_map(|tls| tls.references())
                .any(|(reference, _)| {
                    let source = reference
                        .source()
                        .and_then(|source| source.config_source_specifier);
                    matches!(
                        source,
                        Some(
                            ConfigSourceSpecifier::Ads(_)
                                | ConfigSourceSpecifier::ApiConfigSource(_)
                        )
                    )
                })
    }

    /// This listener with the unchanged filter chains of `running`, the running listener of the same name, so that these
    /// keep their connections. Filter chains that differ only in their routes are kept too; their new routes are added
    /// to `routes`. Also returns how the result differs from `running`.
    pub(crate) fn taking_over(
        &self,
        running: &ListenerPlan,
        routes: &mut Vec<RouteChange>,
    ) -> (ListenerPlan, ListenerChange) {
        let mut plan = self.clone();
        plan.is_nameless = running.is_nameless;
        if self.settings != running.settings {
            return (plan, ListenerChange::Whole);
        }
        plan.limits = running.limits.clone();
        for chain in &mut plan.chains {
            let same = (running.chains.iter()).find(|other| other.settings == chain.settings);
            let Some(same) = same else {
                continue;
            };
            if same.routes == chain.routes {
                *chain = same.clone();
            } else if let (Some(manager), Some(new)) = (
                same.filters.connection_manager(),
                chain.filters.connection_manager(),
            ) {
                routes.push(RouteChange {
                    manager: manager.clone(),
                    routes: new.route_table(),
                });
                *chain = Arc::new(ChainPlan {
                    filters: same.filters.clone(),
                    tls: same.tls.clone(),
                    handshake_timeout: same.handshake_timeout,
                    settings: chain.settings.clone(),
                    routes: chain.routes.clone(),
                });
            }
        }
        let mut pairs = plan.chains.iter().zip(&running.chains);
        let unchanged = plan.chains.len() == running.chains.len()
            && pairs.all(|(new, old)| new.is_served_like(old));
        let change = match unchanged {
            true => ListenerChange::Routes,
            false => ListenerChange::FilterChains,
        };
        (plan, change)
    }

    /// A hash of its message.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.settings);
        for chain in &self.chains {
            hasher.write(&chain.settings);
            hasher.write(&chain.routes);
        }
        hasher.finish()
    }

    /// How many of its filter chains `new` does not serve any more.
    pub(crate) fn chains_without(&self, new: &ListenerPlan) -> usize {
        let is_gone =
            |chain: &&Arc<ChainPlan>| !(new.chains.iter()).any(|other| other.is_served_like(chain));
        self.chains.iter().filter(is_gone).count()
    }

    /// Why this listener cannot replace `running`, which has its name. As in Envoy.
    pub(crate) fn refuse_to_replace(&self, running: &ListenerPlan) -> Result<(), String> {
        if self.config.reuses_port() == running.config.reuses_port() {
            return Ok(());
        }
        let name = &self.config.name;
        Err(format!(
            "Listener {name}: reuse port cannot be changed during an update"
        ))
    }

    /// Whether its first address is the one of `message`.
    pub(crate) fn has_address_of(&self, message: &listener::Listener) -> bool {
        let address = message.address.as_ref();
        let address = address.and_then(|address| Address::build(address, &FieldPath::root()).ok());
        address.is_some_and(|address| address == self.config.address)
    }
}

impl ChainPlan {
    fn build(
        chain: &listener::FilterChain,
        path: &FieldPath,
        (cx, secrets): (&BuildCx<'_>, &Secrets),
    ) -> Result<ChainPlan, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let socket_path = path.field("transport_socket");
        let tls = errors.collect(transport_socket(
            chain.transport_socket.as_ref(),
            &socket_path,
            secrets,
        ));
        let tls = tls.flatten();
        if let Some(tls) = &tls {
            tls.list(cx.store, cx.listener);
        }
        let handshake_timeout = duration::optional(
            chain.transport_socket_connect_timeout.as_ref(),
            &path.field("transport_socket_connect_timeout"),
        );
        let handshake_timeout = errors.collect(handshake_timeout).flatten();
        let path = path.field("filters");
        let filters = NetworkFilterChain::build(&chain.filters, &path, cx);
        let Some(filters) = errors.collect(filters) else {
            return Err(errors);
        };
        let mut settings = chain.clone();
        let routes = settings.filters.iter_mut().flat_map(take_routes).collect();
        errors.finish(ChainPlan {
            filters,
            tls,
            handshake_timeout: handshake_timeout.filter(|timeout| !timeout.is_zero()),
            settings: settings.encode_to_vec(),
            routes,
        })
    }

    /// Whether both have the same handler, so that connections need not be distinguished.
    pub(crate) fn is_served_like(&self, other: &ChainPlan) -> bool {
        let same_tls = match (&self.tls, &other.tls) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        same_tls && self.filters.is_same(&other.filters)
    }

    /// The TLS of its connections on a worker, in the listener whose stats are below `scope`.
    pub(crate) fn tls(&self, scope: Scope, cx: &WorkerCx) -> Option<ChainTls> {
        let context = self.tls.clone()?;
        Some(ChainTls::new(context, scope, self.handshake_timeout, cx))
    }

    /// The handler of its connections on a worker; `drain` tells them to finish.
    pub(crate) fn worker(
        &self,
        cx: &Rc<WorkerCx>,
        clusters: &Rc<Clusters>,
        drain: &DrainSignal,
    ) -> Rc<dyn ConnectionHandler> {
        self.filters.worker(&NetworkFilterWorkerCx {
            worker: cx,
            clusters,
            drain,
        })
    }
}

/// The TLS of a filter chain, if its transport socket is TLS.
fn transport_socket(
    socket: Option<&TransportSocket>,
    path: &FieldPath,
    secrets: &Secrets,
) -> Result<Option<Arc<ServerTls>>, ConfigErrors> {
    let Some(settings) = tls_settings::<DownstreamTlsContext>(socket, path)? else {
        return Ok(None);
    };
    let tls = ServerTls::build(&settings, &path.field("typed_config"), secrets)?;
    Ok(Some(tls))
}

/// Takes the routes out of a connection manager's config, so that the remaining settings can be compared.
fn take_routes(filter: &mut listener::Filter) -> Vec<u8> {
    let Some(ConfigType::TypedConfig(any)) = &mut filter.config_type else {
        return Vec::new();
    };
    let Ok(mut manager) = HttpConnectionManager::decode(any.value.as_slice()) else {
        return Vec::new();
    };
    match manager.route_specifier.take() {
        Some(RouteSpecifier::RouteConfig(routes))
            if type_name(any) == HttpConnectionManager::full_name() =>
        {
            any.value = manager.encode_to_vec();
            routes.encode_to_vec()
        }
        _ => Vec::new(),
    }
}
