//! STRICT_DNS and LOGICAL_DNS with a scripted server. The expected results were observed with Envoy.

use outrider_upstream::PickRequest;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use outrider_config::api::envoy::config::cluster::v3::Cluster as ClusterMessage;
use outrider_config::api::envoy::config::cluster::v3::cluster::DiscoveryType;
use outrider_config::api::envoy::config::cluster::v3::cluster::DnsLookupFamily;
use outrider_config::api::envoy::config::core::v3::Http2ProtocolOptions;

use crate::support::TestClusters;
use crate::support::address;
use crate::support::backend::Http2;
use crate::support::cluster;
use crate::support::dns::DnsServer;
use crate::support::dns::ScriptedReply;
use crate::support::run;
use crate::support::seconds;
use crate::support::until;

/// A cluster of these names that asks `server` for IPv4 addresses every 20 ms.
#[allow(deprecated, reason = "old but live fields")]
fn named(kind: DiscoveryType, names: &[&str], port: u16, server: &DnsServer) -> ClusterMessage {
    let endpoints = names.iter().map(|name| (name.to_string(), port));
    ClusterMessage {
        dns_lookup_family: DnsLookupFamily::V4Only.into(),
        dns_refresh_rate: Some(seconds(Duration::from_millis(20))),
        dns_resolvers: vec![address("127.0.0.1", server.address.port())],
        http2_protocol_options: Some(Http2ProtocolOptions::default()),
        ..cluster(kind, endpoints.collect())
    }
}

fn strict(names: &[&str], server: &DnsServer) -> ClusterMessage {
    named(DiscoveryType::StrictDns, names, 80, server)
}

/// The hosts and stats of a cluster after these answers. The last answer is repeated.
async fn outcome(kind: DiscoveryType, replies: &[ScriptedReply]) -> (Vec<String>, TestClusters) {
    let script: Vec<_> = replies
        .iter()
        .map(|reply| ("a.test", reply.clone()))
        .collect();
    let server = DnsServer::start(&script).await;
    let proxy = TestClusters::start(vec![named(kind, &["a.test"], 80, &server)]).await;
    let lookups = replies.len() as u64;
    until(|| proxy.stat("update_success") + proxy.stat("update_failure") >= lookups).await;
    (proxy.hosts(), proxy)
}

const ONE: ScriptedReply = ScriptedReply::Addresses(&["10.0.0.1"], 60);
const TWO: ScriptedReply = ScriptedReply::Addresses(&["10.0.0.1", "10.0.0.2"], 60);
const TURNED: ScriptedReply = ScriptedReply::Addresses(&["10.0.0.2", "10.0.0.1", "10.0.0.1"], 60);
const OTHERS: ScriptedReply = ScriptedReply::Addresses(&["10.0.0.3", "10.0.0.2"], 60);
const EMPTY: ScriptedReply = ScriptedReply::Addresses(&[], 60);
const NO_NAME: ScriptedReply = ScriptedReply::Code(ResponseCode::NXDomain);

#[test]
fn every_address_is_a_host() {
    run(async {
        let (hosts, proxy) = outcome(DiscoveryType::StrictDns, &[TWO, TURNED]).await;
        assert_eq!(hosts, ["10.0.0.1:80", "10.0.0.2:80"]);
        assert_eq!(proxy.stat("membership_change"), 1);
        assert!(proxy.stat("update_no_rebuild") >= 1);
    });
}

#[test]
fn a_failed_lookup_keeps_the_hosts() {
    run(async {
        for code in [ResponseCode::ServFail, ResponseCode::Refused] {
            let failed = ScriptedReply::Code(code);
            let replies = [TWO, failed.clone(), failed.clone(), failed.clone(), failed];
            let (hosts, proxy) = outcome(DiscoveryType::StrictDns, &replies).await;
            assert_eq!(hosts.len(), 2, "{code}");
            assert!(proxy.stat("update_failure") >= 1, "{code}");
            assert_eq!(proxy.stat("membership_change"), 1, "{code}");
        }
    });
}

#[test]
fn no_such_name_and_no_address_empty_the_cluster() {
    run(async {
        for reply in [NO_NAME, EMPTY] {
            let (hosts, proxy) = outcome(DiscoveryType::StrictDns, &[TWO, reply.clone()]).await;
            assert!(hosts.is_empty(), "{reply:?}");
            assert_eq!(proxy.stat("update_failure"), 0, "{reply:?}");
            assert_eq!(proxy.stat("membership_total"), 0, "{reply:?}");
            assert_eq!(proxy.stat("membership_change"), 2, "{reply:?}");
            assert_eq!(proxy.stat("update_empty"), 0, "{reply:?}");
            assert!(
                proxy.cluster().pick(PickRequest::default()).is_err(),
                "{reply:?}"
            );
        }
    });
}

#[test]
fn an_answer_to_come_in_order_is_kept_in_order() {
    run(async {
        let (hosts, proxy) = outcome(DiscoveryType::StrictDns, &[TWO, OTHERS]).await;
        assert_eq!(hosts, ["10.0.0.3:80", "10.0.0.2:80"]);
        assert_eq!(proxy.stat("membership_change"), 2);
    });
}

