//! TCP connections to hosts. Each has one user, and is closed with it: Envoy does not reuse such connections either.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use outrider_codec::Body;
use outrider_codec::TcpConnectionOwner;
use outrider_codec::UpstreamExchange;
use outrider_codec::stats::ByteCounts;
use outrider_net::Address;
use outrider_net::NetworkStream;
use outrider_stats::HeldGauge;
use outrider_tls::TlsInfo;
use tokio::sync::Notify;

use super::HostPools;
use super::PoolCx;
use super::PoolFailure;
use super::connect;
use super::connect::Connected;
use super::counts::ConnectionCounts;
use crate::BreakerResource;
use crate::Host;
use crate::Permit;
use crate::RoutingPriority;
use crate::connection_names::ConnectionNames;
use crate::stats::ClusterStats;
use crate::transport::PoolTls;

/// A TCP connection to a host, and what is known about it.
#[derive(Debug)]
pub struct TcpConnection {
    /// The socket, or TLS over it.
    pub stream: NetworkStream,
    /// Unique among all upstream connections of the process.
    pub id: u64,
    /// Its local address; `None` for a UNIX socket.
    pub local: Option<Address>,
    /// The address that it is connected to.
    pub remote: Address,
    /// `None` without TLS.
    pub tls: Option<Rc<TlsInfo>>,
    /// Counts the connection while it is held.
    pub lease: TcpLease,
}

/// Counts a TCP connection, as a connection and as a request, until it is dropped.
#[derive(Debug)]
pub struct TcpLease {
    counts: ConnectionCounts,
    /// Whether the host has closed the connection.
    closed_by_host: bool,
    /// Whether its request had ended before.
    finished: bool,
    _request: Permit,
    _active: HeldGauge<ClusterStats>,
    _open: OpenConnection,
}

/// The TCP connections of a host on a worker.
#[derive(Debug, Default)]
pub(super) struct TcpConnections {
    open: Rc<Cell<usize>>,
    /// Notified when one ends.
    ended: Rc<Notify>,
}

/// Counts one of them until it is dropped.
#[derive(Debug)]
struct OpenConnection {
    open: Rc<Cell<usize>>,
    ended: Rc<Notify>,
}

impl HostPools {
    /// Connects to the host, for one user. Dropping the future gives up.
    ///
    /// # Errors
    /// A breaker is open, or no connection can be established.
    pub(crate) async fn connect(
        &self,
        priority: RoutingPriority,
        names: Option<&Rc<ConnectionNames>>,
    ) -> Result<TcpConnection, PoolFailure> {
        let (cx, host) = (&self.cx, &self.host);
        let mut pending = PendingConnection::new(self, priority)?;
        let permit = self.connection_permit(priority).await;
        let open = self.tcp.enter();
        let made = self.make(permit, names.cloned()).await;
        pending.is_settled = true;
        drop(pending);
        let (counts, connected, stream) = made.inspect_err(|_| {
            cx.stats.upstream_rq_pending_failure_eject.inc();
        })?;
        let connect_time = counts.started.elapsed().as_millis();
        let connect_time = u64::try_from(connect_time).unwrap_or(u64::MAX);
        cx.stats.upstream_cx_connect_ms.record(connect_time);
        host.stats.rq_total.inc();
        host.stats.rq_active.inc();
        cx.stats.upstream_rq_total.inc();
        let lease = TcpLease {
            // Envoy gives a connection that exists to its request even above the limit.
            _request: (cx.breakers).acquire_always(priority, BreakerResource::Requests),
            _active: cx.stats.hold(|stats| &stats.upstream_rq_active),
            counts,
            closed_by_host: false,
            finished: false,
            _open: open,
        };
        Ok(TcpConnection {
            stream,
            id: cx.connection_id(),
            local: connected.local,
            remote: connected.remote,
            tls: connected.tls,
            lease,
        })
    }

    /// Makes a connection within `connect_timeout`.
    async fn make(
        &self,
        permit: Permit,
        names: Option<Rc<ConnectionNames>>,
    ) -> Result<(ConnectionCounts, Connected, NetworkStream), PoolFailure> {
        let (cx, host) = (&self.cx, &self.host);
        let counts = ConnectionCounts::new(cx.clone(), host.clone(), permit);
        let mut unmade = UnmadeConnection {
            counts: &counts,
            failure: Some(PoolFailure::LocalConnectionFailure("".into())),
        };
        let tls = cx
            .tls(host)
            .cloned()
            .map(|tls| PoolTls::new(tls, names.clone()));
        let connected = tokio::select! {
            biased;
            connected = connect::connect(host, cx, tls.as_ref(), (None, names.as_deref())) => connected,
            () = cx.worker.timers.sleep(cx.info.connect_timeout) => {
                cx.stats.upstream_cx_connect_timeout.inc();
                Err(PoolFailure::Timeout)
            }
        };
        unmade.failure = connected.as_ref().err().cloned();
        drop(unmade);
        let (connected, stream) = connected?;
        Ok((counts, connected, stream))
    }

