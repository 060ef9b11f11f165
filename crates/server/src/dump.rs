//! The options and the config as the admin server prints them, in Envoy's fields and order.

use std::time::SystemTime;

use outrider_admin::ConfigDump;
use outrider_admin::DumpedMessage;
use outrider_admin::DynamicDump;
use outrider_admin::SecretsDump;
use outrider_admin::UnreadyTargets;
use outrider_admin::VersionedMessage;
use outrider_config::api::envoy::config::bootstrap::v3::Bootstrap;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::Secret;
use outrider_config::json::redacted;
use outrider_config::json::to_json;
use outrider_tls::SecretUser as _;
use outrider_xds::DumpedSecret;
use outrider_xds::SecretDump;
use prost::Name as _;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::cli::DrainStrategy;
use crate::cli::IpVersion;
use crate::cli::Mode;
use crate::cli::Options;
use crate::listener_plan::ListenerPlan;

/// The loaded config as bytes, decoded only when `/config_dump` is requested.
pub(crate) struct LoadedBootstrap {
    /// The bootstrap as protobuf bytes.
    wire: Vec<u8>,
    /// The value of `node` to print.
    node: Value,
    loaded_at: SystemTime,
}

/// A resource of a dynamic source as bytes, decoded only when `/config_dump` is requested.
#[derive(Clone, Debug)]
pub(crate) struct DynamicResource {
    /// The message, as protobuf bytes.
    pub(crate) wire: Vec<u8>,
    version: String,
    updated: SystemTime,
}

impl DynamicResource {
    /// A resource that was received now.
    pub(crate) fn new(wire: Vec<u8>, version: &str) -> DynamicResource {
        DynamicResource {
            wire,
            version: version.to_owned(),
            updated: SystemTime::now(),
        }
    }

    /// Its entry in `/config_dump`. It is a message of type `M`.
    pub(crate) fn dump<M: prost::Name>(&self) -> VersionedMessage {
        self.dump_as(&M::full_name())
    }

    fn dump_as(&self, kind: &str) -> VersionedMessage {
        VersionedMessage {
            version: self.version.clone(),
            dumped: DumpedMessage {
                message: redacted(to_json(kind, &self.wire).unwrap_or_default()),
                last_updated: self.updated,
            },
        }
    }
}

impl ListenerPlan {
    /// The sources of secrets and routes that it waits for, as `/init_dump` lists them during start-up.
    pub(crate) fn unready_targets(&self) -> UnreadyTargets {
        let name = &self.config.name;
        let routes = self.connection_managers().filter_map(|manager| {
            let name = &manager.rds()?.route_config_name;
            Some(format!(
                "shared target RdsRouteConfigSubscription RDS init {name}"
            ))
        });
        let references = self.tls().flat_map(|tls| tls.references());
        let secrets = references.filter(|(reference, _)| !reference.is_static());
        let secrets =
            secrets.map(|(reference, _)| format!("shared target SdsApi {}", reference.name));
        UnreadyTargets {
            // The number is a hash of the listener's message.
            name: format!(
                "init manager Listener-local-init-manager {name} {}",
                self.fingerprint()
            ),
            target_names: secrets.chain(routes).collect(),
        }
    }
}

/// The secrets in `/config_dump`.
pub(crate) fn secrets(dump: SecretDump) -> SecretsDump {
    let kind = Secret::full_name();
    let message = |wire: &[u8]| redacted(to_json(&kind, wire).unwrap_or_default());
    let of_source = |secrets: Vec<DumpedSecret>| {
        let secrets = secrets.into_iter().map(|secret| VersionedMessage {
            version: secret.version,
            dumped: DumpedMessage {
                message: message(&secret.wire),
                last_updated: secret.updated,
            },
        });
        secrets.collect()
    };
    SecretsDump {
        statics: dump.statics.iter().map(|wire| message(wire)).collect(),
        active: of_source(dump.active),
        warming: of_source(dump.warming),
    }
}

/// The entries of resources in `/config_dump`.
pub(crate) fn versioned<M: prost::Name>(resources: &[DynamicResource]) -> Vec<VersionedMessage> {
    let kind = M::full_name();
    resources.iter().map(|one| one.dump_as(&kind)).collect()
}

impl LoadedBootstrap {
    pub(crate) fn new(wire: Vec<u8>, node: Value, loaded_at: SystemTime) -> LoadedBootstrap {
        LoadedBootstrap {
            wire,
            node,
            loaded_at,
        }
    }

    /// The bootstrap as protobuf bytes.
    pub(crate) fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// Replaces the config after a reload. The node stays.
    pub(crate) fn reload(&mut self, wire: Vec<u8>, loaded_at: SystemTime) {
        self.wire = wire;
        self.loaded_at = loaded_at;
    }

