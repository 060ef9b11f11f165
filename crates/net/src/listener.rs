//! Listeners: their configuration, checked and ready to be bound.
//!
//! The main thread [builds](ListenerConfig::build) and [binds](ListenAddress::bind), so that a port in use is an error
//! before anything is accepted. Each worker then [accepts](Acceptor::start) on its own sockets. Sockets outlive
//! listeners: when a listener is replaced, the [`Acceptor`]s of its addresses give new connections to the new one.

mod accept;
mod acceptor;
mod balance;
mod bind;
mod chain;
mod filters;
mod limit;
mod socket_options;

use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::sync::Arc;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3 as core;
use outrider_config::api::envoy::config::core::v3::TrafficDirection;
use outrider_config::api::envoy::config::listener::v3 as api;
use outrider_config::api::envoy::config::listener::v3::listener::DrainType;
use outrider_config::api::envoy::config::listener::v3::listener::connection_balance_config::BalanceType;
use outrider_stats::Scope;

use crate::Address;
use crate::FilterChains;
use crate::InternalAddress;
use crate::KeepAlive;

pub use accept::Listener;
pub use acceptor::Acceptor;
pub use bind::BindError;
pub use bind::BoundAddress;
pub use bind::ListenAddress;
pub use bind::WorkerSocket;
pub use chain::ChainTls;
pub use chain::ServingChain;
pub use limit::ConnectionLimit;
pub use limit::ConnectionLimits;
pub use limit::ConnectionPermits;
pub use limit::LimitReached;
pub use limit::RefusedStats;
pub use socket_options::SocketOptions;

/// The default of `InternalListener.buffer_size_kb`: 1 MiB.
pub const DEFAULT_INTERNAL_BUFFER: usize = 1024 * 1024;

/// The default of `Listener.per_connection_buffer_limit_bytes`: 1 MiB. Also used for 0, which would mean no limit.
const DEFAULT_BUFFER_LIMIT: u32 = 1024 * 1024;

/// A listener as the config describes it (`envoy.config.listener.v3.Listener`).
#[derive(Debug)]
pub struct ListenerConfig {
    /// `name`, or a generated one.
    pub name: Arc<str>,
    /// `traffic_direction`
    pub direction: TrafficDirection,
    /// `per_connection_buffer_limit_bytes`
    pub buffer_limit: u32,
    /// `ignore_global_conn_limit`
    pub ignores_global_limit: bool,
    /// `bypass_overload_manager`
    pub bypasses_overload_manager: bool,
    /// Whether `drain_type` is `DEFAULT`: then its connections also drain while `/healthcheck/fail` is in force.
    pub drains_on_failing_health_checks: bool,
    /// The first address, as the config writes it. Errors and stats name the listener by it.
    pub address: Address,
    stat_name: String,
    /// By the index of the chain; the default chain is the last.
    chain_names: Vec<Arc<str>>,
    chains: FilterChains,
    filters: filters::ListenerFilters,
    addresses: Vec<Arc<ListenAddress>>,
    bind_to_port: bool,
    accepts_per_event: u32,
    transparent: bool,
    is_internal: bool,
    /// `InternalListener.buffer_size_kb`, in bytes.
    internal_buffer_size: usize,
}

