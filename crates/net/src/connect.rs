//! Opening a connection to an upstream host.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr as UnixAddress;
use std::time::Duration;

use outrider_config::api::envoy::config::core::v3::socket_option::SocketState;
use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::TcpKeepalive;
use socket2::Type;
use tokio::net::TcpSocket;
use tokio::net::UnixStream;

use crate::Address;
use crate::NetworkStream;
use crate::PipeAddress;
use crate::SocketOptions;

/// How connections to a cluster's hosts are opened.
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions {
    /// TCP keep-alive (`UpstreamConnectionOptions.tcp_keepalive`); off unless set.
    pub keepalive: Option<KeepAlive>,
    /// The address to connect from (`BindConfig.source_address`).
    pub source: Option<SocketAddr>,
    /// `BindConfig.freebind`: the source address need not belong to this machine.
    pub freebind: bool,
    /// `BindConfig.socket_options`
    pub options: SocketOptions,
}

/// Why a connection could not be opened.
#[derive(Debug)]
pub enum ConnectError {
    /// This side failed: the socket could not be set up or bound to its source address.
    Local(io::Error),
    /// The remote side or the network failed.
    Remote(io::Error),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ConnectError::Local(error) | ConnectError::Remote(error)) = self;
        error.fmt(f)
    }
}

impl std::error::Error for ConnectError {}

/// TCP keep-alive (`envoy.config.core.v3.TcpKeepalive`). A field that is not set keeps the system's default. A zero in
/// any field turns keep-alive off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepAlive {
    /// Unanswered probes after which the connection counts as dead.
    pub probes: Option<u32>,
    /// Idle time before the first probe, in whole seconds.
    pub time: Option<Duration>,
    /// Time between probes, in whole seconds.
    pub interval: Option<Duration>,
}

impl KeepAlive {
    /// Turns keep-alive on or off for a socket.
    pub fn apply(&self, socket: &Socket) -> io::Result<()> {
        let zero = Some(Duration::ZERO);
        if self.probes == Some(0) || self.time == zero || self.interval == zero {
            return socket.set_keepalive(false);
        }
        let mut options = TcpKeepalive::new();
        if let Some(probes) = self.probes {
            options = options.with_retries(probes);
        }
        if let Some(time) = self.time {
            options = options.with_time(time);
        }
        if let Some(interval) = self.interval {
            options = options.with_interval(interval);
        }
        socket.set_keepalive(true)?;
        socket.set_tcp_keepalive(&options)
    }
}

/// Connects to `address`. The caller limits how long this takes (`Cluster.connect_timeout`).
///
/// # Errors
/// The system's error, and which side it concerns.
pub async fn connect(
    address: &Address,
    options: &ConnectOptions,
) -> Result<NetworkStream, ConnectError> {
    match address {
        Address::Ip(address) => {
            let socket = open_tcp(*address, options).map_err(ConnectError::Local)?;
            let connected = TcpSocket::from_std_stream(socket.into())
                .connect(*address)
                .await;
            connected
                .map(NetworkStream::Tcp)
                .map_err(ConnectError::Remote)
        }
        Address::Pipe(address) => {
            let connected = connect_pipe(address).await;
            connected
                .map(NetworkStream::Unix)
                .map_err(ConnectError::Remote)
        }
        // Only workers have internal listeners, and connect to them by `InternalListeners`.
        Address::Internal(_) => Err(ConnectError::Remote(io::ErrorKind::InvalidInput.into())),
    }
}

async fn connect_pipe(address: &PipeAddress) -> io::Result<UnixStream> {
    match address {
        PipeAddress::Path { path, .. } => UnixStream::connect(path).await,
        PipeAddress::Abstract(name) => {
            let address = UnixAddress::from_abstract_name(name)?;
            // Connecting to a local socket never waits: the kernel succeeds at once or says that the backlog is full.
            let socket = std::os::unix::net::UnixStream::connect_addr(&address)?;
            socket.set_nonblocking(true)?;
            UnixStream::from_std(socket)
        }
    }
}

/// A socket that is ready to connect to `address`.
fn open_tcp(address: SocketAddr, options: &ConnectOptions) -> io::Result<Socket> {
    let is_ipv6 = address.is_ipv6();
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(keepalive) = &options.keepalive {
        keepalive.apply(&socket)?;
    }
    let own = &options.options;
    own.apply(&socket, SocketState::StatePrebind, is_ipv6)?;
    if let Some(source) = options.source {
        if options.freebind {
            set_freebind(&socket, is_ipv6)?;
        }
        socket.bind(&source.into())?;
        own.apply(&socket, SocketState::StateBound, is_ipv6)?;
    }
    Ok(socket)
}

fn set_freebind(socket: &Socket, is_ipv6: bool) -> io::Result<()> {
    if is_ipv6 {
        socket.set_freebind_v6(true)
    } else {
        socket.set_freebind_v4(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zero_turns_keepalive_off() {
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let zero = Some(Duration::ZERO);
        let on = KeepAlive {
            probes: Some(3),
            time: Some(Duration::from_secs(60)),
            interval: None,
        };
        let (probes, time, interval) = (Some(0), zero, zero);
        for (keepalive, want) in [
            (KeepAlive::default(), true),
            (on, true),
            (KeepAlive { probes, ..on }, false),
            (KeepAlive { time, ..on }, false),
            (KeepAlive { interval, ..on }, false),
        ] {
            let socket = socket();
            keepalive.apply(&socket).unwrap();
            assert_eq!(socket.keepalive().unwrap(), want, "{keepalive:?}");
        }
    }
}
