//! Binding a listener's sockets: on the main thread, before anything is accepted.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use outrider_config::api::envoy::config::core::v3::socket_option::SocketState;
use socket2::Domain;
use socket2::Protocol;
use socket2::SockAddr;
use socket2::Socket;
use socket2::Type;
use tokio::sync::mpsc;

use crate::Address;
use crate::KeepAlive;
use crate::PipeAddress;
use crate::listener::SocketOptions;
use crate::listener::balance::Balancer;
use crate::listener::balance::HandedOverConnection;

/// One address to listen on, and the settings of its sockets. Listeners with equal ones can share sockets: a listener
/// that replaces another keeps using the other's.
#[derive(Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// The address, as the config writes it.
    pub address: Address,
    /// Set if the kernel chooses the port: the listener's name and the address's index in it, since each such address
    /// gets another port.
    pub(super) port_of: Option<(Arc<str>, usize)>,
    pub(super) ipv4_compat: bool,
    pub(super) options: SocketOptions,
    pub(super) keepalive: Option<KeepAlive>,
    pub(super) reuse_port: bool,
    pub(super) exact_balance: bool,
    /// The length of the queue (`tcp_backlog_size`). The kernel limits it to `net.core.somaxconn`.
    pub(super) backlog: i32,
    pub(super) mptcp: bool,
    pub(super) freebind: bool,
    pub(super) transparent: bool,
}

/// An address with its bound sockets, which do not listen yet: until then the kernel refuses connections.
#[derive(Debug)]
pub struct BoundAddress {
    settings: Arc<ListenAddress>,
    address: Address,
    /// One per worker. They share one queue unless the port is shared by `SO_REUSEPORT`.
    sockets: Vec<Socket>,
    queues: usize,
}

/// The socket from which one worker accepts.
#[derive(Debug)]
pub struct WorkerSocket {
    pub(super) settings: Arc<ListenAddress>,
    pub(super) address: Address,
    pub(super) socket: Socket,
    pub(super) balance: Option<(Arc<Balancer>, mpsc::UnboundedReceiver<HandedOverConnection>)>,
}

/// A socket could not be created, bound or listened on.
#[derive(Debug)]
pub struct BindError {
    listener: Arc<str>,
    message: String,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listener '{}': {}", self.listener, self.message)
    }
}

impl std::error::Error for BindError {}

impl BindError {
    /// The error, with what to do about it.
    #[must_use]
    pub fn with_advice(mut self, advice: &str) -> BindError {
        self.message = format!("{} ({advice})", self.message);
        self
    }
}

impl ListenAddress {
    /// Binds the address of `listener`, once for each of `workers` workers.
    ///
    /// # Errors
    /// The system's error.
    pub fn bind(
        self: &Arc<ListenAddress>,
        listener: &Arc<str>,
        workers: u32,
    ) -> Result<BoundAddress, BindError> {
        self.bind_all(workers).map_err(|error| BindError {
            listener: listener.clone(),
            message: format!("cannot bind '{}': {}", self.address, plain(&error)),
        })
    }

    fn bind_all(self: &Arc<ListenAddress>, workers: u32) -> io::Result<BoundAddress> {
        let share_port = self.reuse_port && self.address.ip().is_some();
        let first = self.bind_socket(&self.address, share_port)?;
        // If the kernel chooses the port (port 0), the other workers must get the same port.
        let address = match (self.address.ip(), first.local_addr()?.as_socket()) {
            (Some(_), Some(chosen)) => Address::Ip(chosen),
            _ => self.address.clone(),
        };
        let mut sockets = vec![first];
        for _ in 1..workers {
            sockets.push(if share_port {
                self.bind_socket(&address, true)?
            } else {
                sockets[0].try_clone()?
            });
        }
        let queues = if share_port { sockets.len() } else { 1 };
        Ok(BoundAddress {
            settings: self.clone(),
            address,
            sockets,
            queues,
        })
    }

