//! `/config_dump`: the loaded config, as messages of `envoy.admin.v3`.

mod lists;

use std::time::SystemTime;

use outrider_config::api::envoy::r#type::matcher::v3::RegexMatcher;
use outrider_config::re2::FullRegex;
use outrider_upstream::ClusterView;
use outrider_upstream::Host;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use self::lists::CLUSTER_LISTS;
use self::lists::ENDPOINT_LISTS;
use self::lists::LISTENER_LISTS;
use self::lists::List;
use self::lists::ROUTE_LISTS;
use self::lists::SCOPED_ROUTE_LISTS;
use self::lists::SECRET_LISTS;
use super::Parameter;
use super::ParameterKind::Flag;
use super::ParameterKind::Text;
use super::clusters::health_status;
use super::clusters::locality;
use super::listeners::address;
use crate::Admin;
use crate::DumpedMessage;
use crate::DynamicListener;
use crate::FailedUpdate;
use crate::SecretsDump;
use crate::VersionedMessage;
use crate::request::Request;
use crate::response::AdminResponse;

pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "resource",
        help: "The resource to dump",
        kind: Text,
    },
    Parameter {
        name: "mask",
        help: "The mask to apply. When both resource and mask are specified, the mask is applied to every element in the desired repeated field so that only a subset of fields are returned. The mask is parsed as a Protobuf::FieldMask",
        kind: Text,
    },
    Parameter {
        name: "name_regex",
        help: "Dump only the currently loaded configurations whose names match the specified regex. Can be used with both resource and mask query parameters.",
        kind: Text,
    },
    Parameter {
        name: "include_eds",
        help: "Dump currently loaded configuration including EDS. See the response definition for more information",
        kind: Flag,
    },
];

/// One message of the dump: its type, its possible fields, and its content.
struct DumpSection {
    message: &'static str,
    /// The repeated fields, each with the fields and the type of its elements.
    lists: &'static [List],
    /// The fields that are not repeated.
    singles: &'static [&'static str],
    fields: Vec<(&'static str, Value)>,
}

pub(super) fn config_dump(request: &Request, admin: &Admin) -> AdminResponse {
    let non_empty = |name| request.parameter(name).filter(|value| !value.is_empty());
    let resource = non_empty("resource");
    let mask = non_empty("mask");
    let names = match non_empty("name_regex") {
        None => None,
        Some(pattern) => match FullRegex::compile(&RegexMatcher {
            regex: pattern.clone(),
            ..RegexMatcher::default()
        }) {
            Ok(regex) => Some(regex),
            Err(error) => {
                let text = "INVALID_ARGUMENT: Error while parsing name_regex from";
                return AdminResponse::error(400, format!("{text} {pattern}: {error}"))
                    .with_type("text/plain");
            }
        },
    };
    let sections = sections(admin, names.as_ref(), request.has("include_eds"));
    let configs = match resource {
        Some(resource) => elements(&sections, &resource, mask.as_deref()),
        None => whole(sections, mask.as_deref()),
    };
    match configs {
        Ok(configs) if configs.is_empty() => AdminResponse::json(&json!({})),
        Ok(configs) => AdminResponse::json(&json!({ "configs": configs })),
        Err(response) => response,
    }
}

fn refuse(status: u16, text: String) -> AdminResponse {
    AdminResponse::error(status, text)
        .with_type("text/plain")
        .with_double_nosniff()
}

/// All sections, in Envoy's order.
fn sections(admin: &Admin, names: Option<&FullRegex>, endpoints: bool) -> Vec<DumpSection> {
    let dump = admin.control.config_dump();
    let dynamic = dump.dynamic;
    let bootstrap = DumpSection {
        message: "BootstrapConfigDump",
        lists: &[],
        singles: &["bootstrap", "last_updated"],
        fields: vec![
            ("bootstrap", dump.bootstrap.message),
            ("last_updated", timestamp(dump.bootstrap.last_updated)),
        ],
    };
    let active = versioned(dynamic.active_clusters, ("cluster", CLUSTER), names);
    let warming = versioned(dynamic.warming_clusters, ("cluster", CLUSTER), names);
    let clusters = DumpSection::empty("ClustersConfigDump", CLUSTER_LISTS)
        .with_version(&dynamic.clusters_version)
        .with(
            "static_clusters",
            unversioned(dump.clusters, ("cluster", CLUSTER), names),
        )
        .with("dynamic_active_clusters", active)
        .with("dynamic_warming_clusters", warming);
    let listeners = DumpSection::empty("ListenersConfigDump", LISTENER_LISTS)
        .with_version(&dynamic.listeners_version)
        .with(
            "static_listeners",
            unversioned(dump.listeners, ("listener", LISTENER), names),
        )
        .with(
            "dynamic_listeners",
            dynamic_listeners(dynamic.listeners, names),
        );
    let routes = DumpSection::empty("RoutesConfigDump", ROUTE_LISTS)
        .with(
            "static_route_configs",
            unversioned(dump.routes, ("route_config", ROUTES), names),
        )
        .with(
            "dynamic_route_configs",
            versioned(dynamic.routes, ("route_config", ROUTES), names),
        );
    let endpoints = endpoints.then(|| endpoints_section(admin, names));
    let mut sections = vec![bootstrap, clusters];
    sections.extend(endpoints);
    sections.extend([
        listeners,
        DumpSection::empty("ScopedRoutesConfigDump", SCOPED_ROUTE_LISTS),
        routes,
        secrets_section(dynamic.secrets, names),
    ]);
    sections
}

