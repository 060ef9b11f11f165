//! The number of allocations of a proxied request, which has a limit here.

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

use crate::budgets::ALLOCATIONS_PER_REQUEST;
use crate::support::TestProxy;
use crate::support::grpc;
use crate::support::h2_cluster;
use crate::support::h2_host;
use crate::support::routes;
use crate::support::run;

/// How many requests are counted.
const REQUESTS: u64 = 500;

#[test]
fn a_grpc_request_stays_within_its_allocation_limit() {
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
        // Allocations are counted for each thread, so the proxy has a thread of its own.
        let proxy = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            let local = LocalSet::new();
            local.block_on(&runtime, async {
                let route = "{match: {prefix: /}, route: {cluster: one}}";
                let proxy = TestProxy::start(&routes(route), &cluster).await;
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
            allocations <= ALLOCATIONS_PER_REQUEST,
            "{allocations} allocations a request instead of {ALLOCATIONS_PER_REQUEST}"
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
