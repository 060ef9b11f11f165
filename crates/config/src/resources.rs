//! Resources from outside the bootstrap: in files, as `path_config_source` names them (an
//! `envoy.service.discovery.v3.DiscoveryResponse` in YAML or JSON), or as bytes from a control plane.
//!
//! As in Envoy, a file or response in which something breaks a rule of the API is rejected as a whole, and fields that do
//! not exist are a warning.

use std::path::Path;
use std::sync::Arc;

use crate::Diagnostic;
use crate::Diagnostics;
use crate::DisabledExtensions;
use crate::FieldPath;
use crate::Positions;
use crate::check;
use crate::document::Node;
use crate::document::NodeKind;
use crate::load;
use crate::position::SourcePosition;
use crate::reader::Problem;
use crate::reader::Reader;
use crate::schema::MessageType;
use crate::value::Message;
use crate::value::Payload;
use crate::value::Value;
use crate::wire;

/// The fields of a response that do not describe resources.
const OTHER_FIELDS: [&str; 6] = [
    "canary",
    "type_url",
    "nonce",
    "control_plane",
    "resource_errors",
    "typeUrl",
];

/// A file of resources of one type.
#[derive(Debug)]
pub struct ResourceFile {
    /// `version_info`
    pub version: String,
    /// Its resources.
    pub resources: Vec<Resource>,
    /// Fields that do not exist, deprecated fields and the like.
    pub warnings: Vec<Diagnostic>,
    /// Whether there are fields that do not exist.
    pub has_unknown_fields: bool,
}

/// A resource without errors.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Its name: the field `name`, or `cluster_name` of endpoints.
    pub name: String,
    /// Its version: that of the file or response, or its own if the response is incremental.
    pub version: String,
    /// The message, as protobuf bytes.
    pub wire: Vec<u8>,
    /// The positions of its fields.
    pub positions: Positions,
}

/// Why a file of resources was rejected.
#[derive(Debug)]
pub enum ResourceFileError {
    /// It cannot be opened, is empty, or is not YAML or JSON.
    Unreadable(Diagnostics),
    /// It is not a list of resources of this type, or one of the resources is invalid.
    Rejected(Diagnostics),
}

impl ResourceFileError {
    /// The error.
    #[must_use]
    pub fn diagnostics(&self) -> &Diagnostics {
        match self {
            ResourceFileError::Unreadable(diagnostics)
            | ResourceFileError::Rejected(diagnostics) => diagnostics,
        }
    }
}

/// Reads the file at `path`. Its resources must be messages of type `type_name`, such as
/// `envoy.config.cluster.v3.Cluster`. With `allow_unknown`, fields that do not exist cause only a warning. Uses of the
/// `disabled` extensions are refused.
///
/// # Errors
/// The file, or a resource in it, is invalid.
pub fn load_resources(
    path: &Path,
    type_name: &str,
    allow_unknown: bool,
    disabled: &DisabledExtensions,
) -> Result<ResourceFile, ResourceFileError> {
    let source = load::read_regular_file(path).map_err(ResourceFileError::Unreadable)?;
    let names: Vec<Arc<str>> = vec![source.name.as_str().into()];
    let unplaced = Positions::unplaced(names.clone());
    let located = |problem| load::located(vec![problem], &unplaced);
    let empty = || {
        problem(
            SourcePosition::default(),
            "empty: expected a list of resources",
        )
    };
    let node = load::parse(&source, 0)
        .map_err(|problem| ResourceFileError::Unreadable(located(problem)))?;
    let node = node.ok_or_else(|| ResourceFileError::Unreadable(located(empty())))?;
    let mut file = ResourceFile {
        version: String::new(),
        resources: Vec::new(),
        warnings: Vec::new(),
        has_unknown_fields: false,
    };
    let mut reader = Reader {
        allow_unknown,
        ..Reader::default()
    };
    let rejected = |problem| ResourceFileError::Rejected(located(problem));
    let NodeKind::Mapping(entries) = node.kind else {
        let text = format!("expected a mapping with resources, got {}", node.describe());
        return Err(rejected(problem(node.mark, text)));
    };
    for (key, value) in entries {
        match (key.name.as_str(), value.kind) {
            ("version_info" | "versionInfo", NodeKind::String(version)) => file.version = version,
            ("resources", NodeKind::List(items)) => {
                for item in items {
                    let read = read(item, type_name, &names, &mut reader, disabled);
                    file.resources
                        .push(read.map_err(ResourceFileError::Rejected)?);
                }
            }
            (_, NodeKind::Null) => {}
            (name, _) if OTHER_FIELDS.contains(&name) => {}
            (name @ ("version_info" | "versionInfo" | "resources"), _) => {
                let text =
                    format!("expected version_info, a text, and resources, a list; {name} is none");
                return Err(rejected(problem(key.mark, text)));
            }
            (name, _) => {
                let text = format!("no such field in a list of resources: {name}");
                let unknown = problem(key.mark, text);
                if !allow_unknown {
                    return Err(rejected(unknown));
                }
                reader.warnings.push(unknown);
            }
        }
    }
    for resource in &mut file.resources {
        resource.version.clone_from(&file.version);
    }
    file.has_unknown_fields = !reader.warnings.is_empty();
    file.warnings = load::located(reader.warnings, &unplaced).0;
    Ok(file)
}

