//! Opening a connection to an upstream host.

use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr as UnixAddress;
use std::time::Duration;

use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::TcpKeepalive;
use socket2::Type;
use tokio::net::TcpSocket;
use tokio::net::UnixStream;

use crate::Address;
use crate::PipeAddress;
use crate::Stream;

/// How connections to a cluster's hosts are opened.
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions {
    /// TCP keep-alive (`UpstreamConnectionOptions.tcp_keepalive`); off unless set.
    pub keepalive: Option<KeepAlive>,
    /// The address to connect from (`BindConfig.source_address`).
    pub source: Option<SocketAddr>,
}

/// TCP keep-alive (`envoy.config.core.v3.TcpKeepalive`). What is not set stays the system's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepAlive {
    /// Probes without an answer before the connection is dead.
    pub probes: Option<u32>,
    /// Idle time before the first probe; whole seconds.
    pub time: Option<Duration>,
    /// Time between probes; whole seconds.
    pub interval: Option<Duration>,
}

impl KeepAlive {
    /// Turns keep-alive on for a socket.
    pub fn apply(&self, socket: &Socket) -> io::Result<()> {
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

/// Connects to `address`. The caller limits the time (`Cluster.connect_timeout`).
pub async fn connect(address: &Address, options: &ConnectOptions) -> io::Result<Stream> {
    match address {
        Address::Ip(address) => connect_tcp(*address, options).await,
        Address::Pipe(PipeAddress::Path { path, .. }) => {
            Ok(Stream::Unix(UnixStream::connect(path).await?))
        }
        Address::Pipe(PipeAddress::Abstract(name)) => {
            let address = UnixAddress::from_abstract_name(name)?;
            // A local connect never waits: the kernel answers at once or says that the backlog is full.
            let socket = std::os::unix::net::UnixStream::connect_addr(&address)?;
            socket.set_nonblocking(true)?;
            Ok(Stream::Unix(UnixStream::from_std(socket)?))
        }
    }
}

async fn connect_tcp(address: SocketAddr, options: &ConnectOptions) -> io::Result<Stream> {
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
    if let Some(source) = options.source {
        socket.bind(&source.into())?;
    }
    let stream = TcpSocket::from_std_stream(socket.into())
        .connect(address)
        .await?;
    Ok(Stream::Tcp(stream))
}