    /// The content of `/config_dump`.
    pub(crate) fn dump(&self, dynamic: DynamicDump) -> ConfigDump {
        // The bootstrap was decoded from these bytes, so they decode again.
        let loaded = to_json(&Bootstrap::full_name(), &self.wire).unwrap_or_default();
        let loaded = redacted(loaded);
        // `node` is the first field.
        let mut fields = Map::new();
        fields.insert("node".to_owned(), self.node.clone());
        let loaded = loaded.as_object().into_iter().flatten();
        let others = loaded.filter(|(name, _)| *name != "node");
        fields.extend(others.map(|(name, value)| (name.clone(), value.clone())));
        let bootstrap = Value::from(fields);
        let dumped = |message: &Value| DumpedMessage {
            message: message.clone(),
            last_updated: self.loaded_at,
        };
        let resources = &bootstrap["static_resources"];
        let listeners = items(&resources["listeners"]);
        let chains = listeners.iter().flat_map(|listener| {
            items(&listener["filter_chains"])
                .iter()
                .chain(listener.get("default_filter_chain"))
        });
        let filters = chains.flat_map(|chain| items(&chain["filters"]));
        let routes = filters.filter_map(|filter| filter["typed_config"].get("route_config"));
        ConfigDump {
            dynamic,
            clusters: items(&resources["clusters"]).iter().map(dumped).collect(),
            listeners: listeners.iter().map(dumped).collect(),
            routes: routes.map(dumped).collect(),
            bootstrap: dumped(&bootstrap),
        }
    }
}

fn items(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

/// A duration in protobuf's JSON form: seconds without a fraction, or with 3, 6 or 9 decimals.
fn seconds(duration: std::time::Duration) -> String {
    let (whole, nanos) = (duration.as_secs(), duration.subsec_nanos());
    match nanos {
        0 => format!("{whole}s"),
        _ if nanos % 1_000_000 == 0 => format!("{whole}.{:03}s", nanos / 1_000_000),
        _ if nanos % 1_000 == 0 => format!("{whole}.{:06}s", nanos / 1_000),
        _ => format!("{whole}.{nanos:09}s"),
    }
}

/// `envoy.admin.v3.CommandLineOptions`
pub(crate) fn command_line_options(options: &Options) -> Value {
    let disabled: Vec<&str> = options
        .disabled_extensions
        .split(',')
        .filter(|name| !name.is_empty())
        .collect();
    let tags: Vec<String> = options
        .stats_tags
        .iter()
        .map(|(name, value)| format!("{name}:{value}"))
        .collect();
    json!({
        "base_id": options.base_id.to_string(),
        "concurrency": options.concurrency,
        "config_path": options.config_path,
        "config_yaml": options.config_yaml,
        "allow_unknown_static_fields": options.allow_unknown_static_fields,
        "admin_address_path": options.admin_address_path,
        "local_address_ip_version": match options.local_address_ip_version {
            IpVersion::V4 => "v4",
            IpVersion::V6 => "v6",
        },
        "log_level": options.log_level.name(),
        "component_log_level": options.component_log_level,
        "log_format": options.log_format(),
        "log_path": options.log_path,
        "service_cluster": options.service_cluster,
        "service_node": options.service_node,
        "service_zone": options.service_zone,
        "file_flush_interval": seconds(options.file_flush_interval),
        "drain_time": seconds(options.drain_time()),
        "parent_shutdown_time": seconds(options.parent_shutdown_time),
        "mode": match options.mode {
            Mode::Serve => "Serve",
            Mode::Validate => "Validate",
            Mode::InitOnly => "InitOnly",
        },
        "disable_hot_restart": options.disable_hot_restart,
        "enable_mutex_tracing": options.enable_mutex_tracing,
        "restart_epoch": options.restart_epoch,
        "cpuset_threads": options.cpuset_threads,
        "reject_unknown_dynamic_fields": options.reject_unknown_dynamic_fields,
        "log_format_escaped": options.log_format_escaped,
        "disabled_extensions": disabled,
        "ignore_unknown_dynamic_fields": options.ignore_unknown_dynamic_fields,
        "use_dynamic_base_id": options.use_dynamic_base_id,
        "base_id_path": options.base_id_path,
        "drain_strategy": match options.drain_strategy {
            DrainStrategy::Gradual => "Gradual",
            DrainStrategy::Immediate => "Immediate",
        },
        "enable_fine_grain_logging": options.enable_fine_grain_logging,
        "socket_path": options.socket_path,
        "socket_mode": options.socket_mode,
        "enable_core_dump": options.enable_core_dump,
        "stats_tag": tags,
        "skip_hot_restart_on_no_parent": options.skip_hot_restart_on_no_parent,
        "skip_hot_restart_parent_stats": options.skip_hot_restart_parent_stats,
        "skip_deprecated_logs": options.skip_deprecated_logs,
        "file_flush_min_size": options.file_flush_min_size_kb,
        "log_stacktrace_single_entry": options.log_stacktrace_single_entry,
    })
}
