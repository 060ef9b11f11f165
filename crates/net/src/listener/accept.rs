//! A worker's half of a listener: accepts, chooses the filter chain, and hands the connection to it.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::net::UnixListener;
use tokio::net::UnixStream;
use tokio::task::spawn_local;

use crate::Address;
use crate::Connection;
use crate::ConnectionHandler;
use crate::ConnectionInfo;
use crate::Drain;
use crate::Facts;
use crate::Stream;
use crate::WorkerCx;
use crate::listener::ListenerConfig;
use crate::listener::WorkerSockets;
use crate::listener::balance::Balancer;
use crate::listener::balance::Handed;
use crate::listener::balance::HandedSocket;
use crate::listener::balance::Seat;
use crate::listener::limit::LimitReached;
use crate::listener::limit::Limits;
use crate::listener::limit::Shares;
use crate::stats::ListenerStats;
use crate::stats::WorkerListenerStats;

/// Without file descriptors, accepting is tried again after this long: the queue keeps the connections meanwhile.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// Numbers the connections of the process (`%CONNECTION_ID%`).
static NEXT_CONNECTION_ID: AtomicU64 = AtomicU64::new(1);

/// A listener on one worker.
pub struct Listener {
    config: Arc<ListenerConfig>,
    /// By filter chain number.
    handlers: Vec<Rc<dyn ConnectionHandler>>,
    limits: Limits,
    stats: Arc<ListenerStats>,
    worker_stats: Arc<WorkerListenerStats>,
    cx: Rc<WorkerCx>,
}

/// A socket that listens.
enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// The worker's half of `config`. `handlers` serve its filter chains, by number: `filter_chains` in order, then
    /// `default_filter_chain`.
    #[must_use]
    pub fn new(
        config: Arc<ListenerConfig>,
        handlers: Vec<Rc<dyn ConnectionHandler>>,
        limits: Limits,
        cx: &Rc<WorkerCx>,
    ) -> Rc<Listener> {
        let worker = format!("worker_{}", cx.index);
        Rc::new(Listener {
            stats: cx.store.register(config.scope()),
            worker_stats: cx.store.register(config.scope().name(&worker)),
            limits,
            handlers,
            config,
            cx: cx.clone(),
        })
    }

    /// Accepts until `stop` begins; then the sockets close. Connections go on.
    pub async fn accept(self: Rc<Listener>, sockets: WorkerSockets, stop: Drain) -> io::Result<()> {
        let addresses: Rc<[Address]> = sockets
            .sockets
            .iter()
            .map(|(_, address)| address.clone())
            .collect();
        let mut tasks = tokio::task::JoinSet::new();
        for (bind, (socket, address)) in sockets.sockets.into_iter().enumerate() {
            let acceptor = match address {
                Address::Ip(_) => Acceptor::Tcp(TcpListener::from_std(socket.into())?),
                Address::Pipe(_) => Acceptor::Unix(UnixListener::from_std(socket.into())?),
            };
            let (listener, balancer, addresses) =
                (self.clone(), sockets.balancer.clone(), addresses.clone());
            tasks.spawn_local(async move {
                listener
                    .accept_on(&acceptor, (bind, &addresses[bind]), balancer.as_ref())
                    .await;
            });
        }
        if let Some(mut inbox) = sockets.inbox {
            tasks.spawn_local(async move {
                while let Some(handed) = inbox.recv().await {
                    self.receive(handed, &addresses);
                }
            });
        }
        stop.wait().await;
        Ok(())
    }

    /// Never ends.
    async fn accept_on(
        self: &Rc<Listener>,
        acceptor: &Acceptor,
        (bind, address): (usize, &Address),
        balancer: Option<&Arc<Balancer>>,
    ) {
        let mut accepted = Vec::new();
        loop {
            let result = poll_fn(|cx| self.poll_batch(acceptor, &mut accepted, cx)).await;
            if !accepted.is_empty() {
                self.stats
                    .connections_accepted_per_socket_event
                    .record(accepted.len() as u64);
            }
            for (stream, remote) in accepted.drain(..) {
                match balancer {
                    None => self.start(stream, remote, address, None),
                    Some(balancer) => self.balance(stream, remote, (bind, address), balancer),
                }
            }
            match result {
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    log::warn!(target: "conn_handler", "listener '{}': cannot accept: {error}", self.config.name);
                    self.cx.timers.sleep(PAUSE_AFTER_ERROR).await;
                }
                Ok(()) => {}
            }
        }
    }

    /// Takes what the kernel has, up to `max_connections_to_accept_per_socket_event`.
    fn poll_batch(
        &self,
        acceptor: &Acceptor,
        accepted: &mut Vec<(Stream, Address)>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match acceptor.poll_accept(cx) {
                Poll::Ready(Ok(connection)) => accepted.push(connection),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if accepted.is_empty() => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Ok(())),
            }
            if accepted.len() >= self.config.accepts_per_event as usize {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn balance(
        self: &Rc<Listener>,
        stream: Stream,
        remote: Address,
        (bind, address): (usize, &Address),
        balancer: &Arc<Balancer>,
    ) {
        let seat = balancer.seat();
        if seat.worker() == self.cx.index as usize {
            return self.start(stream, remote, address, Some(seat));
        }
        let socket = match stream {
            Stream::Tcp(stream) => stream.into_std().map(HandedSocket::Tcp),
            Stream::Unix(stream) => stream.into_std().map(HandedSocket::Unix),
        };
        // A socket that the runtime cannot let go of is closed.
        if let Ok(socket) = socket {
            balancer.hand_over(Handed {
                socket,
                remote,
                bind,
                seat,
            });
        }
    }

    fn receive(self: &Rc<Listener>, handed: Handed, addresses: &[Address]) {
        let stream = match handed.socket {
            HandedSocket::Tcp(socket) => TcpStream::from_std(socket).map(Stream::Tcp),
            HandedSocket::Unix(socket) => UnixStream::from_std(socket).map(Stream::Unix),
        };
        if let (Ok(stream), Some(address)) = (stream, addresses.get(handed.bind)) {
            self.start(stream, handed.remote, address, Some(handed.seat));
        }
    }

    /// Serves a connection in a task of its own; one over a limit or without a filter chain is closed.
    fn start(
        self: &Rc<Listener>,
        stream: Stream,
        remote: Address,
        address: &Address,
        seat: Option<Seat>,
    ) {
        let Some(shares) = self.take_shares() else {
            return;
        };
        let local = self.local_address(&stream, address);
        let facts = Facts {
            destination: &local,
            source: &remote,
            direct_source: &remote,
            server_name: "",
            transport_protocol: "raw_buffer",
            application_protocols: &[],
        };
        let Some(chain) = self.config.chains.find(&facts) else {
            log::debug!(target: "conn_handler", "closing connection from {remote}: no matching filter chain found");
            self.stats.no_filter_chain_match.inc();
            return;
        };
        log::debug!(target: "conn_handler", "new connection from {remote}");
        let info = ConnectionInfo {
            id: NEXT_CONNECTION_ID.fetch_add(1, Ordering::Relaxed),
            local,
            remote,
            started: self.cx.timers.now(),
            listener: self.config.name.clone(),
            filter_chain: self.config.chain_names[chain].clone(),
        };
        let connection = Connection {
            stream,
            info: Rc::new(info),
        };
        let served = Served::new(self.clone(), &connection, (shares, seat));
        let handling = self.handlers[chain].clone().serve(connection);
        spawn_local(async move {
            let _served = served;
            handling.await;
        });
    }

    /// A share of each limit that applies; `None` closes the connection.
    fn take_shares(&self) -> Option<Shares> {
        match self.limits.enter() {
            Ok(shares) => return Some(shares),
            Err(LimitReached::Listener) => self.stats.downstream_cx_overflow.inc(),
            Err(LimitReached::Global) => self.stats.downstream_global_cx_overflow.inc(),
        }
        None
    }

    /// What the client connected to: the kernel is asked only where the bound address leaves it open.
    fn local_address(&self, stream: &Stream, bound: &Address) -> Address {
        let open = match bound {
            Address::Ip(ip) => match ip.ip() {
                IpAddr::V4(v4) => v4.is_unspecified() || self.config.transparent,
                // An IPv4 client of an IPv4-mapped address sees it as IPv4.
                IpAddr::V6(v6) => {
                    v6.is_unspecified() || v6.to_ipv4_mapped().is_some() || self.config.transparent
                }
            },
            Address::Pipe(_) => false,
        };
        match stream {
            Stream::Tcp(stream) if open => stream
                .local_addr()
                .map_or_else(|_| bound.clone(), Address::from),
            _ => bound.clone(),
        }
    }
}

