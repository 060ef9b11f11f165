use std::net::SocketAddr;

use outrider_config::api::envoy::config::core::v3::CidrRange;

use super::*;

/// Parses a match: `to=80`, `at=10.0.0.0/8`, `name=*.a.com`, `over=tls`, `alpn=h2`, `peer=…/…`, `local`, `external`,
/// `from=…/…`, `from-port=1`.
fn criteria(words: &str) -> api::FilterChainMatch {
    let mut criteria = api::FilterChainMatch::default();
    let range = |text: &str| {
        let (address_prefix, length) = text.split_once('/').unwrap();
        CidrRange {
            address_prefix: address_prefix.to_owned(),
            prefix_len: Some(length.parse().unwrap()),
        }
    };
    for word in words.split_whitespace() {
        match word.split_once('=').unwrap_or((word, "")) {
            ("to", port) => criteria.destination_port = Some(port.parse().unwrap()),
            ("at", prefix) => criteria.prefix_ranges.push(range(prefix)),
            ("name", name) => criteria.server_names.push(name.to_owned()),
            ("over", protocol) => criteria.transport_protocol = protocol.to_owned(),
            ("alpn", protocol) => criteria.application_protocols.push(protocol.to_owned()),
            ("peer", prefix) => criteria.direct_source_prefix_ranges.push(range(prefix)),
            ("local", _) => criteria.set_source_type(ConnectionSourceType::SameIpOrLoopback),
            ("external", _) => criteria.set_source_type(ConnectionSourceType::External),
            ("from", prefix) => criteria.source_prefix_ranges.push(range(prefix)),
            ("from-port", port) => criteria.source_ports.push(port.parse().unwrap()),
            (word, _) => panic!("{word}"),
        }
    }
    criteria
}

fn build(chains: &[&str], default: bool) -> Result<FilterChains, ConfigErrors> {
    let chain = |words: &&str| api::FilterChain {
        filter_chain_match: Some(criteria(words)),
        ..Default::default()
    };
    let listener = api::Listener {
        filter_chains: chains.iter().map(chain).collect(),
        default_filter_chain: default.then(api::FilterChain::default),
        ..Default::default()
    };
    FilterChains::build(&listener, &FieldPath::root().field("l"))
}

fn address(text: &str) -> Address {
    Address::from(text.parse::<SocketAddr>().unwrap())
}

/// The chains that Envoy 1.40.0 selected for these clients (`-`: it closed the connection, `D`: the default chain).
#[test]
fn chooses_as_envoy_does() {
    let clients = [
        ("127.0.0.1:9", "127.0.0.1:80"),
        ("127.0.0.1:9", "127.0.0.2:80"),
        ("127.0.0.2:9", "127.0.0.2:80"),
        ("127.0.0.3:9", "127.0.0.1:80"),
        ("127.0.0.4:9", "127.0.0.9:80"),
        ("127.0.0.1:40001", "127.0.0.1:80"),
        ("127.0.0.1:40003", "127.0.0.2:80"),
        ("127.0.0.2:40002", "127.0.0.2:80"),
        ("127.0.0.3:40001", "127.0.0.2:80"),
    ];
    for (chains, default, observed) in [
        (
            &["", "at=127.0.0.0/8", "at=127.0.0.2/32", "local"][..],
            false,
            "1 2 2 1 1 1 2 2 2",
        ),
        (&["local", "external", ""], true, "0 0 0 1 1 0 0 0 1"),
        (
            &[
                "from=127.0.0.0/30",
                "external from=127.0.0.3/32",
                "peer=127.0.0.5/31",
            ],
            true,
            "0 0 0 1 2 0 0 0 1",
        ),
        (
            &[
                "from-port=40001",
                "from-port=40002 from-port=40003 from=127.0.0.1/32",
                "",
            ],
            true,
            "D D 2 2 2 D 1 2 0",
        ),
        (
            &["over=raw_buffer", "over=tls", ""],
            true,
            "0 0 0 0 0 0 0 0 0",
        ),
        (&["name=a.com", ""], false, "1 1 1 1 1 1 1 1 1"),
        (&["alpn=h2c"], true, "D D D D D D D D D"),
        (&["at=::/0", "at=0.0.0.0/0"], true, "1 1 1 1 1 1 1 1 1"),
        (
            &["at=127.0.0.2/32 from-port=40001", "at=127.0.0.0/8"],
            true,
            "1 D D 1 1 1 D D 0",
        ),
        (&["to=80", "from-port=40001"], false, "0 0 0 0 0 0 0 0 0"),
        (&["to=81", "to=80 name=a.com"], false, "- - - - - - - - -"),
    ] {
        let built = build(chains, default).unwrap();
        let found = clients.map(|(source, destination)| {
            let (source, destination) = (address(source), address(destination));
            let input = FilterChainInput {
                destination: &destination,
                source: &source,
                direct_source: &source,
                server_name: "",
                transport_protocol: "raw_buffer",
                application_protocols: &[],
            };
            match built.find(&input) {
                Some(chain) if chain == chains.len() => "D".to_owned(),
                Some(chain) => chain.to_string(),
                None => "-".to_owned(),
            }
        });
        assert_eq!(found.join(" "), observed, "{chains:?}");
    }
}

