//! A listener on one worker: selects the filter chain of each connection, and gives the connection to it.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use tokio::task::spawn_local;

use crate::AcceptedConnection;
use crate::Address;
use crate::DownstreamConnectionInfo;
use crate::FilterChainInput;
use crate::InternalStream;
use crate::LoadShedPoint;
use crate::LoadShedPointKind;
use crate::NetworkStream;
use crate::OverloadAction;
use crate::OverloadLevel;
use crate::Timers;
use crate::WorkerCx;
use crate::listener::ListenerConfig;
use crate::listener::ServingChain;
use crate::listener::balance::CountedConnection;
use crate::listener::filters::InspectedConnection;
use crate::listener::filters::ListenerFilterChain;
use crate::listener::limit::ConnectionLimits;
use crate::listener::limit::ConnectionPermits;
use crate::listener::limit::LimitReached;
use crate::stats::ExtensionConfigStats;
use crate::stats::ListenerStats;
use crate::stats::WorkerListenerStats;

/// The id of the next connection, unique in the process (`%CONNECTION_ID%`).
static NEXT_CONNECTION_ID: AtomicU64 = AtomicU64::new(1);

/// A listener on one worker.
pub struct Listener {
    config: Arc<ListenerConfig>,
    /// By the index of the filter chain.
    chains: Vec<Rc<ServingChain>>,
    limits: ConnectionLimits,
    stats: Arc<ListenerStats>,
    worker_stats: Arc<WorkerListenerStats>,
    /// Always zero, but listed as in Envoy.
    _extension_config_stats: Arc<ExtensionConfigStats>,
    /// `None` without listener filters.
    filters: Option<ListenerFilterChain>,
    /// `envoy.overload_actions.reject_incoming_connections`
    rejects: Option<Arc<OverloadLevel>>,
    /// `envoy.load_shed_points.tcp_listener_accept`
    accept_point: Option<Arc<LoadShedPoint>>,
    cx: Rc<WorkerCx>,
}

impl Listener {
    /// The listener of `config` on a worker. `chains` are its filter chains by index: `filter_chains` in order, then
    /// `default_filter_chain`.
    #[must_use]
    pub fn new(
        config: Arc<ListenerConfig>,
        chains: Vec<Rc<ServingChain>>,
        limits: ConnectionLimits,
        cx: &Rc<WorkerCx>,
    ) -> Rc<Listener> {
        let worker = format!("worker_{}", cx.index);
        let overload = (!config.bypasses_overload_manager).then(|| cx.overload());
        Rc::new(Listener {
            stats: cx.store.register(config.scope()),
            worker_stats: cx.store.register(config.scope().name(&worker)),
            _extension_config_stats: cx.store.register(config.scope()),
            filters: config.filters.worker(cx),
            rejects: overload
                .and_then(|overload| overload.action(OverloadAction::RejectIncomingConnections)),
            accept_point: overload
                .and_then(|overload| overload.point(LoadShedPointKind::TcpListenerAccept)),
            limits,
            chains,
            config,
            cx: cx.clone(),
        })
    }

    /// How many bytes wait at most in each direction of a connection to an internal listener.
    pub(crate) fn internal_buffer_size(&self) -> usize {
        self.config.internal_buffer_size
    }

    /// Serves a connection from within the process to `address`.
    pub(crate) fn start_internal(self: &Rc<Listener>, stream: InternalStream, address: &Address) {
        let stream = NetworkStream::Internal(stream);
        self.start(stream, Address::internal_client(), address, None);
    }

