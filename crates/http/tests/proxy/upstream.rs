//! Requests to upstreams that answer, and to some that fail.

use std::time::Duration;

use http::HeaderMap;
use http::HeaderValue;
use http::Response;

use crate::support::TestProxy;
use crate::support::get;
use crate::support::grpc;
use crate::support::h2_cluster;
use crate::support::h2_host;
use crate::support::nobody;
use crate::support::routes;
use crate::support::run;

const TO_BACK: &str = "{match: {prefix: /}, route: {cluster: back, timeout: 0.2s}}";

#[test]
fn a_grpc_call_passes_with_its_trailers() {
    run(async {
        let host = h2_host(|mut call| async move {
            assert_eq!(call.request.uri().path(), "/a.B/C");
            let headers = call.request.headers();
            assert_eq!(headers["x-forwarded-proto"], "http");
            assert_eq!(headers["x-envoy-expected-rq-timeout-ms"], "200");
            assert_eq!(headers["x-request-id"].len(), 36);
            assert_eq!(call.body().await, b"\0\0\0\0\0");
            let head = Response::builder()
                .header("content-type", "application/grpc")
                .body(())
                .unwrap();
            let status = [("grpc-status", "0")]
                .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
            call.answer(head, b"\0\0\0\0\x01x", Some(HeaderMap::from_iter(status)));
        })
        .await;
        let proxy = TestProxy::start(&routes(TO_BACK), &h2_cluster("back", host)).await;
        let answer = proxy.h2(grpc("/a.B/C")).await.unwrap();
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (200, "\0\0\0\0\x01x")
        );
        assert_eq!(answer.trailers["grpc-status"], "0");
        assert!(answer.headers.contains_key("x-envoy-upstream-service-time"));
        assert_eq!(answer.header("server"), "envoy");
        assert_eq!(proxy.stat("cluster.back.upstream_rq_200"), 1);
        assert_eq!(proxy.stat("cluster.back.external.upstream_rq_200"), 1);
        assert_eq!(proxy.stat("cluster.back.upstream_rq_tx_reset"), 0);
        assert_eq!(proxy.stat("http.test.downstream_rq_2xx"), 1);
    });
}

#[test]
fn a_refused_connection_is_a_503() {
    run(async {
        let proxy = TestProxy::start(&routes(TO_BACK), &h2_cluster("back", nobody().await)).await;
        let answer = proxy.h2(get("/")).await.unwrap();
        let text = "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure";
        assert_eq!((answer.status, answer.body.as_str()), (503, text));
        let answer = proxy.h2(grpc("/")).await.unwrap();
        assert_eq!(
            (answer.header("grpc-status"), answer.header("grpc-message")),
            ("14", text)
        );
        assert_eq!(proxy.stat("cluster.back.upstream_rq_503"), 2);
        // Both requests were read completely while there was no connection.
        assert_eq!(proxy.stat("http.test.downstream_rq_rx_reset"), 0);
    });
}

#[test]
fn the_route_timeout_is_a_504() {
    run(async {
        let host = h2_host(|call| async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            drop(call);
        })
        .await;
        let proxy = TestProxy::start(&routes(TO_BACK), &h2_cluster("back", host)).await;
        let answer = proxy.h2(get("/")).await.unwrap();
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (504, "upstream request timeout")
        );
        assert_eq!(proxy.stat("cluster.back.upstream_rq_timeout"), 1);
        assert_eq!(proxy.stat("cluster.back.upstream_rq_tx_reset"), 1);
    });
}

#[test]
fn the_data_before_a_reset_reaches_the_client() {
    run(async {
        let host = h2_host(|mut call| async move {
            let mut stream = call
                .respond
                .send_response(Response::new(()), false)
                .unwrap();
            stream.send_data(b"half"[..].into(), false).unwrap();
            // The codec would drop data that is queued before a reset.
            tokio::task::yield_now().await;
            stream.send_reset(h2::Reason::CANCEL);
        })
        .await;
        let proxy = TestProxy::start(&routes(TO_BACK), &h2_cluster("back", host)).await;
        let (head, body) = proxy.h2_parts(get("/")).await.unwrap();
        assert_eq!(head.status, 200);
        assert_eq!(body.unwrap_err().reason(), Some(h2::Reason::INTERNAL_ERROR));
        assert_eq!(proxy.stat("cluster.back.upstream_rq_rx_reset"), 1);
        assert_eq!(proxy.stat("http.test.downstream_rq_tx_reset"), 1);
        assert_eq!(proxy.stat("http.test.downstream_rq_active"), 0);
    });
}
