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
use crate::PipeAddress;
use crate::listener::Bind;
use crate::listener::ListenerConfig;
use crate::listener::balance::Balancer;
use crate::listener::balance::Handed;

/// A listener with its sockets, which do not listen yet: the kernel refuses connections.
#[derive(Debug)]
pub struct BoundListener {
    config: Arc<ListenerConfig>,
    binds: Vec<BoundAddress>,
    balancer: Option<Arc<Balancer>>,
    inboxes: Vec<Option<mpsc::UnboundedReceiver<Handed>>>,
}

#[derive(Debug)]
struct BoundAddress {
    address: Address,
    /// One per worker; they share one queue when the port is not shared by `SO_REUSEPORT`.
    sockets: Vec<Socket>,
    queues: usize,
}

/// What one worker accepts from.
#[derive(Debug)]
pub struct WorkerSockets {
    pub(super) sockets: Vec<(Socket, Address)>,
    pub(super) balancer: Option<Arc<Balancer>>,
    pub(super) inbox: Option<mpsc::UnboundedReceiver<Handed>>,
}

/// A socket that could not be made, bound or listened on.
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

impl ListenerConfig {
    /// Binds all addresses, once for each of `workers` workers; none when `bind_to_port` is off.
    ///
    /// # Errors
    /// The first address that cannot be bound.
    pub fn bind(self: &Arc<ListenerConfig>, workers: u32) -> Result<BoundListener, BindError> {
        let mut binds = Vec::new();
        for bind in self.binds.iter().filter(|_| self.bind_to_port) {
            binds.push(self.bind_one(bind, workers).map_err(|error| BindError {
                listener: self.name.clone(),
                message: format!("cannot bind '{}': {}", bind.address, plain(&error)),
            })?);
        }
        let (balancer, inboxes) = if self.exact_balance {
            let (balancer, inboxes) = Balancer::new(workers);
            (Some(balancer), inboxes.into_iter().map(Some).collect())
        } else {
            (None, (0..workers).map(|_| None).collect())
        };
        Ok(BoundListener {
            config: self.clone(),
            binds,
            balancer,
            inboxes,
        })
    }

    fn bind_one(&self, bind: &Bind, workers: u32) -> io::Result<BoundAddress> {
        let share_port = self.reuse_port && bind.address.ip().is_some();
        let first = self.bind_socket(bind, &bind.address, share_port)?;
        // Port 0 is the kernel's choice; the other workers must get the same.
        let address = match (bind.address.ip(), first.local_addr()?.as_socket()) {
            (Some(_), Some(chosen)) => Address::Ip(chosen),
            _ => bind.address.clone(),
        };
        let mut sockets = vec![first];
        for _ in 1..workers {
            sockets.push(if share_port {
                self.bind_socket(bind, &address, true)?
            } else {
                sockets[0].try_clone()?
            });
        }
        let queues = if share_port { sockets.len() } else { 1 };
        Ok(BoundAddress {
            address,
            sockets,
            queues,
        })
    }

    fn bind_socket(&self, bind: &Bind, address: &Address, share_port: bool) -> io::Result<Socket> {
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
                // Accepted sockets inherit these: no system call per connection.
                socket.set_tcp_nodelay(true)?;
                if let Some(keepalive) = &bind.keepalive {
                    keepalive.apply(&socket)?;
                }
                self.set_foreign_address_options(&socket, ip.is_ipv6())?;
                if ip.is_ipv6() {
                    socket.set_only_v6(!bind.ipv4_compat)?;
                }
                bind.options
                    .apply(&socket, SocketState::StatePrebind, ip.is_ipv6())?;
                socket.bind(&(*ip).into())?;
                bind.options
                    .apply(&socket, SocketState::StateBound, ip.is_ipv6())?;
                Ok(socket)
            }
            Address::Pipe(pipe) => bind_pipe(pipe),
        }
    }

    /// `freebind` and `transparent`: addresses that this machine does not have.
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

impl BoundListener {
    /// What was bound.
    #[must_use]
    pub fn config(&self) -> &Arc<ListenerConfig> {
        &self.config
    }

    /// The addresses, with the ports that the kernel chose; as the config writes them when `bind_to_port` is off.
    pub fn addresses(&self) -> Vec<Address> {
        if self.binds.is_empty() {
            return self.config.addresses().cloned().collect();
        }
        self.binds.iter().map(|bind| bind.address.clone()).collect()
    }

    /// Lets the kernel take connections. Until workers accept, they wait in its queue.
    ///
    /// # Errors
    /// The system's, also from options that are set now.
    pub fn listen(&self) -> Result<(), BindError> {
        for (bind, bound) in self.config.binds.iter().zip(&self.binds) {
            let is_ipv6 = bound.address.ip().is_some_and(|ip| ip.is_ipv6());
            for socket in &bound.sockets[..bound.queues] {
                let listening = socket.listen(self.config.backlog).and_then(|()| {
                    bind.options
                        .apply(socket, SocketState::StateListening, is_ipv6)
                });
                listening.map_err(|error| BindError {
                    listener: self.config.name.clone(),
                    message: format!("cannot listen on '{}': {}", bound.address, plain(&error)),
                })?;
            }
        }
        Ok(())
    }

    /// Each worker's sockets, by its number.
    #[must_use]
    pub fn into_workers(self) -> Vec<WorkerSockets> {
        let mut workers: Vec<WorkerSockets> = self
            .inboxes
            .into_iter()
            .map(|inbox| WorkerSockets {
                sockets: Vec::new(),
                balancer: self.balancer.clone(),
                inbox,
            })
            .collect();
        for bind in self.binds {
            for (worker, socket) in workers.iter_mut().zip(bind.sockets) {
                worker.sockets.push((socket, bind.address.clone()));
            }
        }
        workers
    }
}

fn bind_pipe(pipe: &PipeAddress) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match pipe {
        PipeAddress::Path { path, mode } => {
            remove_stale_socket(path)?;
            socket.bind(&SockAddr::unix(path)?)?;
            if *mode != 0 {
                fs::set_permissions(path, fs::Permissions::from_mode(*mode))?;
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

/// A former process leaves its socket file behind. Other files are not ours to remove.
fn remove_stale_socket(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => fs::remove_file(path),
        _ => Ok(()),
    }
}

/// The system's words without Rust's `(os error 98)`.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}
