//! `/clusters`.

use std::fmt::Write;

use outrider_config::re2;
use outrider_stats::SharedCounter;
use outrider_stats::SharedGauge;
use outrider_upstream::BreakerResource;
use outrider_upstream::Breakers;
use outrider_upstream::ClusterOrigin;
use outrider_upstream::ClusterView;
use outrider_upstream::HealthFlag;
use outrider_upstream::HealthStatus;
use outrider_upstream::Host;
use outrider_upstream::Locality;
use outrider_upstream::RoutingPriority;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::Parameter;
use super::ParameterKind::Text;
use super::listeners::address;
use crate::Admin;
use crate::request::Request;
use crate::response::AdminResponse;

pub(super) const PARAMETERS: &[Parameter] = &[Parameter {
    name: "filter",
    help: "Regular expression (Google re2) for filtering clusters by name",
    kind: Text,
}];

pub(super) fn clusters(request: &Request, admin: &Admin) -> AdminResponse {
    let filter = request.parameter("filter").filter(|f| !f.is_empty());
    let Ok(filter) = filter.map(|filter| re2::search(&filter)).transpose() else {
        return AdminResponse::error(400, "Invalid re2 regex");
    };
    let mut clusters = admin.control.clusters();
    clusters.retain(|cluster| {
        filter
            .as_ref()
            .is_none_or(|filter| filter.is_match(cluster.info.name.as_bytes()))
    });
    if request.parameter("format").as_deref() == Some("json") {
        let statuses: Vec<_> = clusters.iter().map(status).collect();
        return match statuses.is_empty() {
            true => AdminResponse::json(&json!({})),
            false => AdminResponse::json(&json!({ "cluster_statuses": statuses })),
        };
    }
    AdminResponse::pieces(clusters.into_iter().map(|cluster| {
        let mut text = String::new();
        write(&cluster, &mut text).unwrap_or_default(); // writing to a String cannot fail
        text
    }))
}

fn write(cluster: &ClusterView, to: &mut String) -> std::fmt::Result {
    let name = &cluster.info.name;
    writeln!(
        to,
        "{name}::observability_name::{}",
        cluster.info.observability_name
    )?;
    if let Some([external, local]) = &cluster.outlier_rates {
        for (label, rate) in [
            ("success_rate_average", external.average),
            (
                "success_rate_ejection_threshold",
                external.ejection_threshold,
            ),
            ("local_origin_success_rate_average", local.average),
            (
                "local_origin_success_rate_ejection_threshold",
                local.ejection_threshold,
            ),
        ] {
            writeln!(to, "{name}::outlier::{label}::{}", six_digits(rate))?;
        }
    }
    for (label, priority) in [
        ("default", RoutingPriority::Default),
        ("high", RoutingPriority::High),
    ] {
        for (limit, value) in limits_of(&cluster.breakers, priority) {
            writeln!(to, "{name}::{label}_priority::{limit}::{value}")?;
        }
    }
    let via_api = cluster.info.origin == ClusterOrigin::Api;
    writeln!(to, "{name}::added_via_api::{via_api}")?;
    for host in cluster.hosts() {
        let row = format!("{name}::{}", host.address());
        for (stat, value) in stats_by_name(host) {
            writeln!(to, "{row}::{stat}::{value}")?;
        }
        let Locality {
            region,
            zone,
            sub_zone,
        } = &**host.locality();
        writeln!(to, "{row}::hostname::{}", host.hostname())?;
        writeln!(to, "{row}::health_flags::{}", health_flags(host))?;
        writeln!(to, "{row}::weight::{}", host.weight())?;
        writeln!(to, "{row}::region::{region}")?;
        writeln!(to, "{row}::zone::{zone}")?;
        writeln!(to, "{row}::sub_zone::{sub_zone}")?;
        writeln!(to, "{row}::canary::{}", host.is_canary())?;
        writeln!(to, "{row}::priority::{}", host.priority())?;
        let (external, local) = host.state().success_rates();
        writeln!(to, "{row}::success_rate::{external}")?;
        writeln!(to, "{row}::local_origin_success_rate::{local}")?;
    }
    Ok(())
}

/// A percentage with six digits at most, as C's `%g` prints it.
fn six_digits(percent: f64) -> f64 {
    let digits = match percent.abs() {
        hundred if hundred >= 100.0 => 1e3,
        ten if ten >= 10.0 => 1e4,
        _ => 1e5,
    };
    (percent * digits).round() / digits
}

