//! CDS: clusters from a file of resources or a control plane.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use outrider_config::FieldPath;
use outrider_config::Resource;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_stats::Counter;
use outrider_stats::Gauge;
use outrider_stats::Scope;
use outrider_upstream::BuiltCluster;
use outrider_upstream::ClusterManager;
use outrider_upstream::ClusterOrigin;
use outrider_upstream::WarmingClusters;
use outrider_xds::ConfigSource;
use outrider_xds::Removed;
use outrider_xds::ResourceType;
use outrider_xds::SubscriptionTarget;
use outrider_xds::Update;
use prost::Message as _;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::background;
use crate::control::Control;
use crate::discovery::followed_source::FollowedSource;
use crate::discovery::now_ms;
use crate::dump::DynamicResource;
use crate::retired::Retired;

outrider_stats::group! {
    /// `cluster_manager.cds.*`, in addition to the stats of every subscription.
    struct ClusterUpdateStats {
        config_reload: Counter,
        config_reload_time_ms: Gauge,
    }
}

/// Keeps clusters in step with a source. It never changes clusters of the bootstrap.
pub(crate) struct ClusterDiscovery {
    source: FollowedSource,
    clusters: Arc<ClusterManager>,
    retired: Retired,
    stats: Arc<ClusterUpdateStats>,
    /// The source's clusters that requests may use, by name.
    active: RefCell<HashMap<String, DynamicResource>>,
    /// Those that wait for their first hosts.
    warming: RefCell<HashMap<String, WarmingCluster>>,
    /// How many of them there are.
    warming_count: watch::Sender<usize>,
    /// Those that have their first hosts, and are made active together.
    warm: RefCell<Vec<WarmCluster>>,
    /// The first clusters are warm. From now on, the control plane is to know when clusters are.
    has_started: Cell<bool>,
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
    pub(super) fn new(source: &ConfigSource, control: &Rc<Control>) -> io::Result<Rc<Self>> {
        let scope = Scope::new("cluster_manager").name("cds");
        let subject = SubscriptionTarget {
            kind: &ResourceType::CLUSTER,
            name: None,
            scope: scope.clone(),
        };
        let (sources, store) = (control.clusters.sources(), &control.store);
        Ok(Rc::new(ClusterDiscovery {
            source: FollowedSource::new(source, subject, sources, store)?,
            clusters: control.clusters.clone(),
            retired: control.retired.clone(),
            stats: control.store.register(scope),
            active: RefCell::default(),
            warming: RefCell::default(),
            warming_count: watch::Sender::new(0),
            warm: RefCell::default(),
            has_started: Cell::new(false),
        }))
    }

    /// Applies each update, for as long as the process serves.
    pub(super) async fn follow(self: Rc<Self>) {
        loop {
            self.source.changed().await;
            self.clone().update().await;
        }
    }

    /// Waits until no cluster is warming.
    pub(super) async fn warmed(&self) {
        let mut count = self.warming_count.subscribe();
        // `self` owns the sender, so the channel cannot be closed.
        let _sent = count.wait_for(|count| *count == 0).await;
        self.has_started.set(true);
    }

    /// Applies the newest resources.
    pub(super) async fn update(self: Rc<Self>) {
        let this = self.clone();
        let apply = async move |update| this.take(update).await;
        self.source.update(apply).await;
    }

    /// Adds and changes the valid clusters and removes those that are gone. As in Envoy, an invalid cluster
    /// does not prevent the update of the others.
    async fn take(self: Rc<Self>, update: Update) -> Result<(), String> {
        let mut errors = Vec::new();
        let mut listed = HashSet::new();
        let mut changed = Vec::new();
        for resource in update.resources {
            let name = resource.name.clone();
            if !listed.insert(name.clone()) {
                errors.push(format!("{name}: duplicate cluster {name} found"));
            } else if !self.clusters.is_static(&name) && !self.is_known(&resource) {
                changed.push(resource);
            }
        }
        let mut is_applied = self.remove(&update.removed, &listed);
        self.source.set_listed(listed, &update.removed);
        let mut is_reloaded = false;
        for (resource, built) in self.build(changed).await? {
            match built {
                Ok(built) => {
                    self.clone().warm(resource, built);
                    (is_applied, is_reloaded) = (true, true);
                }
                Err(error) => errors.push(error),
            }
        }
        if is_applied {
            self.source.set_version(update.version);
        }
        // As in Envoy, without removed clusters.
        if is_reloaded {
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

    /// Removes the clusters that the source has no longer. Returns whether there were any.
    fn remove(&self, removed: &Removed, listed: &HashSet<String>) -> bool {
        let is_gone = |name: &String| !listed.contains(name) && removed.has(name);
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
    fn warm(self: Rc<Self>, resource: Resource, built: BuiltCluster) {
        let name = resource.name;
        self.stop_warming(&name);
        let cluster = self.clusters.warm(vec![built]);
        self.count_warming(|count| count + 1);
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
            resource: DynamicResource::new(resource.wire, &resource.version),
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
        self.count_warming(|warming| warming - count);
    }

    /// As in Envoy, an update of the aggregated control plane is not acknowledged before its clusters are warm, so that the
    /// routes to them can come afterwards.
    fn count_warming(&self, count: impl Fn(usize) -> usize) {
        let before = *self.warming_count.borrow();
        let now = count(before);
        if self.has_started.get() && (before == 0) != (now == 0) {
            self.source.acknowledgements.hold(now > 0);
        }
        self.warming_count.send_replace(now);
    }

    fn stop_warming(&self, name: &str) {
        if let Some(warming) = self.warming.borrow_mut().remove(name) {
            warming.task.abort();
            self.warm.borrow_mut().retain(|warm| warm.name != name);
            self.count_warming(|count| count - 1);
        }
    }

    /// The bootstrap's clusters have changed. It now owns those named in `added`, and the source may again use the names
    /// in `removed`.
    pub(crate) fn follow_bootstrap(&self, added: &[String], removed: &[Arc<str>]) {
        for name in added {
            self.active.borrow_mut().remove(name);
            self.stop_warming(name);
        }
        self.source.names_freed(removed);
    }

    /// The version of the last update of which something was applied.
    pub(crate) fn version(&self) -> String {
        self.source.version()
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
