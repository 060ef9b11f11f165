//! Sets fixed dynamic metadata (`envoy.filters.http.set_metadata`).

#![expect(deprecated, reason = "Envoy still obeys its deprecated fields")]

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use outrider_codec::Body;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::http::set_metadata::v3 as api;
use outrider_config::unpack;
use prost_types::Any;
use prost_types::Struct;
use prost_types::Value;
use prost_types::value::Kind;

use super::FilterBuildCx;
use super::FilterCx;
use super::FilterFactory;
use super::FilterStatus;
use super::FilterWorkerCx;
use super::HttpFilter;
use super::HttpFilterConfig;
use crate::Stream;

pub(super) const FACTORY: FilterFactory = FilterFactory {
    message: "envoy.extensions.filters.http.set_metadata.v3.Config",
    build,
    routes: None,
};

fn build(
    config: &Any,
    path: &FieldPath,
    _: &FilterBuildCx<'_>,
) -> Result<Arc<dyn HttpFilterConfig>, ConfigErrors> {
    let message: api::Config = unpack(config, path)?;
    let mut entries = Vec::new();
    if let Some(fields) = message.value
        && !message.metadata_namespace.is_empty()
    {
        entries.push(MetadataEntry {
            namespace: message.metadata_namespace,
            fields,
            overwrites: true,
        });
    }
    let listed = message.metadata.into_iter().map(|metadata| MetadataEntry {
        namespace: metadata.metadata_namespace,
        fields: metadata.value.unwrap_or_default(),
        overwrites: metadata.allow_overwrite,
    });
    entries.extend(listed);
    Ok(Arc::new(SetMetadataConfig { entries }))
}

#[derive(Debug)]
struct SetMetadataConfig {
    entries: Vec<MetadataEntry>,
}

#[derive(Debug)]
struct MetadataEntry {
    namespace: String,
    fields: Struct,
    /// Whether the fields are added to a namespace that exists.
    overwrites: bool,
}

impl HttpFilterConfig for SetMetadataConfig {
    fn worker(self: Arc<Self>, _: &FilterWorkerCx<'_>) -> Rc<dyn HttpFilter> {
        Rc::new(SetMetadataFilter { config: self })
    }
}

/// The filter on one worker.
#[derive(Debug)]
struct SetMetadataFilter {
    config: Arc<SetMetadataConfig>,
}

impl HttpFilter for SetMetadataFilter {
    fn on_request(&self, stream: &mut Stream, _: &mut Body, _: &FilterCx<'_>) -> FilterStatus {
        for entry in &self.config.entries {
            let known = stream.dynamic_metadata.namespace(&entry.namespace);
            let fields = match known {
                None => entry.fields.clone(),
                Some(known) if entry.overwrites => {
                    let mut fields = known.clone();
                    update(&mut fields.fields, &entry.fields.fields);
                    fields
                }
                Some(_) => continue,
            };
            stream.dynamic_metadata.merge(&entry.namespace, fields);
        }
        FilterStatus::Continue
    }
}

/// Adds fields: lists are joined, structs are merged, and other values are replaced.
fn update(known: &mut BTreeMap<String, Value>, new: &BTreeMap<String, Value>) {
    for (name, value) in new {
        let old = known.get_mut(name).and_then(|old| old.kind.as_mut());
        match (old, &value.kind) {
            (Some(Kind::ListValue(old)), Some(Kind::ListValue(new))) => {
                old.values.extend(new.values.iter().cloned());
            }
            (Some(Kind::StructValue(old)), Some(Kind::StructValue(new))) => {
                update(&mut old.fields, &new.fields);
            }
            _ => drop(known.insert(name.clone(), value.clone())),
        }
    }
}
