//! Whole messages: their types, their constraints, and the errors about them.

use outrider_config::Format;
use outrider_config::Source;
use outrider_config::load_texts;

use crate::Accepts;
use crate::Rejects;
use crate::STATIC;
use crate::check;
use crate::cluster;
use crate::errors;
use crate::manager;

/// An HTTP connection manager with this list of filters.
fn filters(list: &str) -> String {
    manager(&format!("stat_prefix: x\n          http_filters: [{list}]"))
}

#[test]
fn types() {
    let filter =
        |typed_config: &str| filters(&format!("{{name: a, typed_config: {{{typed_config}}}}}"));
    const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
    let accepted = [
        format!("\"@type\": type.googleapis.com/{ROUTER}"),
        format!("suppress_envoy_headers: true, \"@type\": types.googleapis.com/{ROUTER}"),
        format!(
            "\"@type\": t.com/udpa.type.v1.TypedStruct, type_url: t.com/{ROUTER}, value: {{dynamic_stats: no}}"
        ),
        format!("\"@type\": t.com/xds.type.v3.TypedStruct, type_url: t.com/{ROUTER}"),
    ];
    for case in accepted {
        check(&[(&case, Accepts)], filter);
    }
    let rejected = [
        (
            format!("\"@type\": {ROUTER}"),
            "expected a type URL such as type.googleapis.com/envoy.extensions",
        ),
        (
            format!("\"@type\": /{ROUTER}"),
            "expected a type URL such as type.googleapis.com/envoy.extensions",
        ),
        (
            format!(
                "\"@type\": t.com/xds.type.v3.TypedStruct, type_url: t.com/{ROUTER}, value: {{x: 1}}"
            ),
            "typed_config.x: no such field",
        ),
        (
            "\"@type\": t.com/foo.Bar".to_owned(),
            "unknown type foo.Bar; supported: envoy.extensions",
        ),
        (
            "\"@type\": t.com/envoy.extensions.filters.http.wasm.v3.Wasm".to_owned(),
            "is an Envoy extension that is not supported here",
        ),
        (
            "\"@type\": t.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy".to_owned(),
            "expected one of envoy.filters.http",
        ),
        (
            "\"@type\": t.com/envoy.config.filter.http.router.v2.Router".to_owned(),
            "Envoy removed the v2 API; its v3 name is envoy.extensions",
        ),
        (
            "dynamic_stats: true".to_owned(),
            "expected an \"@type\" beside the fields",
        ),
        (String::new(), "expected an \"@type\""),
    ];
    for (case, text) in rejected {
        check(&[(&case, Rejects(text))], filter);
    }
}

#[test]
fn extensions_need_a_type_and_not_a_name() {
    let router = Rejects(
        "add typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}",
    );
    let cases = [
        (
            "{name: a, config: {}}",
            Rejects("use typed_config with an \"@type\""),
        ),
        ("{name: envoy.filters.http.router}", router),
        ("{name: envoy.router}", router),
        (
            "{typed_config: {\"@type\": t.com/envoy.extensions.filters.http.router.v3.Router}}",
            Rejects("name: value length must be at least 1 characters"),
        ),
        (
            "{name: a, is_optional: true, typed_config: {\"@type\": t.com/foo.Bar}}",
            Rejects("unknown type foo.Bar"),
        ),
        ("", Accepts),
    ];
    check(&cases, filters);
}

