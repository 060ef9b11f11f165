//! Helpers to make requests, and tests of whole route tables.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::Version;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::route::v3 as api;

use super::*;
use crate::testing::connection;
use outrider_codec::ResponseHead;

/// A request head with plain http.
pub(crate) fn head(method: &str, host: &str, path: &str, headers: &[(&str, &str)]) -> RequestHead {
    let headers = headers.iter().map(|(name, value)| {
        let name: HeaderName = name.parse().unwrap();
        (name, HeaderValue::try_from(*value).unwrap())
    });
    let mut map = outrider_codec::HeaderMap::new();
    for (name, value) in headers {
        map.append(name, value);
    }
    RequestHead {
        method: method.parse().unwrap(),
        scheme: Some(http::uri::Scheme::HTTP),
        authority: HeaderValue::try_from(host).ok(),
        path: Some(path.try_into().unwrap()),
        headers: map,
    }
}

pub(crate) fn view(head: &RequestHead) -> RequestView<'_> {
    RequestView {
        head,
        random: 0,
        runtime: None,
        tls: None,
        dynamic_metadata: None,
        filter_state: Box::leak(Box::default()),
    }
}

/// A stream that has just begun.
pub(crate) fn stream(request: RequestHead) -> Stream {
    let [local, remote] = ["127.0.0.1:8080", "10.0.0.9:40000"].map(|text| text.parse().unwrap());
    let connection = Rc::new(connection(local, remote));
    Stream {
        start_time: SystemTime::UNIX_EPOCH,
        ..Stream::new(connection, request, Version::HTTP_11, 7)
    }
}

pub(crate) fn respond(stream: &mut Stream, status: u16, headers: &[(&str, &str)]) {
    let head = head("GET", "", "/", headers);
    stream.response = Some(ResponseHead {
        status: status.try_into().unwrap(),
        headers: head.headers,
    });
}

fn build(config: &api::RouteConfiguration) -> Result<Arc<RouteTable>, String> {
    let has_cluster = |name: &str| !["unknown", "knwon"].contains(&name);
    let cx = RouteCx {
        has_cluster: &has_cluster,
        nearest_cluster: &|name| (name == "knwon").then(|| "known".to_owned()),
        store: &outrider_stats::Store::new(),
        validates_clusters: true,
    };
    RouteTable::build(config, &FieldPath::root(), &cx).map_err(|errors| errors.to_string())
}

fn prefix(prefix: &str) -> Option<api::RouteMatch> {
    Some(api::RouteMatch {
        path_specifier: Some(api::route_match::PathSpecifier::Prefix(prefix.to_owned())),
        ..Default::default()
    })
}

fn direct(name: &str, path: &str) -> api::Route {
    let response = api::DirectResponseAction {
        status: 200,
        ..Default::default()
    };
    api::Route {
        name: name.to_owned(),
        r#match: prefix(path),
        action: Some(api::route::Action::DirectResponse(response)),
        ..Default::default()
    }
}

fn forward(action: api::RouteAction) -> api::Route {
    api::Route {
        r#match: prefix("/"),
        action: Some(api::route::Action::Route(action)),
        ..Default::default()
    }
}

fn table(hosts: Vec<api::VirtualHost>) -> api::RouteConfiguration {
    api::RouteConfiguration {
        name: "r".to_owned(),
        virtual_hosts: hosts,
        ..Default::default()
    }
}

fn host(domains: &[&str], routes: Vec<api::Route>) -> api::VirtualHost {
    api::VirtualHost {
        name: "v".to_owned(),
        domains: domains.iter().copied().map(str::to_owned).collect(),
        routes,
        ..Default::default()
    }
}

fn found<'t>(table: &'t RouteTable, head: &RequestHead) -> Option<&'t str> {
    table.find(&view(head)).map(|route| route.name.as_str())
}

#[test]
fn the_first_matching_route_of_the_host_is_taken() {
    let a = host(
        &["a.com"],
        vec![
            direct("long", "/x/y"),
            direct("short", "/x"),
            direct("never", "/x/y/z"),
        ],
    );
    let table = build(&table(vec![a, host(&["*"], vec![direct("any", "/")])])).unwrap();
    for (host, path, expected) in [
        ("a.com", "/x/y/z?q", Some("long")),
        ("A.com", "/x?q", Some("short")),
        ("a.com", "/", None),
        ("b.com", "/x", Some("any")),
    ] {
        assert_eq!(
            found(&table, &head("GET", host, path, &[])),
            expected,
            "{host}{path}"
        );
    }
}

#[test]
fn duplicate_domains_are_refused_with_envoys_message() {
    for (first, second, message) in [
        (
            "A.com",
            "a.com",
            "virtual_hosts[1].domains[0]: Only unique values for domains are permitted. Duplicate entry of domain a.com in route r",
        ),
        (
            "*",
            "*",
            "virtual_hosts[1].domains[0]: Only a single wildcard domain is permitted in route r",
        ),
    ] {
        let config = table(vec![host(&[first], vec![]), host(&[second], vec![])]);
        assert_eq!(build(&config).unwrap_err(), message);
    }
}