    fn bind_socket(&self, address: &Address, share_port: bool) -> io::Result<Socket> {
        match address {
            Address::Ip(ip) => {
                let protocol = if self.mptcp {
                    Protocol::MPTCP
                } else {
                    Protocol::TCP
                };
                let socket = Socket::new(Domain::for_address(*ip), Type::STREAM, Some(protocol))?;
                socket.set_nonblocking(true)?;
                socket.set_reuse_address(true)?;
                socket.set_reuse_port(share_port)?;
                // Accepted sockets inherit these options, which saves a system call per connection.
                socket.set_tcp_nodelay(true)?;
                if let Some(keepalive) = &self.keepalive {
                    keepalive.apply(&socket)?;
                }
                self.set_foreign_address_options(&socket, ip.is_ipv6())?;
                if ip.is_ipv6() {
                    socket.set_only_v6(!self.ipv4_compat)?;
                }
                self.options
                    .apply(&socket, SocketState::StatePrebind, ip.is_ipv6())?;
                socket.bind(&(*ip).into())?;
                self.options
                    .apply(&socket, SocketState::StateBound, ip.is_ipv6())?;
                Ok(socket)
            }
            Address::Pipe(pipe) => bind_pipe(pipe),
            Address::Internal(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Sets `freebind` and `transparent`, which allow addresses that this machine does not have.
    fn set_foreign_address_options(&self, socket: &Socket, is_ipv6: bool) -> io::Result<()> {
        match (self.freebind, is_ipv6) {
            (true, false) => socket.set_freebind_v4(true)?,
            (true, true) => socket.set_freebind_v6(true)?,
            (false, _) => {}
        }
        match (self.transparent, is_ipv6) {
            (true, false) => socket.set_ip_transparent_v4(true),
            (true, true) => socket.set_ip_transparent_v6(true),
            (false, _) => Ok(()),
        }
    }
}

impl WorkerSocket {
    /// The settings that it was bound with.
    #[must_use]
    pub fn settings(&self) -> &Arc<ListenAddress> {
        &self.settings
    }
}

impl BoundAddress {
    /// The settings that it was bound with.
    #[must_use]
    pub fn settings(&self) -> &Arc<ListenAddress> {
        &self.settings
    }

    /// The address, with the port that the kernel chose.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Lets the kernel accept connections for `listener`. They wait in its queue until workers accept them.
    ///
    /// # Errors
    /// The system's error, also for socket options that are set at this point.
    pub fn listen(&self, listener: &Arc<str>) -> Result<(), BindError> {
        let is_ipv6 = self.address.ip().is_some_and(|ip| ip.is_ipv6());
        if let (Address::Pipe(PipeAddress::Path { path, mode }), [socket, ..]) =
            (&self.address, self.sockets.as_slice())
            && socket.local_addr().is_ok_and(|bound| bound.is_unnamed())
        {
            let taken = take_path(socket, path, *mode, self.settings.backlog);
            taken.map_err(|error| BindError {
                listener: listener.clone(),
                message: format!("cannot bind '{}': {}", self.address, plain(&error)),
            })?;
        }
        for socket in self.sockets.iter().take(self.queues) {
            let listening = socket.listen(self.settings.backlog).and_then(|()| {
                (self.settings.options).apply(socket, SocketState::StateListening, is_ipv6)
            });
            listening.map_err(|error| BindError {
                listener: listener.clone(),
                message: format!("cannot listen on '{}': {}", self.address, plain(&error)),
            })?;
        }
        Ok(())
    }

    /// Each worker's socket, by the worker's index.
    #[must_use]
    pub fn into_workers(self) -> Vec<WorkerSocket> {
        let workers = u32::try_from(self.sockets.len()).unwrap_or(u32::MAX);
        let mut balance: Vec<Option<_>> = if self.settings.exact_balance {
            let (balancer, inboxes) = Balancer::new(workers);
            let each = inboxes.into_iter();
            each.map(|inbox| Some((balancer.clone(), inbox))).collect()
        } else {
            Vec::new()
        };
        let sockets = self.sockets.into_iter().enumerate();
        let worker = |(index, socket): (usize, Socket)| WorkerSocket {
            settings: self.settings.clone(),
            address: self.address.clone(),
            socket,
            balance: balance.get_mut(index).and_then(Option::take),
        };
        sockets.map(worker).collect()
    }
}

fn bind_pipe(pipe: &PipeAddress) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match pipe {
        PipeAddress::Path { path, mode } => {
            // A running listener may still accept at this path. `listen` takes the path over.
            if !is_socket(path) {
                bind_path(&socket, path, *mode)?;
            }
        }
        PipeAddress::Abstract(name) => {
            let mut bytes = vec![0];
            bytes.extend_from_slice(name);
            use std::os::unix::ffi::OsStrExt;
            socket.bind(&SockAddr::unix(std::ffi::OsStr::from_bytes(&bytes))?)?;
        }
    }
    Ok(socket)
}

fn bind_path(socket: &Socket, path: &Path, mode: u32) -> io::Result<()> {
    socket.bind(&SockAddr::unix(path)?)?;
    if mode != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Listens at `path` in place of a socket that a former process left, or that belongs to the listener that this one
/// replaces. Clients that connect meanwhile reach one or the other.
fn take_path(socket: &Socket, path: &Path, mode: u32, backlog: i32) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    if SockAddr::unix(beside).is_err() {
        // The name is too long to add a suffix for a temporary name beside it.
        fs::remove_file(path)?;
        return bind_path(socket, path, mode);
    }
    if is_socket(beside) {
        fs::remove_file(beside)?;
    }
    bind_path(socket, beside, mode)?;
    socket.listen(backlog)?;
    fs::rename(beside, path)
}

/// Whether a socket is at `path`: other kinds of files are never replaced.
fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// The system's message without Rust's suffix `(os error 98)`.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}
