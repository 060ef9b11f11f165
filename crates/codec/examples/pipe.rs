//! A minimal proxy for profiling the codec: it forwards every stream to one upstream over one connection, adding two
//! headers, without any policy.
//!
//! It shows the lowest possible cost of proxying. Usage: `pipe <listen port> <upstream port> <1|2>`, where the last
//! argument is the HTTP version of the upstream.

use std::cell::RefCell;
use std::error::Error;
use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::Version;
use outrider_codec::AbortConnection;
use outrider_codec::Body;
use outrider_codec::Client;
use outrider_codec::ClientOptions;
use outrider_codec::Handler;
use outrider_codec::HeaderValue;
use outrider_codec::MalformedRequest;
use outrider_codec::Meter;
use outrider_codec::RequestHead;
use outrider_codec::RequestHeadError;
use outrider_codec::Responder;
use outrider_codec::ResponseHead;
use outrider_codec::ServerOptions;
use outrider_codec::StreamError;
use outrider_codec::header;
use outrider_codec::stats::ConnectionStats;
use outrider_net::Address;
use outrider_net::ConnectOptions;
use outrider_net::DrainSignal;
use outrider_net::NetworkStream;
use outrider_net::Timers;
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Pipe {
    upstream: Address,
    http2: bool,
    options: Rc<ClientOptions>,
    clients: RefCell<Vec<Client>>,
}

impl Pipe {
    async fn client(&self) -> Result<Client, StreamError> {
        {
            let mut clients = self.clients.borrow_mut();
            clients.retain(|client| !client.is_draining());
            if let Some(client) = clients.iter().find(|client| client.capacity() > 0) {
                return Ok(client.clone());
            }
        }
        let socket = outrider_net::connect(&self.upstream, &ConnectOptions::default())
            .await
            .map_err(|error| StreamError::ConnectionFailure(error.to_string()))?;
        let options = self.options.clone();
        let client = if self.http2 {
            let (client, run) = outrider_codec::connect_http2(socket, options, Rc::new(|| {}));
            tokio::task::spawn_local(run);
            client
        } else {
            let (client, run) = outrider_codec::connect_http1(socket, options, Rc::new(|| {}));
            tokio::task::spawn_local(run);
            client
        };
        self.clients.borrow_mut().push(client.clone());
        Ok(client)
    }

    async fn forward(
        &self,
        mut head: RequestHead,
        body: Body,
    ) -> Result<(ResponseHead, Body), StreamError> {
        let proto = HeaderValue::from_static("http");
        head.headers.insert(&header::X_FORWARDED_PROTO, proto);
        head.headers.remove(&header::TRANSFER_ENCODING);
        let mut exchange = self.client().await?.send(&head, body)?;
        let mut response = poll_fn(|cx| exchange.poll_response(cx)).await?;
        response.headers.remove(&header::TRANSFER_ENCODING);
        let server = HeaderValue::from_static("pipe");
        response.headers.insert(&header::SERVER, server);
        Ok((response, exchange.into_body()))
    }
}

impl Handler for Pipe {
    async fn serve(self: Rc<Self>, head: RequestHead, body: Body, mut respond: Responder) {
        let (head, body) = self.forward(head, body).await.unwrap_or_else(|error| {
            let status = http::StatusCode::BAD_GATEWAY;
            (status.into(), Body::full(error.to_string()))
        });
        // An error means that the client has closed the connection: there is nobody to tell.
        respond.send(head, body).await.unwrap_or_default();
    }

    fn head_failed(
        self: Rc<Self>,
        _: RequestHeadError,
        _: Version,
        _: Rc<Meter>,
        _: &AbortConnection<'_>,
    ) {
    }

    async fn malformed(self: Rc<Self>, error: MalformedRequest, mut respond: Responder) {
        let body = Body::full(error.body.into_owned());
        let sent = respond.send(error.status.into(), body);
        sent.await.unwrap_or_default();
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let ports: Vec<u16> = std::env::args()
        .skip(1)
        .map(|argument| argument.parse())
        .collect::<Result<_, _>>()?;
    let [listen, upstream, version] = ports[..] else {
        return Err("usage: pipe <listen port> <upstream port> <1|2>".into());
    };
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let timers = Timers::new();
            tokio::task::spawn_local(timers.clone().run());
            let counts = Arc::new(ConnectionStats::default());
            let pipe = Rc::new(Pipe {
                upstream: Address::Ip(SocketAddr::from((Ipv4Addr::LOCALHOST, upstream))),
                http2: version == 2,
                options: Rc::new(ClientOptions::new(timers.clone(), counts)),
                clients: RefCell::default(),
            });
            let options = Rc::new(ServerOptions::new(timers, DrainSignal::new()));
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, listen)).await?;
            loop {
                let (socket, _) = listener.accept().await?;
                socket.set_nodelay(true)?;
                let served = outrider_codec::serve(
                    NetworkStream::Tcp(socket),
                    options.clone(),
                    pipe.clone(),
                );
                tokio::task::spawn_local(served);
            }
        })
        .await
}
