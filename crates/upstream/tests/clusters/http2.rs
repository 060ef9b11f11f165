//! HTTP/2 pools against real sockets.

use std::net::SocketAddr;
use std::time::Duration;

use outrider_config::api::envoy::config::cluster::v3::CircuitBreakers;
use outrider_config::api::envoy::config::cluster::v3::Cluster as ClusterMessage;
use outrider_config::api::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use outrider_config::api::envoy::config::core::v3::Address;
use outrider_config::api::envoy::config::core::v3::BindConfig;
use outrider_config::api::envoy::config::core::v3::HttpProtocolOptions;
use outrider_config::api::envoy::config::core::v3::Pipe;
use outrider_config::api::envoy::config::core::v3::SocketAddress;
use outrider_config::api::envoy::config::core::v3::address::Address as AddressKind;
use outrider_config::api::envoy::config::endpoint::v3::endpoint::AdditionalAddress;
use outrider_upstream::PickRequest;
use outrider_upstream::PoolFailure;

use crate::support::TestClusters;
use crate::support::address;
use crate::support::at;
use crate::support::backend::Http2;
use crate::support::endpoint;
use crate::support::fixed_http2;
use crate::support::run;
use crate::support::seconds;
use crate::support::until;

fn with_breakers(hosts: &[SocketAddr], thresholds: Thresholds) -> ClusterMessage {
    ClusterMessage {
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![thresholds],
            ..CircuitBreakers::default()
        }),
        ..fixed_http2(hosts)
    }
}

#[allow(deprecated, reason = "the shortest way to configure it")]
fn with_options(hosts: &[SocketAddr], options: HttpProtocolOptions) -> ClusterMessage {
    ClusterMessage {
        common_http_protocol_options: Some(options),
        ..fixed_http2(hosts)
    }
}

#[test]
fn a_request_is_carried_and_counted() {
    run(async {
        let backend = Http2::start(100).await;
        let proxy = TestClusters::start(vec![fixed_http2(&[backend.address])]).await;
        let answer = proxy.request().await;
        assert_eq!(proxy.stat("upstream_rq_active"), 1);
        assert_eq!(answer.body().await, "hello");
        assert_eq!(proxy.call().await, "hello");
        for (name, value) in [
            ("upstream_rq_total", 2),
            ("upstream_rq_active", 0),
            ("upstream_rq_pending_total", 1),
            ("upstream_rq_pending_active", 0),
            ("upstream_cx_total", 1),
            ("upstream_cx_active", 1),
            ("upstream_cx_http2_total", 1),
            ("http2.streams_active", 0),
            ("membership_total", 1),
            ("membership_healthy", 1),
            ("membership_change", 1),
        ] {
            assert_eq!(proxy.stat(name), value, "{name}");
        }
        let host = proxy.manager.view()[0].hosts().next().unwrap().clone();
        assert_eq!(
            (host.stats.rq_total.value(), host.stats.rq_active.value()),
            (2, 0)
        );
        assert_eq!(
            (host.stats.cx_total.value(), host.stats.cx_active.value()),
            (1, 1)
        );
        assert!(proxy.stat("upstream_cx_rx_bytes_total") > 0);
    });
}

#[test]
fn requests_go_round_all_hosts() {
    run(async {
        let mut backends = Vec::new();
        for _ in 0..3 {
            backends.push(Http2::start(100).await);
        }
        let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
        let proxy = TestClusters::start(vec![fixed_http2(&addresses)]).await;
        for _ in 0..30 {
            proxy.call().await;
        }
        for host in proxy.manager.view()[0].hosts() {
            assert_eq!(host.stats.rq_total.value(), 10);
        }
    });
}

#[test]
fn a_second_connection_opens_when_the_first_is_full() {
    run(async {
        let backend = Http2::start(1).await;
        let proxy = TestClusters::start(vec![fixed_http2(&[backend.address])]).await;
        proxy.call().await; // From now on the peer's limit is known.
        backend.hold();
        let (first, second, ()) = tokio::join!(proxy.request(), proxy.request(), async {
            until(|| backend.held() == 2).await;
            backend.release();
        });
        assert_eq!(first.body().await, "hello");
        assert_eq!(second.body().await, "hello");
        assert_eq!(proxy.stat("upstream_cx_total"), 2);
    });
}

