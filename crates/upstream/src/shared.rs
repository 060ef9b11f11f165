//! The state of a cluster that all threads share: settings, hosts, breakers, and the main thread's stats.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use arc_swap::ArcSwap;
use outrider_runtime::Runtime;
use outrider_runtime::Snapshot;
use outrider_stats::Scope;
use outrider_stats::Store;

use crate::Breakers;
use crate::ClusterInfo;
use crate::HostSet;
use crate::OutlierRates;
use crate::PriorityHosts;
use crate::RoutingPriority;
use crate::balancer;
use crate::balancer::BalancerConfig;
use crate::balancer::BalancerCx;
use crate::balancer::LocalProxies;
use crate::local_cluster::LocalCluster;
use crate::outlier::OutlierThresholds;
use crate::stats::BalancingStats;
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
    /// The main thread's copy of the stats that are never deferred.
    balancing: Option<Arc<BalancingStats>>,
    /// By the position of the transport socket.
    pub(crate) matched: Vec<Arc<MatchStats>>,
    pub(crate) membership: Arc<MembershipStats>,
    pub(crate) process: ProcessWide,
    /// Whether a connection for requests was ever opened; until then health checks are rarer.
    pub(crate) had_traffic: Arc<AtomicBool>,
    /// What the workers' counts for outlier detection are compared with.
    pub(crate) outlier_thresholds: Arc<OutlierThresholds>,
    /// The success rates of all hosts: of answers, and of the local origin.
    pub(crate) outlier_rates: Arc<ArcSwap<[OutlierRates; 2]>>,
}

/// The state that all clusters of the process share.
#[derive(Clone, Debug)]
pub(crate) struct ProcessWide {
    /// The next id of an upstream connection.
    pub(crate) connection_ids: Arc<AtomicU64>,
    /// How many threads balance in Envoy: the workers and the main thread. Each counts for itself there.
    pub(crate) balancing_threads: Arc<AtomicU64>,
    /// For routing by zone.
    pub(crate) local_cluster: Option<Arc<LocalCluster>>,
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
        let hosts = host_set(Arc::default(), &info, (&membership, None), &process);
        SharedCluster {
            hosts: Arc::new(ArcSwap::from_pointee(hosts)),
            breakers: Arc::new(breakers),
            _listed: (!process.defers_stats).then(|| store.register(scope.clone())),
            balancing: (process.defers_stats
                || info.balancer.uses_metadata()
                || process.local_cluster_of(&info).is_some())
            .then(|| store.register(scope.clone())),
            matched: info.transport_sockets.match_stats(store, &scope),
            membership,
            process,
            had_traffic: Arc::default(),
            outlier_thresholds: Arc::default(),
            outlier_rates: Arc::default(),
            info: Arc::new(info),
        }
    }

    /// Makes these the cluster's hosts, for all workers at once.
    pub(crate) fn set_hosts(&self, priorities: Arc<[PriorityHosts]>) {
        let stats = (&*self.membership, self.balancing.as_deref());
        let set = Arc::new(host_set(priorities, &self.info, stats, &self.process));
        let before = self.hosts.swap(set.clone());
        if let Some(subsets) = set.balancer().subsets() {
            let (created, removed) = subsets.changes_since(before.balancer().subsets());
            self.count_subsets(created, removed);
        }
    }

    /// The cluster is no longer used: counts its subsets as removed.
    pub(crate) fn remove_subsets(&self) {
        if let Some(subsets) = self.hosts.load().balancer().subsets() {
            self.count_subsets(0, subsets.count());
        }
    }

    fn count_subsets(&self, created: u64, removed: u64) {
        let threads = self.process.balancing_threads.load(Relaxed);
        let Some(stats) = &self.balancing else {
            return;
        };
        stats.lb_subsets_created.add(created * threads);
        stats.lb_subsets_active.add(created * threads);
        stats.lb_subsets_removed.add(removed * threads);
        stats.lb_subsets_active.sub(removed * threads);
    }

    /// Starts its gauges, and sets its limits to the runtime's values.
    pub(crate) fn activate(&self, runtime: &Snapshot) {
        self.breakers.start();
        self.apply_runtime(runtime);
    }

    /// Sets its limits to the runtime's values.
    pub(crate) fn apply_runtime(&self, runtime: &Snapshot) {
        self.breakers.apply_runtime(&self.info.name, runtime);
        if let Some(config) = &self.info.outlier_detection {
            self.outlier_thresholds.apply_runtime(config, runtime);
        }
    }
}

/// `cluster.<observability name>`
pub(crate) fn scope(info: &ClusterInfo) -> Scope {
    Scope::new("cluster").name(&info.observability_name)
}

impl ProcessWide {
    /// The local cluster, if a cluster with these settings is to be routed by zone.
    pub(crate) fn local_cluster_of(&self, info: &ClusterInfo) -> Option<&Arc<LocalCluster>> {
        let local = self.local_cluster.as_ref()?;
        (info.balancer.is_zone_aware() && local.name != info.name).then_some(local)
    }
}

/// Uses the runtime's current panic threshold. As in Envoy, a later change takes effect with the next change of hosts.
pub(crate) fn host_set(
    priorities: Arc<[PriorityHosts]>,
    info: &ClusterInfo,
    (stats, balancing): (&MembershipStats, Option<&BalancingStats>),
    process: &ProcessWide,
) -> HostSet {
    let runtime = process.runtime.snapshot();
    let local = process.local_cluster_of(info).zip(balancing);
    let proxies = local.map(|(local, _)| local.hosts.borrow().clone());
    let none = PriorityHosts::default();
    let local = local.map(|(local, stats)| LocalProxies {
        locality: local.locality.as_ref(),
        hosts: (proxies.as_ref())
            .and_then(|hosts| hosts.first())
            .unwrap_or(&none),
        runtime: &runtime,
        stats,
        threads: process.balancing_threads.load(Relaxed),
    });
    let cx = BalancerCx::new(stats, local);
    let balancer = match runtime.number("upstream.healthy_panic_threshold") {
        Some(percent) => {
            let config = BalancerConfig {
                panic_threshold: u32::try_from(percent.min(100)).unwrap_or(100),
                ..info.balancer.clone()
            };
            balancer::build(&priorities, &config, cx)
        }
        None => balancer::build(&priorities, &info.balancer, cx),
    };
    HostSet::new(priorities, balancer)
}
