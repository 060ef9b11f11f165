//! One worker's view of a cluster: the hosts as it last saw them, and its connections to them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use foldhash::fast::FixedState;
use http::Version;
use outrider_net::WorkerCx;

use crate::Breakers;
use crate::ClusterInfo;
use crate::Cursors;
use crate::Host;
use crate::HostSet;
use crate::OriginStats;
use crate::Permit;
use crate::PickCx;
use crate::PickRequest;
use crate::PoolFailure;
use crate::Resource;
use crate::RoutingPriority;
use crate::SharedCluster;
use crate::UpstreamStream;
use crate::pool::HostPools;
use crate::pool::PoolCx;
use crate::shared::scope;
use crate::stats::AlternativeStats;
use crate::stats::ClusterStats;

/// A cluster on one worker.
pub struct Cluster {
    shared: Arc<SharedCluster>,
    cx: Rc<PoolCx>,
    /// The settings' names, at hand on the worker: each request takes hold of them.
    name: Rc<str>,
    observability_name: Rc<str>,
    hosts: RefCell<Cache<Arc<ArcSwap<HostSet>>, Arc<HostSet>>>,
    /// The set that `pools` was last compared with.
    seen: RefCell<Arc<HostSet>>,
    cursors: RefCell<Cursors>,
    /// Pools by host; the key is the host's address in memory, which is taken while the pools hold the host.
    pools: RefCell<HashMap<*const Host, Rc<HostPools>, FixedState>>,
    /// Further stats in which requests are counted, by the names that the requests gave.
    alternatives: RefCell<BTreeMap<Box<str>, Arc<AlternativeStats>>>,
}

/// So many names that clients chose are counted apart, on each worker: memory that clients decide on needs a bound.
const ALTERNATIVES: usize = 1000;

/// Why no host was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickError {
    /// The cluster has no host that may be used (response flag `UH`).
    NoHealthyUpstream,
}

/// A host for one attempt, on the worker that picked it.
#[derive(Clone, Debug)]
pub struct Pick {
    pools: Rc<HostPools>,
}

impl Cluster {
    pub(crate) fn new(shared: &Arc<SharedCluster>, worker: Rc<WorkerCx>) -> Rc<Cluster> {
        let seen = shared.hosts.load_full();
        Rc::new(Cluster {
            shared: shared.clone(),
            cx: PoolCx::new(shared, worker),
            name: shared.info.name.as_ref().into(),
            observability_name: shared.info.observability_name.as_ref().into(),
            hosts: RefCell::new(Cache::new(shared.hosts.clone())),
            seen: RefCell::new(seen),
            cursors: RefCell::default(),
            pools: RefCell::default(),
            alternatives: RefCell::default(),
        })
    }