    /// The listener's name.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.config.name
    }

    /// `bypass_overload_manager`
    pub(super) fn bypasses_overload_manager(&self) -> bool {
        self.config.bypasses_overload_manager
    }

    /// The index of its worker.
    pub(super) fn worker(&self) -> usize {
        self.cx.index as usize
    }

    pub(super) fn timers(&self) -> &Timers {
        &self.cx.timers
    }

    /// `max_connections_to_accept_per_socket_event`
    pub(super) fn accepts_per_event(&self) -> usize {
        self.config.accepts_per_event as usize
    }

    /// Counts connections that one call of the kernel returned.
    pub(super) fn count_accepted(&self, connections: usize) {
        self.stats
            .connections_accepted_per_socket_event
            .record(connections as u64);
    }

    /// Serves a connection in a task of its own. Closes it if it is over a limit or no filter chain matches.
    pub(super) fn start(
        self: &Rc<Listener>,
        stream: NetworkStream,
        remote: Address,
        address: &Address,
        counted: Option<CountedConnection>,
    ) {
        let Some(permits) = self.take_permits() else {
            return;
        };
        let local = self.local_address(&stream, address);
        let held = (permits, counted);
        let mut inspected = InspectedConnection::new(local, remote);
        if self.filters.is_none() {
            return self.serve(stream, inspected, held);
        }
        let listener = self.clone();
        let mut stream = stream;
        spawn_local(async move {
            let Some(filters) = &listener.filters else {
                return;
            };
            let (stats, cx) = (&listener.stats, &listener.cx);
            let pending = stats.hold(|stats| &stats.downstream_pre_cx_active);
            let passed = filters
                .inspect(&mut stream, &mut inspected, (stats, cx))
                .await;
            drop(pending);
            if passed.is_ok() {
                listener.serve(stream, inspected, held);
            }
        });
    }

    /// Selects the filter chain of a connection, and gives the connection to it.
    fn serve(
        self: &Rc<Listener>,
        stream: NetworkStream,
        inspected: InspectedConnection,
        held: (ConnectionPermits, Option<CountedConnection>),
    ) {
        let protocols: Vec<&str> = (inspected.application_protocols.iter())
            .map(String::as_str)
            .collect();
        let input = FilterChainInput {
            destination: &inspected.local,
            source: &inspected.remote,
            direct_source: inspected.direct_remote(),
            server_name: &inspected.server_name,
            transport_protocol: match inspected.is_tls {
                true => "tls",
                false => "raw_buffer",
            },
            application_protocols: &protocols,
        };
        let remote = &inspected.remote;
        let Some(chain) = self.config.chains.find(&input) else {
            log::debug!(target: "conn_handler", "closing connection from {remote}: no matching filter chain found");
            self.stats.no_filter_chain_match.inc();
            return;
        };
        log::debug!(target: "conn_handler", "new connection from {remote}");
        self.cx.activity.touch();
        let connection = AcceptedConnection {
            stream,
            info: Rc::new(self.info(chain, inspected)),
        };
        let served = ActiveConnectionCount::new(self.clone(), &connection, held);
        if let Some(chain) = self.chains.get(chain) {
            chain.serve(connection, served);
        }
    }

    /// What is known about a connection that the filter chain of this index serves.
    fn info(&self, chain: usize, inspected: InspectedConnection) -> DownstreamConnectionInfo {
        DownstreamConnectionInfo {
            id: NEXT_CONNECTION_ID.fetch_add(1, Ordering::Relaxed),
            local: inspected.local,
            remote: inspected.remote,
            socket_addresses: inspected.socket_addresses,
            started: self.cx.timers.now(),
            listener: self.config.name.clone(),
            filter_chain: self.config.chain_names[chain].clone(),
            server_name: inspected.server_name.into(),
            ja3: inspected.ja3.into(),
            ja4: inspected.ja4.into(),
            tls: None,
            metadata: inspected.metadata,
            filter_state: inspected.filter_state,
        }
    }

    /// Takes a permit from each limit that applies; `None` means that the connection must be closed.
    fn take_permits(&self) -> Option<ConnectionPermits> {
        match self.limits.enter() {
            Ok(_) if self.sheds_connection() => self.stats.downstream_cx_overload_reject.inc(),
            Ok(permits) => return Some(permits),
            Err(LimitReached::Listener) => self.stats.downstream_cx_overflow.inc(),
            Err(LimitReached::Global) => self.stats.downstream_global_cx_overflow.inc(),
        }
        None
    }

    /// Whether the overload manager wants a new connection to be closed.
    fn sheds_connection(&self) -> bool {
        let random = || self.cx.random();
        let point = self.accept_point.as_ref();
        let rejects = self.rejects.as_ref();
        point.is_some_and(|point| point.sheds(random))
            || rejects.is_some_and(|rejects| rejects.applies(random))
    }

    /// The address that the client connected to. Asks the kernel only if the bound address does not tell.
    fn local_address(&self, stream: &NetworkStream, bound: &Address) -> Address {
        let open = match bound {
            Address::Ip(ip) => match ip.ip() {
                IpAddr::V4(v4) => v4.is_unspecified() || self.config.transparent,
                // A client of an IPv4-mapped address sees it as IPv4.
                IpAddr::V6(v6) => {
                    v6.is_unspecified() || v6.to_ipv4_mapped().is_some() || self.config.transparent
                }
            },
            Address::Pipe(_) | Address::Internal(_) => false,
        };
        match stream {
            NetworkStream::Tcp(stream) if open => stream
                .local_addr()
                .map_or_else(|_| bound.clone(), Address::from),
            _ => bound.clone(),
        }
    }
}

/// Counts an open connection in the stats until it is dropped.
struct ActiveConnectionCount {
    listener: Rc<Listener>,
    started: tokio::time::Instant,
    _held: (ConnectionPermits, Option<CountedConnection>),
}

impl ActiveConnectionCount {
    fn new(
        listener: Rc<Listener>,
        connection: &AcceptedConnection,
        held: (ConnectionPermits, Option<CountedConnection>),
    ) -> ActiveConnectionCount {
        listener.stats.downstream_cx_total.inc();
        listener.stats.downstream_pre_cx_active.mark_used();
        listener.stats.downstream_cx_active.inc();
        listener.worker_stats.downstream_cx_total.inc();
        listener.worker_stats.downstream_cx_active.inc();
        ActiveConnectionCount {
            listener,
            started: connection.info.started,
            _held: held,
        }
    }
}

impl Drop for ActiveConnectionCount {
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
