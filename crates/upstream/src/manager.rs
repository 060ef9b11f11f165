//! The cluster manager: adds, warms, replaces and removes clusters, on the main thread.
//!
//! Workers read the [active clusters](ActiveClusters) from a snapshot that is swapped whole. A cluster that is added or
//! changed while the process serves is *warmed* first: it looks for its first hosts, and no request sees it until it has
//! them or has given up on them for now.

use std::collections::HashMap;
use std::collections::HashSet;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use arc_swap::ArcSwap;
use foldhash::fast::FixedState;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::Bootstrap;
use outrider_config::api::envoy::config::cluster::v3::Cluster as ClusterMessage;
use outrider_config::api::envoy::config::core::v3::BindConfig;
use outrider_net::WorkerCx;
use outrider_runtime::Runtime;
use outrider_runtime::Snapshot;
use outrider_stats::Scope;
use outrider_stats::Store;
use outrider_tls::Secrets;
use outrider_xds::FileSources;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::ClusterInfo;
use crate::ClusterManagerStats;
use crate::ClusterOrigin;
use crate::ClusterView;
use crate::Clusters;
use crate::HostsPublisher;
use crate::SharedCluster;
use crate::discovery;
use crate::discovery::Discovery;
use crate::discovery::DiscoveryCx;
use crate::dns::Resolvers;
use crate::info::ClusterCx;
use crate::shared::ProcessWide;

/// All clusters; shared by all threads, changed by the main thread only.
#[derive(Debug)]
pub struct ClusterManager {
    pub(crate) active: Arc<ArcSwap<ActiveClusters>>,
    /// Wakes the workers when clusters, or the hosts of some cluster, have changed.
    pub(crate) changed: watch::Sender<()>,
    /// Clusters of the bootstrap that still wait for their first hosts.
    uninitialized: watch::Sender<usize>,
    discoveries: Mutex<Discoveries>,
    store: Arc<Store>,
    discovery: DiscoveryCx,
    /// `cluster_manager.upstream_bind_config`
    bind: Option<BindConfig>,
    secrets: Secrets,
    process: ProcessWide,
    stats: Arc<ClusterManagerStats>,
}

/// The clusters that requests may use, at one moment.
#[derive(Debug, Default)]
pub(crate) struct ActiveClusters {
    /// In the order in which they were added.
    list: Vec<Arc<SharedCluster>>,
    /// Hashed fast: the names are the config's, and no client can add others.
    by_name: HashMap<Arc<str>, Arc<SharedCluster>, FixedState>,
}

/// What the main thread runs to find hosts. Only the main thread locks it.
#[derive(Debug, Default)]
struct Discoveries {
    /// Taken by [`ClusterManager::start`].
    of_bootstrap: Vec<(Box<dyn Discovery>, HostsPublisher)>,
    running: HashMap<Arc<str>, DiscoveryTask>,
}

/// A running discovery, which ends when this is dropped.
#[derive(Debug)]
struct DiscoveryTask(AbortHandle);

impl Drop for DiscoveryTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A cluster that was checked and built, and that nothing uses yet.
pub struct BuiltCluster {
    shared: Arc<SharedCluster>,
    discovery: Box<dyn Discovery>,
}

/// Clusters that look for their first hosts, and that no request sees yet.
pub struct WarmingClusters {
    clusters: Vec<(Arc<SharedCluster>, DiscoveryTask)>,
    /// How many have no hosts yet.
    waiting: watch::Sender<usize>,
    stats: Arc<ClusterManagerStats>,
}

/// The names of all clusters, for those who refer to clusters by name.
#[derive(Debug, Default)]
pub struct ClusterNames(HashSet<Arc<str>>);

