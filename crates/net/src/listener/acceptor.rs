//! One address on one worker: accepts connections and hands them to the listener that is current.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use socket2::SockFilter;
use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::net::UnixListener;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::task::spawn_local;

use crate::Address;
use crate::NetworkStream;
use crate::listener::ListenAddress;
use crate::listener::Listener;
use crate::listener::WorkerSocket;
use crate::listener::balance::Balancer;
use crate::listener::balance::Handed;
use crate::listener::balance::HandedSocket;

/// Without file descriptors, accepting is tried again after this long: the queue keeps the connections meanwhile.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// How long handshakes that have begun may take when their socket is to be closed.
const HANDSHAKES: Duration = Duration::from_millis(20);

/// A filter for a listening TCP socket: segments with SYN are dropped, others pass. It sees the TCP header.
const DROP_SYN: [SockFilter; 4] = [
    SockFilter::new(BPF_LOAD_BYTE, 0, 0, TCP_FLAGS),
    SockFilter::new(BPF_JUMP_IF_SET, 0, 1, TCP_SYN),
    SockFilter::new(BPF_RETURN, 0, 0, 0),
    SockFilter::new(BPF_RETURN, 0, 0, u32::MAX),
];
const BPF_LOAD_BYTE: u16 = 0x30;
const BPF_JUMP_IF_SET: u16 = 0x45;
const BPF_RETURN: u16 = 0x06;
/// Where a TCP header has its flags, and the one that opens a connection.
const TCP_FLAGS: u32 = 13;
const TCP_SYN: u32 = 0x02;

/// Accepts on one socket until it is dropped, which accepts what waits in the socket's queue and closes it; connections
/// go on.
///
/// A client whose connection comes between these two is refused, so a listener is replaced by
/// [handing its acceptors over](Acceptor::hand_to).
#[derive(Debug)]
pub struct Acceptor {
    address: Rc<AcceptingAddress>,
    accepting: Option<JoinHandle<()>>,
}

struct AcceptingAddress {
    settings: Arc<ListenAddress>,
    /// With the port that the kernel chose.
    address: Address,
    listener: RefCell<Rc<Listener>>,
    /// Told when the socket is to be closed.
    closing: Notify,
}

/// A socket that listens.
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    /// Starts accepting for `listener`. To be called on the worker, inside its runtime.
    ///
    /// # Errors
    /// When the runtime can't watch the socket.
    pub fn start(from: WorkerSocket, listener: Rc<Listener>) -> io::Result<Acceptor> {
        let socket = match from.address {
            Address::Ip(_) => Socket::Tcp(TcpListener::from_std(from.socket.into())?),
            Address::Pipe(_) => Socket::Unix(UnixListener::from_std(from.socket.into())?),
        };
        let address = Rc::new(AcceptingAddress {
            settings: from.settings,
            address: from.address,
            listener: RefCell::new(listener),
            closing: Notify::new(),
        });
        let (balancer, inbox) = from.balance.unzip();
        let accepting = spawn_local(address.clone().accept(socket, balancer));
        if let Some(inbox) = inbox {
            // Ends when no worker is left that could hand a connection over.
            spawn_local(address.clone().receive(inbox));
        }
        Ok(Acceptor {
            address,
            accepting: Some(accepting),
        })
    }

    /// Accepts what waits in the socket's queue, then closes the socket.
    pub async fn close(mut self) {
        self.address.closing.notify_one();
        if let Some(accepting) = self.accepting.take() {
            // It ends by itself; that it panicked changes nothing.
            let _ = accepting.await;
        }
    }

    /// Has connections that are accepted from now on served by `listener`.
    pub fn hand_to(&self, listener: Rc<Listener>) {
        let previous = self.address.listener.replace(listener);
        drop(previous);
    }

    /// The settings of its socket.
    #[must_use]
    pub fn settings(&self) -> &Arc<ListenAddress> {
        &self.address.settings
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.address.closing.notify_one();
    }
}

impl std::fmt::Debug for AcceptingAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AcceptingAddress")
            .field(&self.address)
            .finish()
    }
}

impl AcceptingAddress {
    fn listener(&self) -> Rc<Listener> {
        self.listener.borrow().clone()
    }

    /// Accepts until it is told to close the socket, and then what is left in the queue.
    async fn accept(self: Rc<Self>, socket: Socket, balancer: Option<Arc<Balancer>>) {
        let balancer = balancer.as_ref();
        tokio::select! {
            biased;
            () = self.closing.notified() => {}
            () = self.accept_forever(&socket, balancer) => {}
        }
        // No client may come between the last look into the queue and the socket's end: it would be cut.
        let _ = socket.refuse_new();
        if matches!(socket, Socket::Tcp(_)) {
            let accepting = self.accept_forever(&socket, balancer);
            let _ = tokio::time::timeout(HANDSHAKES, accepting).await;
        }
        let mut left = Vec::new();
        while let Ok(connection) = socket.accept_now(&self.address) {
            left.push(connection);
        }
        drop(socket);
        self.start(left, balancer);
    }

