//! HTTP/1 pools against real sockets.

use http::Version;
use outrider_config::api::envoy::config::cluster::v3::Cluster as ClusterMessage;
use outrider_config::api::envoy::config::cluster::v3::cluster::ClusterProtocolSelection;
use outrider_config::api::envoy::config::core::v3::Http1ProtocolOptions;
use outrider_config::api::envoy::config::core::v3::Http2ProtocolOptions;
use outrider_upstream::PickRequest;
use outrider_upstream::RoutingPriority;

use crate::support::TestClusters;
use crate::support::backend::Http2;
use crate::support::backend::http1;
use crate::support::fixed;
use crate::support::run;

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
const LAST: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbye";

#[test]
fn a_connection_is_used_again() {
    run(async {
        let backend = http1(HELLO).await;
        let proxy = TestClusters::start(vec![fixed(&[backend])]).await;
        for _ in 0..3 {
            assert_eq!(proxy.call().await, "hello");
        }
        for (name, value) in [
            ("upstream_rq_total", 3),
            ("upstream_cx_total", 1),
            ("upstream_cx_http1_total", 1),
            ("upstream_cx_active", 1),
            ("upstream_rq_active", 0),
        ] {
            assert_eq!(proxy.stat(name), value, "{name}");
        }
    });
}

#[test]
fn two_requests_at_once_have_two_connections() {
    run(async {
        let backend = http1(HELLO).await;
        let proxy = TestClusters::start(vec![fixed(&[backend])]).await;
        let (first, second) = tokio::join!(proxy.request(), proxy.request());
        assert_eq!(proxy.stat("upstream_cx_active"), 2);
        assert_eq!(first.body().await, "hello");
        assert_eq!(second.body().await, "hello");
        assert_eq!(proxy.call().await, "hello");
        assert_eq!(proxy.stat("upstream_cx_total"), 2);
    });
}

#[test]
fn connection_close_ends_it() {
    run(async {
        let backend = http1(LAST).await;
        let proxy = TestClusters::start(vec![fixed(&[backend])]).await;
        assert_eq!(proxy.call().await, "bye");
        proxy.until("upstream_cx_active", 0).await;
        assert_eq!(proxy.stat("upstream_cx_close_notify"), 1);
        assert_eq!(proxy.stat("upstream_cx_destroy_local"), 1);
        assert_eq!(proxy.call().await, "bye");
        assert_eq!(proxy.stat("upstream_cx_total"), 2);
    });
}

#[test]
fn an_answer_cut_short_ends_the_connection() {
    run(async {
        let backend = http1(HELLO).await;
        let proxy = TestClusters::start(vec![fixed(&[backend])]).await;
        drop(proxy.request().await);
        proxy.until("upstream_cx_active", 0).await;
        assert_eq!(proxy.stat("upstream_cx_destroy_local_with_active_rq"), 1);
        assert_eq!(proxy.stat("upstream_rq_active"), 0);
        assert_eq!(proxy.call().await, "hello");
    });
}

#[test]
#[allow(deprecated, reason = "the shortest way to configure it")]
fn the_downstream_protocol_may_decide() {
    run(async {
        let backend = Http2::start(100).await;
        let cluster = ClusterMessage {
            protocol_selection: ClusterProtocolSelection::UseDownstreamProtocol.into(),
            http_protocol_options: Some(Http1ProtocolOptions::default()),
            http2_protocol_options: Some(Http2ProtocolOptions::default()),
            ..fixed(&[backend.address])
        };
        let proxy = TestClusters::start(vec![cluster]).await;
        for (downstream, total) in [
            (Version::HTTP_2, "upstream_cx_http2_total"),
            (Version::HTTP_11, "upstream_cx_http1_total"),
        ] {
            let pick = proxy.cluster().pick(PickRequest::default()).unwrap();
            let stream = pick
                .open(RoutingPriority::Default, downstream)
                .await
                .unwrap();
            assert_eq!(stream.connection().protocol, downstream);
            assert_eq!(proxy.stat(total), 1);
        }
    });
}
