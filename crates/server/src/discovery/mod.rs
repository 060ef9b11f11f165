//! Clusters, listeners and routes that come from files of resources (`dynamic_resources`, `rds`).
//!
//! Each module here applies the updates of one kind of resource. [`outrider_xds::FileSubscription`] reads and watches the
//! files and counts updates. Clusters follow files of endpoints (EDS) themselves.

mod cds;
mod followed_file;
mod lds;
mod rds;

use std::io;
use std::rc::Rc;
use std::time::SystemTime;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::Bootstrap;
use outrider_config::api::envoy::config::core::v3::ConfigSource;
use outrider_xds::FileSource;

pub(crate) use cds::ClusterDiscovery;
pub(crate) use lds::ListenerDiscovery;
pub(crate) use rds::RouteDiscovery;

use crate::cli::Options;
use crate::control::Control;

/// `dynamic_resources`
#[derive(Clone, Debug, Default)]
pub(crate) struct DynamicResources {
    /// `cds_config`
    pub(crate) clusters: Option<FileSource>,
    /// `lds_config`
    pub(crate) listeners: Option<FileSource>,
}

impl DynamicResources {
    /// The sources that `bootstrap` names.
    ///
    /// # Errors
    /// Sources other than files, and files that are not there.
    pub(crate) fn build(
        bootstrap: &Bootstrap,
        options: &Options,
    ) -> Result<DynamicResources, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let Some(dynamic) = &bootstrap.dynamic_resources else {
            return Ok(DynamicResources::default());
        };
        let path = FieldPath::root().field("dynamic_resources");
        let node = bootstrap.node.clone().unwrap_or_default();
        let nameless =
            options.service_node(&node).is_empty() || options.service_cluster(&node).is_empty();
        if nameless && (dynamic.cds_config.is_some() || dynamic.lds_config.is_some()) {
            errors.push(
                &path,
                "node 'id' and 'cluster' are required. Set it either in 'node' config or via --service-node and --service-cluster options.",
            );
        }
        let mut source = |source: Option<&ConfigSource>, field: &'static str| {
            let path = path.field(field);
            let source = errors.collect(FileSource::build(source?, &path))?;
            if let Err(error) = source.check() {
                errors.push(&path, error.to_string());
            }
            Some(source)
        };
        let clusters = source(dynamic.cds_config.as_ref(), "cds_config");
        let listeners = source(dynamic.lds_config.as_ref(), "lds_config");
        errors.finish(DynamicResources {
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
    /// Watches what `resources` names. Nothing is read yet.
    ///
    /// # Errors
    /// A file cannot be watched.
    pub(crate) fn new(
        resources: &DynamicResources,
        control: &Rc<Control>,
    ) -> io::Result<Discoveries> {
        let clusters = resources.clusters.clone();
        let clusters = clusters.map(|source| ClusterDiscovery::new(source, control));
        let listeners = resources.listeners.clone();
        let listeners = listeners.map(|source| ListenerDiscovery::new(source, control));
        Ok(Discoveries {
            clusters: clusters.transpose()?,
            listeners: listeners.transpose()?,
        })
    }

    /// Reads all files for the first time, and each again whenever it is replaced. Clusters come before the listeners
    /// that may name them.
    pub(crate) async fn start(self, control: &Rc<Control>) {
        if let Some(clusters) = self.clusters {
            clusters.clone().update().await;
            clusters.warmed().await;
            tokio::task::spawn_local(clusters.follow());
        }
        control.warm_listeners(&control.listeners.all()).await;
        if let Some(listeners) = self.listeners {
            listeners.update().await;
            tokio::task::spawn_local(listeners.follow());
        }
    }
}
