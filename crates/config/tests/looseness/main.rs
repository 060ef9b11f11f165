//! How loose and how strict Envoy 1.40.0 is about values: each case was observed with `envoy --mode validate`.

mod messages;

use outrider_config::Format;
use outrider_config::Source;
use outrider_config::load_texts;

/// What Envoy says.
#[derive(Clone, Copy)]
enum EnvoyVerdict {
    Accepts,
    /// Our message contains the text.
    Rejects(&'static str),
}

use EnvoyVerdict::Accepts;
use EnvoyVerdict::Rejects;

const STATIC: &str = "name: c, load_assignment: {cluster_name: c}";

/// The errors of a configuration, one a line; empty when it loads.
fn errors(text: &str, format: Format) -> String {
    let name = "envoy.yaml".to_owned();
    let source = Source {
        name,
        text: text.as_bytes().to_vec(),
        format,
    };
    match load_texts(&[source], false) {
        Ok(_) => String::new(),
        Err(errors) => errors.to_string(),
    }
}

fn check(cases: &[(&str, EnvoyVerdict)], wrap: impl Fn(&str) -> String) {
    let mut wrong = Vec::new();
    for (case, verdict) in cases {
        let errors = errors(&wrap(case), Format::Yaml);
        let is_right = match verdict {
            Accepts => errors.is_empty(),
            Rejects(text) => errors.contains(text),
        };
        if !is_right {
            wrong.push(format!("{case:?} gives {errors:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn cluster(fields: &str) -> String {
    format!("static_resources: {{clusters: [{{name: c, {fields}}}]}}")
}

fn manager(fields: &str) -> String {
    let routes = if fields.contains("route_config") {
        ""
    } else {
        "route_config: {}"
    };
    format!(
        "static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: 1}}}}
    filter_chains:
    - filters:
      - name: anything
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          {fields}
          {routes}
"
    )
}

#[test]
fn enums() {
    let cases = [
        ("type: strict_dns", Accepts),
        ("type: Strict_Dns", Accepts),
        ("type: 1", Accepts),
        ("type: \"1\"", Accepts),
        ("type: FOO", Rejects("expected one of STATIC, STRICT_DNS")),
        ("type: STRICT_DSN", Rejects("did you mean STRICT_DNS?")),
        (
            "type: 77",
            Rejects("value must be one of the defined enum values"),
        ),
        ("type: yes", Rejects("got the boolean yes")),
        ("type: ~", Accepts),
    ];
    check(&cases, cluster);
}

#[test]
fn integers() {
    let port = |value: &str| {
        format!(
            "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {value}}}}}}}"
        )
    };
    let cases = [
        ("\"8080\"", Accepts),
        ("8080.0", Accepts),
        ("8.08e3", Accepts),
        ("0x1F90", Accepts),
        ("017620", Accepts),
        ("+8080", Accepts),
        (
            "0o17620",
            Rejects("expected an integer, got the string \"0o17620\""),
        ),
        ("8_080", Rejects("expected an integer")),
        ("8080.5", Rejects("with a fraction")),
        ("\"8080 \"", Rejects("expected an integer")),
        (
            "70000",
            Rejects("value must be less than or equal to 65535"),
        ),
        (
            "-1",
            Rejects("expected an integer from 0 to 4294967295, got the number -1"),
        ),
        ("true", Rejects("expected an integer, got the boolean true")),
        ("[1]", Rejects("expected an integer, got a list")),
    ];
    check(&cases, port);
    let wrapped = [
        ("per_connection_buffer_limit_bytes: 100", Accepts),
        ("per_connection_buffer_limit_bytes: \"100\"", Accepts),
        ("per_connection_buffer_limit_bytes: {value: 100}", Accepts),
        (
            "per_connection_buffer_limit_bytes: 4294967296",
            Rejects("expected an integer from 0 to 4294967295"),
        ),
        (
            "common_lb_config: {healthy_panic_threshold: {value: 50.5}}",
            Accepts,
        ),
        (
            "common_lb_config: {healthy_panic_threshold: {value: 50}}",
            Accepts,
        ),
        (
            "common_lb_config: {healthy_panic_threshold: {value: 101}}",
            Rejects("inside range [0, 100]"),
        ),
        (
            "common_lb_config: {healthy_panic_threshold: {value: much}}",
            Rejects("expected a number"),
        ),
    ];
    check(&wrapped, cluster);
}

#[test]
fn booleans() {
    let flag = |value: &str| cluster(&format!("ignore_health_on_host_removal: {value}"));
    for value in [
        "true", "\"true\"", "True", "TRUE", "yes", "on", "y", "\"yes\"", "\"1\"", "\"t\"", "n", "~",
    ] {
        check(&[(value, Accepts)], flag);
    }
    check(
        &[("1", Rejects("expected true or false, got the number 1"))],
        flag,
    );
    let wrapper = |value: &str| {
        manager(&format!(
            "stat_prefix: x\n          use_remote_address: {value}"
        ))
    };
    let cases = [
        ("true", Accepts),
        ("\"true\"", Accepts),
        ("yes", Accepts),
        ("1", Rejects("expected true or false")),
    ];
    check(&cases, wrapper);
}

#[test]
fn durations() {
    let timeout = |value: &str| cluster(&format!("connect_timeout: {value}"));
    for value in [
        "0.25s",
        "5s",
        "\"5s\"",
        "{seconds: 5}",
        "{seconds: \"5\"}",
        "{nanos: 250000000}",
        "~",
    ] {
        check(&[(value, Accepts)], timeout);
    }
    let malformed = [
        ".25s",
        "5.s",
        "250ms",
        "1m",
        "1h",
        "5",
        "0.25",
        "\"5\"",
        "5S",
        "1e3s",
        "+5s",
        "0.1234567891s",
        "5 s",
        "315576000001s",
        "true",
        "[5s]",
    ];
    for value in malformed {
        check(
            &[(
                value,
                Rejects("expected a duration in seconds such as 5s or 0.25s"),
            )],
            timeout,
        );
    }
    let cases = [
        ("-1s", Rejects("expected a positive duration")),
        ("0s", Rejects("value must be greater than 0s")),
        (
            "{second: 5}",
            Rejects("no such field in google.protobuf.Duration; did you mean seconds?"),
        ),
        ("9223372037s", Rejects("duration out of range")),
    ];
    check(&cases, timeout);
    check(
        &[(
            "dns_refresh_rate: 0.0005s",
            Rejects("value must be greater than 1ms"),
        )],
        cluster,
    );
}

#[test]
fn strings() {
    let cases = [
        ("alt_stat_name: 1.5", Accepts),
        ("alt_stat_name: 2020-01-01", Accepts),
        ("alt_stat_name: 3000000000", Accepts),
        ("alt_stat_name: 08", Accepts),
        ("alt_stat_name: ${VAR}x", Rejects("malformed YAML")),
        ("alt_stat_name: \"${VAR}\"", Accepts),
        ("alt_stat_name: über", Accepts),
        ("alt_stat_name: a.b|c", Accepts),
        (
            "alt_stat_name: 123",
            Rejects("expected a string, got the number 123: write it in quotes, \"123\""),
        ),
        (
            "alt_stat_name: true",
            Rejects("expected a string, got the boolean true"),
        ),
        ("alt_stat_name: yes", Rejects("write it in quotes, \"yes\"")),
        (
            "alt_stat_name: [a]",
            Rejects("expected a string, got a list"),
        ),
    ];
    check(&cases, cluster);
}

#[test]
fn fields() {
    let cases = [
        ("connectTimeout: 1s", Accepts),
        ("alt_stat_name: a, altStatName: b", Accepts),
        (
            "foo: 1",
            Rejects("clusters[0].foo: no such field in envoy.config.cluster.v3.Cluster"),
        ),
        (
            "connect_timeut: 1s",
            Rejects("did you mean connect_timeout?"),
        ),
        (
            "hosts: []",
            Rejects("no such field in envoy.config.cluster.v3.Cluster; use load_assignment"),
        ),
        ("lb_policy: FOO, lb_policy: ROUND_ROBIN", Accepts),
        (
            "lb_policy: ROUND_ROBIN, lb_policy: FOO",
            Rejects("expected one of ROUND_ROBIN"),
        ),
        ("circuit_breakers: ~", Accepts),
        (
            "circuit_breakers: \"\"",
            Rejects("expected a mapping (envoy.config.cluster.v3.CircuitBreakers)"),
        ),
        ("circuit_breakers: []", Rejects("got a list")),
        (
            "circuit_breakers: {<<: {thresholds: []}}",
            Rejects("merge keys are not expanded"),
        ),
        ("health_checks: []", Accepts),
        ("lb_subset_config: {}", Accepts),
        (
            "lrs_server: {self: {}}",
            Rejects("lrs_server: not supported here"),
        ),
        ("track_timeout_budgets: false", Accepts),
        (
            "track_timeout_budgets: true",
            Rejects("track_timeout_budgets: not supported here"),
        ),
        (
            "type: ORIGINAL_DST",
            Rejects(
                "ORIGINAL_DST is not supported here; supported: STATIC, STRICT_DNS, LOGICAL_DNS",
            ),
        ),
        (
            "type: STATIC, cluster_type: {name: x}",
            Rejects("type is set too, and only one of the two can be"),
        ),
        ("http2_protocol_options: {}", Accepts),
        (
            "dns_resolvers: {socket_address: {address: 1.1.1.1, port_value: 53}}",
            Accepts,
        ),
    ];
    check(&cases, cluster);
}

#[test]
fn documents() {
    let cases = [
        ("static_resources: {clusters: {name: c}}", Accepts),
        (
            "static_resources: {clusters: [~]}",
            Rejects("name: value length must be at least 1 characters"),
        ),
        (
            "foo: 1",
            Rejects("envoy.yaml:1:1: foo: no such field in envoy.config.bootstrap.v3.Bootstrap"),
        ),
        ("x-common: {a: &a 1}\n", Rejects("x-common: no such field")),
        ("!ignore x-common: &a {id: foo}\nnode: *a", Accepts),
        ("dyn: !ignore {}", Rejects("no such field")),
        ("node: {id: &a foo, cluster: *a}", Accepts),
        ("node: {metadata: {a: &a {b: c}, d: {<<: *a}}}", Accepts),
        ("admin: {}\n---\nnonsense: [", Accepts),
        ("---\nadmin: {}", Accepts),
        ("\u{feff}admin: {}", Accepts),
        ("admin: {}\r\nnode: {id: x1}\r\n", Accepts),
        ("header_prefix:\t~\nadmin:\t\n  {}", Accepts),
        ("node:\n\tid: a", Rejects("envoy.yaml:")),
        ("node: {id: aa}\n\t\nadmin: {}", Accepts),
        (
            "node:\n  id: aa\n\t\nadmin: {}",
            Rejects("envoy.yaml:3:1: malformed YAML: a tab"),
        ),
        (
            "{\n\t\"node\": {\n\t\t\"metadata\": {\"a\": 1\n\t\t}\n\t}\n}",
            Accepts,
        ),
        ("{\"node\": {\"id\": \"a\",},}", Accepts),
        ("// comment\n{}", Rejects("envoy.yaml:1:1: ")),
        ("", Rejects("empty: expected a bootstrap")),
        ("# nothing\n", Rejects("empty: expected a bootstrap")),
        (
            "a",
            Rejects(
                "expected a mapping (envoy.config.bootstrap.v3.Bootstrap), got the string \"a\"",
            ),
        ),
        ("- a", Rejects("got a list")),
        ("{}", Accepts),
        (
            "stats_config: {histogram_bucket_settings: {match: {prefix: a}, buckets: [1, 2]}}",
            Accepts,
        ),
        (
            "stats_config: {histogram_bucket_settings: {match: {prefix: a}, buckets: [1, 1]}}",
            Rejects("unique items"),
        ),
        (
            "stats_config: {histogram_bucket_settings: {match: {prefix: a}, buckets: [0]}}",
            Rejects("buckets[0]: value must be greater than 0"),
        ),
        ("node: {id: 1}", Rejects("node.id: expected a string")),
        (
            "node: {id: no}",
            Rejects("node.id: expected a string, got the boolean no"),
        ),
        ("hds_config: {}", Rejects("hds_config: not supported here")),
    ];
    check(&cases, str::to_owned);
}

#[test]
fn runtime_layers() {
    let layer = |layer: &str| format!("layered_runtime: {{layers: [{{name: a, {layer}}}]}}");
    let cases = [
        ("static_layer: {}", Accepts),
        (
            "static_layer: ~",
            Rejects(
                "layers[0]: layer_specifier is required: set one of static_layer, disk_layer, admin_layer",
            ),
        ),
        (
            "static_layer: {re2: {max_program_size: {error_level: 100}}}",
            Accepts,
        ),
        ("static_layer: {a: {b.c: 1}}", Accepts),
        ("static_layer: {a: {numerator: [1]}}", Accepts),
        (
            "static_layer: {a: {b.c: [1]}}",
            Rejects("static_layer[\"a.b.c\"]: Invalid runtime entry value for a.b.c"),
        ),
        (
            "static_layer: {a: ~}",
            Rejects("static_layer[\"a\"]: Invalid runtime entry value for a"),
        ),
        ("admin_layer: {}", Accepts),
        ("disk_layer: {symlink_root: /x}", Accepts),
        ("rtds_layer: {}", Accepts),
    ];
    check(&cases, layer);
}

#[test]
fn json_files() {
    for (text, verdict) in [
        ("{\"node\": {\"id\": 'a', cluster: \"b\"},}", Accepts),
        (
            "{\"node\": {\"id\": 1.5}}",
            Rejects("envoy.yaml:1:17: node.id: expected a string, got the number 1.5"),
        ),
        ("{\"enable_dispatcher_stats\": \"no\"}", Accepts),
        (
            "{\"enable_dispatcher_stats\": no}",
            Rejects("malformed JSON: expected a value, got 'n'"),
        ),
        ("{\"stats_flush_interval\": \"5s\"}", Accepts),
        ("admin: {}", Rejects("malformed JSON")),
        ("[]", Rejects("got a list")),
        ("null", Rejects("got nothing")),
    ] {
        let errors = errors(text, Format::Json);
        match verdict {
            Accepts => assert_eq!(errors, "", "{text}"),
            Rejects(expected) => assert!(errors.contains(expected), "{text} gives {errors}"),
        }
    }
}