#[test]
fn after_goaway_the_rest_finishes_and_the_next_goes_elsewhere() {
    run(async {
        let backend = Http2::start(100).await;
        let proxy = TestClusters::start(vec![fixed_http2(&[backend.address])]).await;
        proxy.call().await;
        backend.hold();
        let late = proxy.request();
        let after = async {
            until(|| backend.held() == 1).await;
            backend.go_away();
            proxy.until("upstream_cx_close_notify", 1).await;
            backend.release();
            proxy.call().await
        };
        let (late, _) = tokio::join!(late, after);
        assert_eq!(late.body().await, "hello");
        assert_eq!(backend.connections(), 2);
        proxy.until("upstream_cx_active", 1).await;
    });
}

#[test]
fn a_connection_has_only_so_many_requests() {
    run(async {
        let backend = Http2::start(100).await;
        let options = HttpProtocolOptions {
            max_requests_per_connection: Some(2),
            ..HttpProtocolOptions::default()
        };
        let proxy = TestClusters::start(vec![with_options(&[backend.address], options)]).await;
        for _ in 0..4 {
            proxy.call().await;
        }
        assert_eq!(proxy.stat("upstream_cx_total"), 2);
        assert_eq!(proxy.stat("upstream_cx_max_requests"), 2);
        proxy.until("upstream_cx_destroy_local", 2).await;
    });
}

#[test]
fn an_idle_connection_is_closed() {
    run(async {
        let backend = Http2::start(100).await;
        let options = HttpProtocolOptions {
            idle_timeout: Some(seconds(Duration::from_millis(30))),
            ..HttpProtocolOptions::default()
        };
        let proxy = TestClusters::start(vec![with_options(&[backend.address], options)]).await;
        proxy.call().await;
        proxy.until("upstream_cx_idle_timeout", 1).await;
        proxy.until("upstream_cx_active", 0).await;
        assert_eq!(proxy.stat("upstream_cx_destroy_local"), 1);
        until(|| backend.closed() == 1).await;
        proxy.call().await;
    });
}

#[test]
fn an_old_connection_is_replaced() {
    run(async {
        let backend = Http2::start(100).await;
        let options = HttpProtocolOptions {
            max_connection_duration: Some(seconds(Duration::from_millis(30))),
            ..HttpProtocolOptions::default()
        };
        let proxy = TestClusters::start(vec![with_options(&[backend.address], options)]).await;
        backend.hold();
        let (answer, ()) = tokio::join!(proxy.request(), async {
            proxy.until("upstream_cx_max_duration_reached", 1).await;
            backend.release();
        });
        assert_eq!(answer.body().await, "hello");
        proxy.until("upstream_cx_active", 0).await;
    });
}

#[test]
fn no_room_to_wait_fails_the_first_request() {
    run(async {
        let backend = Http2::start(100).await;
        let thresholds = Thresholds {
            max_pending_requests: Some(0),
            ..Thresholds::default()
        };
        let proxy = TestClusters::start(vec![with_breakers(&[backend.address], thresholds)]).await;
        assert_eq!(proxy.open().await.unwrap_err(), PoolFailure::Overflow);
        assert_eq!(proxy.stat("upstream_rq_pending_overflow"), 1);
        assert_eq!(proxy.stat("upstream_cx_total"), 0);
    });
}

#[test]
fn requests_beyond_the_breaker_fail() {
    run(async {
        let backend = Http2::start(100).await;
        let thresholds = Thresholds {
            max_requests: Some(1),
            ..Thresholds::default()
        };
        let proxy = TestClusters::start(vec![with_breakers(&[backend.address], thresholds)]).await;
        let first = proxy.open().await.unwrap();
        assert_eq!(proxy.stat("circuit_breakers.default.rq_open"), 1);
        assert_eq!(proxy.open().await.unwrap_err(), PoolFailure::ActiveOverflow);
        assert_eq!(proxy.stat("upstream_rq_active_overflow"), 1);
        drop(first);
        assert_eq!(proxy.stat("circuit_breakers.default.rq_open"), 0);
        proxy.call().await;
    });
}