/// The secrets, with their keys redacted.
fn secrets_section(secrets: SecretsDump, names: Option<&FullRegex>) -> DumpSection {
    let statics = secrets.statics.into_iter().filter_map(|secret| {
        let name = secret["name"].clone();
        let secret = is_named(&name, names).then(|| typed(SECRET, secret))?;
        Some(json!({ "name": name, "secret": secret }))
    });
    let dynamic = |secrets: Vec<VersionedMessage>| {
        let secrets = secrets.into_iter().filter_map(|secret| {
            let name = secret.dumped.message["name"].clone();
            is_named(&name, names).then(|| {
                json!({
                    "name": name,
                    "version_info": secret.version,
                    "last_updated": timestamp(secret.dumped.last_updated),
                    "secret": typed(SECRET, secret.dumped.message),
                })
            })
        });
        secrets.collect()
    };
    DumpSection::empty("SecretsConfigDump", SECRET_LISTS)
        .with("static_secrets", statics.collect())
        .with("dynamic_active_secrets", dynamic(secrets.active))
        .with("dynamic_warming_secrets", dynamic(secrets.warming))
}

/// The endpoints of all clusters.
fn endpoints_section(admin: &Admin, names: Option<&FullRegex>) -> DumpSection {
    let clusters = admin.control.clusters().into_iter();
    let assignments: Vec<_> = clusters
        .map(|cluster| assignment(&cluster))
        .filter(|assignment| is_named(&assignment["cluster_name"], names))
        .map(|assignment| {
            let kind = "envoy.config.endpoint.v3.ClusterLoadAssignment";
            json!({ "endpoint_config": typed(kind, assignment) })
        })
        .collect();
    let mut section = DumpSection::empty("EndpointsConfigDump", ENDPOINT_LISTS);
    // Envoy shows this list even if it is empty.
    let fields = [("static_endpoint_configs", assignments.into())];
    section.fields.extend(fields);
    section
}

/// The listeners of a source of resources. As in Envoy, `names` does not select failures.
fn dynamic_listeners(listeners: Vec<DynamicListener>, names: Option<&FullRegex>) -> Vec<Value> {
    let state = |state: Option<VersionedMessage>| {
        let states = versioned(state.into_iter().collect(), ("listener", LISTENER), names);
        states.into_iter().next()
    };
    let shown = listeners.into_iter().filter_map(|listener| {
        let mut fields = Map::new();
        if !listener.name.is_empty() {
            fields.insert("name".to_owned(), listener.name.into());
        }
        let states = [
            ("active_state", state(listener.active)),
            ("draining_state", state(listener.draining)),
            ("error_state", listener.failed.map(failure)),
        ];
        let states: Vec<_> = (states.into_iter())
            .filter_map(|(field, state)| Some((field.to_owned(), state?)))
            .collect();
        let is_shown = !states.is_empty();
        fields.extend(states);
        is_shown.then(|| fields.into())
    });
    shown.collect()
}

/// `envoy.admin.v3.UpdateFailureState` of a listener.
fn failure(failed: FailedUpdate) -> Value {
    let mut fields = Map::new();
    let message = typed(LISTENER, failed.message);
    fields.insert("failed_configuration".to_owned(), message);
    if let Some(at) = failed.at {
        fields.insert("last_update_attempt".to_owned(), timestamp(at));
    }
    fields.insert("details".to_owned(), failed.details.into());
    fields.into()
}

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const LISTENER: &str = "envoy.config.listener.v3.Listener";
const SECRET: &str = "envoy.extensions.transport_sockets.tls.v3.Secret";
const ROUTES: &str = "envoy.config.route.v3.RouteConfiguration";

