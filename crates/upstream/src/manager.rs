//! The cluster manager: adds, warms, replaces and removes clusters, on the main thread.
//!
//! Workers read the [active clusters](ActiveClusters) from a snapshot that is replaced as a whole. A cluster that is
//! added or changed while the proxy runs is *warmed* first: it discovers its hosts, and no request sees it until its
//! first hosts are known or discovery has failed once.

use std::any::Any;
use std::collections::HashMap;
use std::collections::HashSet;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use arc_swap::ArcSwap;
use foldhash::fast::FixedState;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::Bootstrap;
use outrider_config::api::envoy::config::bootstrap::v3::ClusterManager as ClusterManagerMessage;
use outrider_config::api::envoy::config::cluster::v3::Cluster as ClusterMessage;
use outrider_config::api::envoy::config::core::v3::BindConfig;
use outrider_net::WorkerCx;
use outrider_runtime::Runtime;
use outrider_runtime::Snapshot;
use outrider_stats::Scope;
use outrider_stats::Store;
use outrider_tls::Secrets;
use outrider_tls::StaticSecrets;
use outrider_xds::SecretManager;
use outrider_xds::Sources;
use outrider_xds::StaticClusters;
use outrider_xds::check_secret_sources;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::ClusterInfo;
use crate::ClusterManagerStats;
use crate::ClusterNames;
use crate::ClusterOrigin;
use crate::ClusterView;
use crate::Clusters;
use crate::EventFile;
use crate::EventFiles;
use crate::SharedCluster;
use crate::discovery;
use crate::discovery::Discovery;
use crate::discovery::DiscoveryCx;
use crate::dns_cache::DnsCaches;
use crate::info::ClusterCx;
use crate::local_cluster::LocalCluster;
use crate::publisher::ClusterHosts;
use crate::shared::ProcessWide;

/// All clusters. All threads share it; only the main thread changes it.
#[derive(Debug)]
pub struct ClusterManager {
    pub(crate) active: Arc<ArcSwap<ActiveClusters>>,
    /// Notifies the workers that clusters, or the hosts of a cluster, have changed.
    pub(crate) changed: watch::Sender<()>,
    /// The number of the bootstrap's clusters that are waiting for their first hosts.
    uninitialized: watch::Sender<usize>,
    discoveries: Mutex<ClusterDiscoveries>,
    store: Arc<Store>,
    discovery: DiscoveryCx,
    /// `cluster_manager.upstream_bind_config`
    bind: Option<BindConfig>,
    secrets: Arc<SecretManager>,
    process: ProcessWide,
    event_files: Arc<dyn EventFiles>,
    /// `cluster_manager.outlier_detection.event_log_path`
    outlier_log: Option<Arc<dyn EventFile>>,
    stats: Arc<ClusterManagerStats>,
}

/// The clusters that requests may use at one moment.
#[derive(Debug, Default)]
pub(crate) struct ActiveClusters {
    /// In the order in which they were added.
    list: Vec<Arc<SharedCluster>>,
    /// With a fast hash: the names come from the config, and clients cannot add any.
    by_name: HashMap<Arc<str>, Arc<SharedCluster>, FixedState>,
}

/// The discoveries that the main thread runs. Only the main thread locks it.
#[derive(Debug, Default)]
struct ClusterDiscoveries {
    /// Taken when they are started.
    of_bootstrap: Vec<(Box<dyn Discovery>, Arc<SharedCluster>)>,
    running: HashMap<Arc<str>, DiscoveryTask>,
}

/// The task of one cluster, which finds and watches its hosts. Dropping it ends the task.
#[derive(Debug)]
struct DiscoveryTask(AbortHandle);

impl Drop for DiscoveryTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A cluster that was checked and built, but is not used yet.
pub struct BuiltCluster {
    shared: Arc<SharedCluster>,
    discovery: Box<dyn Discovery>,
}

/// Clusters that are discovering their first hosts. No request sees them yet.
pub struct WarmingClusters {
    clusters: Vec<(Arc<SharedCluster>, DiscoveryTask)>,
    /// The number of clusters without hosts yet.
    waiting: watch::Sender<usize>,
    stats: Arc<ClusterManagerStats>,
}

