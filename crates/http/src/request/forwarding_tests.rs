//! How Envoy 1.40 changes one client's headers under several configurations.

use std::net::Ipv4Addr;
use std::net::SocketAddr;

use http::Method;
use outrider_codec::Target;

use super::*;

fn forwarding() -> Forwarding {
    Forwarding {
        use_remote_address: false,
        xff_num_trusted_hops: 0,
        detectors: Box::default(),
        skip_xff_append: false,
        append_port: false,
        internal: InternalAddresses::default(),
        via: None,
        generate_request_id: true,
        preserve_external_request_id: false,
        user_agent: None,
        client_cert: ClientCert::SANITIZE,
        scheme: None,
        local_address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
    }
}

fn connection() -> DownstreamConnectionInfo {
    let local = SocketAddr::from(([127, 0, 0, 1], 8080));
    let remote = SocketAddr::from(([127, 0, 0, 1], 1234));
    crate::testing::connection(local, remote)
}

fn head(headers: &[(&'static str, &'static str)]) -> RequestHead {
    let headers = headers.iter().map(|(name, value)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    });
    RequestHead {
        method: Method::GET,
        scheme: None,
        authority: Some(HeaderValue::from_static("h.test")),
        path: Some(Target::root()),
        headers: headers.collect(),
    }
}

/// The results for a request with these headers: the new headers, the origin and the client.
fn apply(
    forwarding: &Forwarding,
    headers: &[(&'static str, &'static str)],
) -> (HeaderMap, Origin, String) {
    let mut head = head(headers);
    let (origin, remote) = forwarding
        .apply(&mut head, false, &connection(), || (0, 0))
        .unwrap();
    (head.headers, origin, remote.host())
}

#[test]
fn a_plain_request_gets_proto_and_id_only() {
    let (headers, origin, remote) = apply(&forwarding(), &[("accept", "*/*")]);
    let names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    assert_eq!(names, ["accept", "x-forwarded-proto", "x-request-id"]);
    assert_eq!((origin, remote.as_str()), (Origin::External, "127.0.0.1"));
}

#[test]
fn the_client_is_read_from_forwarded_for() {
    let hops = Forwarding {
        xff_num_trusted_hops: 1,
        ..forwarding()
    };
    let edge = Forwarding {
        use_remote_address: true,
        ..forwarding()
    };
    let edge_hops = Forwarding {
        use_remote_address: true,
        xff_num_trusted_hops: 1,
        ..forwarding()
    };
    let skip = Forwarding {
        use_remote_address: true,
        skip_xff_append: true,
        ..forwarding()
    };
    for (forwarding, sent, want, client) in [
        (&forwarding(), "1.2.3.4", "1.2.3.4", "1.2.3.4"),
        (
            &forwarding(),
            "9.9.9.9, 10.1.1.1",
            "9.9.9.9, 10.1.1.1",
            "10.1.1.1",
        ),
        (&forwarding(), "bogus", "bogus", "127.0.0.1"),
        (&forwarding(), "1.2.3.4:90", "1.2.3.4:90", "127.0.0.1"),
        (&forwarding(), "::1", "::1", "::1"),
        (
            &hops,
            "1.1.1.1,2.2.2.2,3.3.3.3",
            "1.1.1.1,2.2.2.2,3.3.3.3",
            "2.2.2.2",
        ),
        (&hops, "1.2.3.4", "1.2.3.4", "127.0.0.1"),
        (&edge, "1.2.3.4", "1.2.3.4,192.0.2.2", "127.0.0.1"),
        (
            &edge_hops,
            "9.9.9.9, 10.1.1.1",
            "9.9.9.9, 10.1.1.1,192.0.2.2",
            "10.1.1.1",
        ),
        (&edge_hops, "bogus", "bogus,192.0.2.2", "127.0.0.1"),
        (&skip, "1.2.3.4", "1.2.3.4", "127.0.0.1"),
    ] {
        let (headers, _, remote) = apply(forwarding, &[("x-forwarded-for", sent)]);
        assert_eq!(headers["x-forwarded-for"], want, "{forwarding:?}");
        assert_eq!(remote, client, "{sent} {forwarding:?}");
    }
}

#[test]
fn an_edge_trusts_no_header_about_the_client() {
    let edge = Forwarding {
        use_remote_address: true,
        ..forwarding()
    };
    let told = [
        ("x-request-id", "mine"),
        ("x-forwarded-proto", "https"),
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-internal", "true"),
        ("x-envoy-decorator-operation", "d"),
        ("x-envoy-external-address", "5.5.5.5"),
        ("x-envoy-foo", "1"),
        ("x-forwarded-client-cert", "z"),
    ];
    let (headers, origin, _) = apply(&edge, &told);
    assert_eq!(origin, Origin::Edge);
    assert_ne!(headers["x-request-id"], "mine");
    assert_eq!(headers["x-forwarded-proto"], "http");
    assert_eq!(headers["x-envoy-external-address"], "127.0.0.1");
    assert_eq!(headers["x-envoy-foo"], "1");
    for gone in [
        "x-envoy-retry-on",
        "x-envoy-internal",
        "x-envoy-decorator-operation",
        "x-forwarded-client-cert",
    ] {
        assert!(!headers.contains_key(gone), "{gone}");
    }

    let (headers, origin, _) = apply(&forwarding(), &told);
    assert_eq!(origin, Origin::External);
    assert_eq!(headers["x-request-id"], "mine");
    assert_eq!(headers["x-forwarded-proto"], "https");
    assert_eq!(headers["x-envoy-decorator-operation"], "d");
    assert!(!headers.contains_key("x-envoy-retry-on"));
}

#[test]
fn a_single_internal_address_makes_a_request_internal() {
    let internal = Forwarding {
        internal: InternalAddresses {
            unix_sockets: false,
            ranges: vec![(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), 8)],
        },
        ..forwarding()
    };
    for (sent, want) in [
        ("10.1.1.1", Origin::Internal),
        ("11.1.1.1", Origin::External),
        ("9.9.9.9, 10.1.1.1", Origin::External),
    ] {
        let (headers, origin, _) = apply(
            &internal,
            &[("x-forwarded-for", sent), ("x-envoy-retry-on", "5xx")],
        );
        assert_eq!(origin, want, "{sent}");
        assert_eq!(
            headers.contains_key("x-envoy-internal"),
            want == Origin::Internal
        );
        assert_eq!(
            headers.contains_key("x-envoy-retry-on"),
            want == Origin::Internal
        );
    }
    assert_eq!(apply(&internal, &[]).1, Origin::External);
}

#[test]
fn hop_by_hop_headers_are_removed() {
    let sent = [
        ("connection", "keep-alive"),
        ("upgrade", "h2c"),
        ("keep-alive", "3"),
        ("proxy-connection", "x"),
        ("transfer-encoding", "chunked"),
        ("te", "gzip, trailers"),
        ("x-kept", "1"),
    ];
    let (headers, ..) = apply(&forwarding(), &sent);
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["te", "x-forwarded-proto", "x-kept", "x-request-id"]);
    assert_eq!(headers["te"], "trailers");
}

#[test]
fn lists_are_joined_in_one_header() {
    let options = Forwarding {
        via: Some(HeaderValue::from_static("me")),
        ..forwarding()
    };
    assert_eq!(apply(&options, &[("via", "before")]).0["via"], "before, me");
    assert_eq!(apply(&options, &[]).0["via"], "me");
    let options = Forwarding {
        via: HeaderValue::try_from("mé").ok(),
        ..forwarding()
    };
    assert_eq!(apply(&options, &[("via", "before")]).0["via"], "before, mé");
}
