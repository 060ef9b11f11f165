//! One worker's view of a cluster: the hosts that it knows, and its connections to them.

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
use outrider_net::ProxyProtocolHeader;
use outrider_net::WorkerCx;

use crate::Alternative;
use crate::BreakerResource;
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
use crate::RoutingPriority;
use crate::SharedCluster;
use crate::TcpConnection;
use crate::UpstreamStream;
use crate::connection_names::ConnectionNames;
use crate::pool::HostPools;
use crate::pool::Pool;
use crate::pool::PoolCx;
use crate::proxy_protocol::AnnouncedClient;
use crate::stats::ClusterStats;
use crate::stats::MembershipStats;

/// A cluster on one worker.
pub struct Cluster {
    shared: Arc<SharedCluster>,
    cx: Rc<PoolCx>,
    /// `ClusterInfo`'s names as `Rc`: each request takes a reference.
    name: Rc<str>,
    observability_name: Rc<str>,
    hosts: RefCell<Cache<Arc<ArcSwap<HostSet>>, Arc<HostSet>>>,
    /// The set of hosts that `pools` was last updated for.
    seen: RefCell<Arc<HostSet>>,
    cursors: RefCell<Cursors>,
    /// Pools by host. The key is the host's memory address, which stays unique while the pools hold the host.
    pools: RefCell<HashMap<*const Host, Rc<HostPools>, FixedState>>,
    /// Additional stats that requests are counted in, by the names that the requests gave.
    alternatives: RefCell<BTreeMap<Box<str>, Rc<Alternative>>>,
}

/// The maximum number of such names per worker: clients choose the names, so their memory needs a limit.
const ALTERNATIVES: usize = 1000;

/// Why no host was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickError {
    /// The cluster has no host that may be used (response flag `UH`).
    NoHealthyUpstream,
}

/// A picked host, on the worker that picked it.
#[derive(Clone, Debug)]
pub struct Pick {
    pools: Rc<HostPools>,
    names: Option<Rc<ConnectionNames>>,
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

    /// `cluster.<name>.*`, the part that the main thread writes: how many hosts there are.
    #[must_use]
    pub fn membership(&self) -> &MembershipStats {
        &self.shared.membership
    }

    /// The circuit breakers.
    #[must_use]
    pub fn breakers(&self) -> &Arc<Breakers> {
        &self.cx.breakers
    }

    /// Whether hosts are told the addresses of clients (PROXY protocol).
    #[must_use]
    pub fn announces_clients(&self) -> bool {
        self.cx.info.transport_sockets.announces_clients()
    }

    /// This worker's copy of `cluster.<name>.<alternative>.*`; `None` if there are too many alternatives.
    #[must_use]
    pub fn alternative(&self, alternative: &str) -> Option<Rc<Alternative>> {
        let mut alternatives = self.alternatives.borrow_mut();
        if let Some(known) = alternatives.get(alternative) {
            return Some(known.clone());
        }
        if alternatives.len() >= ALTERNATIVES {
            return None;
        }
        let new = Alternative::new(self.cx.clone(), alternative);
        alternatives.insert(alternative.into(), new.clone());
        Some(new)
    }

    /// A permit for one more retry; `None` if the breaker is open.
    pub fn acquire_retry(&self, priority: RoutingPriority) -> Option<Permit> {
        self.cx.breakers.acquire(priority, BreakerResource::Retries)
    }

    /// The host for the next attempt.
    ///
    /// # Errors
    /// No host may be used.
    pub fn pick(&self, request: PickRequest<'_>) -> Result<Pick, PickError> {
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
            names: None,
        })
    }

    /// Takes over the main thread's newest set of hosts. Pools of removed hosts finish their requests and close.
    pub(crate) fn refresh(&self) {
        let mut hosts = self.hosts.borrow_mut();
        let current = hosts.load();
        if Arc::ptr_eq(current, &self.seen.borrow()) {
            return;
        }
        let previous = self.seen.replace(current.clone());
        drop(hosts);
        if !self.seen.borrow().has_hosts_of(&previous) {
            for pools in self.take_gone() {
                pools.drain();
            }
        }
        drop(previous);
        for pools in self.pools.borrow().values() {
            pools.drain_if_failed();
        }
        if self.cx.info.close_connections_on_host_set_change {
            for pools in self.pools.borrow().values() {
                pools.close_when_idle();
            }
        }
    }

    /// Closes each connection after its last request. The cluster was replaced or removed: only requests that began on it
    /// still use it.
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

    /// Whether the transport socket of the host encrypts.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.pools.is_secure()
    }

    /// Requires these names of the connection to the host.
    pub fn demand(&mut self, names: Rc<ConnectionNames>) {
        self.names = Some(names);
    }

    /// Tells the host which client the connection is for, if its transport socket does that (PROXY protocol).
    pub fn announce(&mut self, client: impl FnOnce() -> ProxyProtocolHeader) {
        if self.pools.proxy_protocol().is_some() {
            let names = self.names.as_deref().cloned().unwrap_or_default();
            let header = Rc::new(client());
            self.names = Some(Rc::new(ConnectionNames {
                client: Some(AnnouncedClient { header }),
                ..names
            }));
        }
    }

    /// `cluster.<name>.zone.<from>.<to>.*`: responses by the zones of the proxy and the host, if both are in a zone.
    #[must_use]
    pub fn zone_stats(&self) -> Option<&OriginStats> {
        self.pools.zone_stats()
    }

    /// Opens a stream to the host if no wait is needed: returns the stream or the failure, or `None` if it would have
    /// to wait.
    #[must_use]
    pub fn open_at_once(
        &self,
        priority: RoutingPriority,
        downstream: Version,
    ) -> Option<Result<UpstreamStream, PoolFailure>> {
        match self.pool(priority, downstream) {
            Ok(pool) => pool.open_at_once(),
            Err(failure) => Some(Err(failure)),
        }
    }

    /// Opens a stream to the host, and waits for a connection if necessary. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// A breaker is open, or no connection can be established.
    pub async fn open(
        &self,
        priority: RoutingPriority,
        downstream: Version,
    ) -> Result<UpstreamStream, PoolFailure> {
        self.pool(priority, downstream)?.open().await
    }

    /// Makes a TCP connection to the host for one user. Dropping the future gives up.
    ///
    /// # Errors
    /// A breaker is open, or no connection can be established.
    pub async fn connect(&self, priority: RoutingPriority) -> Result<TcpConnection, PoolFailure> {
        self.pools.connect(priority, self.names.as_ref()).await
    }

    fn pool(
        &self,
        priority: RoutingPriority,
        downstream: Version,
    ) -> Result<Rc<Pool>, PoolFailure> {
        let names = self.names.as_ref();
        self.pools.pool(priority, downstream, names)
    }
}