#[test]
fn a_cancelled_request_no_longer_counts_as_pending() {
    run(async {
        let backend = Http2::start(100).await;
        let proxy = TestClusters::start(vec![fixed_http2(&[backend.address])]).await;
        let mut opening = Box::pin(proxy.open());
        tokio::select! {
            biased;
            _ = &mut opening => panic!("no connection can be there yet"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(proxy.stat("upstream_rq_pending_active"), 1);
        drop(opening);
        assert_eq!(proxy.stat("upstream_rq_pending_active"), 0);
        assert_eq!(proxy.stat("upstream_rq_cancelled"), 1);
        // The connection is established nevertheless, and the next request uses it.
        proxy.call().await;
        assert_eq!(proxy.stat("upstream_cx_total"), 1);
    });
}

#[test]
fn a_refused_connection_fails_all_that_wait() {
    run(async {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = closed.local_addr().unwrap();
        drop(closed);
        let proxy = TestClusters::start(vec![fixed_http2(&[address])]).await;
        let (first, second) = tokio::join!(proxy.open(), proxy.open());
        let refused = "delayed connect error: Connection refused";
        for failure in [first.unwrap_err(), second.unwrap_err()] {
            assert_eq!(
                failure,
                PoolFailure::RemoteConnectionFailure(refused.into())
            );
        }
        for (name, value) in [
            ("upstream_cx_connect_fail", 1),
            ("upstream_cx_destroy_remote", 1),
            ("upstream_cx_active", 0),
            ("upstream_rq_pending_failure_eject", 2),
            ("upstream_rq_pending_active", 0),
            ("upstream_rq_total", 0),
            ("circuit_breakers.default.cx_open", 0),
        ] {
            assert_eq!(proxy.stat(name), value, "{name}");
        }
    });
}

#[test]
fn a_connection_that_takes_too_long_fails() {
    run(async {
        // A listener whose queue is full does not answer SYNs.
        let full =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        full.listen(0).unwrap();
        let address = full.local_addr().unwrap().as_socket().unwrap();
        let _queued = std::net::TcpStream::connect(address).unwrap();
        let cluster = ClusterMessage {
            connect_timeout: Some(seconds(Duration::from_millis(50))),
            ..fixed_http2(&[address])
        };
        let proxy = TestClusters::start(vec![cluster]).await;
        assert_eq!(proxy.open().await.unwrap_err(), PoolFailure::Timeout);
        assert_eq!(proxy.stat("upstream_cx_connect_timeout"), 1);
        assert_eq!(proxy.stat("upstream_cx_connect_fail"), 1);
        assert_eq!(proxy.stat("upstream_cx_destroy_local"), 1);
    });
}

#[test]
fn a_cluster_without_hosts_picks_none() {
    run(async {
        let proxy = TestClusters::start(vec![fixed_http2(&[])]).await;
        assert!(proxy.cluster().pick(PickRequest::default()).is_err());
        assert_eq!(proxy.stat("upstream_cx_none_healthy"), 1);
    });
}

#[test]
fn failures_are_worded_as_envoy_words_them() {
    run(async {
        let backend = Http2::start(100).await;
        let from = |source: &str| BindConfig {
            source_address: Some(SocketAddress {
                address: source.to_owned(),
                ..SocketAddress::default()
            }),
            ..BindConfig::default()
        };
        let nowhere = "/nonexistent/outrider.sock";
        let pipe = Address {
            address: Some(AddressKind::Pipe(Pipe {
                path: nowhere.to_owned(),
                mode: 0,
            })),
        };
        let local = |text: &str| PoolFailure::LocalConnectionFailure(text.into());
        let remote = |text: &str| PoolFailure::RemoteConnectionFailure(text.into());
        let bound = |source| ClusterMessage {
            upstream_bind_config: Some(from(source)),
            ..fixed_http2(&[backend.address])
        };
        for (cluster, want) in [
            (
                bound("192.0.2.77"),
                local("failed to bind to 192.0.2.77:0: Cannot assign requested address"),
            ),
            (
                bound("::1"),
                local("failed to bind to [::1]:0: Address family not supported by protocol"),
            ),
            (
                at(pipe),
                remote(
                    "immediate connect error: No such file or directory|remote address:/nonexistent/outrider.sock",
                ),
            ),
        ] {
            let proxy = TestClusters::start(vec![cluster]).await;
            assert_eq!(proxy.open().await.unwrap_err(), want);
        }
    });
}

#[test]
fn the_next_address_is_used_when_the_first_refuses() {
    run(async {
        let backend = Http2::start(100).await;
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let refusing = closed.local_addr().unwrap();
        drop(closed);
        let mut cluster = fixed_http2(&[refusing]);
        endpoint(&mut cluster).additional_addresses = vec![AdditionalAddress {
            address: Some(address("127.0.0.1", backend.address.port())),
        }];
        let proxy = TestClusters::start(vec![cluster]).await;
        let answer = proxy.request().await;
        assert_eq!(answer.host, refusing.to_string());
        assert_eq!(proxy.stat("upstream_cx_total"), 2);
        assert_eq!(proxy.stat("upstream_cx_active"), 1);
    });
}
