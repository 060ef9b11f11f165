//! The node: this proxy's identity, which the admin server shows and control planes receive.

use outrider_config::api::envoy::config::core::v3::BuildVersion;
use outrider_config::api::envoy::config::core::v3::Extension;
use outrider_config::api::envoy::config::core::v3::Locality;
use outrider_config::api::envoy::config::core::v3::Node;
use outrider_config::api::envoy::config::core::v3::node::UserAgentVersionType;
use outrider_config::api::envoy::r#type::v3::SemanticVersion;
use outrider_config::extensions;
use outrider_config::json::to_json;
use prost::Message as _;
use prost::Name as _;
use prost_types::Struct;
use prost_types::value::Kind;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::cli::Options;
use crate::cli::VERSION;

/// The bootstrap's `node`, completed with this program's name, version and extensions.
pub(crate) fn complete(node: Option<&Node>) -> Node {
    let mut node = node.cloned().unwrap_or_default();
    // Control planes and scripts choose by this name and version which API to speak, and that is Envoy's.
    if node.user_agent_name.is_empty() {
        "envoy".clone_into(&mut node.user_agent_name);
    }
    // As in Envoy, a version in the config is replaced unless it is the structured one.
    if !matches!(
        node.user_agent_version_type,
        Some(UserAgentVersionType::UserAgentBuildVersion(_))
    ) {
        let version = UserAgentVersionType::UserAgentBuildVersion(build_version());
        node.user_agent_version_type = Some(version);
    }
    let extensions = extensions().into_iter();
    node.extensions
        .extend(extensions.map(|extension| Extension {
            name: extension.name.to_owned(),
            category: extension.category.to_owned(),
            type_urls: extension.type_names.iter().map(|&t| t.to_owned()).collect(),
            ..Extension::default()
        }));
    node
}

/// `node` with the values that the command line overrides.
pub(crate) fn with_options(mut node: Node, options: &Options) -> Node {
    node.id = options.service_node(&node).to_owned();
    node.cluster = options.service_cluster(&node).to_owned();
    if !options.service_zone.is_empty() {
        let locality = node.locality.get_or_insert_default();
        locality.zone.clone_from(&options.service_zone);
    }
    node
}

/// The parts of [`VERSION`].
fn build_version() -> BuildVersion {
    let mut parts = VERSION.split('/');
    let mut next = || parts.next().unwrap_or_default();
    let (revision, number) = (next(), next());
    let (status, build_type, ssl) = (next(), next(), next());
    let mut numbers = number.split('.').map(|part| part.parse().unwrap_or(0));
    let mut number = || numbers.next().unwrap_or(0);
    let text = |text: &str| prost_types::Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    let fields = [
        ("build.type", build_type),
        ("revision.sha", revision),
        ("revision.status", status),
        ("ssl.version", ssl),
    ];
    let fields = fields.map(|(name, value)| (name.to_owned(), text(value)));
    BuildVersion {
        version: Some(SemanticVersion {
            major_number: number(),
            minor_number: number(),
            patch: number(),
        }),
        metadata: Some(Struct {
            fields: fields.into(),
        }),
    }
}

/// `node` as JSON without the fields that have their default, as in `/config_dump`.
pub(crate) fn short(node: &Node) -> Value {
    to_json(&Node::full_name(), &node.encode_to_vec()).unwrap_or_default()
}

/// `node` as JSON with the fields that have their default, as in `/server_info`.
pub(crate) fn full(node: &Node) -> Value {
    let short = short(node);
    let mut full = Map::new();
    full.insert("id".to_owned(), node.id.as_str().into());
    full.insert("cluster".to_owned(), node.cluster.as_str().into());
    if let Some(metadata) = short.get("metadata") {
        full.insert("metadata".to_owned(), metadata.clone());
    }
    if let Some(Locality {
        region,
        zone,
        sub_zone,
    }) = &node.locality
    {
        let locality = json!({ "region": region, "zone": zone, "sub_zone": sub_zone });
        full.insert("locality".to_owned(), locality);
    }
    full.insert(
        "user_agent_name".to_owned(),
        node.user_agent_name.as_str().into(),
    );
    let build = &short["user_agent_build_version"];
    let part = |name: &str| build["version"].get(name).cloned().unwrap_or(0.into());
    let version = json!({
        "version": {
            "major_number": part("major_number"),
            "minor_number": part("minor_number"),
            "patch": part("patch"),
        },
        "metadata": build["metadata"],
    });
    full.insert("user_agent_build_version".to_owned(), version);
    let extensions = short["extensions"].as_array().into_iter().flatten();
    let extensions = extensions.map(|given| {
        let or = |name: &str, default: Value| given.get(name).cloned().unwrap_or(default);
        let mut extension = json!({
            "name": or("name", json!("")),
            "category": or("category", json!("")),
            "type_descriptor": or("type_descriptor", json!("")),
            "disabled": or("disabled", json!(false)),
            "type_urls": or("type_urls", json!([])),
        });
        if let Some(version) = given.get("version") {
            extension["version"] = version.clone();
        }
        extension
    });
    full.insert("extensions".to_owned(), extensions.collect());
    let or = |name: &str, default: Value| short.get(name).cloned().unwrap_or(default);
    for name in ["client_features", "listening_addresses"] {
        full.insert(name.to_owned(), or(name, json!([])));
    }
    let parameters = or("dynamic_parameters", json!({}));
    full.insert("dynamic_parameters".to_owned(), parameters);
    full.into()
}
