//! The resolver against a scripted server. The expected results were observed with Envoy.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::task::LocalSet;

use super::*;
use crate::dns::query::ResolveError;
use crate::dns::query::ResolveErrorKind;

#[path = "../../tests/clusters/support/dns.rs"]
mod server;

use server::DnsServer;
use server::ScriptedReply;

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let limited = async { tokio::time::timeout(Duration::from_secs(20), test).await };
    runtime
        .block_on(LocalSet::new().run_until(limited))
        .unwrap();
}

fn settings(servers: &[SocketAddr]) -> Settings {
    Settings::of_servers(servers.to_vec())
}

fn resolver(settings: Settings) -> Resolver {
    Resolver::with_files(settings, "/nonexistent/resolv.conf", "/nonexistent/hosts")
}

fn texts(answer: &Answer) -> Vec<String> {
    answer.addresses.iter().map(IpAddr::to_string).collect()
}

#[test]
fn families_are_asked_in_envoys_order() {
    use Family::All;
    use Family::Auto;
    use Family::V4Only;
    use Family::V4Preferred;
    use Family::V6Only;
    let v4 = ScriptedReply::Addresses(&["10.0.0.1"], 60);
    let both = [(
        "a.test",
        ScriptedReply::Addresses(&["10.0.0.1", "fd00::1"], 60),
    )];
    let only_v4 = [("a.test", v4.clone())];
    let no_v6 = |code| {
        [
            ("AAAA a.test", ScriptedReply::Code(code)),
            ("A a.test", v4.clone()),
        ]
    };
    let (fails, unknown) = (no_v6(ResponseCode::ServFail), no_v6(ResponseCode::NXDomain));
    run(async move {
        for (script, family, want, first) in [
            (&both[..], Auto, &["fd00::1"][..], "AAAA a.test."),
            (&both, V4Preferred, &["10.0.0.1"], "A a.test."),
            (&both, V4Only, &["10.0.0.1"], "A a.test."),
            (&both, V6Only, &["fd00::1"], "AAAA a.test."),
            (&both, All, &["10.0.0.1", "fd00::1"], "A a.test."),
            (&only_v4, Auto, &["10.0.0.1"], "AAAA a.test."),
            (&only_v4, V6Only, &[], "AAAA a.test."),
            (&fails, Auto, &["10.0.0.1"], "AAAA a.test."),
            (&fails, All, &["10.0.0.1"], "A a.test."),
            (&unknown, Auto, &["10.0.0.1"], "AAAA a.test."),
        ] {
            let server = DnsServer::start(script).await;
            let resolver = resolver(settings(&[server.address]));
            let answer = resolver.resolve("a.test", family).await.unwrap();
            assert_eq!(texts(&answer), want, "{family:?}");
            assert_eq!(server.asked()[0], first, "{family:?}");
        }
    });
}

#[test]
fn a_name_without_an_address_is_an_answer_and_a_servers_failure_is_not() {
    run(async {
        let server = DnsServer::start(&[
            ("empty.test", ScriptedReply::Addresses(&[], 60)),
            ("failing.test", ScriptedReply::Code(ResponseCode::ServFail)),
        ])
        .await;
        let resolver = resolver(settings(&[server.address]));
        let none = resolver.resolve("none.test", Family::V4Only).await.unwrap();
        assert!(none.addresses.is_empty() && none.no_such_name);
        let empty = resolver.resolve("empty.test", Family::V4Only).await;
        assert_eq!(empty, Ok(Answer::default()));
        let before = server.asked().len();
        let failed = resolver.resolve("failing.test", Family::V4Only).await;
        assert_eq!(
            failed,
            Err(ResolveErrorKind::Server(ResponseCode::ServFail).into())
        );
        // Each was asked four times in all.
        assert_eq!(server.asked()[before..], ["A failing.test."; 4]);
    });
}

#[test]
fn the_next_server_is_asked_when_one_fails_or_is_silent() {
    run(async {
        let failing =
            DnsServer::start(&[("a.test", ScriptedReply::Code(ResponseCode::Refused))]).await;
        let silent = DnsServer::start(&[("a.test", ScriptedReply::Nothing)]).await;
        let good =
            DnsServer::start(&[("a.test", ScriptedReply::Addresses(&["10.0.0.1"], 60))]).await;
        let quick = Settings {
            timeout: Duration::from_millis(20),
            ..settings(&[failing.address, silent.address, good.address])
        };
        let answer = resolver(quick).resolve("a.test", Family::V4Only).await;
        assert_eq!(texts(&answer.unwrap()), ["10.0.0.1"]);
        let never = Settings {
            timeout: Duration::from_millis(5),
            tries: 2,
            ..settings(&[silent.address])
        };
        let failed = resolver(never).resolve("a.test", Family::V4Only).await;
        let (kind, timeouts) = (ResolveErrorKind::Timeout, 2);
        assert_eq!(failed, Err(ResolveError { kind, timeouts }));
    });
}