impl ClusterManager {
    /// The clusters of `bootstrap`, for a proxy in `local_zone`, which is empty if it is in none. They obey `runtime`.
    ///
    /// # Errors
    /// All that is wrong with any of them.
    pub fn build(
        bootstrap: &Bootstrap,
        local_zone: &str,
        store: &Arc<Store>,
        runtime: &Arc<Runtime>,
    ) -> Result<Arc<Self>, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let stats: Arc<ClusterManagerStats> = store.register(Scope::new("cluster_manager"));
        stats.warming_clusters.mark_used();
        let settings = bootstrap.cluster_manager.as_ref();
        let deferred = bootstrap.deferred_stat_options.as_ref();
        let manager = ClusterManager {
            active: Arc::default(),
            changed: watch::Sender::new(()),
            uninitialized: watch::Sender::new(0),
            discoveries: Mutex::default(),
            store: store.clone(),
            discovery: DiscoveryCx {
                resolvers: Resolvers::new(bootstrap, store)?,
                sources: FileSources::default(),
                store: store.clone(),
            },
            secrets: Secrets::build(bootstrap)?,
            bind: settings.and_then(|settings| settings.upstream_bind_config.clone()),
            process: ProcessWide {
                connection_ids: Arc::default(),
                local_zone: local_zone.into(),
                defers_stats: deferred
                    .is_some_and(|options| options.enable_deferred_creation_stats),
                runtime: runtime.clone(),
            },
            stats,
        };
        let list = bootstrap.static_resources.as_ref();
        let messages: &[ClusterMessage] = list.map_or(&[], |resources| &resources.clusters);
        let built = errors.collect(manager.build_clusters(messages, &static_path()));
        let built = errors.finish(built.unwrap_or_default())?;
        let mut active = ActiveClusters::with_capacity(built.len());
        let mut discoveries = Vec::with_capacity(built.len());
        for cluster in built {
            let publisher = manager.publisher(&cluster.shared, &manager.uninitialized);
            discoveries.push((cluster.discovery, publisher));
            active.set(cluster.shared);
        }
        let snapshot = runtime.snapshot();
        (active.list.iter()).for_each(|cluster| cluster.activate(&snapshot));
        manager.stats.cluster_added.add(active.list.len() as u64);
        manager.lock().of_bootstrap = discoveries;
        manager.activate(active);
        Ok(Arc::new(manager))
    }

    /// Whether the cluster of this name is the bootstrap's, which no source of clusters may change.
    #[must_use]
    pub fn is_static(&self, name: &str) -> bool {
        let active = self.active.load();
        let cluster = active.get(name);
        cluster.is_some_and(|cluster| cluster.info.origin == ClusterOrigin::Static)
    }

    /// Checks and builds a list of clusters of the bootstrap, found at `path`. Nothing changes; any thread may do it.
    ///
    /// # Errors
    /// All that is wrong with any of them; two may not have the same name.
    pub fn build_clusters(
        &self,
        messages: &[ClusterMessage],
        path: &FieldPath,
    ) -> Result<Vec<BuiltCluster>, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut names = HashSet::new();
        let mut built = Vec::with_capacity(messages.len());
        for (index, message) in messages.iter().enumerate() {
            let path = path.index(index);
            let one = self.build_cluster(message, &path, ClusterOrigin::Static);
            let Some(cluster) = errors.collect(one) else {
                continue;
            };
            built.push(cluster);
            if !names.insert(&message.name) {
                let message = format!("cluster manager: duplicate cluster '{}'", message.name);
                errors.push(&path.field("name"), message);
            }
        }
        errors.finish(built)
    }

    /// Checks and builds one cluster, found at `path`. Nothing changes; any thread may do it.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn build_cluster(
        &self,
        message: &ClusterMessage,
        path: &FieldPath,
        origin: ClusterOrigin,
    ) -> Result<BuiltCluster, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let cx = ClusterCx {
            bind: self.bind.as_ref(),
            origin,
            secrets: &self.secrets,
        };
        let info = errors.collect(ClusterInfo::build(message, path, &cx));
        let discovery = errors.collect(discovery::build(message, path, &self.discovery));
        let (Some(info), Some(discovery)) = (info, discovery) else {
            return Err(errors);
        };
        let process = self.process.clone();
        let shared = Arc::new(SharedCluster::new(info, &self.store, process));
        Ok(BuiltCluster { shared, discovery })
    }

    /// Starts looking for the hosts of the bootstrap's clusters. To be called on the main thread, inside a `LocalSet`.
    pub fn start(&self) {
        let mut discoveries = self.lock();
        for (discovery, publisher) in std::mem::take(&mut discoveries.of_bootstrap) {
            let name = publisher.info().name.clone();
            let task = DiscoveryTask::spawn(discovery, publisher);
            discoveries.running.insert(name, task);
        }
    }

    /// Waits until every cluster of the bootstrap has its first hosts, or has given up on them for now. Until then the
    /// server is not ready.
    pub async fn initialized(&self) {
        wait_for_none(&self.uninitialized).await;
    }

    /// Has clusters look for their first hosts. On the main thread, inside a `LocalSet`.
    #[must_use]
    pub fn warm(&self, built: Vec<BuiltCluster>) -> WarmingClusters {
        let waiting = watch::Sender::new(0);
        let clusters = built.into_iter().map(|cluster| {
            let publisher = self.publisher(&cluster.shared, &waiting);
            let task = DiscoveryTask::spawn(cluster.discovery, publisher);
            self.stats.warming_clusters.inc();
            (cluster.shared, task)
        });
        WarmingClusters {
            clusters: clusters.collect(),
            waiting,
            stats: self.stats.clone(),
        }
    }

    /// Puts warmed clusters in the place of those of the same name, and takes away those of the names in `removed`, for
    /// all workers at once. Requests under way end on the cluster that they began on.
    pub fn replace(&self, mut warmed: WarmingClusters, removed: &[Arc<str>]) {
        let before = self.active.load_full();
        let mut active = ActiveClusters::with_capacity(before.list.len());
        for cluster in &before.list {
            active.set(cluster.clone());
        }
        let mut discoveries = self.lock();
        for name in removed {
            if active.remove(name) {
                discoveries.running.remove(name);
                self.stats.cluster_removed.inc();
            }
        }
        for (cluster, task) in std::mem::take(&mut warmed.clusters) {
            self.stats.warming_clusters.dec();
            cluster.activate(&self.process.runtime.snapshot());
            let name = cluster.info.name.clone();
            match active.set(cluster) {
                true => self.stats.cluster_modified.inc(),
                false => self.stats.cluster_added.inc(),
            }
            discoveries.running.insert(name, task);
        }
        drop(discoveries);
        self.activate(active);
    }

    /// Has all clusters obey what the runtime says now. On the main thread, after each change of it.
    pub fn obey_runtime(&self) {
        self.active.load().obey(&self.process.runtime.snapshot());
    }

    fn activate(&self, active: ActiveClusters) {
        self.stats.active_clusters.set(active.list.len() as u64);
        self.active.store(Arc::new(active));
        self.changed.send_replace(());
    }

    fn publisher(
        &self,
        cluster: &Arc<SharedCluster>,
        waiting: &watch::Sender<usize>,
    ) -> HostsPublisher {
        let (changed, stats) = (self.changed.clone(), self.stats.clone());
        HostsPublisher::new(cluster.clone(), changed, waiting.clone(), stats)
    }

    fn lock(&self) -> MutexGuard<'_, Discoveries> {
        self.discoveries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What the subscriptions of clusters share; those of others share it, too.
    #[must_use]
    pub fn sources(&self) -> &FileSources {
        &self.discovery.sources
    }

    /// The names of all active clusters.
    #[must_use]
    pub fn names(&self) -> ClusterNames {
        let active = self.active.load();
        ClusterNames(active.by_name.keys().cloned().collect())
    }

    /// What the admin shows of each cluster, in the order in which they were added.
    #[must_use]
    pub fn view(&self) -> Vec<ClusterView> {
        let active = self.active.load();
        let clusters = active.list.iter();
        clusters.map(|cluster| ClusterView::of(cluster)).collect()
    }

    /// A worker's view of the clusters. To be called on the worker, inside its runtime.
    #[must_use]
    pub fn worker(self: &Arc<Self>, worker: &Rc<WorkerCx>) -> Rc<Clusters> {
        Clusters::new(self.clone(), worker.clone())
    }
}

