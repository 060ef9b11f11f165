//! What all threads share of a cluster: settings, hosts, breakers, and the main thread's stats.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::ArcSwap;
use outrider_net::Address;
use outrider_runtime::Runtime;
use outrider_runtime::Snapshot;
use outrider_stats::Scope;
use outrider_stats::Store;
use outrider_tls::ContextStats;
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
use crate::stats::MembershipStats;

/// What all threads share of one cluster.
#[derive(Debug)]
pub struct SharedCluster {
    pub(crate) info: Arc<ClusterInfo>,
    pub(crate) hosts: Arc<ArcSwap<HostSet>>,
    pub(crate) breakers: Arc<Breakers>,
    /// Lists the workers' stats before any worker has made its own copy, unless that is deferred.
    _listed: Option<Arc<ClusterStats>>,
    /// Lists those that are listed even then.
    _listed_balancing: Option<Arc<BalancingStats>>,
    _tls: Option<ContextStats>,
    pub(crate) membership: Arc<MembershipStats>,
    pub(crate) process: ProcessWide,
}

/// What all clusters of the process have in common.
#[derive(Clone, Debug)]
pub(crate) struct ProcessWide {
    /// Numbers the upstream connections.
    pub(crate) connection_ids: Arc<AtomicU64>,
    /// The zone that the proxy is in; empty if it is in none.
    pub(crate) local_zone: Arc<str>,
    /// Stats of traffic are listed once a cluster has some (`deferred_stat_options.enable_deferred_creation_stats`).
    pub(crate) defers_stats: bool,
    /// What operators change while the proxy runs.
    pub(crate) runtime: Arc<Runtime>,
}

impl SharedCluster {
    pub(crate) fn new(info: ClusterInfo, store: &Store, process: ProcessWide) -> SharedCluster {
        let scope = scope(&info);
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
            _tls: info.tls.as_ref().map(|tls| tls.stats(store, &scope)),
            membership,
            process,
            info: Arc::new(info),
        }
    }

    /// Starts its gauges; its limits are what the runtime says.
    pub(crate) fn activate(&self, runtime: &Snapshot) {
        self.breakers.start();
        self.obey(runtime);
    }

    /// Has the limits be what the runtime says.
    pub(crate) fn obey(&self, runtime: &Snapshot) {
        self.breakers.obey(&self.info.name, runtime);
    }
}

/// `cluster.<observability name>`
pub(crate) fn scope(info: &ClusterInfo) -> Scope {
    Scope::new("cluster").name(&info.observability_name)
}

/// The panic threshold is the runtime's of this moment: as in Envoy, a later one waits for the next change of the hosts.
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

/// How a cluster's discovery makes its hosts known. Lives on the main thread.
pub struct HostsPublisher {
    cluster: Arc<SharedCluster>,
    changed: watch::Sender<()>,
    /// How many clusters still wait for their first hosts; none once this one does not.
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

    /// Makes a host; `addresses` must not be empty.
    #[must_use]
    pub fn host(&self, addresses: Vec<Address>, description: &Arc<HostDescription>) -> Arc<Host> {
        self.stats().default_total_match_count.inc();
        Host::new(addresses, description.clone())
    }

    /// Makes these the cluster's hosts, for all workers at once. `changes` is how many priorities are not as they were.
    pub fn publish(&self, mut priorities: Vec<PriorityHosts>, changes: u64) {
        // Read for long and by all, and there may be thousands of clusters: no more memory than hosts need.
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

    /// The cluster has its first hosts, or knows that it has none yet: the server need not wait for it any longer.
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