impl Acceptor {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Address)>> {
        match self {
            Acceptor::Tcp(listener) => listener
                .poll_accept(cx)
                .map_ok(|(stream, remote)| (Stream::Tcp(stream), Address::from(remote))),
            Acceptor::Unix(listener) => listener.poll_accept(cx).map_ok(|(stream, remote)| {
                // Clients of a UNIX socket hardly ever have a name.
                let path = remote
                    .as_pathname()
                    .map(|path| path.to_string_lossy().into_owned());
                (
                    Stream::Unix(stream),
                    Address::pipe(&path.unwrap_or_default(), 0),
                )
            }),
        }
    }
}

/// Errors that `accept(2)` passes on from a connection that died in the queue.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::TimedOut
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
    )
}

/// Counts a connection for as long as it is held.
struct Served {
    listener: Rc<Listener>,
    started: tokio::time::Instant,
    _held: (Shares, Option<Seat>),
}

impl Served {
    fn new(
        listener: Rc<Listener>,
        connection: &Connection,
        held: (Shares, Option<Seat>),
    ) -> Served {
        listener.stats.downstream_cx_total.inc();
        listener.stats.downstream_pre_cx_active.mark_used();
        listener.stats.downstream_cx_active.inc();
        listener.worker_stats.downstream_cx_total.inc();
        listener.worker_stats.downstream_cx_active.inc();
        Served {
            listener,
            started: connection.info.started,
            _held: held,
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let stats = &self.listener.stats;
        stats.downstream_cx_active.dec();
        stats.downstream_cx_destroy.inc();
        self.listener.worker_stats.downstream_cx_active.dec();
        let lasted = self
            .listener
            .cx
            .timers
            .now()
            .saturating_duration_since(self.started);
        stats
            .downstream_cx_length_ms
            .record(u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX));
    }
}
