//! CDS: clusters from a file of resources.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use outrider_config::FieldPath;
use outrider_config::Resource;
use outrider_config::ResourceFile;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_stats::Counter;
use outrider_stats::Gauge;
use outrider_stats::Scope;
use outrider_upstream::BuiltCluster;
use outrider_upstream::ClusterManager;
use outrider_upstream::ClusterOrigin;
use outrider_upstream::WarmingClusters;
use outrider_xds::FileSource;
use prost::Message as _;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::background;
use crate::control::Control;
use crate::discovery::followed_file::FollowedFile;
use crate::discovery::now_ms;
use crate::dump::DynamicResource;
use crate::retired::Retired;

const TYPE: &str = "envoy.config.cluster.v3.Cluster";

outrider_stats::group! {
    /// `cluster_manager.cds.*`, in addition to the stats of every subscription.
    struct ClusterUpdateStats {
        config_reload: Counter,
        config_reload_time_ms: Gauge,
    }
}

/// Keeps clusters in step with a file. It never changes clusters of the bootstrap.
pub(crate) struct ClusterDiscovery {
    file: FollowedFile,
    clusters: Arc<ClusterManager>,
    retired: Retired,
    stats: Arc<ClusterUpdateStats>,
    /// The file's clusters that requests may use, by name.
    active: RefCell<HashMap<String, DynamicResource>>,
    /// Those that wait for their first hosts.
    warming: RefCell<HashMap<String, WarmingCluster>>,
    /// How many of them there are.
    warming_count: watch::Sender<usize>,
    /// Those that have their first hosts, and are made active together.
    warm: RefCell<Vec<WarmCluster>>,
}

struct WarmingCluster {
    resource: DynamicResource,
    task: AbortHandle,
}

struct WarmCluster {
    name: String,
    cluster: WarmingClusters,
}

impl ClusterDiscovery {
    pub(super) fn new(source: FileSource, control: &Rc<Control>) -> io::Result<Rc<Self>> {
        let scope = Scope::new("cluster_manager").name("cds");
        let stats = control.store.register(scope.clone());
        let sources = control.clusters.sources();
        Ok(Rc::new(ClusterDiscovery {
            file: FollowedFile::new(source, TYPE, sources, stats)?,
            clusters: control.clusters.clone(),
            retired: control.retired.clone(),
            stats: control.store.register(scope),
            active: RefCell::default(),
            warming: RefCell::default(),
            warming_count: watch::Sender::new(0),
            warm: RefCell::default(),
        }))
    }

    /// Reads the file again whenever it is replaced, for as long as the process serves.
    pub(super) async fn follow(self: Rc<Self>) {
        loop {
            self.file.changed().await;
            self.clone().update().await;
        }
    }

    /// Waits until no cluster is warming.
    pub(super) async fn warmed(&self) {
        let mut count = self.warming_count.subscribe();
        // `self` owns the sender, so the channel cannot be closed.
        let _sent = count.wait_for(|count| *count == 0).await;
    }

    /// Reads the file and applies it.
    pub(super) async fn update(self: Rc<Self>) {
        let this = self.clone();
        let apply = async move |file| this.take(file).await;
        self.file.update(apply).await;
    }

    /// Adds and changes the valid clusters and removes those that the file no longer has. As in Envoy, an invalid cluster
    /// does not prevent the update of the others.
    async fn take(self: Rc<Self>, file: ResourceFile) -> Result<(), String> {
        let mut errors = Vec::new();
        let mut listed = HashSet::new();
        let mut changed = Vec::new();
        for resource in file.resources {
            let name = resource.name.clone();
            if !listed.insert(name.clone()) {
                errors.push(format!("{name}: duplicate cluster {name} found"));
            } else if !self.clusters.is_static(&name) && !self.is_known(&resource) {
                changed.push(resource);
            }
        }
        let mut is_applied = self.remove_all_but(&listed);
        self.file.set_listed(listed);
        for (resource, built) in self.build(changed).await? {
            match built {
                Ok(built) => {
                    self.clone().warm(resource, &file.version, built);
                    is_applied = true;
                }
                Err(error) => errors.push(error),
            }
        }
        if is_applied {
            self.file.set_version(file.version);
            self.stats.config_reload.inc();
            self.stats.config_reload_time_ms.set(now_ms());
        }
        if errors.is_empty() {
            return Ok(());
        }
        Err(format!(
            "Error adding/updating cluster(s) {}",
            errors.join(", ")
        ))
    }

    /// Whether the cluster of this name is, or soon will be, the one of `resource`.
    fn is_known(&self, resource: &Resource) -> bool {
        let (warming, active) = (self.warming.borrow(), self.active.borrow());
        let warming = warming.get(&resource.name).map(|warming| &warming.resource);
        let newest = warming.or(active.get(&resource.name));
        newest.is_some_and(|known| known.wire == resource.wire)
    }