#[test]
fn a_logical_host_has_all_addresses_and_survives_an_empty_answer() {
    run(async {
        let (hosts, proxy) = outcome(DiscoveryType::LogicalDns, &[TWO, NO_NAME]).await;
        assert_eq!(hosts, ["10.0.0.1:80"]);
        let host = proxy.manager.view()[0].hosts().next().unwrap().clone();
        assert_eq!(host.addresses().len(), 2);
        assert_eq!(&**host.hostname(), "a.test");
        assert!(proxy.stat("update_failure") >= 1);
        let (hosts, proxy) = outcome(DiscoveryType::LogicalDns, &[TWO, OTHERS]).await;
        assert_eq!(hosts, ["10.0.0.3:80"]);
        assert_eq!(proxy.stat("membership_change"), 2);
    });
}

#[test]
fn two_names_with_one_address_are_two_hosts() {
    run(async {
        let server = DnsServer::start(&[("a.test", ONE), ("b.test", TURNED)]).await;
        let proxy = TestClusters::start(vec![strict(&["a.test", "b.test"], &server)]).await;
        until(|| proxy.hosts().len() == 3).await;
        assert_eq!(proxy.hosts(), ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.1:80"]);
    });
}

#[test]
fn a_long_answer_is_fetched_by_tcp() {
    run(async {
        let long = ScriptedReply::Truncated(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        let server = DnsServer::start(&[("a.test", long)]).await;
        let proxy = TestClusters::start(vec![strict(&["a.test"], &server)]).await;
        assert_eq!(proxy.hosts().len(), 3);
        assert_eq!(server.asked()[..2], ["A a.test.", "TCP A a.test."]);
    });
}

#[test]
fn a_host_stays_itself_when_it_is_named_again() {
    run(async {
        let server =
            DnsServer::start(&[("a.test", ONE), ("a.test", OTHERS), ("a.test", TWO)]).await;
        let proxy = TestClusters::start(vec![strict(&["a.test"], &server)]).await;
        until(|| proxy.stat("membership_change") == 2).await;
        let find = || {
            let view = &proxy.manager.view()[0];
            let mut hosts = view.hosts();
            hosts
                .find(|h| h.address().to_string() == "10.0.0.2:80")
                .cloned()
        };
        let before = find().unwrap();
        until(|| proxy.stat("membership_change") == 3).await;
        assert!(std::sync::Arc::ptr_eq(&before, &find().unwrap()));
    });
}

#[test]
fn the_server_waits_for_the_first_answer_whatever_it_is() {
    run(async {
        let server = DnsServer::start(&[("a.test", ScriptedReply::Nothing)]).await;
        let proxy = TestClusters::launch(vec![strict(&["a.test"], &server)]);
        let waited = tokio::time::timeout(Duration::from_millis(50), proxy.manager.initialized());
        assert!(waited.await.is_err());

        let server =
            DnsServer::start(&[("a.test", ScriptedReply::Code(ResponseCode::ServFail))]).await;
        TestClusters::start(vec![strict(&["a.test"], &server)]).await;

        let server = DnsServer::start(&[("a.test", ScriptedReply::Nothing)]).await;
        let not_waiting = ClusterMessage {
            wait_for_warm_on_init: Some(false),
            ..strict(&["a.test"], &server)
        };
        TestClusters::start(vec![not_waiting]).await;
    });
}

#[test]
fn a_removed_host_finishes_and_is_closed() {
    run(async {
        let first = Http2::start_at("127.0.0.1:0", 100).await;
        let port = first.address.port();
        let second = Http2::start_at(&format!("127.0.0.2:{port}"), 100).await;
        let both = ScriptedReply::Addresses(&["127.0.0.1", "127.0.0.2"], 60);
        let server = DnsServer::start(&[("a.test", both)]).await;
        let cluster = named(DiscoveryType::StrictDns, &["a.test"], port, &server);
        let proxy = TestClusters::start(vec![cluster]).await;
        for _ in 0..4 {
            proxy.call().await;
        }
        assert_eq!(proxy.stat("upstream_cx_active"), 2);

        // One request is under way on each connection when the first host is removed.
        first.hold();
        second.hold();
        let (a, b, ()) = tokio::join!(proxy.request(), proxy.request(), async {
            until(|| first.held() + second.held() == 2).await;
            server.say(&[("a.test", ScriptedReply::Addresses(&["127.0.0.2"], 60))]);
            proxy.until("membership_total", 1).await;
            first.release();
            second.release();
        });
        assert_eq!(a.body().await, "hello");
        assert_eq!(b.body().await, "hello");
        proxy.until("upstream_cx_active", 1).await;
        until(|| first.closed() == 1).await;
        for _ in 0..4 {
            assert_eq!(proxy.request().await.host, format!("127.0.0.2:{port}"));
        }

        // An idle connection is closed even if no request triggers it.
        server.say(&[("a.test", NO_NAME)]);
        until(|| second.closed() == 1).await;
    });
}
