//! Builds everything that will run from the checked config, before any socket is opened.

use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::Bootstrap;
use outrider_config::api::envoy::config::listener::v3 as listener;
use outrider_http::Tracers;
use outrider_http::access_log::LogFiles;
use outrider_net::ConnectionLimit;
use outrider_net::ConnectionLimits;
use outrider_net::OverloadState;
use outrider_stats::Store;
use outrider_upstream::ClusterManager;
use outrider_upstream::EventFiles;
use outrider_xds::Sources;

use crate::bootstrap_extensions;
use crate::cli::IpVersion;
use crate::cli::Options;
use crate::discovery::DynamicResources;
use crate::listener_plan::ListenerFactory;
use crate::listener_plan::ListenerPlan;
use crate::runtime::RuntimeLoader;

/// Everything that the config describes, built and not running yet.
pub(crate) struct Plan {
    pub(crate) clusters: Arc<ClusterManager>,
    pub(crate) listeners: Vec<Arc<ListenerPlan>>,
    /// Builds listeners later on.
    pub(crate) listener_factory: Arc<ListenerFactory>,
    pub(crate) dynamic: DynamicResources,
}

/// The counts and limits of the downstream connections of all listeners.
#[derive(Clone)]
pub(crate) struct DownstreamConnections {
    /// All connections, the admin server's included, and their global limit.
    pub(crate) all: Arc<ConnectionLimit>,
    admin: Arc<ConnectionLimit>,
}

impl DownstreamConnections {
    /// The connection limits of the admin server.
    pub(crate) fn admin_limits(&self, ignores_global: bool) -> ConnectionLimits {
        ConnectionLimits {
            listener: Some(self.admin.clone()),
            global: Some(self.all.clone()),
            ignores_global,
            overload: None,
        }
    }

    /// How many connections are open, without the admin server's.
    pub(crate) fn active(&self) -> u64 {
        self.all.active().saturating_sub(self.admin.active())
    }
}

impl Plan {
    /// Builds all of `bootstrap`.
    pub(crate) fn build(
        bootstrap: &Bootstrap,
        options: &Options,
        runtime: &Arc<RuntimeLoader>,
        (store, log_files, overload): (&Arc<Store>, &Arc<LogFiles>, &Arc<OverloadState>),
    ) -> Result<Plan, ConfigErrors> {
        runtime.limit_regular_expressions();
        let mut errors = ConfigErrors::new();
        let resources = bootstrap.static_resources.as_ref();
        let count = resources.map_or(0, |resources| resources.clusters.len());
        log::info!(target: "config", "loading {count} cluster(s)");
        let node = bootstrap.node.clone().unwrap_or_default();
        let zone = options.service_zone(&node);
        let sources = Sources::new(outrider_client::check_control_plane);
        let outside = (log_files.clone() as Arc<dyn EventFiles>, sources.clone());
        let clusters = ClusterManager::build(bootstrap, zone, store, runtime.runtime(), outside)?;
        clusters.set_concurrency(options.concurrency);
        let messages: &[listener::Listener] =
            resources.map_or(&[], |resources| &resources.listeners);
        log::info!(target: "config", "loading {} listener(s)", messages.len());
        let global = "overload.global_downstream_max_connections";
        let internal_buffer_size = errors.collect(bootstrap_extensions::internal_buffer(bootstrap));
        let internal_buffer_size = internal_buffer_size.flatten();
        #[expect(deprecated, reason = "Envoy still obeys it")]
        let provider = bootstrap.tracing.clone().and_then(|tracing| tracing.http);
        let listener_factory = Arc::new(ListenerFactory {
            store: store.clone(),
            log_files: log_files.clone(),
            node_cluster: options.service_cluster(&node).to_owned(),
            node_id: options.service_node(&node).to_owned(),
            zone: zone.to_owned(),
            tracers: Tracers::new(provider),
            runtime: runtime.clone(),
            connections: DownstreamConnections {
                all: match overload.connections() {
                    // The overload manager's limit takes precedence, as in Envoy. This one still counts.
                    Some(_) => ConnectionLimit::new(u64::MAX),
                    None => ConnectionLimit::of_runtime(runtime.runtime().clone(), global),
                },
                admin: ConnectionLimit::new(u64::MAX),
            },
            overload: overload.clone(),
            sources: sources.clone(),
            dns_caches: clusters.dns_caches().clone(),
            internal_buffer_size,
            prefers_ipv6: options.local_address_ip_version == IpVersion::V6,
        });
        let path = FieldPath::root()
            .field("static_resources")
            .field("listeners");
        let (names, secrets) = (clusters.names(), clusters.secrets().secrets());
        let listeners = listener_factory.build_all(messages, &path, (&names, &secrets));
        let listeners = errors.collect(listeners);
        let dynamic = errors.collect(DynamicResources::build(bootstrap, options, &sources));
        errors.finish(Plan {
            clusters,
            listeners: listeners.unwrap_or_default(),
            listener_factory,
            dynamic: dynamic.unwrap_or_default(),
        })
    }
}
