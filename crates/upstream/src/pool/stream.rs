//! A request's place on a connection.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use outrider_codec::Body;
use outrider_codec::RequestHead;
use outrider_codec::StreamError;
use outrider_codec::UpstreamExchange;

use super::Pool;
use super::connection::Connection;
use super::connection::UpstreamConnectionInfo;
use crate::Host;
use crate::Resource;

/// A place on a connection to a host, kept until the request on it is over.
pub struct UpstreamStream {
    lease: Lease,
}

impl UpstreamStream {
    /// A place on `connection`, for a request that has entered the breaker.
    pub(super) fn new(pool: Rc<Pool>, connection: Rc<Connection>) -> Self {
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

    /// Sends the request. The place is kept until the exchange is dropped.
    ///
    /// # Errors
    /// When the connection has just gone, or what is wrong with the request's head.
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

/// What is counted of a request while it has its place.
pub(super) struct Lease {
    pool: Rc<Pool>,
    connection: Rc<Connection>,
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
        // Before the place on the connection is handed on: who waits for it needs this one, too.
        let breakers = &self.pool.cx.breakers;
        breakers.left(self.pool.priority, Resource::Requests);
        self.pool.on_change(&self.connection);
    }
}