    /// A permit for one more connection. Above a limit, it waits for the end of one of this worker's connections to the
    /// host; without any, the connection may be made anyway, as in Envoy.
    async fn connection_permit(&self, priority: RoutingPriority) -> Permit {
        let breakers = &self.cx.breakers;
        let per_host = breakers.thresholds(priority).max_connections_per_host;
        let mut is_counted = false;
        loop {
            let active = u64::try_from(self.host.stats.cx_active.value()).unwrap_or(0);
            if active < per_host
                && let Some(permit) = breakers.acquire(priority, BreakerResource::Connections)
            {
                return permit;
            }
            if !std::mem::replace(&mut is_counted, true) {
                self.cx.stats.upstream_cx_overflow.inc();
            }
            if self.tcp.open.get() == 0 {
                return breakers.acquire_always(priority, BreakerResource::Connections);
            }
            self.tcp.ended.notified().await;
        }
    }
}

impl TcpConnection {
    /// Uses the connection for one stream's bodies: sends `first`, then `body`.
    #[must_use]
    pub fn into_exchange(self, first: Bytes, body: Body) -> UpstreamExchange {
        let cx = self.lease.counts.cx.clone();
        let limit = cx.info.per_connection_buffer_limit_bytes;
        cx.stats.upstream_cx_tx_bytes_buffered.mark_used();
        let counts = (cx.stats.clone() as Arc<dyn ByteCounts>, limit);
        UpstreamExchange::over_tcp(self.stream, counts, (first, body), Box::new(self.lease))
    }
}

impl TcpConnectionOwner for TcpLease {
    fn closed_by_host(&mut self) {
        self.closed_by_host = true;
    }

    fn finished(&mut self) {
        self.finished = true;
    }
}

impl TcpLease {
    /// Notes that the host has closed the connection.
    pub fn closed_by_host(&mut self) {
        self.closed_by_host = true;
    }
}

impl Drop for TcpLease {
    fn drop(&mut self) {
        self.counts.host.stats.rq_active.dec();
        if !self.finished {
            self.counts.destroyed_with_requests(!self.closed_by_host);
        }
        self.counts.destroyed(!self.closed_by_host);
    }
}

impl TcpConnections {
    fn enter(&self) -> OpenConnection {
        self.open.set(self.open.get() + 1);
        OpenConnection {
            open: self.open.clone(),
            ended: self.ended.clone(),
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
        self.ended.notify_one();
    }
}

/// Counts a user that waits for its connection.
struct PendingConnection {
    cx: Rc<PoolCx>,
    host: Arc<Host>,
    /// Whether it got its connection, or an error.
    is_settled: bool,
    _permit: Permit,
    _active: HeldGauge<ClusterStats>,
}

impl PendingConnection {
    fn new(pools: &HostPools, priority: RoutingPriority) -> Result<PendingConnection, PoolFailure> {
        let (cx, host) = (&pools.cx, &pools.host);
        let permit = (cx.breakers).acquire(priority, BreakerResource::PendingRequests);
        let Some(permit) = permit else {
            cx.stats.upstream_rq_pending_overflow.inc();
            return Err(PoolFailure::Overflow);
        };
        cx.stats.upstream_rq_pending_total.inc();
        host.stats.rq_pending_active.inc();
        Ok(PendingConnection {
            _active: cx.stats.hold(|stats| &stats.upstream_rq_pending_active),
            _permit: permit,
            cx: cx.clone(),
            host: host.clone(),
            is_settled: false,
        })
    }
}

impl Drop for PendingConnection {
    fn drop(&mut self) {
        self.host.stats.rq_pending_active.dec();
        if !self.is_settled {
            self.cx.stats.upstream_rq_cancelled.inc();
        }
    }
}

/// Counts the end of a connection that was not made, for this reason. Dropping it early means that its user gave up.
struct UnmadeConnection<'a> {
    counts: &'a ConnectionCounts,
    /// `None` once the connection is made.
    failure: Option<PoolFailure>,
}

impl Drop for UnmadeConnection<'_> {
    fn drop(&mut self) {
        if let Some(failure) = &self.failure {
            self.counts.end_unmade(failure);
        }
    }
}
