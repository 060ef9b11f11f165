//! The cluster manager: all clusters of the config, on the main thread.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use foldhash::fast::FixedState;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::Bootstrap;
use outrider_config::api::envoy::config::cluster::v3::Cluster as ClusterMessage;
use outrider_net::WorkerCx;
use outrider_stats::Scope;
use outrider_stats::Store;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::ClusterInfo;
use crate::ClusterManagerStats;
use crate::ClusterView;
use crate::Clusters;
use crate::HostsPublisher;
use crate::SharedCluster;
use crate::discovery;
use crate::discovery::Discovery;
use crate::dns::Resolvers;

/// All clusters. Built from the config before anything runs; shared by all threads.
#[derive(Debug)]
pub struct ClusterManager {
    pub(crate) clusters: Vec<Arc<SharedCluster>>,
    /// Hashed fast: the names are the config's, and nobody can add others.
    by_name: HashMap<Arc<str>, ClusterIndex, FixedState>,
    /// Taken by [`ClusterManager::run`].
    discoveries: Mutex<Vec<(Box<dyn Discovery>, HostsPublisher)>>,
    /// Wakes the workers when some cluster's hosts have changed.
    pub(crate) changed: watch::Sender<()>,
    /// Clusters that still wait for their first hosts.
    uninitialized: watch::Sender<usize>,
    _stats: Arc<ClusterManagerStats>,
}

/// A cluster by number: what a route keeps instead of the name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClusterIndex(pub(crate) usize);

impl ClusterManager {
    /// The clusters of `bootstrap`.
    ///
    /// # Errors
    /// All that is wrong with any of them.
    pub fn build(bootstrap: &Bootstrap, store: &Arc<Store>) -> Result<Arc<Self>, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let stats: Arc<ClusterManagerStats> = store.register(Scope::new("cluster_manager"));
        stats.warming_clusters.mark_used();
        let resolvers = Resolvers::new(bootstrap, store)?;
        let manager = bootstrap.cluster_manager.as_ref();
        let bind = manager.and_then(|manager| manager.upstream_bind_config.as_ref());
        let list = bootstrap.static_resources.as_ref();
        let messages: &[ClusterMessage] = list.map_or(&[], |resources| &resources.clusters);
        let path = FieldPath::root()
            .field("static_resources")
            .field("clusters");

        let connection_ids = Arc::default();
        let changed = watch::Sender::new(());
        let uninitialized = watch::Sender::new(0);
        let mut clusters = Vec::with_capacity(messages.len());
        let mut by_name = HashMap::with_capacity_and_hasher(messages.len(), FixedState::default());
        let mut discoveries = Vec::with_capacity(messages.len());
        for (index, message) in messages.iter().enumerate() {
            let path = path.index(index);
            let info = errors.collect(ClusterInfo::build(message, &path, bind));
            let discovery = errors.collect(discovery::build(message, &path, &resolvers));
            let (Some(info), Some(discovery)) = (info, discovery) else {
                continue;
            };
            let name = info.name.clone();
            let index = ClusterIndex(clusters.len());
            if by_name.insert(name.clone(), index).is_some() {
                errors.push(
                    &path.field("name"),
                    format!("cluster manager: duplicate cluster '{name}'"),
                );
            }
            let cluster = Arc::new(SharedCluster::new(info, store, Arc::clone(&connection_ids)));
            let publisher = HostsPublisher::new(
                cluster.clone(),
                changed.clone(),
                uninitialized.clone(),
                stats.clone(),
            );
            discoveries.push((discovery, publisher));
            clusters.push(cluster);
        }
        stats.cluster_added.add(clusters.len() as u64);
        stats.active_clusters.set(clusters.len() as u64);
        errors.finish(Arc::new(ClusterManager {
            clusters,
            by_name,
            discoveries: Mutex::new(discoveries),
            changed,
            uninitialized,
            _stats: stats,
        }))
    }

    /// Keeps the hosts of all clusters up to date. To be polled on the main thread, inside a `LocalSet`; ends when no
    /// cluster's hosts can change any more.
    pub async fn run(&self) {
        let mut tasks = JoinSet::new();
        let discoveries = std::mem::take(
            &mut *self
                .discoveries
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for (discovery, publisher) in discoveries {
            tasks.spawn_local(discovery.run(publisher));
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Waits until every cluster has its first hosts, or has given up on them for now. Until then the server is not ready.
    pub async fn initialized(&self) {
        let mut uninitialized = self.uninitialized.subscribe();
        // Its sender is ours, so it cannot be gone.
        let _sent = uninitialized.wait_for(|clusters| *clusters == 0).await;
    }

    /// Whether there is a cluster of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The name of the cluster that `name` is probably a misspelling of.
    #[must_use]
    pub fn nearest(&self, name: &str) -> Option<&str> {
        let names = self.clusters.iter().map(|cluster| &*cluster.info.name);
        outrider_config::nearest(name, names)
    }

    /// The number of the cluster of this name.
    #[must_use]
    pub fn index(&self, name: &str) -> Option<ClusterIndex> {
        self.by_name.get(name).copied()
    }

    /// What the admin shows of each cluster, in the order of the config.
    #[must_use]
    pub fn view(&self) -> Vec<ClusterView> {
        let clusters = self.clusters.iter();
        clusters.map(|cluster| ClusterView::of(cluster)).collect()
    }

    /// A worker's half of the clusters. To be called on the worker, inside its runtime.
    #[must_use]
    pub fn worker(self: &Arc<Self>, worker: &Rc<WorkerCx>) -> Rc<Clusters> {
        Clusters::new(self.clone(), worker.clone())
    }
}
