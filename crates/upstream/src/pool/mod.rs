//! Connection pools: one per worker, host, priority, protocol and names that requests require.
//!
//! A request gets a connection that has capacity, or it waits, and the pool opens as many connections as the waiting
//! requests need. Requests are served in the order of arrival. The counts of a request belong to its
//! [`Lease`](stream::Lease), those of a connection to its task, so that every path counts back.

mod connect;
mod connection;
mod counts;
mod cx;
mod pending;
mod stream;
mod task;
mod tcp;

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::cell::OnceCell;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::rc::Weak;
use std::sync::Arc;

use http::Version;
use outrider_codec::StreamError;

use crate::BreakerResource;
use crate::Host;
use crate::OriginStats;
use crate::Permit;
use crate::RoutingPriority;
use crate::connection_names::ConnectionNames;
use crate::proxy_protocol::ProxyProtocolSocket;
use crate::shared::scope;
use crate::transport::PoolTls;

use connection::PoolConnection;
pub use connection::UpstreamConnectionInfo;
pub(crate) use cx::PoolCx;
use pending::PendingQueue;
pub use stream::UpstreamStream;
use task::ConnectAttempt;
pub use tcp::TcpConnection;
use tcp::TcpConnections;
pub use tcp::TcpLease;

/// Why a request got no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolFailure {
    /// Too many requests are pending (response flag `UO`); no connection was attempted.
    Overflow,
    /// Too many requests are under way (`UO`).
    ActiveOverflow,
    /// Too many pools exist (`max_connection_pools`). The router treats this as if there were no host.
    PoolOverflow,
    /// The connection was not established within `connect_timeout` (`UF`).
    Timeout,
    /// The host refused or broke the connection (`UF`), with Envoy's text (with spaces).
    RemoteConnectionFailure(Arc<str>),
    /// This side could not open the connection (`UF`), with Envoy's text (with spaces).
    LocalConnectionFailure(Arc<str>),
}

impl PoolFailure {
    /// The stream's reset reason for this failure.
    #[must_use]
    pub fn reset_reason(&self) -> StreamError {
        match self {
            PoolFailure::Overflow | PoolFailure::ActiveOverflow | PoolFailure::PoolOverflow => {
                StreamError::Overflow
            }
            PoolFailure::Timeout => StreamError::ConnectionTimeout,
            PoolFailure::RemoteConnectionFailure(why) => {
                StreamError::ConnectionFailure(why.to_string())
            }
            PoolFailure::LocalConnectionFailure(why) => {
                StreamError::LocalConnectionFailure(why.to_string())
            }
        }
    }

    /// Envoy's transport failure reason; empty if there is none.
    #[must_use]
    pub fn transport_failure_reason(&self) -> &str {
        match self {
            PoolFailure::RemoteConnectionFailure(why)
            | PoolFailure::LocalConnectionFailure(why) => why,
            PoolFailure::Overflow
            | PoolFailure::ActiveOverflow
            | PoolFailure::PoolOverflow
            | PoolFailure::Timeout => "",
        }
    }
}

/// A host's pools on one worker.
pub(crate) struct HostPools {
    cx: Rc<PoolCx>,
    host: Arc<Host>,
    pools: RefCell<Vec<Rc<Pool>>>,
    tcp: TcpConnections,
    /// How often the host had become unhealthy when its connections were last drained for that.
    failures_seen: Cell<u32>,
    /// Registered with the host's first response.
    zone_stats: OnceCell<Option<Arc<OriginStats>>>,
}

impl HostPools {
    pub(crate) fn new(cx: Rc<PoolCx>, host: Arc<Host>) -> Rc<HostPools> {
        Rc::new(HostPools {
            failures_seen: Cell::new(host.state().failures()),
            cx,
            host,
            pools: RefCell::default(),
            tcp: TcpConnections::default(),
            zone_stats: OnceCell::new(),
        })
    }