    fn start(&self, accepted: Vec<(NetworkStream, Address)>, balancer: Option<&Arc<Balancer>>) {
        let listener = self.listener();
        if !accepted.is_empty() {
            listener.count_accepted(accepted.len());
        }
        for (stream, remote) in accepted {
            match balancer {
                None => listener.start(stream, remote, &self.address, None),
                Some(balancer) => self.balance(stream, remote, &listener, balancer),
            }
        }
    }

    /// Never ends.
    async fn accept_forever(&self, socket: &Socket, balancer: Option<&Arc<Balancer>>) {
        loop {
            let mut accepted = Vec::new();
            let result = poll_fn(|cx| self.poll_batch(socket, &mut accepted, cx)).await;
            self.start(accepted, balancer);
            let listener = self.listener();
            match result {
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    log::warn!(target: "conn_handler", "listener '{}': cannot accept: {error}", listener.name());
                    listener.timers().sleep(PAUSE_AFTER_ERROR).await;
                }
                Ok(()) => {}
            }
        }
    }

    /// Takes what the kernel has, up to `max_connections_to_accept_per_socket_event`.
    fn poll_batch(
        &self,
        socket: &Socket,
        accepted: &mut Vec<(NetworkStream, Address)>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let most = self.listener.borrow().accepts_per_event();
        loop {
            match socket.poll_accept(&self.address, cx) {
                Poll::Ready(Ok(connection)) => accepted.push(connection),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if accepted.is_empty() => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Ok(())),
            }
            if accepted.len() >= most {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Serves the connection here, or hands it to the worker that has fewest.
    fn balance(
        &self,
        stream: NetworkStream,
        remote: Address,
        listener: &Rc<Listener>,
        balancer: &Arc<Balancer>,
    ) {
        let counted = balancer.count_one();
        if counted.worker() == listener.worker() {
            return listener.start(stream, remote, &self.address, Some(counted));
        }
        let socket = match stream {
            NetworkStream::Tcp(stream) => stream.into_std().map(HandedSocket::Tcp),
            NetworkStream::Unix(stream) => stream.into_std().map(HandedSocket::Unix),
            NetworkStream::Tls(_) => return,
        };
        // A socket that the runtime cannot let go of is closed.
        if let Ok(socket) = socket {
            balancer.hand_over(Handed {
                socket,
                remote,
                counted,
            });
        }
    }

    /// Serves the connections that other workers hand over. Never ends.
    async fn receive(self: Rc<Self>, mut inbox: mpsc::UnboundedReceiver<Handed>) {
        while let Some(handed) = inbox.recv().await {
            let stream = match handed.socket {
                HandedSocket::Tcp(socket) => TcpStream::from_std(socket).map(NetworkStream::Tcp),
                HandedSocket::Unix(socket) => UnixStream::from_std(socket).map(NetworkStream::Unix),
            };
            if let Ok(stream) = stream {
                let listener = self.listener();
                listener.start(stream, handed.remote, &self.address, Some(handed.counted));
            }
        }
    }
}

impl Socket {
    /// Has the kernel take no new connections; those in the queue can still be accepted.
    fn refuse_new(&self) -> io::Result<()> {
        match self {
            // Dropped rather than answered: the client tries again after a second, and is refused then. Whose handshake
            // has begun finishes it.
            Socket::Tcp(listener) => SockRef::from(listener).attach_filter(&DROP_SYN),
            Socket::Unix(listener) => SockRef::from(listener).shutdown(Shutdown::Both),
        }
    }

    /// Asks the kernel, not the runtime: that may not know yet of the newest connection.
    fn accept_now(&self, own: &Address) -> io::Result<(NetworkStream, Address)> {
        let of = match self {
            Socket::Tcp(listener) => SockRef::from(listener),
            Socket::Unix(listener) => SockRef::from(listener),
        };
        loop {
            let (socket, remote) = match of.accept() {
                Err(error) if is_of_one_connection(&error) => continue,
                result => result?,
            };
            socket.set_nonblocking(true)?;
            return match (self, remote.as_socket()) {
                (Socket::Tcp(_), Some(remote)) => {
                    let stream = TcpStream::from_std(socket.into())?;
                    Ok((NetworkStream::Tcp(stream), Address::from(remote)))
                }
                _ => {
                    let remote = peer_of_pipe(remote.as_pathname(), own);
                    Ok((
                        NetworkStream::Unix(UnixStream::from_std(socket.into())?),
                        remote,
                    ))
                }
            };
        }
    }

    /// A connection and where it comes from; `own` is the socket's address.
    fn poll_accept(
        &self,
        own: &Address,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(NetworkStream, Address)>> {
        match self {
            Socket::Tcp(listener) => listener
                .poll_accept(cx)
                .map_ok(|(stream, remote)| (NetworkStream::Tcp(stream), Address::from(remote))),
            Socket::Unix(listener) => listener.poll_accept(cx).map_ok(|(stream, remote)| {
                let remote = peer_of_pipe(remote.as_pathname(), own);
                (NetworkStream::Unix(stream), remote)
            }),
        }
    }
}

/// Clients of a UNIX socket hardly ever have a name; Envoy calls them by the listener's.
fn peer_of_pipe(path: Option<&Path>, own: &Address) -> Address {
    path.map_or_else(
        || own.clone(),
        |path| Address::pipe(&path.to_string_lossy(), 0),
    )
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
