//! A worker's clusters: each is made when it is first used.

use std::cell::OnceCell;
use std::rc::Rc;
use std::rc::Weak;
use std::sync::Arc;

use outrider_net::WorkerCx;
use outrider_stats::Scope;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::Cluster;
use crate::ClusterIndex;
use crate::ClusterManager;
use crate::stats::ThreadLocalClusterManagerStats;

/// All clusters, as one worker uses them.
#[derive(Debug)]
pub struct Clusters {
    manager: Arc<ClusterManager>,
    worker: Rc<WorkerCx>,
    clusters: Box<[OnceCell<Rc<Cluster>>]>,
    updates: OnceCell<AbortHandle>,
    stats: Arc<ThreadLocalClusterManagerStats>,
}

impl Clusters {
    pub(crate) fn new(manager: Arc<ClusterManager>, worker: Rc<WorkerCx>) -> Rc<Clusters> {
        let changed = manager.changed.subscribe();
        let thread = format!("worker_{}", worker.index);
        let scope = Scope::new("thread_local_cluster_manager").name(&thread);
        let clusters = Rc::new(Clusters {
            clusters: manager.clusters.iter().map(|_| OnceCell::new()).collect(),
            manager,
            stats: worker.store.register(scope),
            worker,
            updates: OnceCell::new(),
        });
        let updates = tokio::task::spawn_local(follow(Rc::downgrade(&clusters), changed));
        clusters.updates.get_or_init(|| updates.abort_handle());
        clusters
    }

    /// The cluster of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Rc<Cluster>> {
        self.manager.index(name).map(|index| self.at(index).clone())
    }

    /// A cluster by its number: no name is hashed.
    #[must_use]
    pub fn at(&self, index: ClusterIndex) -> &Rc<Cluster> {
        let shared = &self.manager.clusters[index.0];
        self.clusters[index.0].get_or_init(|| {
            self.stats.clusters_inflated.inc();
            Cluster::new(shared, self.worker.clone())
        })
    }

    /// The main thread's side.
    #[must_use]
    pub fn manager(&self) -> &Arc<ClusterManager> {
        &self.manager
    }
}

impl Drop for Clusters {
    fn drop(&mut self) {
        if let Some(updates) = self.updates.get() {
            updates.abort();
        }
    }
}

/// Closes the connections to hosts that have gone, even when no request comes by to notice.
async fn follow(clusters: Weak<Clusters>, mut changed: watch::Receiver<()>) {
    while changed.changed().await.is_ok() {
        let Some(clusters) = clusters.upgrade() else {
            return;
        };
        for cluster in clusters.clusters.iter().filter_map(OnceCell::get) {
            cluster.refresh();
        }
    }
}
