//! The state of a cluster that all threads share: settings, hosts, breakers, and the main thread's stats.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::ArcSwap;
use outrider_net::Address;
use outrider_runtime::Runtime;
use outrider_runtime::Snapshot;
use outrider_stats::Scope;
use outrider_stats::Store;
use tokio::sync::watch;

use crate::Breakers;
use crate::ClusterInfo;
use crate::HealthStatus;
use crate::Host;
use crate::HostDescription;
use crate::HostSet;
use crate::PriorityHosts;
use crate::RoutingPriority;
use crate::balancer;
use crate::balancer::BalancerConfig;
use crate::stats::BalancingStats;
use crate::stats::ClusterManagerStats;
use crate::stats::ClusterStats;
use crate::stats::MatchStats;
use crate::stats::MembershipStats;

/// The state of one cluster that all threads share.
#[derive(Debug)]
pub struct SharedCluster {
    pub(crate) info: Arc<ClusterInfo>,
    pub(crate) hosts: Arc<ArcSwap<HostSet>>,
    pub(crate) breakers: Arc<Breakers>,
    /// Lists the workers' stats before any worker has registered its own copy, unless that is deferred.
    _listed: Option<Arc<ClusterStats>>,
    /// Lists the stats that are never deferred.
    _listed_balancing: Option<Arc<BalancingStats>>,
    /// By the position of the transport socket.
    matched: Vec<Arc<MatchStats>>,
    pub(crate) membership: Arc<MembershipStats>,
    pub(crate) process: ProcessWide,
}

/// The state that all clusters of the process share.
#[derive(Clone, Debug)]
pub(crate) struct ProcessWide {
    /// The next id of an upstream connection.
    pub(crate) connection_ids: Arc<AtomicU64>,
    /// The zone of the proxy; empty if it is in none.
    pub(crate) local_zone: Arc<str>,
    /// Whether a cluster's stats of traffic are listed only once it has traffic
    /// (`deferred_stat_options.enable_deferred_creation_stats`).
    pub(crate) defers_stats: bool,
    /// The runtime values.
    pub(crate) runtime: Arc<Runtime>,
}

impl SharedCluster {
    pub(crate) fn new(
        info: ClusterInfo,
        store: &Arc<Store>,
        process: ProcessWide,
    ) -> SharedCluster {
        let scope = scope(&info);
        info.transport_sockets.list_stats(store, &scope);
        let breakers = Breakers::new(
            *info.thresholds(RoutingPriority::Default),
            *info.thresholds(RoutingPriority::High),
            store.register(scope.clone().name("circuit_breakers")),
        );
        let membership: Arc<MembershipStats> = store.register(scope.clone());
        membership.warming_state.mark_used();
        let hosts = host_set(Vec::new(), &info, &membership, &process.runtime.snapshot());
        SharedCluster {
            hosts: Arc::new(ArcSwap::from_pointee(hosts)),
            breakers: Arc::new(breakers),
            _listed: (!process.defers_stats).then(|| store.register(scope.clone())),
            _listed_balancing: process.defers_stats.then(|| store.register(scope.clone())),
            matched: info.transport_sockets.match_stats(store, &scope),
            membership,
            process,
            info: Arc::new(info),
        }
    }

    /// Starts its gauges, and sets its limits to the runtime's values.
    pub(crate) fn activate(&self, runtime: &Snapshot) {
        self.breakers.start();
        self.apply_runtime(runtime);
    }

    /// Sets its limits to the runtime's values.
    pub(crate) fn apply_runtime(&self, runtime: &Snapshot) {
        self.breakers.apply_runtime(&self.info.name, runtime);
    }
}

/// `cluster.<observability name>`
pub(crate) fn scope(info: &ClusterInfo) -> Scope {
    Scope::new("cluster").name(&info.observability_name)
}