    /// `cluster.<name>.zone.<from>.<to>.*`, if both the proxy and the host are in a zone.
    pub(crate) fn zone_stats(&self) -> Option<&OriginStats> {
        let make = || {
            let scope = scope(&self.cx.info);
            self.cx.zone_stats(scope, &self.host.locality().zone)
        };
        self.zone_stats.get_or_init(make).as_deref()
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Whether the transport socket of the host encrypts.
    pub(crate) fn is_secure(&self) -> bool {
        self.cx.tls(&self.host).is_some()
    }

    /// What tells the host the addresses of clients, if its transport socket does.
    pub(crate) fn proxy_protocol(&self) -> Option<&ProxyProtocolSocket> {
        let sockets = &self.cx.info.transport_sockets;
        sockets.proxy_protocol(self.host.description())
    }

    /// The pool for requests of this priority that arrived by the protocol `downstream` and require `names`.
    pub(crate) fn pool(
        &self,
        priority: RoutingPriority,
        downstream: Version,
        names: Option<&Rc<ConnectionNames>>,
    ) -> Result<Rc<Pool>, PoolFailure> {
        let protocol = self.cx.info.http.protocol.of_pool(downstream);
        let mut pools = self.pools.borrow_mut();
        let same = |pool: &&Rc<Pool>| {
            pool.priority == priority && pool.wanted == protocol && pool.names.as_ref() == names
        };
        if let Some(index) = pools.iter().position(|pool| same(&pool)) {
            if !pools[index].is_drained() {
                return Ok(pools[index].clone());
            }
            pools.swap_remove(index);
        }
        if names.is_some() {
            make_room(&mut pools);
        }
        let breakers = &self.cx.breakers;
        let Some(permit) = breakers.acquire(priority, BreakerResource::ConnectionPools) else {
            self.cx.stats.upstream_cx_pool_overflow.inc();
            return Err(PoolFailure::PoolOverflow);
        };
        let names = names.cloned();
        let pool = Pool::new(self, (priority, protocol, names), permit);
        pools.push(pool.clone());
        Ok(pool)
    }

    /// Closes idle connections now and all others once they are idle. Until then, new requests may still use them.
    pub(crate) fn close_when_idle(&self) {
        let mut pools = self.pools.borrow_mut();
        for pool in pools.iter() {
            pool.drain();
        }
        pools.retain(|pool| !pool.is_drained());
    }

    /// Closes as [`close_when_idle`](Self::close_when_idle) does if the host has become unhealthy since the last call.
    pub(crate) fn drain_if_failed(&self) {
        let failures = self.host.state().failures();
        if self.failures_seen.replace(failures) != failures {
            self.close_when_idle();
        }
    }

    /// Finishes the requests under way, then closes.
    pub(crate) fn drain(&self) {
        for pool in self.pools.take() {
            pool.drain();
        }
    }
}

/// How many pools with names a host has on a worker before those without requests are closed. Clients choose the names.
const NAMED_POOLS: usize = 256;

/// Removes the pools with names that have no connections; if there are many, also those without requests.
fn make_room(pools: &mut Vec<Rc<Pool>>) {
    pools.retain(|pool| pool.names.is_none() || !pool.is_empty());
    if pools.len() >= NAMED_POOLS {
        pools.retain(|pool| pool.names.is_none() || !pool.is_idle());
    }
}

impl fmt::Debug for HostPools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostPools")
            .field("host", &self.host.address())
            .field("pools", &self.pools.borrow().len())
            .finish_non_exhaustive()
    }
}

/// The protocol of a pool's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PoolProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// The protocol that ALPN selects; HTTP/1.1 if ALPN selects none.
    Negotiated,
}

/// The connections to one host that requests of one priority, protocol and required names share.
pub(crate) struct Pool {
    cx: Rc<PoolCx>,
    host: Arc<Host>,
    priority: RoutingPriority,
    /// The protocol that was asked for.
    wanted: PoolProtocol,
    /// The protocol that is used: the runtime may forbid HTTP/2.
    protocol: PoolProtocol,
    /// The names that its requests require of connections.
    names: Option<Rc<ConnectionNames>>,
    /// `None` for plaintext.
    tls: Option<Rc<PoolTls>>,
    /// The pool's permit from `max_connection_pools`.
    permit: Cell<Option<Permit>>,
    state: RefCell<PoolState>,
    queue: PendingQueue,
    this: Weak<Pool>,
}

#[derive(Default)]
struct PoolState {
    /// Connections that are being established.
    attempts: Vec<Rc<ConnectAttempt>>,
    /// Connections that are established.
    connections: Vec<Rc<PoolConnection>>,
    /// Connections with capacity; the last one is used first.
    ready: Vec<Rc<PoolConnection>>,
    /// The host was removed or replaced: connections are closed once they are idle.
    draining: bool,
}