impl ClusterManager {
    /// Builds the clusters of `bootstrap`, for a proxy in `local_zone` (empty if it is in none). `runtime` sets their
    /// limits; `event_files` opens the logs of their hosts' health; `sources` has what control planes and files give.
    ///
    /// # Errors
    /// All errors of all clusters.
    pub fn build(
        bootstrap: &Bootstrap,
        local_zone: &str,
        store: &Arc<Store>,
        runtime: &Arc<Runtime>,
        (event_files, sources): (Arc<dyn EventFiles>, Sources),
    ) -> Result<Arc<Self>, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let stats: Arc<ClusterManagerStats> = store.register(Scope::new("cluster_manager"));
        stats.warming_clusters.mark_used();
        let settings = bootstrap.cluster_manager.as_ref();
        let deferred = bootstrap.deferred_stat_options.as_ref();
        let list = bootstrap.static_resources.as_ref();
        let messages: &[ClusterMessage] = list.map_or(&[], |resources| &resources.clusters);
        sources.set_clusters(static_clusters(messages));
        let statics = StaticSecrets::build(bootstrap)?;
        let manager = ClusterManager {
            active: Arc::default(),
            changed: watch::Sender::new(()),
            uninitialized: watch::Sender::new(0),
            discoveries: Mutex::default(),
            store: store.clone(),
            discovery: DiscoveryCx {
                dns_caches: DnsCaches::new(bootstrap, store, runtime)?,
                sources: sources.clone(),
                store: store.clone(),
            },
            secrets: SecretManager::new(statics, sources, store.clone()),
            bind: settings.and_then(|settings| settings.upstream_bind_config.clone()),
            process: ProcessWide {
                connection_ids: Arc::default(),
                balancing_threads: Arc::new(AtomicU64::new(2)),
                local_cluster: LocalCluster::build(bootstrap, local_zone)?,
                local_zone: local_zone.into(),
                defers_stats: deferred
                    .is_some_and(|options| options.enable_deferred_creation_stats),
                runtime: runtime.clone(),
            },
            outlier_log: outlier_log(settings, &*event_files)?,
            event_files,
            stats,
        };
        let secrets = manager.secrets.secrets();
        let built = manager.build_clusters(messages, &static_path(), &secrets);
        let built = errors.collect(built);
        let built = errors.finish(built.unwrap_or_default())?;
        let mut active = ActiveClusters::with_capacity(built.len());
        let mut discoveries = Vec::with_capacity(built.len());
        for cluster in built {
            discoveries.push((cluster.discovery, cluster.shared.clone()));
            active.add(cluster.shared);
        }
        let snapshot = runtime.snapshot();
        (active.list.iter()).for_each(|cluster| cluster.activate(&snapshot));
        manager.stats.cluster_added.add(active.list.len() as u64);
        manager.lock().of_bootstrap = discoveries;
        manager.activate(active);
        Ok(Arc::new(manager))
    }

    /// Sets the number of workers, which the counts of some stats depend on in Envoy.
    pub fn set_concurrency(&self, workers: u32) {
        let threads = &self.process.balancing_threads;
        threads.store(u64::from(workers) + 1, Relaxed);
    }

    /// Whether the cluster of this name is in the bootstrap. Dynamic sources must not change such clusters.
    #[must_use]
    pub fn is_static(&self, name: &str) -> bool {
        let active = self.active.load();
        let cluster = active.get(name);
        cluster.is_some_and(|cluster| cluster.info.origin == ClusterOrigin::Static)
    }

    /// Checks and builds a list of the bootstrap's clusters, found at `path`. It changes nothing and may run on any
    /// thread.
    ///
    /// # Errors
    /// All errors of all clusters. Two clusters must not have the same name.
    pub fn build_clusters(
        &self,
        messages: &[ClusterMessage],
        path: &FieldPath,
        secrets: &Secrets,
    ) -> Result<Vec<BuiltCluster>, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut names = HashSet::new();
        let mut built = Vec::with_capacity(messages.len());
        for (index, message) in messages.iter().enumerate() {
            let path = path.index(index);
            let one = self.build_cluster(message, &path, ClusterOrigin::Static, secrets);
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

    /// Checks and builds one cluster, found at `path`. It changes nothing and may run on any thread.
    ///
    /// # Errors
    /// All errors of the cluster.
    pub fn build_cluster(
        &self,
        message: &ClusterMessage,
        path: &FieldPath,
        origin: ClusterOrigin,
        secrets: &Secrets,
    ) -> Result<BuiltCluster, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let cx = ClusterCx {
            bind: self.bind.as_ref(),
            origin,
            secrets,
            runtime: &self.process.runtime.snapshot(),
            event_files: &*self.event_files,
            outlier_log: self.outlier_log.as_ref(),
        };
        let message = &*discovery::with_defaults(message);
        let info = errors.collect(ClusterInfo::build(message, path, &cx));
        let discovery = errors.collect(discovery::build(message, path, &self.discovery));
        let (Some(mut info), Some(discovery)) = (info, discovery) else {
            return Err(errors);
        };
        if let Some(hosts) = discovery.dynamic_hosts() {
            errors.collect(hosts.check_names(info.http.names.as_ref(), path));
            info.dynamic_hosts = Some(hosts.with_default_port(&info.transport_sockets));
        }
        for tls in info.transport_sockets.contexts().flatten() {
            errors.collect(check_secret_sources(&**tls, &self.discovery.sources));
        }
        let (info, discovery) = errors.finish((info, discovery))?;
        let process = self.process.clone();
        let shared = Arc::new(SharedCluster::new(info, &self.store, process));
        Ok(BuiltCluster { shared, discovery })
    }

    /// Starts the discovery of the bootstrap's clusters whose hosts no control plane has. Must be called on the main thread,
    /// inside a `LocalSet`.
    pub fn start(&self) {
        self.discovery.dns_caches.start();
        self.start_those(|discovery| !discovery.is_remote());
    }

    fn start_those(&self, starts: impl Fn(&dyn Discovery) -> bool) {
        let mut discoveries = self.lock();
        let starting = (discoveries.of_bootstrap).extract_if(.., |(one, _)| starts(&**one));
        let starting: Vec<_> = starting.collect();
        for (discovery, cluster) in starting {
            let name = cluster.info.name.clone();
            let task = self.run(discovery, &cluster, &self.uninitialized);
            discoveries.running.insert(name, task);
        }
    }

    /// Waits until each cluster of the bootstrap has its first hosts or its discovery has failed once. Until then, the
    /// server is not ready.
    pub async fn initialized(&self) {
        self.primary_initialized().await;
        self.start_those(|_| true);
        wait_for_none(&self.uninitialized).await;
    }

    /// Waits until all clusters are initialized whose hosts do not come from a control plane. Then control planes can be
    /// called.
    pub async fn primary_initialized(&self) {
        wait_for_none(&self.uninitialized).await;
    }

    /// Starts the discovery of clusters that are to be added. Must be called on the main thread, inside a `LocalSet`.
    #[must_use]
    pub fn warm(&self, built: Vec<BuiltCluster>) -> WarmingClusters {
        let waiting = watch::Sender::new(0);
        let clusters = built.into_iter().map(|cluster| {
            let task = self.run(cluster.discovery, &cluster.shared, &waiting);
            self.stats.warming_clusters.inc();
            cluster.shared.membership.warming_state.set(1);
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
    ///
    /// This takes as long for one cluster as for all. Returns the previous set, which the caller holds until no worker
    /// does, so that no worker has to free it.
    #[must_use = "dropped at once, the previous set is freed by the worker that uses it last"]
    pub fn replace(
        &self,
        warmed: impl IntoIterator<Item = WarmingClusters>,
        removed: &[Arc<str>],
    ) -> Arc<dyn Any + Send + Sync> {
        let runtime = self.process.runtime.snapshot();
        let mut discoveries = self.lock();
        let mut new: HashMap<Arc<str>, Arc<SharedCluster>, FixedState> = HashMap::default();
        let mut order = Vec::new();
        for mut warmed in warmed {
            for (cluster, task) in std::mem::take(&mut warmed.clusters) {
                self.stats.warming_clusters.dec();
                cluster.membership.warming_state.set(0);
                cluster.activate(&runtime);
                let name = cluster.info.name.clone();
                discoveries.running.insert(name.clone(), task);
                order.push(name.clone());
                new.insert(name, cluster);
            }
        }
        let removed: HashSet<&str> = removed.iter().map(|name| &**name).collect();
        let before = self.active.load_full();
        let mut active = ActiveClusters::with_capacity(before.list.len() + new.len());
        for cluster in &before.list {
            let name = &cluster.info.name;
            if let Some(replacement) = new.remove(name) {
                self.stats.cluster_modified.inc();
                cluster.remove_subsets();
                active.add(replacement);
            } else if removed.contains(&**name) {
                discoveries.running.remove(name);
                self.stats.cluster_removed.inc();
                cluster.remove_subsets();
            } else {
                active.add(cluster.clone());
            }
        }
        drop(discoveries);
        for cluster in order.iter().filter_map(|name| new.remove(name)) {
            self.stats.cluster_added.inc();
            active.add(cluster);
        }
        self.activate(active);
        before
    }

    /// Applies the current runtime values to all clusters. Must be called on the main thread after each change of the
    /// runtime.
    pub fn apply_runtime(&self) {
        self.active
            .load()
            .apply_runtime(&self.process.runtime.snapshot());
    }

    fn activate(&self, active: ActiveClusters) {
        self.stats.active_clusters.set(active.list.len() as u64);
        self.active.store(Arc::new(active));
        self.changed.send_replace(());
    }

    /// Starts looking for the secrets of `cluster`, then for its hosts, and watching them. `waiting` counts the clusters that warm.
    fn run(
        &self,
        discovery: Box<dyn Discovery>,
        cluster: &Arc<SharedCluster>,
        waiting: &watch::Sender<usize>,
    ) -> DiscoveryTask {
        let hosts = ClusterHosts::new(
            cluster.clone(),
            self.changed.clone(),
            waiting.clone(),
            self.stats.clone(),
            &self.store,
        );
        let publisher = hosts.publisher();
        let sockets = &cluster.info.transport_sockets;
        let tls: Vec<_> = sockets.contexts().flatten().cloned().collect();
        let secrets = self.secrets.clone();
        let task = tokio::task::spawn_local(async move {
            let discovering = async move {
                for tls in tls {
                    secrets.follow(tls).await;
                }
                discovery.run(publisher).await;
            };
            tokio::join!(discovering, hosts.watch());
        });
        DiscoveryTask(task.abort_handle())
    }

    fn lock(&self) -> MutexGuard<'_, ClusterDiscoveries> {
        self.discoveries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The DNS caches of clusters and filters.
    #[must_use]
    pub fn dns_caches(&self) -> &Arc<DnsCaches> {
        &self.discovery.dns_caches
    }

    /// The state that all subscriptions share, not only those of clusters.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.discovery.sources
    }

    /// Sets the clusters that control planes may have: these, of a new bootstrap.
    pub fn set_control_planes(&self, clusters: &[ClusterMessage]) {
        self.sources().set_clusters(static_clusters(clusters));
    }

    /// The secrets of the clusters; those of others are with them.
    #[must_use]
    pub fn secrets(&self) -> &Arc<SecretManager> {
        &self.secrets
    }

    /// The names of all active clusters.
    #[must_use]
    pub fn names(&self) -> ClusterNames {
        let active = self.active.load();
        active.by_name.keys().cloned().collect()
    }

    /// The admin server's view of each cluster, in the order in which the clusters were added.
    #[must_use]
    pub fn view(&self) -> Vec<ClusterView> {
        let active = self.active.load();
        let clusters = active.list.iter();
        clusters.map(|cluster| ClusterView::of(cluster)).collect()
    }

    /// Creates a worker's view of the clusters. Must be called on the worker, inside its runtime.
    #[must_use]
    pub fn worker(self: &Arc<Self>, worker: &Rc<WorkerCx>) -> Rc<Clusters> {
        let thread = format!("worker_{}", worker.index);
        Clusters::new(self.clone(), worker.clone(), &thread)
    }

    /// Creates the main thread's view of the clusters, for calls to control planes. Must be called inside its runtime.
    #[must_use]
    pub fn main_thread(self: &Arc<Self>, main: &Rc<WorkerCx>) -> Rc<Clusters> {
        Clusters::new(self.clone(), main.clone(), "main_thread")
    }
}

/// The log that `cluster_manager.outlier_detection` names.
fn outlier_log(
    settings: Option<&ClusterManagerMessage>,
    files: &dyn EventFiles,
) -> Result<Option<Arc<dyn EventFile>>, ConfigErrors> {
    let settings = settings.and_then(|settings| settings.outlier_detection.as_ref());
    let name = settings.map_or("", |settings| settings.event_log_path.as_str());
    if name.is_empty() {
        return Ok(None);
    }
    let path = FieldPath::root().field("cluster_manager");
    let path = path.field("outlier_detection").field("event_log_path");
    let file = files.open(name);
    Ok(Some(file.map_err(|error| ConfigError::new(&path, error))?))
}

/// The names of the bootstrap's clusters.
fn static_clusters(messages: &[ClusterMessage]) -> StaticClusters {
    let name = |message: &&ClusterMessage| message.name.clone();
    let primary = |message: &&ClusterMessage| !discovery::is_remote(message);
    StaticClusters {
        all: messages.iter().map(|message| name(&message)).collect(),
        primary: messages
            .iter()
            .filter(primary)
            .map(|one| name(&one))
            .collect(),
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
    // This function holds the sender, so the channel cannot be closed.
    let _sent = count.wait_for(|clusters| *clusters == 0).await;
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

    fn apply_runtime(&self, runtime: &Snapshot) {
        for cluster in &self.list {
            cluster.apply_runtime(runtime);
        }
    }

    /// Adds a cluster whose name no other has.
    fn add(&mut self, cluster: Arc<SharedCluster>) {
        let name = cluster.info.name.clone();
        self.by_name.insert(name, cluster.clone());
        self.list.push(cluster);
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
    /// Waits until each cluster has its first hosts or its discovery has failed once.
    pub async fn warmed(&self) {
        wait_for_none(&self.waiting).await;
    }

    /// The admin server's view of them.
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
        // Clusters that were not activated after all.
        for (cluster, _) in &self.clusters {
            cluster.remove_subsets();
        }
        self.stats.warming_clusters.sub(self.clusters.len() as u64);
    }
}

impl fmt::Debug for WarmingClusters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.clusters.iter().map(|(cluster, _)| &cluster.info.name);
        f.debug_list().entries(names).finish()
    }
}
