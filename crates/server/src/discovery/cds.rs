//! CDS: clusters from a file of resources.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::HashSet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use outrider_config::FieldPath;
use outrider_config::ResourceFile;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_stats::Scope;
use outrider_upstream::BuiltCluster;
use outrider_upstream::ClusterManager;
use outrider_upstream::ClusterOrigin;
use outrider_xds::FileSource;
use outrider_xds::FileSubscription;
use prost::Message as _;
use tokio::sync::Mutex;
use tokio::sync::Notify;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::control::Control;
use crate::dump::DynamicResource;

const TYPE: &str = "envoy.config.cluster.v3.Cluster";

/// Keeps clusters in step with a file. It never changes clusters of the bootstrap.
pub(crate) struct ClusterDiscovery {
    subscription: Mutex<FileSubscription>,
    clusters: Arc<ClusterManager>,
    /// The clusters that the file has, by name.
    named: RefCell<HashMap<String, DynamicResource>>,
    /// Warming clusters: they wait for their first hosts.
    warming: RefCell<HashMap<String, AbortHandle>>,
    /// How many of them there are.
    warming_count: watch::Sender<usize>,
    /// What the file has under a name of the bootstrap's.
    overridden: RefCell<HashSet<String>>,
    /// Notified when the file must be read again although it was not replaced.
    again: Notify,
    version: RefCell<String>,
}

impl ClusterDiscovery {
    pub(super) fn new(source: FileSource, control: &Rc<Control>) -> io::Result<Rc<Self>> {
        let scope = Scope::new("cluster_manager").name("cds");
        let stats = control.store.register(scope);
        let sources = control.clusters.sources();
        Ok(Rc::new(ClusterDiscovery {
            subscription: Mutex::new(FileSubscription::new(source, TYPE, sources, stats)?),
            clusters: control.clusters.clone(),
            named: RefCell::default(),
            warming: RefCell::default(),
            warming_count: watch::Sender::new(0),
            overridden: RefCell::default(),
            again: Notify::new(),
            version: RefCell::default(),
        }))
    }

    /// Reads the file again whenever it is replaced, for as long as the process serves.
    pub(super) async fn follow(self: Rc<Self>) {
        loop {
            let mut subscription = self.subscription.lock().await;
            tokio::select! {
                () = subscription.changed() => {}
                () = self.again.notified() => {}
            }
            drop(subscription);
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
        let subscription = self.subscription.lock().await;
        subscription
            .update(async move |file| this.take(file).await)
            .await;
    }

    /// Adds and changes the valid clusters and removes those that the file no longer has. As in Envoy, an invalid cluster
    /// does not prevent the update of the others.
    async fn take(self: Rc<Self>, file: ResourceFile) -> Result<(), String> {
        let mut errors = Vec::new();
        let mut listed = HashSet::new();
        let mut changed = Vec::new();
        self.overridden.borrow_mut().clear();
        for resource in file.resources {
            let name = resource.name.clone();
            if !listed.insert(name.clone()) {
                errors.push(format!("{name}: duplicate cluster {name} found"));
                continue;
            }
            let same = |known: &DynamicResource| known.wire == resource.wire;
            if self.clusters.is_static(&name) {
                self.overridden.borrow_mut().insert(name);
                continue;
            }
            if self.named.borrow().get(&name).is_some_and(same) {
                continue;
            }
            changed.push(resource);
        }
        self.remove_all_but(&listed);
        let clusters = self.clusters.clone();
        let built = tokio::task::spawn_blocking(move || {
            let build = |resource: outrider_config::Resource| {
                let message = Cluster::decode(resource.wire.as_slice()).unwrap_or_default();
                let origin = ClusterOrigin::Api;
                let built = clusters.build_cluster(&message, &FieldPath::root(), origin);
                let built = built.map_err(|errors| resource.positions.diagnose(errors).to_string());
                (resource, built)
            };
            changed.into_iter().map(build).collect::<Vec<_>>()
        });
        for (resource, built) in built.await.unwrap_or_default() {
            match built {
                Ok(built) => self.clone().warm(resource, &file.version, built),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            self.version.replace(file.version);
            return Ok(());
        }
        Err(format!(
            "Error adding/updating cluster(s) {}",
            errors.join(", ")
        ))
    }

    fn remove_all_but(&self, listed: &HashSet<String>) {
        let mut named = self.named.borrow_mut();
        let gone: Vec<String> = (named.keys())
            .filter(|name| !listed.contains(*name))
            .cloned()
            .collect();
        for name in &gone {
            named.remove(name);
            self.stop_warming(name);
        }
        let gone: Vec<Arc<str>> = (gone.iter())
            .filter(|name| !self.clusters.is_static(name))
            .map(|name| Arc::from(name.as_str()))
            .collect();
        if !gone.is_empty() {
            self.clusters.replace(self.clusters.warm(Vec::new()), &gone);
        }
    }

    /// Makes a cluster active once it has its first hosts.
    fn warm(
        self: Rc<Self>,
        resource: outrider_config::Resource,
        version: &str,
        built: BuiltCluster,
    ) {
        let name = built.name().to_string();
        self.stop_warming(&name);
        let known = DynamicResource::new(resource.wire, version);
        self.named.borrow_mut().insert(name.clone(), known);
        let warming = self.clusters.warm(vec![built]);
        self.warming_count.send_modify(|count| *count += 1);
        let (this, of) = (self.clone(), name.clone());
        let task = tokio::task::spawn_local(async move {
            warming.warmed().await;
            this.clusters.replace(warming, &[]);
            if this.warming.borrow_mut().remove(&of).is_some() {
                this.warming_count.send_modify(|count| *count -= 1);
            }
        });
        self.warming.borrow_mut().insert(name, task.abort_handle());
    }

    fn stop_warming(&self, name: &str) {
        if let Some(task) = self.warming.borrow_mut().remove(name) {
            task.abort();
            self.warming_count.send_modify(|count| *count -= 1);
        }
    }

    /// The bootstrap's clusters have changed. It now owns those named in `added`, and the file may again use the names
    /// in `removed`.
    pub(crate) fn follow_bootstrap(&self, added: &[String], removed: &[Arc<str>]) {
        let mut overridden = self.overridden.borrow_mut();
        for name in added {
            if self.named.borrow_mut().remove(name).is_some() {
                self.stop_warming(name);
                overridden.insert(name.clone());
            }
        }
        if removed.iter().any(|name| overridden.contains(&**name)) {
            self.again.notify_one();
        }
    }

    /// The version of the last update that was accepted.
    pub(crate) fn version(&self) -> String {
        self.version.borrow().clone()
    }

    /// The entries of `/config_dump`: active and warming clusters.
    pub(crate) fn dump(&self) -> (Vec<DynamicResource>, Vec<DynamicResource>) {
        let (named, warming) = (self.named.borrow(), self.warming.borrow());
        let mut names: Vec<&String> = named.keys().collect();
        names.sort();
        let (warm, active): (Vec<_>, Vec<_>) = names
            .into_iter()
            .partition(|name| warming.contains_key(*name));
        let of = |names: Vec<&String>| {
            let found = names.into_iter().filter_map(|name| named.get(name));
            found.cloned().collect()
        };
        (of(active), of(warm))
    }
}