impl DumpSection {
    /// A section of lists that are all empty.
    fn empty(message: &'static str, lists: &'static [List]) -> DumpSection {
        DumpSection {
            message,
            lists,
            singles: &[],
            fields: Vec::new(),
        }
    }

    /// Adds a list, unless it is empty.
    fn with(mut self, list: &'static str, elements: Vec<Value>) -> DumpSection {
        if !elements.is_empty() {
            self.fields.push((list, elements.into()));
        }
        self
    }

    /// Adds the version of the source of its resources, unless it is empty.
    fn with_version(mut self, version: &str) -> DumpSection {
        self.singles = &["version_info"];
        if !version.is_empty() {
            self.fields.push(("version_info", version.into()));
        }
        self
    }
}

/// Messages of the bootstrap, each under `field`.
fn unversioned(
    messages: Vec<DumpedMessage>,
    field: (&'static str, &str),
    names: Option<&FullRegex>,
) -> Vec<Value> {
    let messages = messages.into_iter().map(|dumped| VersionedMessage {
        version: String::new(),
        dumped,
    });
    versioned(messages.collect(), field, names)
}

/// Messages of a source of resources, each under `field` and with its version, unless that is empty.
fn versioned(
    messages: Vec<VersionedMessage>,
    (field, kind): (&'static str, &str),
    names: Option<&FullRegex>,
) -> Vec<Value> {
    let named = messages
        .into_iter()
        .filter(|message| is_named(&message.dumped.message["name"], names));
    let shown = named.map(|VersionedMessage { version, dumped }| {
        let mut fields = Map::new();
        if !version.is_empty() {
            fields.insert("version_info".to_owned(), version.into());
        }
        fields.insert(field.to_owned(), typed(kind, dumped.message));
        fields.insert("last_updated".to_owned(), timestamp(dumped.last_updated));
        Value::from(fields)
    });
    shown.collect()
}

fn is_named(name: &Value, names: Option<&FullRegex>) -> bool {
    names.is_none_or(|names| names.is_match(name.as_str().unwrap_or_default().as_bytes()))
}

fn typed(kind: &str, message: Value) -> Value {
    let mut typed = Map::new();
    let url = format!("type.googleapis.com/{kind}");
    typed.insert("@type".to_owned(), url.into());
    if let Value::Object(fields) = message {
        typed.extend(fields);
    }
    typed.into()
}

/// All sections. With a mask, only the sections that have all its fields, reduced to these fields.
fn whole(sections: Vec<DumpSection>, mask: Option<&str>) -> Result<Vec<Value>, AdminResponse> {
    let paths: Option<Vec<&str>> = mask.map(|mask| mask.split(',').collect());
    let shown = sections.into_iter().filter_map(|section| {
        let has = |path: &str| match path.split_once('.') {
            // A path cannot lead into a repeated field.
            Some((first, _)) => section.singles.contains(&first),
            None => {
                section.singles.contains(&path)
                    || section.lists.iter().any(|list| list.name == path)
            }
        };
        if paths
            .as_ref()
            .is_some_and(|paths| !paths.iter().all(|path| has(path)))
        {
            return None;
        }
        let fields = section.fields.into_iter();
        let fields: Map<_, _> = fields
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let mut message = Value::from(fields);
        if let Some(paths) = &paths {
            message = masked(&message, paths);
        }
        Some(typed(
            &format!("envoy.admin.v3.{}", section.message),
            message,
        ))
    });
    let shown: Vec<_> = shown.collect();
    match mask {
        Some(mask) if shown.is_empty() => Err(refuse(
            400,
            format!("FieldMask {mask} could not be successfully applied to any configs."),
        )),
        _ => Ok(shown),
    }
}

/// The elements of one repeated field, each reduced to the fields of a mask.
fn elements(
    sections: &[DumpSection],
    resource: &str,
    mask: Option<&str>,
) -> Result<Vec<Value>, AdminResponse> {
    for section in sections {
        if section.singles.contains(&resource) {
            let text = format!(
                "{resource} is not a repeated field. Use ?mask={resource} to get only this field"
            );
            return Err(refuse(400, text));
        }
        let Some(list) = section.lists.iter().find(|list| list.name == resource) else {
            continue;
        };
        let paths: Option<Vec<&str>> = mask.map(|mask| mask.split(',').collect());
        let is_known = |path: &&str| {
            let first = path.split('.').next().unwrap_or_default();
            list.element_fields.contains(&first)
        };
        if let Some(unknown) = paths.iter().flatten().find(|path| !is_known(path)) {
            let text = format!("FieldMask paths: \"{unknown}\"\n could not be successfully used.");
            return Err(refuse(400, text));
        }
        let kind = format!("envoy.admin.v3.{}.{}", section.message, list.element);
        let found = section.fields.iter().find(|(name, _)| *name == resource);
        let elements = found.and_then(|(_, elements)| elements.as_array());
        let elements = elements.into_iter().flatten().map(|element| {
            let element = match &paths {
                Some(paths) => masked(element, paths),
                None => element.clone(),
            };
            typed(&kind, element)
        });
        return Ok(elements.collect());
    }
    Err(refuse(404, format!("{resource} not found in config dump")))
}

/// `message` with only the fields at `paths`, and the `@type` of the messages around them.
fn masked(message: &Value, paths: &[&str]) -> Value {
    let Value::Object(fields) = message else {
        return message.clone();
    };
    let kept = fields.iter().filter_map(|(name, value)| {
        let mut below = Vec::new();
        for path in paths {
            match path.split_once('.') {
                None if path == name => return Some((name.clone(), value.clone())),
                Some((first, rest)) if first == name => below.push(rest),
                _ => {}
            }
        }
        let keeps_type = name == "@type";
        let value = match below.is_empty() {
            true => value.clone(),
            false => masked(value, &below),
        };
        (keeps_type || !below.is_empty()).then(|| (name.clone(), value))
    });
    kept.collect::<Map<_, _>>().into()
}

/// `envoy.config.endpoint.v3.ClusterLoadAssignment` of the current hosts.
fn assignment(cluster: &ClusterView) -> Value {
    let mut localities: Vec<(u32, Value, Vec<Value>)> = Vec::new();
    for host in cluster.hosts() {
        let (priority, place) = (host.priority(), locality(host.locality()));
        let known = localities
            .iter()
            .position(|(p, known, _)| *p == priority && *known == place);
        let at = known.unwrap_or_else(|| {
            localities.push((priority, place, Vec::new()));
            localities.len() - 1
        });
        localities[at].2.push(endpoint(host));
    }
    let endpoints: Vec<_> = localities
        .into_iter()
        .map(|(priority, locality, hosts)| {
            let mut shown =
                json!({ "locality": locality, "lb_endpoints": hosts, "load_balancing_weight": 0 });
            if priority != 0 {
                shown["priority"] = priority.into();
            }
            shown
        })
        .collect();
    let mut shown = json!({ "cluster_name": *cluster.info.name });
    if !endpoints.is_empty() {
        shown["endpoints"] = endpoints.into();
    }
    shown["policy"] = json!({ "overprovisioning_factor": 140 });
    shown
}

fn endpoint(host: &Host) -> Value {
    let mut endpoint = json!({ "address": address(host.address()), "health_check_config": {} });
    if !host.hostname().is_empty() {
        endpoint["hostname"] = host.hostname().as_ref().into();
    }
    json!({
        "endpoint": endpoint,
        "health_status": health_status(host.eds_health()),
        "load_balancing_weight": host.weight(),
    })
}

/// Formats `time` like `2026-11-22T18:41:32.961Z`.
fn timestamp(time: SystemTime) -> Value {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let millis = since.unwrap_or_default().subsec_millis();
    match date_and_time(time) {
        Some(text) => format!("{text}.{millis:03}Z").into(),
        None => Value::Null,
    }
}

/// Formats `time` like `2026-11-22T18:41:32`. The date comes from httpdate's `Sun, 22 Nov 2026 18:41:32 GMT`.
pub(super) fn date_and_time(time: SystemTime) -> Option<String> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let http = httpdate::fmt_http_date(time);
    let parts: Vec<&str> = http.split(' ').collect();
    let [_, day, month, year, clock, _] = parts.as_slice() else {
        return None; // httpdate always prints six words
    };
    let month = MONTHS.find(month).unwrap_or_default() / 3 + 1;
    Some(format!("{year}-{month:02}-{day}T{clock}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timestamps_are_protobufs() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_372_892_961);
        assert_eq!(timestamp(time), "2026-11-22T18:41:32.961Z");
    }

    #[test]
    fn masks_keep_types() {
        let message = json!({
            "cluster": { "@type": "t", "name": "a", "type": "STATIC" }, "last_updated": "x",
        });
        let kept = masked(&message, &["cluster.name"]);
        assert_eq!(kept, json!({ "cluster": { "@type": "t", "name": "a" } }));
        let kept = masked(&message, &["cluster", "last_updated"]);
        assert_eq!(kept, message);
    }
}
