//! A response in the form that both protocols share, and the reading of its resources.

use std::collections::HashSet;
use std::time::Duration;

use outrider_config::FieldPath;
use outrider_config::Resource;
use outrider_config::api::envoy::service::discovery::v3::Resource as Wrapper;
use outrider_config::duration;
use outrider_config::read_resource;
use prost::Message as _;
use prost::Name as _;
use prost_types::Any;

use super::client::XdsResponse;
use crate::ResourceType;
use crate::Sources;

/// Resources of at most so many bytes are read at once, on the main thread; more are read on a thread of their own.
const QUICK_BYTES: usize = 64 << 10;

/// A response.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub(super) type_url: String,
    pub(super) version: String,
    pub(super) nonce: String,
    /// `control_plane.identifier`
    pub(super) identifier: Option<String>,
    pub(super) entries: Vec<Entry>,
    /// The resources that are gone; `None` if the response is the state of the world.
    pub(super) removed: Option<Vec<String>>,
}

/// One resource of a response, not read yet.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its name, if the response tells it beside the resource.
    pub(super) name: Option<String>,
    pub(super) version: String,
    pub(super) ttl: Option<Duration>,
    /// `None` if it only confirms the resource.
    payload: Option<Any>,
}

/// A resource that was read, with what the response says about it.
#[derive(Debug)]
pub(super) struct Read {
    /// The name by which subscriptions know it.
    pub(super) name: String,
    pub(super) version: String,
    pub(super) ttl: Option<Duration>,
    /// `None` if it only confirms the resource.
    pub(super) resource: Option<Resource>,
}

impl Received {
    /// Takes a response apart.
    ///
    /// # Errors
    /// A resource is in a wrapper that cannot be decoded.
    pub(super) fn new(response: XdsResponse) -> (Received, Result<(), String>) {
        match response {
            XdsResponse::Whole(response) => {
                let mut received = Received {
                    type_url: response.type_url,
                    nonce: response.nonce,
                    identifier: response.control_plane.map(|control| control.identifier),
                    ..Received::default()
                };
                for any in response.resources {
                    let entry = unwrap(any, &response.version_info);
                    match entry {
                        Ok(entry) => received.entries.push(entry),
                        Err(error) => return (received, Err(error)),
                    }
                }
                received.version = response.version_info;
                (received, Ok(()))
            }
            XdsResponse::Incremental(response) => {
                let mut received = Received {
                    type_url: response.type_url,
                    version: response.system_version_info,
                    nonce: response.nonce,
                    identifier: response.control_plane.map(|control| control.identifier),
                    removed: Some(response.removed_resources),
                    ..Received::default()
                };
                for resource in response.resources {
                    // An alias that the control plane could not resolve.
                    if resource.resource.is_none() && !resource.aliases.is_empty() {
                        continue;
                    }
                    match Entry::new(resource) {
                        Ok(entry) => received.entries.push(entry),
                        Err(error) => return (received, Err(error)),
                    }
                }
                let checked = received.refuse_duplicates();
                (received, checked)
            }
        }
    }

    fn refuse_duplicates(&self) -> Result<(), String> {
        let mut seen = HashSet::new();
        let names = self.entries.iter().filter_map(|entry| entry.name.as_ref());
        for name in names.chain(self.removed.iter().flatten()) {
            if !seen.insert(name) {
                return Err(format!(
                    "duplicate name {name} found among the added, updated and removed resources"
                ));
            }
        }
        Ok(())
    }
}

/// A resource of the state of the world, which may be in a wrapper.
fn unwrap(any: Any, version: &str) -> Result<Entry, String> {
    if any.type_url.rsplit('/').next() != Some(&Wrapper::full_name()) {
        return Ok(Entry {
            name: None,
            version: version.to_owned(),
            ttl: None,
            payload: Some(any),
        });
    }
    let wrapper = Wrapper::decode(any.value.as_slice());
    let mut wrapper = wrapper.map_err(|error| format!("a resource cannot be decoded: {error}"))?;
    version.clone_into(&mut wrapper.version);
    Entry::new(wrapper)
}

impl Entry {
    /// Whether it only confirms a resource.
    pub(super) fn is_heartbeat(&self) -> bool {
        self.payload.is_none()
    }

    fn new(wrapper: Wrapper) -> Result<Entry, String> {
        let path = FieldPath::root().field("ttl");
        let ttl = duration::optional(wrapper.ttl.as_ref(), &path);
        Ok(Entry {
            ttl: ttl.map_err(|error| format!("{}: {error}", wrapper.name))?,
            name: Some(wrapper.name),
            version: wrapper.version,
            payload: wrapper.resource,
        })
    }

    fn read(self, kind: &ResourceType, sources: &Sources) -> Result<Read, String> {
        let Entry {
            name,
            version,
            ttl,
            payload,
        } = self;
        let Some(any) = payload else {
            return Ok(Read {
                name: name.unwrap_or_default(),
                version,
                ttl,
                resource: None,
            });
        };
        if any.type_url != kind.url() {
            let (found, expected) = (&any.type_url, kind.url());
            let whose = name.map(|name| format!(" of '{name}'")).unwrap_or_default();
            return Err(format!(
                "{found}{whose} does not match the message-wide type URL {expected}"
            ));
        }
        let disabled = sources.disabled_extensions();
        let allow_unknown = sources.allows_unknown_fields();
        let read = read_resource(kind.name, &any.value, allow_unknown, &disabled);
        let (mut resource, unknown) = read.map_err(|errors| errors.to_string())?;
        if !unknown.is_empty() && sources.count_unknown_fields() {
            log::warn!(target: "misc", "{}: unknown fields: {}", resource.name, unknown.join(", "));
        }
        resource.version.clone_from(&version);
        Ok(Read {
            name: name.unwrap_or_else(|| resource.name.clone()),
            version,
            ttl,
            resource: Some(resource),
        })
    }
}

/// Reads and checks the resources.
///
/// # Errors
/// What is wrong with the first resource that is invalid.
pub(super) async fn read_all(
    entries: Vec<Entry>,
    kind: &'static ResourceType,
    sources: &Sources,
) -> Result<Vec<Read>, String> {
    let payloads = entries.iter().filter_map(|entry| entry.payload.as_ref());
    let bytes: usize = payloads.map(|any| any.value.len()).sum();
    let sources = sources.clone();
    let read = move || {
        let read = entries.into_iter().map(|entry| entry.read(kind, &sources));
        read.collect()
    };
    if bytes <= QUICK_BYTES {
        return read();
    }
    let failed = |_| Err("reading the resources failed; see the log".to_owned());
    tokio::task::spawn_blocking(read)
        .await
        .unwrap_or_else(failed)
}