#[test]
fn names_and_protocols_go_from_the_most_specific_on() {
    let chains = [
        "",
        "name=*.a.com",
        "name=*.b.a.com",
        "name=x.b.a.com",
        "name=*.a.com alpn=h2",
        "name=*.a.com alpn=x",
    ];
    let built = build(&chains, false).unwrap();
    let here = address("10.0.0.1:443");
    for (server_name, application_protocols, chain) in [
        ("x.b.a.com", &[][..], 3),
        ("y.b.a.com", &[], 2),
        ("y.a.com", &[], 1),
        ("y.a.com", &["http/1.1", "x", "h2"], 5),
        ("y.a.com", &["h2", "x"], 4),
        ("y.a.com", &["http/1.1"], 1),
        ("a.com", &[], 0),
        ("", &["h2"], 0),
    ] {
        let input = FilterChainInput {
            destination: &here,
            source: &here,
            direct_source: &here,
            server_name,
            transport_protocol: "tls",
            application_protocols,
        };
        assert_eq!(
            built.find(&input),
            Some(chain),
            "{server_name} {application_protocols:?}"
        );
    }
}

#[test]
fn a_unix_socket_is_local_and_has_no_prefix_or_port() {
    let built = build(&["from=0.0.0.0/0", "to=80", "local", "external"], false).unwrap();
    let pipe = Address::pipe("/run/x", 0);
    let input = FilterChainInput {
        destination: &pipe,
        source: &pipe,
        direct_source: &pipe,
        server_name: "",
        transport_protocol: "raw_buffer",
        application_protocols: &[],
    };
    assert_eq!(built.find(&input), Some(2));
}

/// Envoy 1.40.0 refuses each of these with this message, or accepts it.
#[test]
fn refuses_what_nothing_could_decide() {
    let same = "l.filter_chains[1].filter_chain_match: filter chain '' has the same matching rules defined as ''";
    let overlap = "multiple filter chains with overlapping matching rules are defined";
    let partial = "l.filter_chains[0].filter_chain_match.server_names[0]: partial wildcards are not supported";
    for (chains, message) in [
        (&["", ""][..], same),
        (&["to=80", "to=80"], same),
        (&["name=a.com", "name=a.com name=b.com"], overlap),
        (&["name=A.com", "name=a.com"], overlap),
        (&["at=10.1.2.3/8", "at=10.0.0.0/8"], overlap),
        (&["peer=127.0.0.0/8", "peer=127.0.0.1/8"], overlap),
        (&["alpn=h2c", "alpn=http/1.1 alpn=h2c"], overlap),
        (&["name=*w.com"], partial),
        (&["name=w.*"], partial),
        (&["name=*"], partial),
        (&["at=foo/3"], "address_prefix: malformed IP address: foo"),
        (&[], "l: no filter chains specified"),
        (&["name=*.w.*"], ""),
        (&["at=10.0.0.0/33"], ""),
        (&["over=bogus"], ""),
    ] {
        let errors = build(chains, false).err();
        let text = errors.map(|errors| errors.to_string()).unwrap_or_default();
        assert_eq!(text.is_empty(), message.is_empty(), "{chains:?}: {text}");
        assert!(text.contains(message), "{chains:?}: {text}");
    }
}
