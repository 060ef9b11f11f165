//! Clusters, listeners and routes that come from files of resources or control planes (`dynamic_resources`, `rds`).
//!
//! Each module here applies the updates of one kind of resource. [`outrider_xds::Subscription`] waits for updates and
//! counts them. Clusters follow their endpoints (EDS) themselves.

mod cds;
mod followed_source;
mod lds;
mod rds;
pub(crate) mod rtds;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::Bootstrap;
use outrider_config::api::envoy::config::core::v3::ConfigSource as SourceMessage;
use outrider_xds::ApiSource;
use outrider_xds::ConfigSource;
use outrider_xds::Sources;

pub(crate) use cds::ClusterDiscovery;
pub(crate) use lds::ListenerDiscovery;
pub(crate) use rds::RouteDiscovery;

use crate::cli::Options;
use crate::control::Control;
use crate::control::Phase;

/// `dynamic_resources`
#[derive(Clone, Debug, Default)]
pub(crate) struct DynamicResources {
    /// `cds_config`
    pub(crate) clusters: Option<ConfigSource>,
    /// `lds_config`
    pub(crate) listeners: Option<ConfigSource>,
    /// The `rtds_layer`s of `layered_runtime`.
    pub(crate) runtime: Vec<rtds::DiscoveredLayer>,
    /// `ads_config`
    pub(crate) aggregated: Option<Arc<ApiSource>>,
}

impl DynamicResources {
    /// The sources that `bootstrap` names.
    ///
    /// # Errors
    /// A source is not supported, its file is missing, or the cluster of its control plane does not exist.
    pub(crate) fn build(
        bootstrap: &Bootstrap,
        options: &Options,
        sources: &Sources,
    ) -> Result<DynamicResources, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let runtime = errors.collect(rtds::build(bootstrap, sources));
        let runtime = runtime.unwrap_or_default();
        let unset = Default::default();
        let dynamic = bootstrap.dynamic_resources.as_ref().unwrap_or(&unset);
        let path = FieldPath::root().field("dynamic_resources");
        let node = bootstrap.node.clone().unwrap_or_default();
        let nameless =
            options.service_node(&node).is_empty() || options.service_cluster(&node).is_empty();
        let configs = [&dynamic.cds_config, &dynamic.lds_config];
        let needs_name = dynamic.ads_config.is_some() || configs.into_iter().any(Option::is_some);
        let of_runtime = FieldPath::root().field("layered_runtime");
        let needing = [(needs_name, &path), (!runtime.is_empty(), &of_runtime)];
        for (_, path) in needing.into_iter().filter(|(needs, _)| nameless && *needs) {
            errors.push(
                path,
                "node 'id' and 'cluster' are required. Set it either in 'node' config or via --service-node and --service-cluster options.",
            );
        }
        let mut source = |source: Option<&SourceMessage>, field: &'static str| {
            let path = path.field(field);
            errors.collect(ConfigSource::build(source?, &path, sources))
        };
        let clusters = source(dynamic.cds_config.as_ref(), "cds_config");
        let listeners = source(dynamic.lds_config.as_ref(), "lds_config");
        let aggregated = dynamic.ads_config.as_ref();
        let aggregated = aggregated.and_then(|source| {
            let path = path.field("ads_config");
            errors.collect(ApiSource::build(source, &path, sources))
        });
        errors.finish(DynamicResources {
            runtime,
            aggregated: aggregated.map(Arc::new),
            clusters,
            listeners,
        })
    }
}

/// The current time in milliseconds since the epoch, for `*.config_reload_time_ms`.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// The running subscriptions to clusters and listeners.
#[derive(Clone, Default)]
pub(crate) struct Discoveries {
    pub(crate) clusters: Option<Rc<ClusterDiscovery>>,
    pub(crate) listeners: Option<Rc<ListenerDiscovery>>,
}

impl Discoveries {
    /// Subscribes to clusters. Listeners follow once the first clusters are there.
    ///
    /// # Errors
    /// A file cannot be watched.
    pub(crate) async fn start(
        resources: &DynamicResources,
        control: &Rc<Control>,
    ) -> io::Result<()> {
        if let Some(source) = &resources.clusters {
            let clusters = ClusterDiscovery::new(source, control)?;
            control.discoveries.borrow_mut().clusters = Some(clusters.clone());
            clusters.clone().update().await;
            tokio::task::spawn_local(clusters.clone().follow());
            clusters.warmed().await;
        }
        control.phase.set(Phase::Listeners);
        let of_bootstrap = control.listeners.all();
        let warming = control.warm_listeners(&of_bootstrap);
        let Some(source) = &resources.listeners else {
            warming.await;
            return Ok(());
        };
        let listeners = ListenerDiscovery::new(source, control)?;
        control.discoveries.borrow_mut().listeners = Some(listeners.clone());
        let following = async {
            listeners.update().await;
            tokio::task::spawn_local(listeners.clone().follow());
            listeners.warmed().await;
        };
        tokio::join!(warming, following);
        Ok(())
    }
}