/// `static_resources.clusters`
fn static_path() -> FieldPath {
    FieldPath::root()
        .field("static_resources")
        .field("clusters")
}

async fn wait_for_none(count: &watch::Sender<usize>) {
    let mut count = count.subscribe();
    // Its sender is ours, so it cannot be gone.
    let _sent = count.wait_for(|clusters| *clusters == 0).await;
}

impl DiscoveryTask {
    fn spawn(discovery: Box<dyn Discovery>, publisher: HostsPublisher) -> DiscoveryTask {
        DiscoveryTask(tokio::task::spawn_local(discovery.run(publisher)).abort_handle())
    }
}

impl ActiveClusters {
    fn with_capacity(count: usize) -> ActiveClusters {
        ActiveClusters {
            list: Vec::with_capacity(count),
            by_name: HashMap::with_capacity_and_hasher(count, FixedState::default()),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<SharedCluster>> {
        self.by_name.get(name)
    }

    fn obey(&self, runtime: &Snapshot) {
        for cluster in &self.list {
            cluster.obey(runtime);
        }
    }

    /// Adds `cluster`, or puts it in the place of the one of its name; tells whether there was one.
    fn set(&mut self, cluster: Arc<SharedCluster>) -> bool {
        let name = cluster.info.name.clone();
        let Some(before) = self.by_name.insert(name, cluster.clone()) else {
            self.list.push(cluster);
            return false;
        };
        for place in &mut self.list {
            if Arc::ptr_eq(place, &before) {
                *place = cluster.clone();
            }
        }
        true
    }

    fn remove(&mut self, name: &str) -> bool {
        let removed = self.by_name.remove(name);
        self.list.retain(|cluster| *cluster.info.name != *name);
        removed.is_some()
    }
}

impl BuiltCluster {
    /// The cluster's name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.shared.info.name
    }
}

impl fmt::Debug for BuiltCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BuiltCluster").field(self.name()).finish()
    }
}

impl WarmingClusters {
    /// Waits until all have their first hosts, or have given up on them for now.
    pub async fn warmed(&self) {
        wait_for_none(&self.waiting).await;
    }

    /// What the admin shows of them.
    #[must_use]
    pub fn view(&self) -> Vec<ClusterView> {
        let clusters = self.clusters.iter();
        clusters
            .map(|(cluster, _)| ClusterView::of(cluster))
            .collect()
    }
}

impl Drop for WarmingClusters {
    fn drop(&mut self) {
        // Those that were never used after all.
        self.stats.warming_clusters.sub(self.clusters.len() as u64);
    }
}

impl fmt::Debug for WarmingClusters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.clusters.iter().map(|(cluster, _)| &cluster.info.name);
        f.debug_list().entries(names).finish()
    }
}

impl ClusterNames {
    /// Whether there is a cluster of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// The name of the cluster that `name` is probably a misspelling of.
    #[must_use]
    pub fn nearest(&self, name: &str) -> Option<&str> {
        outrider_config::nearest(name, self.0.iter().map(|name| &**name))
    }

    /// Adds a name.
    pub fn add(&mut self, name: &str) {
        self.0.insert(name.into());
    }

    /// Takes a name away.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }
}