    /// Builds the clusters that are new or have changed.
    async fn build(&self, changed: Vec<Resource>) -> Result<Vec<BuiltResource>, String> {
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        let clusters = self.clusters.clone();
        let build = move |resource: Resource| {
            let message = Cluster::decode(resource.wire.as_slice()).unwrap_or_default();
            let origin = ClusterOrigin::Api;
            let (path, secrets) = (FieldPath::root(), clusters.secrets().secrets());
            let built = clusters.build_cluster(&message, &path, origin, &secrets);
            let built = built.map_err(|errors| resource.positions.diagnose(errors).to_string());
            (resource, built)
        };
        let built = background::run("cds", move || changed.into_iter().map(build).collect());
        built.await.map_err(|error| error.to_string())
    }

    /// Removes the clusters that the file has no longer. Returns whether there were any.
    fn remove_all_but(&self, listed: &HashSet<String>) -> bool {
        let is_gone = |name: &String| !listed.contains(name);
        let warming = self.warming.borrow();
        let unwarmed: Vec<String> = warming
            .keys()
            .filter(|name| is_gone(name))
            .cloned()
            .collect();
        drop(warming);
        unwarmed.iter().for_each(|name| self.stop_warming(name));
        let mut active = self.active.borrow_mut();
        let gone: Vec<Arc<str>> = (active.extract_if(|name, _| is_gone(name)))
            .map(|(name, _)| Arc::from(name))
            .collect();
        if !gone.is_empty() {
            self.retired.keep(self.clusters.replace([], &gone));
        }
        !gone.is_empty() || !unwarmed.is_empty()
    }

    /// Makes a cluster active once it has its first hosts.
    fn warm(self: Rc<Self>, resource: Resource, version: &str, built: BuiltCluster) {
        let name = resource.name;
        self.stop_warming(&name);
        let cluster = self.clusters.warm(vec![built]);
        self.warming_count.send_modify(|count| *count += 1);
        let (this, of) = (self.clone(), name.clone());
        let task = tokio::task::spawn_local(async move {
            cluster.warmed().await;
            let mut warm = this.warm.borrow_mut();
            warm.push(WarmCluster { name: of, cluster });
            if warm.len() == 1 {
                tokio::task::spawn_local(this.clone().activate_warm());
            }
        });
        let warming = WarmingCluster {
            resource: DynamicResource::new(resource.wire, version),
            task: task.abort_handle(),
        };
        self.warming.borrow_mut().insert(name, warming);
    }

    /// Makes the warm clusters active. Each time, the list of all clusters is copied; so this waits while more clusters
    /// become warm.
    async fn activate_warm(self: Rc<Self>) {
        let mut count = 0;
        while self.warm.borrow().len() > count {
            count = self.warm.borrow().len();
            tokio::task::yield_now().await;
        }
        let warm = self.warm.take();
        let mut warming = self.warming.borrow_mut();
        let mut active = self.active.borrow_mut();
        let clusters = warm.into_iter().filter_map(|warm| {
            let known = warming.remove(&warm.name)?;
            active.insert(warm.name, known.resource);
            Some(warm.cluster)
        });
        let clusters: Vec<_> = clusters.collect();
        let (count, none) = (clusters.len(), &[]);
        self.retired.keep(self.clusters.replace(clusters, none));
        self.warming_count.send_modify(|warming| *warming -= count);
    }

    fn stop_warming(&self, name: &str) {
        if let Some(warming) = self.warming.borrow_mut().remove(name) {
            warming.task.abort();
            self.warm.borrow_mut().retain(|warm| warm.name != name);
            self.warming_count.send_modify(|count| *count -= 1);
        }
    }

    /// The bootstrap's clusters have changed. It now owns those named in `added`, and the file may again use the names
    /// in `removed`.
    pub(crate) fn follow_bootstrap(&self, added: &[String], removed: &[Arc<str>]) {
        for name in added {
            self.active.borrow_mut().remove(name);
            self.stop_warming(name);
        }
        self.file.names_freed(removed);
    }

    /// The version of the last update of which something was applied.
    pub(crate) fn version(&self) -> String {
        self.file.version()
    }

    /// The entries of `/config_dump`, by name: active and warming clusters.
    pub(crate) fn dump(&self) -> (Vec<DynamicResource>, Vec<DynamicResource>) {
        let (active, warming) = (self.active.borrow(), self.warming.borrow());
        let active: BTreeMap<_, _> = active.iter().collect();
        let warming: BTreeMap<_, _> = warming.iter().collect();
        let warming = warming.into_values().map(|warming| &warming.resource);
        (
            active.into_values().cloned().collect(),
            warming.cloned().collect(),
        )
    }
}

/// A resource, and the cluster that was built from it, or why it could not be.
type BuiltResource = (Resource, Result<BuiltCluster, String>);