impl ListenerConfig {
    /// Reads the listener found at `path`. The network filters of its filter chains are read elsewhere.
    ///
    /// # Errors
    /// All parts of it that are wrong or not supported.
    pub fn build(
        listener: &api::Listener,
        path: &FieldPath,
    ) -> Result<ListenerConfig, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        refuse_unsupported(listener, path, &mut errors);
        let name = if listener.name.is_empty() {
            generated_name()
        } else {
            listener.name.as_str().into()
        };
        let addresses = errors
            .collect(build_addresses(listener, &name, path))
            .unwrap_or_default();
        let chains = errors.collect(FilterChains::build(listener, path));
        let filters = errors.collect(filters::ListenerFilters::build(listener, path));
        let chain_names = listener
            .filter_chains
            .iter()
            .chain(&listener.default_filter_chain);
        let chain_names = chain_names
            .map(|chain| Arc::from(chain.name.as_str()))
            .collect();
        let deprecated_bind = {
            #[expect(deprecated, reason = "Envoy 1.40 still obeys it")]
            listener
                .deprecated_v1
                .as_ref()
                .and_then(|v1| v1.bind_to_port)
        };
        let bound = listener.bind_to_port.or(deprecated_bind).unwrap_or(true);
        let (Some(chains), Some(filters), Some(first), true) =
            (chains, filters, addresses.first(), errors.is_empty())
        else {
            return Err(errors);
        };
        let is_internal = listener.listener_specifier.is_some();
        Ok(ListenerConfig {
            direction: listener.traffic_direction(),
            buffer_limit: listener
                .per_connection_buffer_limit_bytes
                .filter(|limit| *limit > 0)
                .unwrap_or(DEFAULT_BUFFER_LIMIT),
            ignores_global_limit: listener.ignore_global_conn_limit,
            bypasses_overload_manager: listener.bypass_overload_manager,
            drains_on_failing_health_checks: listener.drain_type() == DrainType::Default,
            address: first.address.clone(),
            stat_name: match (listener.stat_prefix.as_str(), is_internal) {
                ("", true) => format!("envoy_internal_{name}"),
                ("", false) => first.address.to_string(),
                (prefix, _) => prefix.to_owned(),
            },
            chain_names,
            chains,
            filters,
            addresses,
            bind_to_port: bound,
            accepts_per_event: listener
                .max_connections_to_accept_per_socket_event
                .unwrap_or(u32::MAX),
            transparent: listener.transparent.unwrap_or(false),
            is_internal,
            internal_buffer_size: DEFAULT_INTERNAL_BUFFER,
            name,
        })
    }

    /// The same listener, on whose internal connections this many bytes can wait in each direction.
    #[must_use]
    pub fn with_internal_buffer(self, bytes: usize) -> ListenerConfig {
        ListenerConfig {
            internal_buffer_size: bytes,
            ..self
        }
    }

    /// Whether it is an internal listener: only connections of this process come to it.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.is_internal
    }

    /// `listener.<address>`
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope::new("listener").name(&self.stat_name)
    }

    /// Whether `traffic_direction` is `INBOUND`.
    #[must_use]
    pub fn is_inbound(&self) -> bool {
        self.direction == TrafficDirection::Inbound
    }

    /// Whether `traffic_direction` is `OUTBOUND`.
    #[must_use]
    pub fn is_outbound(&self) -> bool {
        self.direction == TrafficDirection::Outbound
    }

    /// All addresses, as the config writes them.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.addresses.iter().map(|listen| &listen.address)
    }

    /// Whether its sockets share their ports (`enable_reuse_port`). UNIX sockets cannot.
    #[must_use]
    pub fn reuses_port(&self) -> bool {
        let mut addresses = self.addresses.iter();
        addresses.any(|listen| listen.reuse_port && listen.address.ip().is_some())
    }

    /// The addresses to bind, in the order of [`addresses`](Self::addresses); empty if `bind_to_port` is off, and for an
    /// internal listener.
    #[must_use]
    pub fn listen_addresses(&self) -> &[Arc<ListenAddress>] {
        if self.bind_to_port && !self.is_internal {
            &self.addresses
        } else {
            &[]
        }
    }
}

fn refuse_unsupported(listener: &api::Listener, path: &FieldPath, errors: &mut ConfigErrors) {
    if listener.use_original_dst == Some(true) {
        errors.push(
            &path.field("use_original_dst"),
            "not supported: handing connections to other listeners",
        );
    }
    let balance = listener.connection_balance_config.as_ref();
    let field = match balance.and_then(|balance| balance.balance_type.as_ref()) {
        None | Some(BalanceType::ExactBalance(_)) => return,
        Some(BalanceType::ExtendBalance(_)) => "extend_balance",
        Some(BalanceType::CpuLocalityBalance(_)) => "cpu_locality_balance",
    };
    let path = path.field("connection_balance_config").field(field);
    errors.push(&path, "not supported: expected exact_balance");
}

fn build_addresses(
    listener: &api::Listener,
    name: &Arc<str>,
    path: &FieldPath,
) -> Result<Vec<Arc<ListenAddress>>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let mut addresses = Vec::new();
    if listener.listener_specifier.is_some() {
        refuse_sockets(listener, path, &mut errors);
    }
    let backlog = listener.tcp_backlog_size.unwrap_or(u32::MAX);
    let listen = |at: usize, (address, ipv4_compat): (Address, bool), options, keepalive| {
        let fixed = address.ip().is_none_or(|ip| ip.port() != 0);
        Arc::new(ListenAddress {
            port_of: (!fixed).then(|| (name.clone(), at)),
            address,
            ipv4_compat,
            options,
            keepalive,
            reuse_port: listener.enable_reuse_port.unwrap_or(true),
            exact_balance: listener.connection_balance_config.is_some(),
            backlog: i32::try_from(backlog).unwrap_or(i32::MAX),
            mptcp: listener.enable_mptcp,
            freebind: listener.freebind.unwrap_or(false),
            transparent: listener.transparent.unwrap_or(false),
        })
    };
    let options_path = path.field("socket_options");
    let first = match &listener.listener_specifier {
        Some(_) => Ok((internal_address(name), false)),
        None => build_address(listener.address.as_ref(), &path.field("address")),
    };
    let options = errors
        .collect(SocketOptions::build(
            &listener.socket_options,
            &options_path,
        ))
        .unwrap_or_default();
    let keepalive = listener.tcp_keepalive.as_ref().map(keepalive);
    if let Some(address) = errors.collect(first) {
        addresses.push(listen(0, address, options.clone(), keepalive));
    }
    let more_path = path.field("additional_addresses");
    for (index, more) in listener.additional_addresses.iter().enumerate() {
        let path = more_path.index(index);
        let own_options = more.socket_options.as_ref().map(|own| {
            SocketOptions::build(
                &own.socket_options,
                &path.field("socket_options").field("socket_options"),
            )
        });
        let own_options = errors.collect(own_options.transpose()).flatten();
        let built = build_address(more.address.as_ref(), &path.field("address"));
        if let Some(address) = errors.collect(built) {
            let options = own_options.unwrap_or_else(|| options.clone());
            let own_keepalive = more.tcp_keepalive.as_ref().map(self::keepalive);
            addresses.push(listen(
                index + 1,
                address,
                options,
                own_keepalive.or(keepalive),
            ));
        }
    }
    errors.finish(addresses)
}