    pub(crate) fn shared(&self) -> &Arc<SharedCluster> {
        &self.shared
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Rc<str> {
        &self.name
    }

    /// Its name, or its `alt_stat_name`.
    #[must_use]
    pub fn observability_name(&self) -> &Rc<str> {
        &self.observability_name
    }

    /// The settings.
    #[must_use]
    pub fn info(&self) -> &Arc<ClusterInfo> {
        &self.cx.info
    }

    /// This worker's copy of `cluster.<name>.*`.
    #[must_use]
    pub fn stats(&self) -> &Arc<ClusterStats> {
        &self.cx.stats
    }

    /// The circuit breakers.
    #[must_use]
    pub fn breakers(&self) -> &Arc<Breakers> {
        &self.cx.breakers
    }

    /// This worker's copy of `cluster.<name>.<alternative>.*`, unless there are too many of them.
    #[must_use]
    pub fn alternative_stats(&self, alternative: &str) -> Option<Arc<AlternativeStats>> {
        let mut alternatives = self.alternatives.borrow_mut();
        if let Some(stats) = alternatives.get(alternative) {
            return Some(stats.clone());
        }
        if alternatives.len() >= ALTERNATIVES {
            return None;
        }
        let scope = scope(&self.cx.info).verbatim(alternative);
        let stats: Arc<AlternativeStats> = self.cx.worker.store.register(scope);
        alternatives.insert(alternative.into(), stats.clone());
        Some(stats)
    }

    /// Room for one more retry, unless the breaker is open.
    pub fn enter_retry(&self, priority: RoutingPriority) -> Option<Permit> {
        self.cx.breakers.enter(priority, Resource::Retries)
    }

    /// The host for the next attempt.
    ///
    /// # Errors
    /// When no host may be used.
    pub fn pick(&self, request: PickRequest) -> Result<Pick, PickError> {
        self.refresh();
        let seen = self.seen.borrow();
        let picked = seen.balancer().pick(&mut PickCx {
            request,
            worker: &self.cx.worker,
            cursors: &mut self.cursors.borrow_mut(),
            stats: &self.cx.stats,
            breakers: &self.cx.breakers,
        });
        let Some(host) = picked else {
            self.cx.stats.upstream_cx_none_healthy.inc();
            return Err(PickError::NoHealthyUpstream);
        };
        let mut pools = self.pools.borrow_mut();
        let pools = pools
            .entry(Arc::as_ptr(host))
            .or_insert_with(|| HostPools::new(self.cx.clone(), host.clone()));
        Ok(Pick {
            pools: pools.clone(),
        })
    }

    /// Follows the main thread to its newest set of hosts. Pools of hosts that have gone finish what they have and close.
    pub(crate) fn refresh(&self) {
        let mut hosts = self.hosts.borrow_mut();
        let current = hosts.load();
        if Arc::ptr_eq(current, &self.seen.borrow()) {
            return;
        }
        let previous = self.seen.replace(current.clone());
        drop((hosts, previous));
        let gone = self.take_gone();
        for pools in gone {
            pools.drain();
        }
        if self.cx.info.close_connections_on_host_set_change {
            for pools in self.pools.borrow().values() {
                pools.close_when_idle();
            }
        }
    }

    /// Has all connections close once what they carry has ended. The cluster was replaced or removed: only requests that
    /// have begun on it still use it.
    pub(crate) fn drain(&self) {
        let pools: Vec<Rc<HostPools>> = self
            .pools
            .borrow_mut()
            .drain()
            .map(|(_, pools)| pools)
            .collect();
        for pools in pools {
            pools.drain();
        }
    }

    fn take_gone(&self) -> Vec<Rc<HostPools>> {
        let mut pools = self.pools.borrow_mut();
        let seen = self.seen.borrow();
        let mut kept = HashMap::with_capacity_and_hasher(pools.len(), FixedState::default());
        for host in seen.iter() {
            kept.extend(pools.remove_entry(&Arc::as_ptr(host)));
        }
        std::mem::replace(&mut *pools, kept).into_values().collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.drain();
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("name", &self.cx.info.name)
            .field("hosts", &self.seen.borrow())
            .finish_non_exhaustive()
    }
}

impl Pick {
    /// The host.
    #[must_use]
    pub fn host(&self) -> &Arc<Host> {
        self.pools.host()
    }

    /// `cluster.<name>.zone.<from>.<to>.*`: answers by where the proxy and the host are, if both are in a zone.
    #[must_use]
    pub fn zone_stats(&self) -> Option<&OriginStats> {
        self.pools.zone_stats()
    }

    /// A place on a connection to the host, or why there can be none; nothing if it would have to be waited for.
    #[must_use]
    pub fn open_at_once(
        &self,
        priority: RoutingPriority,
        downstream: Version,
    ) -> Option<Result<UpstreamStream, PoolFailure>> {
        match self.pools.pool(priority, downstream) {
            Ok(pool) => pool.open_at_once(),
            Err(failure) => Some(Err(failure)),
        }
    }

    /// A place on a connection to the host, waiting for one if need be. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// When a breaker is open, or no connection can be made.
    pub async fn open(
        &self,
        priority: RoutingPriority,
        downstream: Version,
    ) -> Result<UpstreamStream, PoolFailure> {
        self.pools.pool(priority, downstream)?.open().await
    }
}
