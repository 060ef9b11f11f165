use super::*;

/// Formats as `name{tag=value,…}`.
fn show(rules: &TagRules, name: &str) -> String {
    let tagged = rules.extract(name);
    let labels = tagged.labels.iter();
    let labels: Vec<_> = labels
        .map(|(tag, value)| format!("{}={value}", tag.trim_start_matches("envoy.")))
        .collect();
    format!("{}{{{}}}", tagged.name, labels.join(","))
}

/// Compares with Envoy 1.40's output.
#[test]
fn labels_are_those_of_envoy() {
    let rules = TagRules::default();
    for (name, want) in [
        ("server.live", "server.live{}"),
        (
            "cluster.x.upstream_cx_total",
            "cluster.upstream_cx_total{cluster_name=x}",
        ),
        (
            "cluster.x.external.upstream_rq_503",
            "cluster.external.upstream_rq{response_code=503,cluster_name=x}",
        ),
        (
            "cluster.x.upstream_rq_5xx",
            "cluster.upstream_rq_xx{response_code_class=5,cluster_name=x}",
        ),
        (
            "cluster.svc.ns.local_80.upstream_rq_404",
            "cluster.ns.local_80.upstream_rq{response_code=404,cluster_name=svc}",
        ),
        (
            "http.in.downstream_rq_2xx",
            "http.downstream_rq_xx{response_code_class=2,http_conn_manager_prefix=in}",
        ),
        (
            "listener.127.0.0.1_80.http.in.downstream_rq_2xx",
            "listener.http.downstream_rq_xx{response_code_class=2,http_conn_manager_prefix=in,listener_address=127.0.0.1_80}",
        ),
        (
            "listener.[__1]_80.worker_0.downstream_cx_total",
            "listener.worker_downstream_cx_total{worker_id=0,listener_address=[__1]_80}",
        ),
        (
            "listener.my.listener_x.worker_0.downstream_cx_total",
            "listener.listener_x.worker_0.downstream_cx_total{listener_address=my}",
        ),
        (
            "listener.admin.http.admin.downstream_rq_completed",
            "listener.admin.http.downstream_rq_completed{http_conn_manager_prefix=admin}",
        ),
        (
            "listener.admin.main_thread.downstream_cx_total",
            "listener.admin.main_thread.downstream_cx_total{}",
        ),
        (
            "server.worker_1.watchdog_miss",
            "server.worker_watchdog_miss{worker_id=1}",
        ),
        (
            "thread_local_cluster_manager.worker_0.clusters_inflated",
            "thread_local_cluster_manager.worker_clusters_inflated{worker_id=0}",
        ),
        (
            "vhost.backend.vcluster.other.upstream_rq_200",
            "vhost.vcluster.upstream_rq{response_code=200,virtual_cluster=other,virtual_host=backend}",
        ),
        (
            "vhost.v.host.vcluster.other.upstream_rq_total",
            "vhost.host.vcluster.other.upstream_rq_total{virtual_host=v}",
        ),
        (
            "tcp.my_tcp.downstream_cx_total",
            "tcp.downstream_cx_total{tcp_prefix=my_tcp}",
        ),
        ("cluster.", "cluster.{}"),
        ("listener._80", "listener._80{}"),
        ("_rq_200", "_rq{response_code=200}"),
        ("é", "é{}"),
        ("", "{}"),
    ] {
        assert_eq!(show(&rules, name), want);
    }
}

#[test]
fn configured_labels_are_ordered_as_in_envoy() {
    let mut rules = TagRules::default();
    rules.add_fixed("my_fixed", "fx");
    let mut add = |tag, regex| rules.add_regex(tag, regex, Regex::new(regex).unwrap());
    add("my_re", r"^cluster\.((svc_(\w+))\.)");
    add("any", r"(_total)$");
    assert_eq!(
        show(&rules, "cluster.svc_a.upstream_cx_total"),
        "cluster.upstream_cx{any=_total,my_fixed=fx,cluster_name=svc_a,my_re=svc_a}"
    );
    assert_eq!(
        show(&rules, "listener.127.0.0.1_80.worker_0.x"),
        "listener.worker_x{worker_id=0,my_fixed=fx,listener_address=127.0.0.1_80}"
    );
}

#[test]
fn defaults_can_be_chosen_one_by_one() {
    let mut rules = TagRules::without_defaults();
    rules.add_built_in("envoy.cluster_name");
    assert_eq!(
        show(&rules, "cluster.x.upstream_rq_200"),
        "cluster.upstream_rq_200{cluster_name=x}"
    );
}

/// Rules for all names come before those for one first word, so a fixed value takes precedence over the built-in rule
/// for a cluster's name but not over the one for a worker's number.
#[test]
fn the_first_rule_for_a_tag_wins() {
    let mut rules = TagRules::default();
    rules.add_fixed("envoy.cluster_name", "zz");
    rules.add_fixed("envoy.cluster_name", "yy");
    rules.add_fixed("envoy.worker_id", "7");
    assert_eq!(
        show(&rules, "cluster.x.cx"),
        "cluster.x.cx{cluster_name=zz,worker_id=7}"
    );
    assert_eq!(
        show(&rules, "server.worker_0.x"),
        "server.worker_x{worker_id=0,cluster_name=zz}"
    );
    let pattern = r"^cluster\.((svc)_)";
    let regex = || Regex::new(pattern).unwrap();
    let mut rules = TagRules::default();
    rules.add_regex("envoy.cluster_name", pattern, regex());
    assert_eq!(
        show(&rules, "cluster.svc_a.x"),
        "cluster.x{cluster_name=svc_a}"
    );
    rules.remove_built_in("envoy.cluster_name");
    assert_eq!(
        show(&rules, "cluster.svc_a.x"),
        "cluster.a.x{cluster_name=svc}"
    );
}
