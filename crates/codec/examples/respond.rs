//! A minimal server that answers every request with five bytes, by this crate or by the crates that it replaces, to
//! compare their cost per request.
//!
//! Usage: `respond <port> <outrider|hyper|h2>`. `docs/performance.md` has the commands and the results.

use std::convert::Infallible;
use std::error::Error;
use std::net::Ipv4Addr;
use std::rc::Rc;

use bytes::Bytes;
use http::Version;
use hyper_util::rt::TokioIo;
use outrider_codec::AbortConnection;
use outrider_codec::Body;
use outrider_codec::Handler;
use outrider_codec::HeaderValue;
use outrider_codec::MalformedRequest;
use outrider_codec::Meter;
use outrider_codec::RequestHead;
use outrider_codec::RequestHeadError;
use outrider_codec::Responder;
use outrider_codec::ResponseHead;
use outrider_codec::ServerOptions;
use outrider_codec::header;
use outrider_net::DrainSignal;
use outrider_net::NetworkStream;
use outrider_net::Timers;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::task::spawn_local;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BODY: &str = "hello";

struct FiveBytes;

impl Handler for FiveBytes {
    async fn serve(self: Rc<Self>, _: RequestHead, body: Body, mut respond: Responder) {
        drop(body);
        let mut head = ResponseHead::from(http::StatusCode::OK);
        let server = HeaderValue::from_static("respond");
        head.headers.insert(&header::SERVER, server);
        // An error means that the client has closed the connection: there is nobody to tell.
        let sent = respond.send(head, Body::full(BODY));
        sent.await.unwrap_or_default();
    }

    fn head_failed(
        self: Rc<Self>,
        _: RequestHeadError,
        _: Version,
        _: Rc<Meter>,
        _: &AbortConnection<'_>,
    ) {
    }

    async fn malformed(self: Rc<Self>, _: MalformedRequest, _: Responder) {}
}

/// Serves a connection with `hyper`'s HTTP/1.
async fn serve_hyper(socket: TcpStream) {
    let service = hyper::service::service_fn(async |_| {
        let response = http::Response::builder().header("server", "respond");
        Ok::<_, Infallible>(response.body(BODY.to_owned()).unwrap_or_default())
    });
    let connection = hyper::server::conn::http1::Builder::new();
    let served = connection.serve_connection(TokioIo::new(socket), service);
    // The client closes the connection at the end.
    served.await.unwrap_or_default();
}

/// Serves a connection with the `h2` crate.
async fn serve_h2(socket: TcpStream) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(socket).await?;
    while let Some(request) = connection.accept().await {
        let (_, mut respond) = request?;
        spawn_local(async move {
            let response = http::Response::builder().header("server", "respond");
            let response = response.body(()).unwrap_or_default();
            let mut body = respond.send_response(response, false)?;
            body.send_data(Bytes::from_static(BODY.as_bytes()), true)
        });
    }
    Ok(())
}

async fn accept(port: u16, codec: &str) -> Result<(), Box<dyn Error>> {
    let timers = Timers::new();
    spawn_local(timers.clone().run());
    let options = Rc::new(ServerOptions::new(timers, DrainSignal::new()));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        match codec {
            "outrider" => {
                let socket = NetworkStream::Tcp(socket);
                let served = outrider_codec::serve(socket, options.clone(), Rc::new(FiveBytes));
                drop(spawn_local(served));
            }
            "hyper" => drop(spawn_local(serve_hyper(socket))),
            "h2" => drop(spawn_local(serve_h2(socket))),
            _ => return Err("expected one of: outrider, hyper, h2".into()),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, codec] = &arguments[..] else {
        return Err("usage: respond <port> <outrider|hyper|h2>".into());
    };
    let local = tokio::task::LocalSet::new();
    local.run_until(accept(port.parse()?, codec)).await
}
