//! The event log of health checks: a line of JSON for each change, as Envoy writes it (`envoy.data.core.v3.HealthCheckEvent`).

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use outrider_net::Address;
use outrider_net::PipeAddress;
use prost::Message as _;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::FailureType;
use crate::Host;
use crate::Locality;

/// Opens the files that events are written to.
pub trait EventFiles: fmt::Debug + Send + Sync {
    /// The file at `path`, which may be open already.
    ///
    /// # Errors
    /// Why it cannot be opened.
    fn open(&self, path: &str) -> Result<Arc<dyn EventFile>, String>;
}

/// A file that events are written to.
pub trait EventFile: fmt::Debug + Send + Sync {
    /// Writes a line, without blocking.
    fn write(&self, line: Vec<u8>);
}

/// Refuses every file, where no log may be written.
impl EventFiles for () {
    fn open(&self, path: &str) -> Result<Arc<dyn EventFile>, String> {
        Err(format!("unable to open file '{path}': no log files here"))
    }
}

/// What has happened to a host.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// It has become unhealthy.
    EjectUnhealthy { kind: FailureType, status: u16 },
    /// It has become healthy.
    AddHealthy { first_check: bool },
    /// A check has failed.
    HealthCheckFailure {
        kind: FailureType,
        first_check: bool,
        status: u16,
    },
    /// It has become degraded.
    DegradedHealthyHost,
    /// It is no longer degraded.
    NoLongerDegradedHost,
    /// A check has passed.
    SuccessfulHealthCheck,
}

/// The line for `event` of a host of `cluster`. Fields are in the order of their numbers.
pub(super) fn line(event: &Event, checker_type: &str, host: &Host, cluster: &str) -> Vec<u8> {
    let (name, content) = content(event);
    // The numbers of these two are lower than the timestamp's.
    let early = matches!(
        event,
        Event::EjectUnhealthy { .. } | Event::AddHealthy { .. }
    );
    let mut line = Map::new();
    let mut set = |name: &str, value: Value| line.insert(name.to_owned(), value);
    set("health_checker_type", checker_type.into());
    set("host", address(host.address()));
    set("cluster_name", cluster.into());
    if early {
        set(name, content.clone());
    }
    set("timestamp", timestamp(SystemTime::now()).into());
    let late = matches!(event, Event::SuccessfulHealthCheck);
    if !early && !late {
        set(name, content.clone());
    }
    if let Some(metadata) = host.metadata() {
        let metadata = outrider_config::json::to_json(METADATA, &metadata.encode_to_vec());
        if let Ok(mut metadata) = metadata {
            for field in ["filter_metadata", "typed_filter_metadata"] {
                if metadata.get(field).is_none() {
                    metadata[field] = json!({});
                }
            }
            set("metadata", metadata);
        }
    }
    let Locality {
        region,
        zone,
        sub_zone,
    } = &**host.locality();
    set(
        "locality",
        json!({ "region": region, "zone": zone, "sub_zone": sub_zone }),
    );
    if late {
        set(name, content);
    }
    let mut bytes = Value::Object(line).to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}

const METADATA: &str = "envoy.config.core.v3.Metadata";

fn content(event: &Event) -> (&'static str, Value) {
    match event {
        Event::EjectUnhealthy { kind, status } => (
            "eject_unhealthy_event",
            json!({ "failure_type": kind.name(), "http_status_code": status }),
        ),
        Event::AddHealthy { first_check } => {
            ("add_healthy_event", json!({ "first_check": first_check }))
        }
        Event::HealthCheckFailure {
            kind,
            first_check,
            status,
        } => (
            "health_check_failure_event",
            json!({
                "failure_type": kind.name(), "first_check": first_check, "http_status_code": status,
            }),
        ),
        Event::DegradedHealthyHost => ("degraded_healthy_host", json!({})),
        Event::NoLongerDegradedHost => ("no_longer_degraded_host", json!({})),
        Event::SuccessfulHealthCheck => ("successful_health_check_event", json!({})),
    }
}

/// `envoy.config.core.v3.Address`, with all fields that have a default.
fn address(address: &Address) -> Value {
    match address {
        Address::Ip(ip) => json!({
            "socket_address": {
                "protocol": "TCP", "address": ip.ip().to_string(), "port_value": ip.port(),
                "resolver_name": "", "ipv4_compat": false, "network_namespace_filepath": "",
            }
        }),
        Address::Pipe(pipe) => {
            let path = match pipe {
                PipeAddress::Path { path, .. } => path.display().to_string(),
                PipeAddress::Abstract(name) => format!("@{}", String::from_utf8_lossy(name)),
            };
            json!({ "pipe": { "path": path, "mode": 0 } })
        }
        Address::Internal(internal) => json!({
            "envoy_internal_address": {
                "server_listener_name": &*internal.listener, "endpoint_id": &*internal.endpoint_id,
            }
        }),
    }
}

/// RFC 3339, with milliseconds if there are any.
pub(crate) fn timestamp(time: SystemTime) -> String {
    let Ok(time) = jiff::Timestamp::try_from(time) else {
        return String::new();
    };
    match time.subsec_millisecond() {
        0 => time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        _ => time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
    }
}
