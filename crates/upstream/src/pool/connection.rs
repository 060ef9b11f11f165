//! One established connection of a pool.
//!
//! ```text
//! open ──► draining ──► closed
//!   └───────────────────►┘
//! ```
//! A draining connection takes no new requests and is closed after its last one.

use std::cell::Cell;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;

use http::Version;
use outrider_codec::Client;
use outrider_net::Address;
use outrider_tls::TlsInfo;
use tokio::time::Instant;

use super::PoolCx;

/// A connection, as its pool sees it.
pub(super) struct PoolConnection {
    cx: Rc<PoolCx>,
    pub(super) client: Client,
    pub(super) info: Rc<UpstreamConnectionInfo>,
    state: Cell<ConnectionState>,
    /// The requests that are assigned to it.
    active: Cell<usize>,
    /// How many of these the codec does not know yet.
    unsent: Cell<usize>,
    /// The number of requests that it has ever had.
    requests: Cell<u64>,
    idle_since: Cell<Instant>,
    /// Whether it is on its pool's list of connections with capacity.
    pub(super) in_ready: Cell<bool>,
    /// Wakes the task that drives it, in order to close it.
    task: RefCell<Option<Waker>>,
}

/// The properties of a connection to a host.
#[derive(Clone, Debug)]
pub struct UpstreamConnectionInfo {
    /// Unique among all upstream connections of the process.
    pub id: u64,
    /// Its local address; `None` for a UNIX socket.
    pub local: Option<Address>,
    /// The address that it is connected to.
    pub remote: Address,
    /// HTTP/1.1 or HTTP/2.
    pub protocol: Version,
    /// How long it took to connect.
    pub connect_time: Duration,
    /// `None` without TLS.
    pub tls: Option<Rc<TlsInfo>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionState {
    Open,
    Draining,
    /// Closed, or about to be closed by its task.
    Closed,
}

impl PoolConnection {
    pub(super) fn new(
        cx: Rc<PoolCx>,
        client: Client,
        info: UpstreamConnectionInfo,
    ) -> Rc<PoolConnection> {
        Rc::new(PoolConnection {
            client,
            info: Rc::new(info),
            state: Cell::new(ConnectionState::Open),
            active: Cell::new(0),
            unsent: Cell::new(0),
            requests: Cell::new(0),
            idle_since: Cell::new(cx.worker.timers.now()),
            in_ready: Cell::new(false),
            task: RefCell::default(),
            cx,
        })
    }

    /// Whether another request may be assigned to it.
    pub(super) fn has_place(&self) -> bool {
        self.state.get() == ConnectionState::Open && self.client.capacity() > self.unsent.get()
    }

    /// Whether it takes no more requests and has none. The codec itself closes a connection that the peer is about to
    /// close.
    pub(super) fn is_finished(&self) -> bool {
        self.state.get() != ConnectionState::Open && self.active.get() == 0
    }

    pub(super) fn is_open(&self) -> bool {
        self.state.get() == ConnectionState::Open
    }

    /// Assigns a request to it.
    pub(super) fn take_place(&self) {
        self.active.set(self.active.get() + 1);
        self.unsent.set(self.unsent.get() + 1);
        self.requests.set(self.requests.get() + 1);
        let max = self.cx.info.http.max_requests_per_connection;
        if max.is_some_and(|max| self.requests.get() >= u64::from(max)) {
            self.cx.stats.upstream_cx_max_requests.inc();
            self.drain();
        }
    }

    /// An assigned request was sent, or never will be. If it was sent, the codec counts it from now on.
    pub(super) fn sent(&self) {
        self.unsent.set(self.unsent.get() - 1);
    }

    /// An assigned request has ended.
    pub(super) fn give_back(&self) {
        self.active.set(self.active.get() - 1);
        if self.active.get() == 0 {
            self.idle_since.set(self.cx.worker.timers.now());
        }
    }

    /// Stops assigning new requests.
    pub(super) fn drain(&self) {
        if self.state.get() == ConnectionState::Open {
            self.state.set(ConnectionState::Draining);
        }
    }

    /// Closes it, even with requests under way.
    pub(super) fn close(&self) {
        if self.state.replace(ConnectionState::Closed) != ConnectionState::Closed
            && let Some(task) = self.task.take()
        {
            task.wake();
        }
    }

    /// Ready when it must be closed. Only the task that drives it calls this.
    pub(super) fn poll_closed(&self, cx: &Context<'_>) -> Poll<()> {
        if self.state.get() == ConnectionState::Closed {
            return Poll::Ready(());
        }
        // It is always the same task, so its waker is cloned once.
        self.task
            .borrow_mut()
            .get_or_insert_with(|| cx.waker().clone())
            .clone_from(cx.waker());
        Poll::Pending
    }

    /// The number of requests that it has ever had.
    pub(super) fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// The number of requests that it has now.
    pub(super) fn active(&self) -> usize {
        self.active.get()
    }

    /// When it will have been idle for too long; `None` without such a limit.
    pub(super) fn idle_deadline(&self, now: Instant) -> Option<Instant> {
        let timeout = self.cx.info.http.idle_timeout?;
        let since = match self.active.get() {
            0 => self.idle_since.get(),
            _ => now,
        };
        Some(since + timeout)
    }
}

impl fmt::Debug for PoolConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolConnection")
            .field("info", &self.info)
            .field("state", &self.state)
            .field("active", &self.active)
            .finish_non_exhaustive()
    }
}
