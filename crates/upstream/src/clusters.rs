//! A worker's clusters. Each is created when it is first used and dropped when the cluster manager replaces it.

use std::cell::OnceCell;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::rc::Weak;
use std::sync::Arc;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use foldhash::fast::FixedState;
use outrider_net::WorkerCx;
use outrider_stats::Scope;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::Cluster;
use crate::ClusterManager;
use crate::manager::ActiveClusters;
use crate::stats::ThreadLocalClusterManagerStats;

/// All clusters, as one worker sees them.
pub struct Clusters {
    manager: Arc<ClusterManager>,
    worker: Rc<WorkerCx>,
    active: RefCell<Cache<Arc<ArcSwap<ActiveClusters>>, Arc<ActiveClusters>>>,
    /// The set of clusters that `clusters` was last updated for.
    seen: RefCell<Arc<ActiveClusters>>,
    /// The clusters that this worker has used.
    clusters: RefCell<HashMap<Arc<str>, Rc<Cluster>, FixedState>>,
    updates: OnceCell<AbortHandle>,
    stats: Arc<ThreadLocalClusterManagerStats>,
}

impl Clusters {
    pub(crate) fn new(
        manager: Arc<ClusterManager>,
        worker: Rc<WorkerCx>,
        thread: &str,
    ) -> Rc<Clusters> {
        let changed = manager.changed.subscribe();
        let scope = Scope::new("thread_local_cluster_manager").name(thread);
        let clusters = Rc::new(Clusters {
            active: RefCell::new(Cache::new(manager.active.clone())),
            seen: RefCell::new(manager.active.load_full()),
            clusters: RefCell::default(),
            manager,
            stats: worker.store.register(scope),
            worker,
            updates: OnceCell::new(),
        });
        let updates = tokio::task::spawn_local(follow(Rc::downgrade(&clusters), changed));
        clusters.updates.get_or_init(|| updates.abort_handle());
        clusters
    }

    /// The active cluster of this name. Whoever holds it may continue to use it after it was replaced.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Rc<Cluster>> {
        self.drop_replaced();
        if let Some(cluster) = self.clusters.borrow().get(name) {
            return Some(cluster.clone());
        }
        let seen = self.seen.borrow();
        let shared = seen.get(name)?;
        self.stats.clusters_inflated.inc();
        let cluster = Cluster::new(shared, self.worker.clone());
        let mut clusters = self.clusters.borrow_mut();
        clusters.insert(shared.info.name.clone(), cluster.clone());
        Some(cluster)
    }

    /// The surroundings of the worker.
    #[must_use]
    pub fn worker(&self) -> &Rc<WorkerCx> {
        &self.worker
    }

    /// The cluster manager, which is the main thread's side.
    #[must_use]
    pub fn manager(&self) -> &Arc<ClusterManager> {
        &self.manager
    }

    /// Takes over the cluster manager's newest set of clusters. Removed clusters finish their requests.
    fn drop_replaced(&self) {
        let mut active = self.active.borrow_mut();
        let current = active.load();
        if Arc::ptr_eq(current, &self.seen.borrow()) {
            return;
        }
        let is_replaced = |name: &Arc<str>, cluster: &mut Rc<Cluster>| {
            (current.get(name)).is_none_or(|shared| !Arc::ptr_eq(shared, cluster.shared()))
        };
        let mut clusters = self.clusters.borrow_mut();
        let replaced: Vec<_> = clusters.extract_if(is_replaced).collect();
        let previous = self.seen.replace(current.clone());
        drop((clusters, active, previous));
        for (_, cluster) in replaced {
            cluster.drain();
        }
    }
}

impl Drop for Clusters {
    fn drop(&mut self) {
        if let Some(updates) = self.updates.get() {
            updates.abort();
        }
    }
}

impl fmt::Debug for Clusters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clusters")
            .field("used", &self.clusters.borrow().keys())
            .finish_non_exhaustive()
    }
}

/// Closes connections to removed hosts and clusters, even if no request triggers it.
async fn follow(clusters: Weak<Clusters>, mut changed: watch::Receiver<()>) {
    while changed.changed().await.is_ok() {
        let Some(clusters) = clusters.upgrade() else {
            return;
        };
        clusters.drop_replaced();
        let used: Vec<Rc<Cluster>> = clusters.clusters.borrow().values().cloned().collect();
        for cluster in used {
            cluster.refresh();
        }
    }
}
