//! One address on one worker: accepts connections and gives them to the current listener.

use std::cell::Cell;
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
use crate::listener::balance::HandedOverConnection;
use crate::listener::balance::HandedOverSocket;

/// When the process has no file descriptors left, accepting is tried again after this time. Meanwhile connections wait
/// in the kernel's queue.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// How long a socket that is to be closed waits for TCP handshakes that have begun.
const HANDSHAKE_GRACE: Duration = Duration::from_millis(20);

/// A BPF filter for a listening TCP socket: drops segments with SYN and passes others. Its input begins with the TCP
/// header.
const DROP_SYN: [SockFilter; 4] = [
    SockFilter::new(BPF_LOAD_BYTE, 0, 0, TCP_FLAGS),
    SockFilter::new(BPF_JUMP_IF_SET, 0, 1, TCP_SYN),
    SockFilter::new(BPF_RETURN, 0, 0, 0),
    SockFilter::new(BPF_RETURN, 0, 0, u32::MAX),
];
const BPF_LOAD_BYTE: u16 = 0x30;
const BPF_JUMP_IF_SET: u16 = 0x45;
const BPF_RETURN: u16 = 0x06;
/// The offset of the flags in a TCP header, and the flag of a segment that opens a connection.
const TCP_FLAGS: u32 = 13;
const TCP_SYN: u32 = 0x02;

/// Accepts on one socket until it is dropped. Then it accepts the connections that wait in the socket's queue and
/// closes the socket. Accepted connections stay open.
///
/// A client that connects after the last accept but before the socket is closed is refused. So, to replace a listener,
/// [hand its acceptors over](Acceptor::hand_to).
#[derive(Debug)]
pub struct Acceptor {
    address: Rc<AcceptingAddress>,
    accepting: Option<JoinHandle<()>>,
}

struct AcceptingAddress {
    settings: Arc<ListenAddress>,
    /// The bound address, with the port that the kernel chose.
    address: Address,
    listener: RefCell<Rc<Listener>>,
    /// Notified when the socket is to be closed.
    closing: Notify,
    /// Whether connections wait in the kernel's queue for now.
    paused: Cell<bool>,
    /// Notified when `paused`, or the listener, has changed.
    changed: Notify,
}