#[test]
fn constraints() {
    let manager_cases = [
        (
            "stat_prefix: 123",
            Rejects("stat_prefix: expected a string"),
        ),
        ("stat_prefix: 1.5", Accepts),
        (
            "stat_prefix: ~",
            Rejects("stat_prefix: value length must be at least 1 characters"),
        ),
        (
            "foo: 1",
            Rejects(
                "typed_config.foo: no such field in envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            ),
        ),
        ("stat_prefix: x\n          http_protocol_options:", Accepts),
        ("stat_prefix: x\n          access_log:", Accepts),
        (
            "stat_prefix: x\n          max_request_headers_kb: 9000",
            Rejects("value must be inside range (0, 8192]"),
        ),
        (
            "stat_prefix: x\n          route_config: {virtual_hosts: [{name: v, domains: []}]}",
            Rejects("domains: value must contain at least 1 item(s)"),
        ),
        (
            "stat_prefix: x\n          route_config: {virtual_hosts: [{name: v, domains: \"*\", routes: [{match: {prefix: /}, route: ~}]}]}",
            Rejects("routes[0]: action is required: set one of route, redirect"),
        ),
        (
            "stat_prefix: x\n          route_config: {virtual_hosts: [{name: v, domains: \"*\", routes: [{match: {grpc: }, direct_response: {status: 200}}]}]}",
            Rejects("path_specifier is required"),
        ),
        (
            "stat_prefix: x\n          route_config: {request_headers_to_add: [{header: {key: a, value: 1}}]}",
            Rejects("header.value: expected a string, got the number 1"),
        ),
        (
            "stat_prefix: x\n          route_config: {request_headers_to_add: [{header: {key: a, value: \"1\"}, append: true}]}",
            Accepts,
        ),
        (
            "stat_prefix: x\n          access_log: [{name: a, filter: {or_filter: {filters: [{not_health_check_filter: {}}]}}, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog}}]",
            Rejects("or_filter.filters: value must contain at least 2 item(s)"),
        ),
    ];
    check(&manager_cases, manager);
    let options = |config: &str| {
        cluster(&format!(
            "typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{\"@type\": \
             type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {config}}}}}"
        ))
    };
    let cases = [
        ("{http2_protocol_options: {}}", Accepts),
        (
            "{http2_protocol_options: ~}",
            Rejects("explicit_http_config: protocol_config is required"),
        ),
        (
            "{}",
            Rejects(
                "protocol_config is required: set one of http_protocol_options, http2_protocol_options",
            ),
        ),
        (
            "{http2_protocol_options: {}, http_protocol_options: {}}",
            Rejects("only one of the two can be"),
        ),
        (
            "{http2_protocol_options: {initial_stream_window_size: 1}}",
            Rejects("value must be inside range [65535, 2147483647]"),
        ),
    ];
    check(&cases, options);
}

#[test]
fn warnings_name_deprecated_fields() {
    let source = Source {
        name: "envoy.yaml".to_owned(),
        text: format!("admin: {{access_log_path: /dev/null}}\nstatic_resources: {{clusters: [{{{STATIC}, dns_refresh_rate: 5s}}]}}").into(),
        format: Format::Yaml,
    };
    let loaded = load_texts(&[source], false).unwrap();
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0].starts_with("envoy.yaml:1:26: admin.access_log_path: Deprecated field: "),
        "{warnings:?}"
    );
    assert!(
        warnings[1]
            .contains("'envoy.config.cluster.v3.Cluster.dns_refresh_rate' from file cluster.proto"),
        "{warnings:?}"
    );
}

#[test]
fn all_errors_come_at_once_and_in_order() {
    let text = "node: {id: 1}\nstatic_resources:\n  clusters:\n  - nmae: c\n    type: NOPE\n    connect_timeout: 5\nadmin: {x: 1}\n";
    let errors = errors(text, Format::Yaml);
    let places: Vec<&str> = errors
        .lines()
        .map(|line| line.split(": ").next().unwrap())
        .collect();
    assert_eq!(
        places,
        [
            "envoy.yaml:1:12",
            "envoy.yaml:4:5",
            "envoy.yaml:4:5",
            "envoy.yaml:5:11",
            "envoy.yaml:6:22",
            "envoy.yaml:7:9"
        ],
        "{errors}"
    );
}

#[test]
fn unknown_fields_can_be_allowed() {
    let source = Source {
        name: "e.yaml".to_owned(),
        text: b"foo: 1\nadmin: {}".to_vec(),
        format: Format::Yaml,
    };
    let loaded = load_texts(&[source], true).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.bootstrap.admin.is_some());
}