fn problem(mark: SourcePosition, message: impl Into<String>) -> Problem {
    Problem {
        mark,
        path: FieldPath::root(),
        message: message.into(),
    }
}

/// Reads and checks one resource.
fn read(
    item: Node,
    type_name: &str,
    names: &[Arc<str>],
    reader: &mut Reader,
    disabled: &DisabledExtensions,
) -> Result<Resource, Diagnostics> {
    let unplaced = Positions::unplaced(names.to_vec());
    let mark = item.mark;
    let any = reader.resource(item);
    let message: Option<Message> = match any {
        Some(any) if any.type_name() != type_name => {
            let text = format!(
                "expected a resource of type {type_name}, got {:?}",
                any.type_name()
            );
            reader.problems.push(problem(mark, text));
            None
        }
        Some(any) => match any.payload {
            Payload::Message(message) => Some(message),
            Payload::Opaque(_) => None,
        },
        None => None,
    };
    let problems = std::mem::take(&mut reader.problems);
    let Some(message) = message else {
        return Err(load::located(problems, &unplaced));
    };
    let findings = check::check(&message, disabled);
    let positions = Positions::of(&message, names.to_vec());
    let problems = load::without_consequences(problems, findings.problems);
    if !problems.is_empty() {
        return Err(load::located(problems, &positions));
    }
    Ok(Resource {
        name: name_of(&message),
        version: String::new(),
        wire: wire::encode(&message),
        positions,
    })
}

/// Reads a resource that a control plane has sent: `bytes` are to be a message of type `type_name`. Also returns the fields
/// that the message does not have, as text.
///
/// # Errors
/// The resource is invalid. With `allow_unknown`, unknown fields are no error.
pub fn read_resource(
    type_name: &str,
    bytes: &[u8],
    allow_unknown: bool,
    disabled: &DisabledExtensions,
) -> Result<(Resource, Vec<String>), Diagnostics> {
    let nameless = |text: String| Diagnostics::about("a resource without a name", text);
    let message_type = MessageType::find(type_name)
        .ok_or_else(|| nameless(format!("{type_name} is no known type")))?;
    let mark = SourcePosition::default();
    let (message, unknown) = wire::decode_known(message_type, bytes, mark).map_err(|error| {
        let text = format!("cannot be decoded as {type_name}: {error}");
        Diagnostics::about("a resource", text)
    })?;
    let name = name_of(&message);
    if let (Some(first), false) = (unknown.first(), allow_unknown) {
        return Err(Diagnostics::about(&name, first.as_str()));
    }
    let positions = Positions::of(&message, vec![name.as_str().into()]);
    let findings = check::check(&message, disabled);
    if !findings.problems.is_empty() {
        return Err(load::located(findings.problems, &positions));
    }
    let resource = Resource {
        name,
        version: String::new(),
        wire: wire::encode(&message),
        positions,
    };
    Ok((resource, unknown))
}

