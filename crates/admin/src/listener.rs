//! The admin server's listening socket. Only the main thread accepts from it, so it does not use the data path's
//! listeners.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::rc::Rc;

use outrider_net::Address;
use outrider_net::NetworkStream;
use outrider_net::PipeAddress;
use tokio::net::TcpListener;
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use crate::Admin;
use crate::connection;

/// The bound socket of the admin server.
#[derive(Debug)]
pub struct AdminListener {
    socket: ListenerSocket,
    address: Address,
}

#[derive(Debug)]
enum ListenerSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl AdminListener {
    /// Binds `address`. Replaces a socket file that an earlier process left.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Ip(address) => {
                let listener = TcpListener::bind(address).await?;
                let address = Address::from(listener.local_addr()?);
                let socket = ListenerSocket::Tcp(listener);
                Ok(Self { socket, address })
            }
            Address::Pipe(pipe) => Ok(Self {
                socket: ListenerSocket::Unix(bind_pipe(pipe)?),
                address: address.clone(),
            }),
            Address::Internal(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// The bound address; if the config has port 0, with the port that the kernel chose.
    pub fn address(&self) -> &Address {
        &self.address
    }

    async fn accept(&self) -> io::Result<(NetworkStream, Address)> {
        match &self.socket {
            ListenerSocket::Tcp(listener) => {
                let (stream, remote) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((NetworkStream::Tcp(stream), remote.into()))
            }
            ListenerSocket::Unix(listener) => {
                let (stream, _unnamed) = listener.accept().await?;
                Ok((NetworkStream::Unix(stream), Address::pipe("", 0)))
            }
        }
    }
}

fn bind_pipe(pipe: &PipeAddress) -> io::Result<UnixListener> {
    let listener = match pipe {
        PipeAddress::Path { path, mode } => {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = std::os::unix::net::UnixListener::bind(path)?;
            if *mode != 0 {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(*mode))?;
            }
            listener
        }
        PipeAddress::Abstract(name) => {
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            std::os::unix::net::UnixListener::bind_addr(&address)?
        }
    };
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Accepts and serves connections until dropped, which closes them. Must run inside a `LocalSet`.
pub async fn serve(listener: AdminListener, admin: Rc<Admin>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, remote)) => {
                    admin.stats.accepted();
                    match admin.limits.enter() {
                        Ok(shares) => {
                            let ends = [listener.address.clone(), remote];
                            let serving = connection::serve(stream, ends, admin.clone());
                            connections.spawn_local(async move {
                                let _shares = shares;
                                serving.await;
                            });
                        }
                        Err(limit) => admin.stats.refused(limit),
                    }
                }
                // The client went away, or the process has no file descriptor left: wait before the next try.
                Err(error) => {
                    log::debug!(target: "admin", "accept: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
            },
            Some(_ended) = connections.join_next() => {}
        }
    }
}