impl Pool {
    fn new(
        host: &HostPools,
        (priority, protocol, names): (RoutingPriority, PoolProtocol, Option<Rc<ConnectionNames>>),
        permit: Permit,
    ) -> Rc<Pool> {
        let tls = host.cx.tls(&host.host).cloned();
        let tls = tls.map(|tls| Rc::new(PoolTls::new(tls, names.clone())));
        Rc::new_cyclic(|this| Pool {
            cx: host.cx.clone(),
            host: host.host.clone(),
            priority,
            wanted: protocol,
            protocol: match protocol {
                PoolProtocol::Http2 if !host.cx.may_use_http2() => PoolProtocol::Http1,
                protocol => protocol,
            },
            names,
            tls,
            permit: Cell::new(Some(permit)),
            state: RefCell::default(),
            queue: PendingQueue::default(),
            this: this.clone(),
        })
    }

    /// A stream on a connection that has capacity; `None` if there is none.
    pub(crate) fn open_at_once(self: &Rc<Self>) -> Option<Result<UpstreamStream, PoolFailure>> {
        self.ready().map(|connection| self.attach(connection))
    }

    /// A stream on a connection. Waits in the queue if no connection has capacity.
    pub(crate) async fn open(self: &Rc<Self>) -> Result<UpstreamStream, PoolFailure> {
        if let Some(opened) = self.open_at_once() {
            return opened;
        }
        let breakers = &self.cx.breakers;
        let Some(permit) = breakers.acquire(self.priority, BreakerResource::PendingRequests) else {
            self.cx.stats.upstream_rq_pending_overflow.inc();
            return Err(PoolFailure::Overflow);
        };
        self.cx.stats.upstream_rq_pending_total.inc();
        let turn = self.queue.join(self, permit);
        self.open_connections();
        turn.await
    }

    /// A connection with capacity.
    fn ready(&self) -> Option<Rc<PoolConnection>> {
        let mut state = self.state.borrow_mut();
        while let Some(connection) = state.ready.last() {
            if connection.has_place() {
                return Some(connection.clone());
            }
            connection.in_ready.set(false);
            state.ready.pop();
        }
        None
    }

    /// Assigns a request to `connection`.
    fn attach(
        self: &Rc<Self>,
        connection: Rc<PoolConnection>,
    ) -> Result<UpstreamStream, PoolFailure> {
        let breakers = &self.cx.breakers;
        if !breakers.acquire_without_permit(self.priority, BreakerResource::Requests) {
            self.cx.stats.upstream_rq_active_overflow.inc();
            return Err(PoolFailure::ActiveOverflow);
        }
        Ok(UpstreamStream::new(self.clone(), connection))
    }

    /// Assigns waiting requests to connections with capacity.
    fn hand_out(self: &Rc<Self>) {
        while !self.queue.is_empty()
            && let Some(connection) = self.ready()
        {
            let Some(waiting) = self.queue.pop() else {
                return;
            };
            waiting.answer(self.attach(connection));
        }
    }

    /// Opens the connections that the waiting requests need, at most three at a time, as in Envoy.
    fn open_connections(&self) {
        for _ in 0..3 {
            let mut state = self.state.borrow_mut();
            if self.queue.len() <= state.attempts.len() * self.capacity_of_new() {
                return;
            }
            let room = self.connection_permit();
            let has_room = room.is_some();
            let permit = match room {
                Some(permit) => permit,
                // Without any connection, the waiting requests would wait for ever.
                None if state.attempts.is_empty() && state.connections.is_empty() => {
                    let breakers = &self.cx.breakers;
                    breakers.acquire_always(self.priority, BreakerResource::Connections)
                }
                None => return,
            };
            let attempt = Rc::new(ConnectAttempt::default());
            state.attempts.push(attempt.clone());
            drop(state);
            task::spawn(self, attempt, permit);
            if !has_room {
                return;
            }
        }
    }

    /// The number of concurrent requests that a new connection is expected to take.
    fn capacity_of_new(&self) -> usize {
        if self.protocol != PoolProtocol::Http2 {
            return 1;
        }
        let http = &self.cx.info.http;
        let max = http.max_requests_per_connection.unwrap_or(u32::MAX);
        http.http2.max_concurrent_streams.min(max) as usize
    }