#[test]
fn a_truncated_answer_is_fetched_by_tcp() {
    run(async {
        let long = ScriptedReply::Truncated(&["10.0.0.1", "10.0.0.2"]);
        let server = DnsServer::start(&[("a.test", long)]).await;
        let by_udp = resolver(settings(&[server.address]));
        let answer = by_udp.resolve("a.test", Family::V4Only).await;
        assert_eq!(texts(&answer.unwrap()), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(server.asked(), ["A a.test.", "TCP A a.test."]);

        let server =
            DnsServer::start(&[("a.test", ScriptedReply::Addresses(&["10.0.0.1"], 60))]).await;
        let tcp_only = resolver(Settings {
            tcp_only: true,
            ..settings(&[server.address])
        });
        let answer = tcp_only.resolve("a.test", Family::V4Only).await;
        assert_eq!(texts(&answer.unwrap()), ["10.0.0.1"]);
        assert_eq!(server.asked(), ["TCP A a.test."]);
    });
}

#[test]
fn a_closed_port_is_seen_at_once() {
    run(async {
        let closed = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = closed.local_addr().unwrap();
        drop(closed);
        for tcp_only in [false, true] {
            let settings = Settings {
                tcp_only,
                ..settings(&[address])
            };
            let failed = resolver(settings).resolve("a.test", Family::Auto).await;
            let why = failed.unwrap_err().kind;
            assert!(matches!(why, ResolveErrorKind::Unreachable(_)), "{why:?}");
        }
    });
}

#[test]
fn an_answer_may_be_given_again_for_as_long_as_it_lives() {
    run(async {
        let server = DnsServer::start(&[
            ("a.test", ScriptedReply::Addresses(&["10.0.0.1"], 60)),
            ("b.test", ScriptedReply::Addresses(&["10.0.0.2"], 0)),
        ])
        .await;
        let resolver = resolver(Settings {
            cached: Duration::from_secs(30),
            ..settings(&[server.address])
        });
        for name in ["a.test", "A.test", "b.test", "b.test"] {
            let answer = resolver.resolve(name, Family::V4Only).await;
            assert_eq!(answer.unwrap().addresses.len(), 1);
        }
        assert_eq!(server.asked(), ["A a.test.", "A b.test.", "A b.test."]);
    });
}

#[test]
fn the_records_say_how_long_they_live() {
    run(async {
        let server =
            DnsServer::start(&[("a.test", ScriptedReply::Addresses(&["10.0.0.1"], 7))]).await;
        let resolver = resolver(settings(&[server.address]));
        let answer = resolver.resolve("a.test", Family::V4Only).await;
        assert_eq!(answer.unwrap().ttl, Duration::from_secs(7));
    });
}

#[test]
fn literals_hosts_and_search_domains_are_obeyed() {
    let directory = std::env::temp_dir().join(format!("outrider-dns-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (conf, hosts) = (directory.join("resolv.conf"), directory.join("hosts"));
    std::fs::write(&conf, "search one.test two.test\noptions ndots:2\n").unwrap();
    std::fs::write(&hosts, "10.9.9.9 local.test\n").unwrap();
    run(async {
        let server = DnsServer::start(&[
            ("svc.two.test", ScriptedReply::Addresses(&["10.0.0.1"], 60)),
            ("a.b.c", ScriptedReply::Addresses(&["10.0.0.2"], 60)),
            ("svc", ScriptedReply::Addresses(&["10.0.0.3"], 60)),
        ])
        .await;
        let (conf, hosts) = (conf.to_str().unwrap(), hosts.to_str().unwrap());
        let resolver = Resolver::with_files(settings(&[server.address]), conf, hosts);
        let mut before = 0;
        for (name, want, asked) in [
            ("127.0.0.1", "127.0.0.1", &[][..]),
            ("local.test", "10.9.9.9", &[]),
            ("svc", "10.0.0.1", &["A svc.one.test.", "A svc.two.test."]),
            ("a.b.c", "10.0.0.2", &["A a.b.c."]),
            ("svc.", "10.0.0.3", &["A svc."]),
            ("x.localhost", "127.0.0.1", &[]),
        ] {
            let answer = resolver.resolve(name, Family::V4Only).await.unwrap();
            assert_eq!(texts(&answer), [want], "{name}");
            assert_eq!(server.asked()[before..], *asked, "{name}");
            before = server.asked().len();
        }
        // A change of the file is noticed.
        std::fs::write(hosts, "10.9.9.10 local.test other.test\n").unwrap();
        let answer = resolver
            .resolve("local.test", Family::V4Only)
            .await
            .unwrap();
        assert_eq!(texts(&answer), ["10.9.9.10"]);
    });
    std::fs::remove_dir_all(&directory).unwrap();
}