/// The name of a resource.
fn name_of(message: &Message) -> String {
    let mut fields = ["name", "cluster_name"].into_iter();
    let name = fields.find_map(|field| match &message.get(field)?.value {
        Value::String(name) => Some(name.clone()),
        _ => None,
    });
    name.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::api::envoy::config::cluster::v3::Cluster;

    const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";

    fn load(name: &str, text: &str) -> Result<ResourceFile, ResourceFileError> {
        let folder = std::env::temp_dir();
        let path = folder.join(format!("outrider-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        let loaded = load_resources(&path, CLUSTER, false, &DisabledExtensions::default());
        std::fs::remove_file(&path).unwrap();
        loaded
    }

    const CLUSTER_URL: &str = "'@type': type.googleapis.com/envoy.config.cluster.v3.Cluster";

    #[test]
    fn resources_go_by_their_names() {
        let file = load(
            "some.yaml",
            &format!("version_info: '7'\nresources:\n- {{{CLUSTER_URL}, name: a}}\n"),
        )
        .unwrap();
        assert_eq!((file.version.as_str(), file.resources.len()), ("7", 1));
        let resource = &file.resources[0];
        assert_eq!(resource.name, "a");
        assert_eq!(Cluster::decode(resource.wire.as_slice()).unwrap().name, "a");
    }

    #[test]
    fn one_bad_resource_rejects_the_file() {
        for (resource, expected) in [
            (format!("{CLUSTER_URL}, nam: b"), "did you mean name?"),
            (CLUSTER_URL.to_owned(), "name"),
            (
                "'@type': type.googleapis.com/envoy.config.listener.v3.Listener, name: c"
                    .to_owned(),
                "expected a resource of type",
            ),
        ] {
            let text = format!("resources: [{{{CLUSTER_URL}, name: a}}, {{{resource}}}]");
            let error = load("malformed.yaml", &text).unwrap_err();
            assert!(matches!(error, ResourceFileError::Rejected(_)), "{error:?}");
            assert!(
                error.diagnostics().to_string().contains(expected),
                "{error:?}"
            );
        }
    }

    #[test]
    fn reads_resources_from_bytes() {
        let disabled = DisabledExtensions::default();
        let cluster = Cluster {
            name: "a".to_owned(),
            ..Cluster::default()
        };
        let mut bytes = prost::Message::encode_to_vec(&cluster);
        let (resource, unknown) = read_resource(CLUSTER, &bytes, false, &disabled).unwrap();
        assert_eq!((resource.name.as_str(), unknown.len()), ("a", 0));
        bytes.extend([0xf8, 0xff, 0x01, 1]); // field 4095, a varint
        let (_, unknown) = read_resource(CLUSTER, &bytes, true, &disabled).unwrap();
        assert_eq!(unknown.len(), 1);
        assert!(read_resource(CLUSTER, &bytes, false, &disabled).is_err());
        let bad = Cluster {
            connect_timeout: Some(prost_types::Duration::default()),
            ..cluster
        };
        let error = read_resource(CLUSTER, &bad.encode_to_vec(), true, &disabled).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("a: connect_timeout: "), "{text}");
        assert!(read_resource(CLUSTER, b"\x0a\xff", true, &disabled).is_err());
    }

    #[test]
    fn tells_what_cannot_be_read_from_what_is_refused() {
        for text in ["", "a: [", "{"] {
            let error = load("unreadable.yaml", text).unwrap_err();
            assert!(matches!(error, ResourceFileError::Unreadable(_)), "{text}");
        }
        for text in ["[]", "resourcess: []", "resources: {}"] {
            let error = load("rejected.yaml", text).unwrap_err();
            assert!(matches!(error, ResourceFileError::Rejected(_)), "{text}");
        }
    }
}
