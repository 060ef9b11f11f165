//! A filter chain on one worker, with the connections that it serves.

use std::cell::OnceCell;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrider_stats::Scope;
use outrider_stats::WorkerStore;
use outrider_tls::ServerTls;
use outrider_tls::WorkerSsl;
use slab::Slab;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::task::spawn_local;

use crate::AcceptedConnection;
use crate::ConnectionHandler;
use crate::NetworkStream;
use crate::ScaledTimer;
use crate::TimeoutScale;
use crate::Timers;
use crate::TlsStream;
use crate::WorkerCx;
use crate::stats::ListenerStats;
use crate::timers::ScaledDeadline;
use crate::tls::HandshakeLimit;

/// A filter chain on one worker. It can outlive the listener for which it was created: a listener that replaces another
/// reuses the chains that did not change.
pub struct ServingChain {
    handler: Rc<dyn ConnectionHandler>,
    tls: Option<ChainTls>,
    open: RefCell<Slab<Option<AbortHandle>>>,
    /// Notified when the last connection has ended.
    ended: Notify,
}

/// The TLS of a filter chain's connections, on one worker.
pub struct ChainTls {
    factory: Arc<ServerTls>,
    /// Listed from the first context on.
    stats: OnceCell<WorkerSsl>,
    scope: Scope,
    store: WorkerStore,
    listener_stats: Arc<ListenerStats>,
    timers: Timers,
    /// `transport_socket_connect_timeout`
    timeout: Option<Duration>,
    /// How the overload manager shortens it.
    scale: Option<TimeoutScale>,
}

impl ChainTls {
    /// TLS by `factory`, in a listener whose stats are below `scope`. A handshake may take `timeout`.
    #[must_use]
    pub fn new(
        factory: Arc<ServerTls>,
        scope: Scope,
        timeout: Option<Duration>,
        cx: &WorkerCx,
    ) -> ChainTls {
        ChainTls {
            factory,
            stats: OnceCell::new(),
            listener_stats: cx.store.register(scope.clone()),
            scope,
            store: cx.store.clone(),
            timers: cx.timers.clone(),
            timeout,
            scale: cx.overload().timer(ScaledTimer::TransportSocketConnect),
        }
    }

    fn over(&self, socket: NetworkStream) -> NetworkStream {
        let Some(context) = self.factory.context() else {
            self.factory.count_not_ready();
            return NetworkStream::Tls(Box::new(TlsStream::not_ready(socket)));
        };
        let stats = self.stats.get_or_init(|| {
            let scope = self.scope.clone().name("ssl");
            WorkerSsl(self.store.register(scope))
        });
        let mut stream = TlsStream::accept(socket, context, stats.clone());
        if let Some(timeout) = self.timeout {
            stream.limit_handshake(HandshakeLimit {
                deadline: ScaledDeadline::new(&self.timers, timeout, self.scale.clone()),
                stats: self.listener_stats.clone(),
            });
        }
        NetworkStream::Tls(Box::new(stream))
    }
}

/// Counts as an open connection of the chain until it is dropped.
struct ChainConnection {
    chain: Rc<ServingChain>,
    key: usize,
}

impl ServingChain {
    /// A chain whose connections `handler` serves, over TLS if `tls` is set.
    #[must_use]
    pub fn new(handler: Rc<dyn ConnectionHandler>, tls: Option<ChainTls>) -> Rc<ServingChain> {
        Rc::new(ServingChain {
            handler,
            tls,
            open: RefCell::default(),
            ended: Notify::new(),
        })
    }

    /// Serves a connection in a task of its own, which keeps `held` until the connection ends.
    pub(super) fn serve(
        self: &Rc<ServingChain>,
        mut connection: AcceptedConnection,
        held: impl Sized + 'static,
    ) {
        if let Some(tls) = &self.tls {
            connection.stream = tls.over(connection.stream);
        }
        let key = self.open.borrow_mut().insert(None);
        let open = ChainConnection {
            chain: self.clone(),
            key,
        };
        let handling = self.handler.clone().serve(connection);
        let task = spawn_local(async move {
            let _held = (open, held);
            handling.await;
        });
        if let Some(place) = self.open.borrow_mut().get_mut(key) {
            *place = Some(task.abort_handle());
        }
    }

    /// How many connections are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.open.borrow().len()
    }

    /// Waits until no connection is open.
    pub async fn all_ended(&self) {
        while self.connections() > 0 {
            self.ended.notified().await;
        }
    }

    /// Closes all connections, even with requests under way.
    pub fn close_all(&self) {
        let tasks: Vec<AbortHandle> = {
            let open = self.open.borrow();
            open.iter().filter_map(|(_, task)| task.clone()).collect()
        };
        for task in tasks {
            task.abort();
        }
    }
}

impl Drop for ChainConnection {
    fn drop(&mut self) {
        let mut open = self.chain.open.borrow_mut();
        // The handle may be the last reference to its task, so it is dropped outside the borrow.
        let removed = open.try_remove(self.key);
        let last = open.is_empty();
        drop(open);
        drop(removed);
        if last {
            self.chain.ended.notify_waiters();
        }
    }
}

impl fmt::Debug for ServingChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServingChain")
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}