/// A listening socket.
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    /// Starts accepting for `listener`. Must be called on the worker, inside its runtime.
    ///
    /// # Errors
    /// The runtime cannot watch the socket.
    pub fn start(from: WorkerSocket, listener: Rc<Listener>) -> io::Result<Acceptor> {
        let socket = match from.address {
            Address::Ip(_) => Socket::Tcp(TcpListener::from_std(from.socket.into())?),
            Address::Pipe(_) => Socket::Unix(UnixListener::from_std(from.socket.into())?),
            Address::Internal(_) => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let address = Rc::new(AcceptingAddress {
            settings: from.settings,
            address: from.address,
            listener: RefCell::new(listener),
            closing: Notify::new(),
            paused: Cell::new(false),
            changed: Notify::new(),
        });
        let (balancer, inbox) = from.balance.unzip();
        let accepting = spawn_local(address.clone().accept(socket, balancer));
        if let Some(inbox) = inbox {
            // Ends when no worker is left that could send a connection.
            spawn_local(address.clone().receive(inbox));
        }
        Ok(Acceptor {
            address,
            accepting: Some(accepting),
        })
    }

    /// Accepts the connections that wait in the socket's queue, then closes the socket.
    pub async fn close(mut self) {
        self.address.closing.notify_one();
        if let Some(accepting) = self.accepting.take() {
            // The task ends by itself; if it panicked, the socket is closed as well.
            let _ = accepting.await;
        }
    }

    /// Gives connections that are accepted from now on to `listener`.
    pub fn hand_to(&self, listener: Rc<Listener>) {
        let previous = self.address.listener.replace(listener);
        drop(previous);
        self.address.changed.notify_one();
    }

    /// Stops accepting, or accepts again (`envoy.overload_actions.stop_accepting_connections`). Connections wait in the
    /// kernel's queue meanwhile. Has no effect on a listener that bypasses the overload manager.
    pub fn pause(&self, paused: bool) {
        if self.address.paused.replace(paused) != paused {
            self.address.changed.notify_one();
        }
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

    /// Accepts until it is told to close the socket, then accepts the rest of the queue.
    async fn accept(self: Rc<Self>, socket: Socket, balancer: Option<Arc<Balancer>>) {
        let balancer = balancer.as_ref();
        tokio::select! {
            biased;
            () = self.closing.notified() => {}
            () = self.accept_forever(&socket, balancer) => {}
        }
        // First refuses new clients: one that connected between the last accept and the close would be reset.
        let _ = socket.refuse_new();
        if matches!(socket, Socket::Tcp(_)) {
            let accepting = self.accept_forever(&socket, balancer);
            let _ = tokio::time::timeout(HANDSHAKE_GRACE, accepting).await;
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

    /// Never returns.
    async fn accept_forever(&self, socket: &Socket, balancer: Option<&Arc<Balancer>>) {
        loop {
            let mut accepted = Vec::new();
            let is_paused = self.paused.get() && !self.listener().bypasses_overload_manager();
            let result = tokio::select! {
                biased;
                () = self.changed.notified() => continue,
                result = poll_fn(|cx| self.poll_batch(socket, &mut accepted, cx)), if !is_paused => result,
            };
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

    /// Takes the connections that the kernel has, up to `max_connections_to_accept_per_socket_event`.
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

    /// Serves the connection here, or sends it to the worker that has the fewest.
    fn balance(
        &self,
        stream: NetworkStream,
        remote: Address,
        listener: &Rc<Listener>,
        balancer: &Arc<Balancer>,
    ) {
        let counted = balancer.assign_connection();
        if counted.worker() == listener.worker() {
            return listener.start(stream, remote, &self.address, Some(counted));
        }
        let socket = match stream {
            NetworkStream::Tcp(stream) => stream.into_std().map(HandedOverSocket::Tcp),
            NetworkStream::Unix(stream) => stream.into_std().map(HandedOverSocket::Unix),
            // What is accepted from a socket is a socket.
            NetworkStream::Tls(_) | NetworkStream::Internal(_) => return,
        };
        // If the runtime cannot release the socket, the connection is closed.
        if let Ok(socket) = socket {
            balancer.hand_over(HandedOverConnection {
                socket,
                remote,
                counted,
            });
        }
    }

    /// Serves the connections that other workers send. Never returns.
    async fn receive(self: Rc<Self>, mut inbox: mpsc::UnboundedReceiver<HandedOverConnection>) {
        while let Some(handed) = inbox.recv().await {
            let stream = match handed.socket {
                HandedOverSocket::Tcp(socket) => {
                    TcpStream::from_std(socket).map(NetworkStream::Tcp)
                }
                HandedOverSocket::Unix(socket) => {
                    UnixStream::from_std(socket).map(NetworkStream::Unix)
                }
            };
            if let Ok(stream) = stream {
                let listener = self.listener();
                listener.start(stream, handed.remote, &self.address, Some(handed.counted));
            }
        }
    }
}

impl Socket {
    /// Makes the kernel refuse new connections. Those in the queue can still be accepted.
    fn refuse_new(&self) -> io::Result<()> {
        match self {
            // SYNs are dropped rather than answered: the client repeats its SYN after a second and is refused then.
            // Handshakes that have begun can finish.
            Socket::Tcp(listener) => SockRef::from(listener).attach_filter(&DROP_SYN),
            Socket::Unix(listener) => SockRef::from(listener).shutdown(Shutdown::Both),
        }
    }

    /// Asks the kernel rather than the runtime, which may not know the newest connection yet.
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

    /// Accepts a connection, with its peer's address. `own` is the socket's address.
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

/// The peer address of a client of a UNIX socket. Most such clients have none, and Envoy then reports the listener's.
fn peer_of_pipe(path: Option<&Path>, own: &Address) -> Address {
    path.map_or_else(
        || own.clone(),
        |path| Address::pipe(&path.to_string_lossy(), 0),
    )
}

/// Errors of `accept(2)` that concern one connection, which failed while in the queue.
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
