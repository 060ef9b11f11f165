//! What is refused at load, with which message and position. The texts were compared with Envoy's.

use std::sync::Arc;

use outrider_config::Format;
use outrider_config::Source;
use outrider_config::api::envoy::config::bootstrap::v3::Bootstrap;
use outrider_config::load_texts;
use outrider_stats::Store;
use outrider_upstream::ClusterManager;
use outrider_upstream::ProtocolSelection;
use outrider_upstream::RoutingPriority;

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A bootstrap with these clusters, each in YAML's flow style.
fn bootstrap(clusters: &[String]) -> Bootstrap {
    let text = format!(
        "static_resources: {{ clusters: [{}] }}",
        clusters.join(", ")
    );
    let source = Source {
        name: "test.yaml".to_owned(),
        text: text.into_bytes(),
        format: Format::Yaml,
    };
    load_texts(&[source], false).unwrap().bootstrap
}

/// A cluster `x` with these additional fields.
fn cluster(fields: &str) -> String {
    format!("{{ name: x, {fields} }}")
}

fn hosts(addresses: &[&str]) -> String {
    let endpoint = |address: &&str| {
        format!(
            "{{ endpoint: {{ address: {{ socket_address: {{ address: \"{address}\", port_value: 80 }} }} }} }}"
        )
    };
    let endpoints: Vec<String> = addresses.iter().map(endpoint).collect();
    format!(
        "load_assignment: {{ cluster_name: x, endpoints: [{{ lb_endpoints: [{}] }}] }}",
        endpoints.join(", ")
    )
}

fn typed(options: &str) -> String {
    format!(
        "typed_extension_protocol_options: {{ {HTTP_OPTIONS}: {{ '@type': type.googleapis.com/{HTTP_OPTIONS}, {options} }} }}"
    )
}

fn errors(clusters: &[String]) -> String {
    let errors = ClusterManager::build(
        &bootstrap(clusters),
        "",
        &Store::new(),
        &Arc::default(),
        (Arc::new(()), Default::default()),
    )
    .unwrap_err();
    errors.to_string()
}

#[test]
fn what_envoy_refuses_is_refused() {
    let one = hosts(&["1.2.3.4"]);
    let path = "static_resources.clusters[0]";
    let load = format!("{path}.load_assignment");
    for (fields, want) in [
        (
            hosts(&["foo.bar"]),
            format!(
                "{load}.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: malformed IP address: foo.bar. Consider setting resolver_name or setting cluster type to 'STRICT_DNS' or 'LOGICAL_DNS'"
            ),
        ),
        (
            format!("type: LOGICAL_DNS, {}", hosts(&["a", "b"])),
            format!(
                "{load}: LOGICAL_DNS clusters must have a single locality_lb_endpoint and a single lb_endpoint"
            ),
        ),
        (
            "type: LOGICAL_DNS".to_owned(),
            format!("{load}: LOGICAL_DNS clusters must have a single host"),
        ),
        (
            format!("{one}, http_protocol_options: {{}}, http2_protocol_options: {{}}"),
            format!(
                "{path}.http2_protocol_options: Both HTTP1 and HTTP2 options may only be configured with non-default 'protocol_selection' values"
            ),
        ),
        (
            format!(
                "{one}, max_requests_per_connection: 3, common_http_protocol_options: {{ max_requests_per_connection: 2 }}"
            ),
            format!(
                "{path}.common_http_protocol_options.max_requests_per_connection: Only one of max_requests_per_connection from Cluster or HttpProtocolOptions can be specified"
            ),
        ),
    ] {
        assert_eq!(errors(&[cluster(&fields)]), want);
    }
}

