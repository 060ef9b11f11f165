//! A request's stream on a connection.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use outrider_codec::Body;
use outrider_codec::RequestHead;
use outrider_codec::StreamError;
use outrider_codec::UpstreamExchange;

use super::Pool;
use super::connection::PoolConnection;
use super::connection::UpstreamConnectionInfo;
use crate::BreakerResource;
use crate::Host;

/// A stream on a connection to a host. The connection's capacity is reserved until the request has ended.
pub struct UpstreamStream {
    lease: Lease,
}

impl UpstreamStream {
    /// A stream on `connection`, for a request that the breaker already counts.
    pub(super) fn new(pool: Rc<Pool>, connection: Rc<PoolConnection>) -> Self {
        connection.take_place();
        let host = &pool.host.stats;
        host.rq_total.inc();
        host.rq_active.inc();
        pool.cx.stats.upstream_rq_total.inc();
        pool.cx.stats.upstream_rq_active.inc();
        UpstreamStream {
            lease: Lease {
                pool,
                connection,
                sent: false,
            },
        }
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Arc<Host> {
        &self.lease.pool.host
    }

    /// The connection.
    #[must_use]
    pub fn connection(&self) -> &Rc<UpstreamConnectionInfo> {
        &self.lease.connection.info
    }

    /// Sends the request. The capacity stays reserved until the exchange is dropped.
    ///
    /// # Errors
    /// The connection has just been closed, or the request's head is malformed.
    pub fn send(mut self, head: &RequestHead, body: Body) -> Result<UpstreamExchange, StreamError> {
        self.lease.mark_sent();
        let mut exchange = self.lease.connection.client.send(head, body)?;
        exchange.hold(Box::new(self.lease));
        Ok(exchange)
    }
}

impl fmt::Debug for UpstreamStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamStream")
            .field("connection", self.connection())
            .finish_non_exhaustive()
    }
}

/// What counts for a request while it is assigned to a connection.
pub(super) struct Lease {
    pool: Rc<Pool>,
    connection: Rc<PoolConnection>,
    sent: bool,
}

impl Lease {
    fn mark_sent(&mut self) {
        if !std::mem::replace(&mut self.sent, true) {
            self.connection.sent();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.mark_sent();
        self.pool.host.stats.rq_active.dec();
        self.pool.cx.stats.upstream_rq_active.dec();
        self.connection.give_back();
        // Released before the connection's capacity is reused: the next request needs this breaker, too.
        let breakers = &self.pool.cx.breakers;
        breakers.release(self.pool.priority, BreakerResource::Requests);
        self.pool.on_change(&self.connection);
    }
}