/// Uses the runtime's current panic threshold. As in Envoy, a later change takes effect with the next change of hosts.
fn host_set(
    priorities: Vec<PriorityHosts>,
    info: &ClusterInfo,
    stats: &MembershipStats,
    runtime: &Snapshot,
) -> HostSet {
    let balancer = match runtime.number("upstream.healthy_panic_threshold") {
        Some(percent) => {
            let config = BalancerConfig {
                panic_threshold: u32::try_from(percent.min(100)).unwrap_or(100),
                ..info.balancer.clone()
            };
            balancer::build(&priorities, &config, stats)
        }
        None => balancer::build(&priorities, &info.balancer, stats),
    };
    HostSet::new(priorities, balancer)
}

/// Publishes the hosts that a cluster's discovery finds. Lives on the main thread.
pub struct HostsPublisher {
    cluster: Arc<SharedCluster>,
    changed: watch::Sender<()>,
    /// The number of clusters without first hosts; `None` once this cluster has its hosts.
    uninitialized: Option<watch::Sender<usize>>,
    manager: Arc<ClusterManagerStats>,
}

impl HostsPublisher {
    pub(crate) fn new(
        cluster: Arc<SharedCluster>,
        changed: watch::Sender<()>,
        uninitialized: watch::Sender<usize>,
        manager: Arc<ClusterManagerStats>,
    ) -> HostsPublisher {
        uninitialized.send_modify(|clusters| *clusters += 1);
        HostsPublisher {
            cluster,
            changed,
            uninitialized: Some(uninitialized),
            manager,
        }
    }

    /// The cluster's settings.
    #[must_use]
    pub fn info(&self) -> &Arc<ClusterInfo> {
        &self.cluster.info
    }

    /// The cluster's `update_*` and other counters of the main thread.
    #[must_use]
    pub fn stats(&self) -> &MembershipStats {
        &self.cluster.membership
    }

    /// Creates a host. `addresses` must not be empty.
    #[must_use]
    pub fn host(&self, addresses: Vec<Address>, description: &Arc<HostDescription>) -> Arc<Host> {
        self.count_match(description);
        Host::new(addresses, description.clone())
    }

    /// Counts a host for its transport socket.
    pub(crate) fn count_match(&self, description: &HostDescription) {
        let sockets = &self.cluster.info.transport_sockets;
        if let Some(stats) = self.cluster.matched.get(sockets.position(description)) {
            stats.total_match_count.inc();
        }
    }

    /// Publishes these hosts for all workers at once. `changes` is the number of priorities that differ from before.
    pub fn publish(&self, mut priorities: Vec<PriorityHosts>, changes: u64) {
        // All threads read these lists for a long time, and there may be thousands of clusters, so excess capacity is
        // freed.
        for priority in &mut priorities {
            priority.localities.shrink_to_fit();
            for locality in &mut priority.localities {
                locality.hosts.shrink_to_fit();
            }
        }
        priorities.shrink_to_fit();
        let runtime = self.cluster.process.runtime.snapshot();
        let set = host_set(priorities, &self.cluster.info, self.stats(), &runtime);
        let count = |health| set.count(health) as u64;
        let stats = self.stats();
        stats.membership_change.add(changes);
        if self.uninitialized.is_none() {
            self.manager.cluster_updated.inc();
        }
        stats.membership_healthy.set(count(HealthStatus::Healthy));
        stats.membership_degraded.set(count(HealthStatus::Degraded));
        stats.membership_excluded.set(count(HealthStatus::Draining));
        stats.membership_total.set(set.iter().count() as u64);
        self.cluster.hosts.store(Arc::new(set));
        self.changed.send_replace(());
    }

    /// Says that the cluster has its first hosts, or that discovery has failed once: the server stops waiting for it.
    pub fn initialized(&mut self) {
        if let Some(uninitialized) = self.uninitialized.take() {
            uninitialized.send_modify(|clusters| *clusters -= 1);
        }
    }
}

impl Drop for HostsPublisher {
    fn drop(&mut self) {
        self.initialized();
    }
}

impl fmt::Debug for HostsPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HostsPublisher")
            .field(&self.cluster.info.name)
            .finish()
    }
}