#[test]
fn clusters_must_exist_unless_validation_is_off() {
    use api::route_action::ClusterSpecifier::Cluster;
    let unknown = forward(api::RouteAction {
        cluster_specifier: Some(Cluster("unknown".to_owned())),
        ..Default::default()
    });
    let mut config = table(vec![host(&["*"], vec![unknown])]);
    assert_eq!(
        build(&config).unwrap_err(),
        "virtual_hosts[0].routes[0].route.cluster: route: unknown cluster 'unknown'"
    );
    config.validate_clusters = Some(false);
    assert!(build(&config).is_ok());
}

#[test]
fn a_misspelt_cluster_is_refused_with_the_nearest_name() {
    use api::route_action::ClusterSpecifier::Cluster;
    let misspelt = forward(api::RouteAction {
        cluster_specifier: Some(Cluster("knwon".to_owned())),
        ..Default::default()
    });
    let config = table(vec![host(&["*"], vec![misspelt; 201])]);
    let message = build(&config).unwrap_err();
    assert!(message.starts_with(
        "virtual_hosts[0].routes[0].route.cluster: route: unknown cluster 'knwon'; did you mean known?"
    ));
    assert_eq!(message.matches("did you mean").count(), 200);
}

#[test]
fn a_vhost_header_is_used_instead_of_the_host() {
    let mut config = table(vec![
        host(&["a.com"], vec![direct("a", "/")]),
        host(&["b.com"], vec![direct("b", "/")]),
        host(&["*"], vec![direct("any", "/")]),
    ]);
    config.vhost_header = "x-h".to_owned();
    let table = build(&config).unwrap();
    for (headers, expected) in [
        (&[("x-h", "B.com")][..], Some("b")),
        (&[("x-h", "")], Some("any")),
        (&[], None),
    ] {
        assert_eq!(found(&table, &head("GET", "a.com", "/", headers)), expected);
    }
}

#[test]
fn requests_without_tls_are_redirected_where_it_is_required() {
    use api::virtual_host::TlsRequirementType;
    let location = |required: TlsRequirementType, headers: &[(&str, &str)]| {
        let mut host = host(&["*"], vec![direct("plain", "/")]);
        host.require_tls = required.into();
        let table = build(&table(vec![host])).unwrap();
        let mut stream = stream(head("GET", "a.com:80", "/x?y", headers));
        let route = table.find(&view(&stream.request)).unwrap();
        match &route.action {
            Action::Redirect(redirect) => Some(redirect.apply(&mut stream, true)),
            _ => None,
        }
    };
    let moved = Some("https://a.com:80/x?y".to_owned());
    let internal = [("x-forwarded-proto", "http"), ("x-envoy-internal", "true")];
    assert_eq!(location(TlsRequirementType::All, &internal), moved);
    assert_eq!(location(TlsRequirementType::ExternalOnly, &internal), None);
    assert_eq!(location(TlsRequirementType::ExternalOnly, &[]), moved);
    assert_eq!(
        location(TlsRequirementType::All, &[("x-forwarded-proto", "https")]),
        None
    );
}

fn weighted(weights: &[Option<u32>]) -> api::RouteConfiguration {
    let clusters =
        weights
            .iter()
            .enumerate()
            .map(|(at, weight)| api::weighted_cluster::ClusterWeight {
                name: format!("c{at}"),
                weight: *weight,
                ..Default::default()
            });
    let action = api::RouteAction {
        cluster_specifier: Some(api::route_action::ClusterSpecifier::WeightedClusters(
            api::WeightedCluster {
                clusters: clusters.collect(),
                ..Default::default()
            },
        )),
        ..Default::default()
    };
    table(vec![host(&["*"], vec![forward(action)])])
}

#[test]
fn weighted_clusters_share_the_random_numbers() {
    let table = build(&weighted(&[Some(1), Some(0), Some(3)])).unwrap();
    let head = head("GET", "h", "/", &[]);
    let mut counts = [0; 3];
    for random in 0..400 {
        let request = RequestView {
            random,
            ..view(&head)
        };
        let route = table.find(&request).unwrap();
        let Action::Forward(action) = &route.action else {
            panic!("not a forward: {route:?}")
        };
        let name = action.cluster_name(&head).unwrap();
        counts[name[1..].parse::<usize>().unwrap()] += 1;
    }
    assert_eq!(counts, [100, 0, 300]);
}

#[test]
fn impossible_weights_are_refused() {
    const PATH: &str = "virtual_hosts[0].routes[0].route.weighted_clusters";
    for (weights, message) in [
        (
            &[Some(0)][..],
            ": Sum of weights in the weighted_cluster must be greater than 0.",
        ),
        (&[None], ".clusters[0].weight: value is required"),
        (
            &[Some(u32::MAX), Some(1)],
            ": The sum of weights of all weighted clusters of route  exceeds 4294967295",
        ),
    ] {
        assert_eq!(
            build(&weighted(weights)).unwrap_err(),
            format!("{PATH}{message}")
        );
    }
}

#[test]
fn path_parameters_can_be_left_out() {
    let mut exact = direct("exact", "/");
    exact.r#match = Some(api::RouteMatch {
        path_specifier: Some(api::route_match::PathSpecifier::Path("/a".to_owned())),
        ..Default::default()
    });
    let mut config = table(vec![host(&["*"], vec![exact])]);
    let request = head("GET", "h", "/a;x?q", &[]);
    assert_eq!(found(&build(&config).unwrap(), &request), None);
    config.ignore_path_parameters_in_path_matching = true;
    assert_eq!(found(&build(&config).unwrap(), &request), Some("exact"));
}
