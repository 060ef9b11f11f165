//! Scripted servers.

use std::cell::Cell;
use std::cell::RefCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use h2::server::SendResponse;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// An HTTP/2 server on loopback. It answers `hello`, or holds its responses until it is told to send them.
#[derive(Clone)]
pub(crate) struct Http2 {
    pub(crate) address: SocketAddr,
    state: Rc<State>,
}

#[derive(Default)]
struct State {
    connections: Cell<usize>,
    closed: Cell<usize>,
    holding: Cell<bool>,
    held: RefCell<Vec<SendResponse<Bytes>>>,
    going_away: Notify,
}

impl Http2 {
    pub(crate) async fn start(max_streams: u32) -> Http2 {
        Http2::start_at("127.0.0.1:0", max_streams).await
    }

    pub(crate) async fn start_at(address: &str, max_streams: u32) -> Http2 {
        let listener = TcpListener::bind(address).await.unwrap();
        let server = Http2 {
            address: listener.local_addr().unwrap(),
            state: Rc::default(),
        };
        let accepting = server.clone();
        tokio::task::spawn_local(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                accepting.state.connections.set(accepting.connections() + 1);
                let serving = accepting.clone();
                tokio::task::spawn_local(async move {
                    serving.serve(socket, max_streams).await;
                    serving.state.closed.set(serving.state.closed.get() + 1);
                });
            }
        });
        server
    }

    async fn serve(&self, socket: tokio::net::TcpStream, max_streams: u32) {
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(max_streams);
        let Ok(mut connection) = builder.handshake::<_, Bytes>(socket).await else {
            return;
        };
        loop {
            tokio::select! {
                biased;
                () = self.state.going_away.notified() => connection.graceful_shutdown(),
                request = poll_fn(|cx| connection.poll_accept(cx)) => match request {
                    Some(Ok((_, respond))) if self.state.holding.get() => {
                        self.state.held.borrow_mut().push(respond);
                    }
                    Some(Ok((_, respond))) => answer(respond),
                    Some(Err(_)) | None => return,
                },
            }
        }
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.get()
    }

    /// Connections that have ended.
    pub(crate) fn closed(&self) -> usize {
        self.state.closed.get()
    }

    /// From now on, requests get no response until `release`.
    pub(crate) fn hold(&self) {
        self.state.holding.set(true);
    }

    /// The number of requests without a response.
    pub(crate) fn held(&self) -> usize {
        self.state.held.borrow().len()
    }

    /// Answers all held requests and all later ones.
    pub(crate) fn release(&self) {
        self.state.holding.set(false);
        for respond in self.state.held.take() {
            answer(respond);
        }
    }

    /// Sends GOAWAY on one connection.
    pub(crate) fn go_away(&self) {
        self.state.going_away.notify_one();
    }
}

fn answer(mut respond: SendResponse<Bytes>) {
    // The client may be gone; a test that cares notices.
    if let Ok(mut body) = respond.send_response(http::Response::new(()), false) {
        drop(body.send_data(Bytes::from_static(b"hello"), true));
    }
}

/// An HTTP/1 server on loopback that answers every request with these bytes.
pub(crate) async fn http1(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::task::spawn_local(async move {
                let mut request = Vec::new();
                while let Ok(1..) = socket.read_buf(&mut request).await {
                    if request.ends_with(b"\r\n\r\n") {
                        request.clear();
                        if socket.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}