    fn connection_permit(&self) -> Option<Permit> {
        let breakers = &self.cx.breakers;
        let per_host = breakers.thresholds(self.priority).max_connections_per_host;
        let active = u64::try_from(self.host.stats.cx_active.value()).unwrap_or(0);
        let permit = if active < per_host {
            breakers.acquire(self.priority, BreakerResource::Connections)
        } else {
            None
        };
        if permit.is_none() {
            self.cx.stats.upstream_cx_overflow.inc();
        }
        permit
    }

    /// The connection of `attempt` is established.
    fn on_connected(
        self: &Rc<Self>,
        attempt: &Rc<ConnectAttempt>,
        connection: &Rc<PoolConnection>,
    ) {
        let mut state = self.state.borrow_mut();
        state.attempts.retain(|a| !Rc::ptr_eq(a, attempt));
        state.connections.push(connection.clone());
        drop(state);
        self.on_change(connection);
    }

    /// A connection could not be established: all waiting requests fail, as in Envoy.
    fn on_connect_failed(self: &Rc<Self>, attempt: &Rc<ConnectAttempt>, failure: &PoolFailure) {
        let mut state = self.state.borrow_mut();
        state.attempts.retain(|a| !Rc::ptr_eq(a, attempt));
        drop(state);
        for waiting in self.queue.take_all() {
            self.cx.stats.upstream_rq_pending_failure_eject.inc();
            waiting.answer(Err(failure.clone()));
        }
    }

    /// A connection has been closed.
    fn on_closed(&self, connection: &Rc<PoolConnection>) {
        let mut state = self.state.borrow_mut();
        state.connections.retain(|c| !Rc::ptr_eq(c, connection));
        state.ready.retain(|c| !Rc::ptr_eq(c, connection));
        drop(state);
        self.open_connections();
        if self.is_drained() {
            self.permit.take();
        }
    }

    /// `connection` may have gained capacity, or take no more requests.
    fn on_change(self: &Rc<Self>, connection: &Rc<PoolConnection>) {
        if connection.has_place() && !connection.in_ready.replace(true) {
            self.state.borrow_mut().ready.push(connection.clone());
        }
        self.hand_out();
        // The connection may take fewer requests than was expected.
        self.open_connections();
        let is_idle = connection.active() == 0;
        let drains = is_idle && self.state.borrow().draining && self.queue.is_empty();
        if drains || connection.is_finished() {
            connection.close();
        }
    }

    /// From now on, connections are closed once they are idle.
    fn drain(&self) {
        self.state.borrow_mut().draining = true;
        self.close_if_drained();
    }

    /// Whether the pool is draining and nothing in it is left.
    fn is_drained(&self) -> bool {
        let state = self.state.borrow();
        state.draining
            && self.queue.is_empty()
            && state.attempts.is_empty()
            && state.connections.iter().all(|c| c.is_finished())
    }

    /// Whether it has no connections, and no request waits for one.
    fn is_empty(&self) -> bool {
        let state = self.state.borrow();
        self.queue.is_empty() && state.attempts.is_empty() && state.connections.is_empty()
    }

    /// Whether it has no requests.
    fn is_idle(&self) -> bool {
        let state = self.state.borrow();
        self.queue.is_empty() && state.connections.iter().all(|c| c.active() == 0)
    }

    /// Closes the idle connections of a draining pool, once no request waits.
    fn close_if_drained(&self) {
        let state = self.state.borrow();
        if !state.draining || !self.queue.is_empty() {
            return;
        }
        for attempt in &state.attempts {
            attempt.cancel();
        }
        for connection in &state.connections {
            if connection.active() == 0 {
                connection.close();
            }
        }
    }

    fn cx(&self) -> &Rc<PoolCx> {
        &self.cx
    }

    fn host(&self) -> &Arc<Host> {
        &self.host
    }

    fn names(&self) -> Option<&Rc<ConnectionNames>> {
        self.names.as_ref()
    }

    fn tls(&self) -> Option<&Rc<PoolTls>> {
        self.tls.as_ref()
    }

    fn protocol(&self) -> PoolProtocol {
        self.protocol
    }

    fn this(&self) -> Weak<Pool> {
        self.this.clone()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        for attempt in &state.attempts {
            attempt.cancel();
        }
        for connection in &state.connections {
            connection.close();
        }
    }
}
