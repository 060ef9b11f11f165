//! The event log of outlier detection: a line of JSON for each ejection and return, as Envoy writes it
//! (`envoy.data.cluster.v3.OutlierDetectionEvent`).

use std::time::SystemTime;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use tokio::time::Instant;

use super::EjectionType;
use super::Watched;
use crate::health_check::timestamp;

/// The line for a host that was ejected, or would have been. `rates` are the mean of all success rates and the least that is
/// allowed.
pub(super) fn ejected(
    watched: &Watched,
    kind: EjectionType,
    enforced: bool,
    rates: (f64, f64),
    cluster: &str,
) -> Vec<u8> {
    let monitor = watched.host.state().monitor();
    let (external, local) = monitor.map_or((-1.0, -1.0), |monitor| monitor.success_rates());
    let rate = match kind {
        EjectionType::SuccessRateLocalOrigin | EjectionType::FailurePercentageLocalOrigin => local,
        _ => external,
    };
    let detail = match kind {
        EjectionType::SuccessRate | EjectionType::SuccessRateLocalOrigin => (
            "eject_success_rate_event",
            json!({
                "host_success_rate": whole(rate),
                "cluster_average_success_rate": whole(rates.0),
                "cluster_success_rate_ejection_threshold": whole(rates.1),
            }),
        ),
        EjectionType::FailurePercentage | EjectionType::FailurePercentageLocalOrigin => (
            "eject_failure_percentage_event",
            json!({ "host_success_rate": whole(rate) }),
        ),
        EjectionType::Consecutive5xx
        | EjectionType::ConsecutiveGatewayFailure
        | EjectionType::ConsecutiveLocalOriginFailure => ("eject_consecutive_event", json!({})),
    };
    let action = RecordedAction {
        name: "EJECT",
        kind: kind.name(),
        enforced,
        since: watched.unejected,
    };
    line(watched, &action, Some(detail), cluster)
}

/// The line for a host that has come back.
pub(super) fn unejected(watched: &Watched, cluster: &str) -> Vec<u8> {
    let action = RecordedAction {
        name: "UNEJECT",
        kind: "CONSECUTIVE_5XX",
        enforced: false,
        since: watched.ejected,
    };
    line(watched, &action, None, cluster)
}

/// A percentage without its fraction, as the message has it; unsigned, so that an unknown one is none.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=100"
)]
fn whole(percent: f64) -> u32 {
    percent.clamp(0.0, 100.0) as u32
}

/// What was done, and when the opposite was done last.
struct RecordedAction {
    name: &'static str,
    kind: &'static str,
    enforced: bool,
    since: Option<Instant>,
}

fn line(
    watched: &Watched,
    action: &RecordedAction,
    detail: Option<(&str, Value)>,
    cluster: &str,
) -> Vec<u8> {
    let mut line = Map::new();
    let mut set = |name: &str, value: Value| line.insert(name.to_owned(), value);
    set("type", action.kind.into());
    set("timestamp", timestamp(SystemTime::now()).into());
    if let Some(since) = action.since {
        set(
            "secs_since_last_action",
            since.elapsed().as_secs().to_string().into(),
        );
    }
    set("cluster_name", cluster.into());
    set("upstream_url", watched.host.address().to_string().into());
    set("action", action.name.into());
    set("num_ejections", watched.ejections.into());
    set("enforced", action.enforced.into());
    if let Some((name, value)) = detail {
        set(name, value);
    }
    let mut bytes = Value::Object(line).to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}

impl EjectionType {
    fn name(self) -> &'static str {
        match self {
            EjectionType::Consecutive5xx => "CONSECUTIVE_5XX",
            EjectionType::ConsecutiveGatewayFailure => "CONSECUTIVE_GATEWAY_FAILURE",
            EjectionType::ConsecutiveLocalOriginFailure => "CONSECUTIVE_LOCAL_ORIGIN_FAILURE",
            EjectionType::SuccessRate => "SUCCESS_RATE",
            EjectionType::SuccessRateLocalOrigin => "SUCCESS_RATE_LOCAL_ORIGIN",
            EjectionType::FailurePercentage => "FAILURE_PERCENTAGE",
            EjectionType::FailurePercentageLocalOrigin => "FAILURE_PERCENTAGE_LOCAL_ORIGIN",
        }
    }
}