fn limits_of(breakers: &Breakers, priority: RoutingPriority) -> [(&'static str, u64); 4] {
    [
        ("max_connections", BreakerResource::Connections),
        ("max_pending_requests", BreakerResource::PendingRequests),
        ("max_requests", BreakerResource::Requests),
        ("max_retries", BreakerResource::Retries),
    ]
    .map(|(name, resource)| (name, breakers.max(priority, resource)))
}

fn counters(host: &Host) -> [(&'static str, &SharedCounter); 6] {
    let stats = &host.stats;
    [
        ("cx_connect_fail", &stats.cx_connect_fail),
        ("cx_total", &stats.cx_total),
        ("rq_error", &stats.rq_error),
        ("rq_success", &stats.rq_success),
        ("rq_timeout", &stats.rq_timeout),
        ("rq_total", &stats.rq_total),
    ]
}

fn gauges(host: &Host) -> [(&'static str, &SharedGauge); 3] {
    let stats = &host.stats;
    [
        ("cx_active", &stats.cx_active),
        ("rq_active", &stats.rq_active),
        ("rq_pending_active", &stats.rq_pending_active),
    ]
}

fn level(gauge: &SharedGauge) -> u64 {
    gauge.value().max(0).cast_unsigned()
}

fn stats_by_name(host: &Host) -> Vec<(&'static str, u64)> {
    let counters = counters(host).map(|(name, counter)| (name, counter.value()));
    let gauges = gauges(host).map(|(name, gauge)| (name, level(gauge)));
    let mut all = [counters.as_slice(), &gauges].concat();
    all.sort_unstable();
    all
}

/// All flags that are set, in Envoy's order.
fn health_flags(host: &Host) -> String {
    let (state, eds) = (host.state(), host.eds_health());
    let flags = [
        (state.has(HealthFlag::FailedActiveHc), "/failed_active_hc"),
        (
            state.has(HealthFlag::FailedOutlierCheck),
            "/failed_outlier_check",
        ),
        (eds == HealthStatus::Unhealthy, "/failed_eds_health"),
        (
            state.has(HealthFlag::DegradedActiveHc),
            "/degraded_active_hc",
        ),
        (eds == HealthStatus::Degraded, "/degraded_eds_health"),
        (
            state.has(HealthFlag::PendingDynamicRemoval),
            "/pending_dynamic_removal",
        ),
        (state.has(HealthFlag::PendingActiveHc), "/pending_active_hc"),
        (
            state.has(HealthFlag::ExcludedViaImmediateHcFail),
            "/excluded_via_immediate_hc_fail",
        ),
        (state.has(HealthFlag::ActiveHcTimeout), "/active_hc_timeout"),
        (eds == HealthStatus::Draining, "/eds_status_draining"),
    ];
    let flags: String = (flags.iter().filter(|(set, _)| *set))
        .map(|(_, name)| *name)
        .collect();
    match flags.as_str() {
        "" => "healthy".to_owned(),
        _ => flags,
    }
}

/// `envoy.admin.v3.HostHealthStatus`
fn host_health(host: &Host) -> Value {
    let flag = |flag| host.state().has(flag);
    let fields = [
        (
            "failed_active_health_check",
            flag(HealthFlag::FailedActiveHc),
        ),
        ("failed_outlier_check", flag(HealthFlag::FailedOutlierCheck)),
        ("eds_health_status", true),
        (
            "failed_active_degraded_check",
            flag(HealthFlag::DegradedActiveHc),
        ),
        (
            "pending_dynamic_removal",
            flag(HealthFlag::PendingDynamicRemoval),
        ),
        ("pending_active_hc", flag(HealthFlag::PendingActiveHc)),
        (
            "excluded_via_immediate_hc_fail",
            flag(HealthFlag::ExcludedViaImmediateHcFail),
        ),
        ("active_hc_timeout", flag(HealthFlag::ActiveHcTimeout)),
    ];
    let fields = fields.into_iter().filter(|(_, set)| *set);
    let value = |name| match name {
        "eds_health_status" => health_status(host.eds_health()).into(),
        _ => true.into(),
    };
    let fields = fields.map(|(name, _)| (name.to_owned(), value(name)));
    Value::Object(fields.collect())
}

/// `envoy.config.core.v3.HealthStatus`
pub(super) fn health_status(health: HealthStatus) -> &'static str {
    match health {
        HealthStatus::Healthy => "HEALTHY",
        HealthStatus::Degraded => "DEGRADED",
        HealthStatus::Unhealthy => "UNHEALTHY",
        HealthStatus::Draining => "DRAINING",
    }
}

/// `envoy.admin.v3.ClusterStatus`
fn status(cluster: &ClusterView) -> Value {
    let mut status = json!({ "name": *cluster.info.name });
    let [external, local] = cluster.outlier_rates.unwrap_or_default();
    if external.ejection_threshold > 0.0 {
        status["success_rate_ejection_threshold"] = percent(external.ejection_threshold);
    }
    let hosts: Vec<_> = cluster.hosts().map(|host| host_status(host)).collect();
    if !hosts.is_empty() {
        status["host_statuses"] = hosts.into();
    }
    if local.ejection_threshold > 0.0 {
        status["local_origin_success_rate_ejection_threshold"] = percent(local.ejection_threshold);
    }
    let thresholds: Vec<_> = [RoutingPriority::Default, RoutingPriority::High]
        .map(|priority| {
            let mut shown = Map::new();
            if priority == RoutingPriority::High {
                shown.insert("priority".to_owned(), "HIGH".into());
            }
            let limits = limits_of(&cluster.breakers, priority);
            shown.extend(limits.map(|(name, value)| (name.to_owned(), value.into())));
            shown
        })
        .into_iter()
        .collect();
    status["circuit_breakers"] = json!({ "thresholds": thresholds });
    status["observability_name"] = (*cluster.info.observability_name).into();
    status
}

/// `envoy.admin.v3.HostStatus`. As in protobuf's JSON, fields with their default value are left out.
fn host_status(host: &Host) -> Value {
    let counters = counters(host).map(|(name, counter)| (None, name, counter.value()));
    let gauges = gauges(host).map(|(name, gauge)| (Some("GAUGE"), name, level(gauge)));
    let metrics = counters.into_iter().chain(gauges);
    let metrics: Vec<_> = metrics
        .map(|(kind, name, value)| {
            let mut metric = Map::new();
            if let Some(kind) = kind {
                metric.insert("type".to_owned(), kind.into());
            }
            if value != 0 {
                metric.insert("value".to_owned(), value.to_string().into());
            }
            metric.insert("name".to_owned(), name.into());
            metric
        })
        .collect();
    let mut status = json!({
        "address": address(host.address()),
        "stats": metrics,
        "health_status": host_health(host),
    });
    let (external, local) = host.state().success_rates();
    if external >= 0.0 {
        status["success_rate"] = percent(external);
    }
    status["weight"] = host.weight().into();
    if !host.hostname().is_empty() {
        status["hostname"] = host.hostname().as_ref().into();
    }
    if host.priority() != 0 {
        status["priority"] = host.priority().into();
    }
    if local >= 0.0 {
        status["local_origin_success_rate"] = percent(local);
    }
    status["locality"] = locality(host.locality());
    status
}

/// `envoy.type.v3.Percent`
fn percent(value: f64) -> Value {
    match value {
        0.0 => json!({}),
        value => json!({ "value": value }),
    }
}

/// `envoy.config.core.v3.Locality`
pub(super) fn locality(locality: &Locality) -> Value {
    let Locality {
        region,
        zone,
        sub_zone,
    } = locality;
    let parts = [("region", region), ("zone", zone), ("sub_zone", sub_zone)].into_iter();
    let parts = parts.filter(|(_, value)| !value.is_empty());
    let parts: Map<_, _> = parts
        .map(|(name, value)| (name.to_owned(), value.as_str().into()))
        .collect();
    parts.into()
}

#[cfg(test)]
mod tests {
    use outrider_config::Format;
    use outrider_config::Source;
    use outrider_config::load_texts;
    use outrider_stats::Store;
    use outrider_upstream::ClusterManager;
    use tokio::task::LocalSet;

    use super::*;

    const BOOTSTRAP: &str = r#"
static_resources:
  clusters:
  - name: c
    alt_stat_name: alt
    circuit_breakers: { thresholds: [ { max_connections: 5, max_requests: 7 } ] }
    load_assignment:
      cluster_name: c
      endpoints:
      - locality: { region: r, zone: z, sub_zone: s }
        lb_endpoints:
        - health_status: DRAINING
          load_balancing_weight: 3
          metadata: { filter_metadata: { envoy.lb: { canary: true } } }
          endpoint: { hostname: hn, address: { socket_address: { address: 127.0.0.1, port_value: 18091 } } }
        - endpoint: { address: { pipe: { path: /tmp/x.sock } } }
        - health_status: UNHEALTHY
          endpoint: { address: { socket_address: { address: "::1", port_value: 81 } } }
        - health_status: DEGRADED
          endpoint: { address: { socket_address: { address: 127.0.0.3, port_value: 1 } } }
"#;

    fn cluster() -> ClusterView {
        let source = Source {
            name: "test".into(),
            text: BOOTSTRAP.into(),
            format: Format::Yaml,
        };
        let loaded = load_texts(&[source], false).unwrap();
        let manager = ClusterManager::build(
            &loaded.bootstrap,
            "",
            &Store::new(),
            &std::sync::Arc::default(),
            (std::sync::Arc::new(()), Default::default()),
        )
        .unwrap();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            manager.start();
            manager.initialized().await;
        });
        manager.view().remove(0)
    }

    /// The output of Envoy 1.40 for the same cluster, except that the first host has been used here.
    #[test]
    fn a_cluster_as_text() {
        let cluster = cluster();
        let host = cluster.hosts().next().unwrap();
        host.stats.cx_total.inc();
        host.stats.rq_active.inc();
        let mut text = String::new();
        write(&cluster, &mut text).unwrap();
        let lines: Vec<_> = text.lines().collect();
        let want = "c::observability_name::alt
c::default_priority::max_connections::5
c::default_priority::max_pending_requests::1024
c::default_priority::max_requests::7
c::default_priority::max_retries::3
c::high_priority::max_connections::1024
c::high_priority::max_pending_requests::1024
c::high_priority::max_requests::1024
c::high_priority::max_retries::3
c::added_via_api::false
c::127.0.0.1:18091::cx_active::0
c::127.0.0.1:18091::cx_connect_fail::0
c::127.0.0.1:18091::cx_total::1
c::127.0.0.1:18091::rq_active::1
c::127.0.0.1:18091::rq_error::0
c::127.0.0.1:18091::rq_pending_active::0
c::127.0.0.1:18091::rq_success::0
c::127.0.0.1:18091::rq_timeout::0
c::127.0.0.1:18091::rq_total::0
c::127.0.0.1:18091::hostname::hn
c::127.0.0.1:18091::health_flags::/eds_status_draining
c::127.0.0.1:18091::weight::3
c::127.0.0.1:18091::region::r
c::127.0.0.1:18091::zone::z
c::127.0.0.1:18091::sub_zone::s
c::127.0.0.1:18091::canary::true
c::127.0.0.1:18091::priority::0
c::127.0.0.1:18091::success_rate::-1
c::127.0.0.1:18091::local_origin_success_rate::-1
c::/tmp/x.sock::cx_active::0";
        let want: Vec<_> = want.lines().collect();
        assert_eq!(lines[..want.len()], want);
        for line in [
            "c::/tmp/x.sock::health_flags::healthy",
            "c::[::1]:81::health_flags::/failed_eds_health",
            "c::127.0.0.3:1::health_flags::/degraded_eds_health",
        ] {
            assert!(lines.contains(&line), "{line}");
        }
    }

    #[test]
    fn a_cluster_as_json() {
        let cluster = cluster();
        let first = cluster.hosts().next().unwrap();
        first.stats.rq_success.add(252);
        let shown = status(&cluster);
        let host = &shown["host_statuses"][0];
        let want = json!({
            "address": { "socket_address": { "address": "127.0.0.1", "port_value": 18091 } },
            "stats": [
                { "name": "cx_connect_fail" },
                { "name": "cx_total" },
                { "name": "rq_error" },
                { "value": "252", "name": "rq_success" },
                { "name": "rq_timeout" },
                { "name": "rq_total" },
                { "type": "GAUGE", "name": "cx_active" },
                { "type": "GAUGE", "name": "rq_active" },
                { "type": "GAUGE", "name": "rq_pending_active" },
            ],
            "health_status": { "eds_health_status": "DRAINING" },
            "weight": 3,
            "hostname": "hn",
            "locality": { "region": "r", "zone": "z", "sub_zone": "s" },
        });
        assert_eq!(host.to_string(), want.to_string());
        let high = &shown["circuit_breakers"]["thresholds"][1];
        let want = json!({
            "priority": "HIGH", "max_connections": 1024, "max_pending_requests": 1024,
            "max_requests": 1024, "max_retries": 3,
        });
        assert_eq!(high.to_string(), want.to_string());
        assert_eq!(shown["observability_name"], "alt");
    }
}
