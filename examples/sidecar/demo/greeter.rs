//! A gRPC service and its client, on tonic: `greeter.Greeter/Hello` answers with the pod's name.

use std::convert::Infallible;
use std::future::Future;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::transport::Channel;
use tonic::transport::Server;
use tonic_prost::ProstCodec;

use crate::Error;

#[derive(Clone, PartialEq, Message)]
struct HelloRequest {
    #[prost(string, tag = "1")]
    from: String,
}

#[derive(Clone, PartialEq, Message)]
struct HelloReply {
    #[prost(string, tag = "1")]
    pod: String,
}

/// A running greeter.
pub(crate) struct Pod {
    pub(crate) port: u16,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Pod {
    /// Starts a greeter called `name`; port 0 is the kernel's choice.
    pub(crate) async fn start(name: &str, ip: Ipv4Addr, port: u16) -> Result<Pod, Error> {
        let listener = TcpListener::bind((ip, port)).await?;
        let port = listener.local_addr()?.port();
        let (stop, stopped) = oneshot::channel();
        let service = GreeterService(name.to_owned());
        let serving = Server::builder().serve_with_incoming_shutdown(
            service,
            TcpListenerStream::new(listener),
            async {
                // A dropped sender stops the pod, too.
                let _ = stopped.await;
            },
        );
        let server = tokio::spawn(async {
            if let Err(error) = serving.await {
                eprintln!("a greeter failed: {error}");
            }
        });
        Ok(Pod { port, stop, server })
    }

    /// Ends the greeter after the calls that it still has.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        // The proxy may keep its connection open for a while; the demo does not wait for that.
        self.server.abort();
    }
}

/// What `protoc` would generate, by hand: one method.
#[derive(Clone)]
struct GreeterService(String);

impl tower_service::Service<http::Request<tonic::body::Body>> for GreeterService {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let hello = Hello(self.0.clone());
        Box::pin(async move {
            let codec = ProstCodec::<HelloReply, HelloRequest>::default();
            Ok(tonic::server::Grpc::new(codec).unary(hello, request).await)
        })
    }
}

struct Hello(String);

impl tonic::server::UnaryService<HelloRequest> for Hello {
    type Response = HelloReply;
    type Future = std::future::Ready<Result<Response<HelloReply>, Status>>;

    fn call(&mut self, _request: Request<HelloRequest>) -> Self::Future {
        std::future::ready(Ok(Response::new(HelloReply {
            pod: self.0.clone(),
        })))
    }
}

/// A client with one connection.
pub(crate) struct GreeterClient(tonic::client::Grpc<Channel>);

impl GreeterClient {
    pub(crate) async fn connect(address: SocketAddr) -> Result<GreeterClient, Error> {
        let channel = Channel::from_shared(format!("http://{address}"))?
            .connect()
            .await?;
        Ok(GreeterClient(tonic::client::Grpc::new(channel)))
    }

    /// Calls `Hello`; answers which pod replied.
    pub(crate) async fn hello(&mut self) -> Result<String, Error> {
        self.0.ready().await?;
        let request = Request::new(HelloRequest {
            from: "demo".to_owned(),
        });
        let path = http::uri::PathAndQuery::from_static("/greeter.Greeter/Hello");
        let codec = ProstCodec::<HelloRequest, HelloReply>::default();
        let reply = self.0.unary(request, path, codec).await?;
        Ok(reply.into_inner().pod)
    }
}
