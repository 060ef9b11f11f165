//! One address on one worker: accepts connections and hands them to the listener that is current.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::net::UnixListener;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::task::spawn_local;

use crate::Address;
use crate::Stream;
use crate::listener::ListenAddress;
use crate::listener::Listener;
use crate::listener::WorkerSocket;
use crate::listener::balance::Balancer;
use crate::listener::balance::Handed;
use crate::listener::balance::HandedSocket;

/// Without file descriptors, accepting is tried again after this long: the queue keeps the connections meanwhile.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// Accepts on one socket until it is dropped, which closes the socket; connections go on.
///
/// Closing a socket that shares its port throws away what waits in its queue, so a listener is replaced by
/// [handing its acceptors over](Acceptor::hand_to).
#[derive(Debug)]
pub struct Acceptor {
    address: Rc<AcceptingAddress>,
    tasks: Vec<AbortHandle>,
}

struct AcceptingAddress {
    settings: Arc<ListenAddress>,
    /// With the port that the kernel chose.
    address: Address,
    listener: RefCell<Rc<Listener>>,
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
        });
        let (balancer, inbox) = from.balance.unzip();
        let accepting = address.clone().accept(socket, balancer);
        let mut tasks = vec![spawn_local(accepting).abort_handle()];
        if let Some(inbox) = inbox {
            tasks.push(spawn_local(address.clone().receive(inbox)).abort_handle());
        }
        Ok(Acceptor { address, tasks })
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
        self.tasks.iter().for_each(AbortHandle::abort);
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

    /// Never ends.
    async fn accept(self: Rc<Self>, socket: Socket, balancer: Option<Arc<Balancer>>) {
        let mut accepted = Vec::new();
        loop {
            let result = poll_fn(|cx| self.poll_batch(&socket, &mut accepted, cx)).await;
            let listener = self.listener();
            if !accepted.is_empty() {
                listener.count_accepted(accepted.len());
            }
            for (stream, remote) in accepted.drain(..) {
                match &balancer {
                    None => listener.start(stream, remote, &self.address, None),
                    Some(balancer) => self.balance(stream, remote, &listener, balancer),
                }
            }
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
        accepted: &mut Vec<(Stream, Address)>,
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
        stream: Stream,
        remote: Address,
        listener: &Rc<Listener>,
        balancer: &Arc<Balancer>,
    ) {
        let seat = balancer.seat();
        if seat.worker() == listener.worker() {
            return listener.start(stream, remote, &self.address, Some(seat));
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
                seat,
            });
        }
    }

    /// Serves the connections that other workers hand over. Never ends.
    async fn receive(self: Rc<Self>, mut inbox: mpsc::UnboundedReceiver<Handed>) {
        while let Some(handed) = inbox.recv().await {
            let stream = match handed.socket {
                HandedSocket::Tcp(socket) => TcpStream::from_std(socket).map(Stream::Tcp),
                HandedSocket::Unix(socket) => UnixStream::from_std(socket).map(Stream::Unix),
            };
            if let Ok(stream) = stream {
                let listener = self.listener();
                listener.start(stream, handed.remote, &self.address, Some(handed.seat));
            }
        }
    }
}

impl Socket {
    /// A connection and where it comes from; `own` is the socket's address.
    fn poll_accept(
        &self,
        own: &Address,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Stream, Address)>> {
        match self {
            Socket::Tcp(listener) => listener
                .poll_accept(cx)
                .map_ok(|(stream, remote)| (Stream::Tcp(stream), Address::from(remote))),
            Socket::Unix(listener) => listener.poll_accept(cx).map_ok(|(stream, remote)| {
                // Clients of a UNIX socket hardly ever have a name; Envoy calls them by the listener's.
                let path = remote.as_pathname();
                let remote = path.map_or_else(
                    || own.clone(),
                    |path| Address::pipe(&path.to_string_lossy(), 0),
                );
                (Stream::Unix(stream), remote)
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
