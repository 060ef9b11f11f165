//! What a proxied request allocates: the bound that a change must not pass unnoticed.

use std::thread;

use allocation_counter::measure;
use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::Response;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio::task::spawn_local;

use crate::support::Proxy;
use crate::support::grpc;
use crate::support::h2_cluster;
use crate::support::h2_host;
use crate::support::routes;
use crate::support::run;

/// Requests that are counted.
const REQUESTS: u64 = 500;

/// Allocations of a gRPC request with everything that a plain configuration has on: both codecs, the headers that are
/// added, stats, timers, and this request's share of what a connection's turn allocates. To be lowered with each one
/// that goes, and raised with a reason only.
const BOUND: f64 = 19.1;

#[test]
fn a_grpc_request_allocates_no_more_than_it_did() {
    run(async {
        let host = h2_host(|mut call| async move {
            call.body().await;
            let head = Response::builder().header("content-type", "application/grpc");
            let trailers = HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                HeaderValue::from_static("0"),
            )]);
            call.answer(head.body(()).unwrap(), b"\0\0\0\0\0", Some(trailers));
        })
        .await;
        let cluster = h2_cluster("one", host);
        let (started, address) = oneshot::channel();
        let (warm, is_warm) = oneshot::channel::<()>();
        let (done, is_done) = oneshot::channel::<()>();
        // Allocations are counted by thread, so the proxy has one of its own.
        let proxy = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            let local = LocalSet::new();
            local.block_on(&runtime, async {
                let route = "{match: {prefix: /}, route: {cluster: one}}";
                let proxy = Proxy::start(&routes(route), &cluster).await;
                started.send(proxy.address).unwrap();
                is_warm.await.unwrap();
            });
            measure(|| local.block_on(&runtime, is_done).unwrap()).count_total
        });

        let socket = TcpStream::connect(address.await.unwrap()).await.unwrap();
        let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
        let connection = spawn_local(connection);
        for _ in 0..REQUESTS {
            call(&mut client).await;
        }
        warm.send(()).unwrap();
        for _ in 0..REQUESTS {
            call(&mut client).await;
        }
        done.send(()).unwrap();
        let allocations = proxy.join().unwrap() as f64 / REQUESTS as f64;
        connection.abort();
        assert!(
            allocations <= BOUND,
            "{allocations} allocations a request instead of {BOUND}"
        );
    });
}

async fn call(client: &mut h2::client::SendRequest<Bytes>) {
    let (head, body) = grpc("/pkg.Service/Method").into_parts();
    let (response, mut send) = client
        .send_request(http::Request::from_parts(head, ()), false)
        .unwrap();
    send.send_data(Bytes::from_static(body), true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    let trailers = body.trailers().await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
}