#[test]
fn what_envoy_refuses_of_balancing_and_connecting_is_refused() {
    let one = hosts(&["1.2.3.4"]);
    let path = "static_resources.clusters[0]";
    for (fields, want) in [
        (
            format!("{one}, lb_policy: CLUSTER_PROVIDED"),
            format!(
                "{path}.lb_policy: cluster provided LB specified but cluster 'x' did not provide one. Check cluster documentation."
            ),
        ),
        (
            format!("{one}, lb_policy: LOAD_BALANCING_POLICY_CONFIG"),
            format!("{path}.load_balancing_policy: field load_balancing_policy need to be set"),
        ),
        (
            format!("{one}, circuit_breakers: {{ per_host_thresholds: [{{ max_requests: 1 }}] }}"),
            format!(
                "{path}.circuit_breakers.per_host_thresholds[0]: Unsupported field in per_host_thresholds: only max_connections may be set"
            ),
        ),
        (
            format!(
                "{one}, upstream_bind_config: {{ source_address: {{ address: foo, port_value: 0 }} }}"
            ),
            format!(
                "{path}.upstream_bind_config.source_address.address: malformed IP address: foo"
            ),
        ),
        (
            format!(
                "type: STRICT_DNS, {}, dns_failure_refresh_rate: {{ base_interval: 5s, max_interval: 1s }}",
                hosts(&["a"])
            ),
            format!(
                "{path}.dns_failure_refresh_rate: dns_failure_refresh_rate must have max_interval greater than or equal to the base_interval"
            ),
        ),
        (
            format!("cluster_type: {{ name: envoy.clusters.static }}, {one}"),
            format!(
                "{path}.cluster_type.name: \"envoy.clusters.static\" is not supported; expected one of: envoy.cluster.static, envoy.cluster.strict_dns, envoy.cluster.logical_dns, envoy.cluster.dns, envoy.cluster.eds, envoy.clusters.dynamic_forward_proxy"
            ),
        ),
    ] {
        assert_eq!(errors(&[cluster(&fields)]), want);
    }
}

#[test]
fn all_errors_are_told_at_once() {
    let bad = cluster(&hosts(&["foo", "bar"]));
    let good = cluster(&hosts(&["1.2.3.4"]));
    let told = errors(&[bad, good.clone(), good]);
    let told: Vec<&str> = told.lines().collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!(
        told[2],
        "static_resources.clusters[2].name: cluster manager: duplicate cluster 'x'"
    );
}

#[test]
fn both_spellings_of_http_options_mean_the_same() {
    let one = hosts(&["1.2.3.4"]);
    for (fields, want) in [
        (String::new(), ProtocolSelection::Http1),
        (
            "http2_protocol_options: {}".to_owned(),
            ProtocolSelection::Http2,
        ),
        (
            "protocol_selection: USE_DOWNSTREAM_PROTOCOL".to_owned(),
            ProtocolSelection::Downstream,
        ),
        (
            typed("explicit_http_config: { http_protocol_options: {} }"),
            ProtocolSelection::Http1,
        ),
        (
            typed("explicit_http_config: { http2_protocol_options: {} }"),
            ProtocolSelection::Http2,
        ),
        (
            typed("use_downstream_protocol_config: {}"),
            ProtocolSelection::Downstream,
        ),
    ] {
        let manager = ClusterManager::build(
            &bootstrap(&[cluster(&format!("{one}, {fields}"))]),
            "",
            &Store::new(),
            &Arc::default(),
            (Arc::new(()), Default::default()),
        );
        let info = manager.unwrap().view()[0].info.clone();
        assert_eq!(info.http.protocol, want, "{fields}");
    }
}

#[test]
fn defaults_are_envoys() {
    let fields = format!("alt_stat_name: other, {}", hosts(&["1.2.3.4"]));
    let manager = ClusterManager::build(
        &bootstrap(&[cluster(&fields)]),
        "",
        &Store::new(),
        &Arc::default(),
        (Arc::new(()), Default::default()),
    )
    .unwrap();
    let info = manager.view()[0].info.clone();
    assert_eq!((&*info.name, &*info.observability_name), ("x", "other"));
    assert_eq!(info.connect_timeout.as_secs(), 5);
    assert_eq!(info.per_connection_buffer_limit_bytes, 1 << 20);
    assert_eq!(info.http.idle_timeout.unwrap().as_secs(), 3600);
    assert_eq!(info.balancer.panic_threshold, 50);
    assert_eq!(info.balancer.overprovisioning_factor, 140);
    let limits = info.thresholds(RoutingPriority::High);
    assert_eq!(
        [
            limits.max_connections,
            limits.max_pending_requests,
            limits.max_requests,
            limits.max_retries
        ],
        [1024, 1024, 1024, 3]
    );
}