/// The address of an internal listener.
fn internal_address(name: &Arc<str>) -> Address {
    Address::Internal(InternalAddress {
        listener: name.clone(),
        endpoint_id: "".into(),
    })
}

/// Refuses what an internal listener cannot have, because it has no socket. As in Envoy.
fn refuse_sockets(listener: &api::Listener, path: &FieldPath, errors: &mut ConfigErrors) {
    let of_sockets = [
        ("address", listener.address.is_some()),
        (
            "additional_addresses",
            !listener.additional_addresses.is_empty(),
        ),
        (
            "connection_balance_config",
            listener.connection_balance_config.is_some(),
        ),
        ("enable_mptcp", listener.enable_mptcp),
        ("enable_reuse_port", listener.enable_reuse_port.is_some()),
        ("freebind", listener.freebind.is_some()),
        ("tcp_backlog_size", listener.tcp_backlog_size.is_some()),
        (
            "tcp_fast_open_queue_length",
            listener.tcp_fast_open_queue_length.is_some(),
        ),
        ("transparent", listener.transparent.is_some()),
        ("socket_options", !listener.socket_options.is_empty()),
    ];
    for (field, is_set) in of_sockets {
        if is_set {
            let message = "an internal listener has no socket: remove it or internal_listener";
            errors.push(&path.field(field), message);
        }
    }
}

/// Reads an address, and whether an IPv6 socket also takes IPv4 connections.
fn build_address(
    address: Option<&core::Address>,
    path: &FieldPath,
) -> Result<(Address, bool), ConfigError> {
    let api = address.ok_or_else(|| ConfigError::new(path, "is required"))?;
    let address = Address::build(api, path)?;
    if matches!(address, Address::Internal(_)) {
        let message = "not an address to listen on: an internal listener has internal_listener instead of an address";
        return Err(ConfigError::new(
            &path.field("envoy_internal_address"),
            message,
        ));
    }
    let Some(core::address::Address::SocketAddress(socket)) = &api.address else {
        return Ok((address, false));
    };
    let path = path.field("socket_address");
    if socket.protocol() != core::socket_address::Protocol::Tcp {
        return Err(ConfigError::new(
            &path.field("protocol"),
            "not supported: UDP listeners",
        ));
    }
    if !socket.network_namespace_filepath.is_empty() {
        let path = path.field("network_namespace_filepath");
        return Err(ConfigError::new(
            &path,
            "not supported: other network namespaces",
        ));
    }
    let takes_both = matches!(address.ip().map(|ip| ip.ip()), Some(IpAddr::V6(ip))
            if ip == Ipv6Addr::UNSPECIFIED || ip.to_ipv4_mapped().is_some());
    if socket.ipv4_compat && !takes_both {
        let message = "only '::' or an IPv4-mapped IPv6 address can set ipv4_compat";
        return Err(ConfigError::new(&path.field("ipv4_compat"), message));
    }
    Ok((address, socket.ipv4_compat))
}

fn keepalive(keepalive: &core::TcpKeepalive) -> KeepAlive {
    let seconds = |seconds: Option<u32>| {
        seconds.map(|seconds| std::time::Duration::from_secs(seconds.into()))
    };
    KeepAlive {
        probes: keepalive.keepalive_probes,
        time: seconds(keepalive.keepalive_time),
        interval: seconds(keepalive.keepalive_interval),
    }
}

/// A random UUID, with which Envoy names a listener that has no name in the config.
fn generated_name() -> Arc<str> {
    let text = crate::uuid::uuid(fastrand::u64(..), fastrand::u64(..));
    String::from_utf8_lossy(&text).into()
}

#[cfg(test)]
mod tests;
