//! `metadata_match`: the metadata that a request asks of its host.

use outrider_config::api::envoy::config::core::v3::Metadata;
use prost::Message;
use prost_types::Struct;
use prost_types::Value;
use prost_types::value::Kind;

/// The namespace of metadata that selects hosts.
const NAMESPACE: &str = "envoy.lb";

/// The key whose value is not compared, but lists alternatives for the other values, with
/// `metadata_fallback_policy: FALLBACK_LIST`.
const FALLBACK_LIST: &str = "fallback_list";

/// The keys that a host's metadata must have, with their values. It is built once, with a route, so that selecting a host
/// does not allocate.
#[derive(Clone, Debug, Default)]
pub struct MetadataMatchCriteria {
    /// The fields as given, for merging.
    fields: Struct,
    criteria: Box<[MetadataCriterion]>,
    /// With [`FALLBACK_LIST`]: the criteria to try in turn instead.
    fallbacks: Option<Box<[MetadataMatchCriteria]>>,
}

/// One key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MetadataCriterion {
    pub(crate) name: Box<str>,
    pub(crate) value: MetadataValue,
}

/// A value in a form that is compared and hashed fast: its encoding, which is unique because maps are sorted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MetadataValue(Box<[u8]>);

impl MetadataMatchCriteria {
    /// The criteria in `metadata`; `None` if it has none that concern hosts.
    #[must_use]
    pub fn of(metadata: Option<&Metadata>) -> Option<MetadataMatchCriteria> {
        let fields = metadata?.filter_metadata.get(NAMESPACE)?;
        Some(MetadataMatchCriteria::of_fields(fields.clone()))
    }

    /// These criteria of a route, if any, overridden by those in `metadata`.
    #[must_use]
    pub fn merged(
        route: Option<&MetadataMatchCriteria>,
        metadata: Option<&Metadata>,
    ) -> Option<MetadataMatchCriteria> {
        let fields = metadata.and_then(|metadata| metadata.filter_metadata.get(NAMESPACE));
        match (route, fields) {
            (Some(route), Some(fields)) => Some(route.overridden_by(fields)),
            (Some(route), None) => Some(route.clone()),
            (None, fields) => fields.cloned().map(MetadataMatchCriteria::of_fields),
        }
    }

    /// These criteria, where `fields` have no other value.
    #[must_use]
    pub fn overridden_by(&self, fields: &Struct) -> MetadataMatchCriteria {
        let mut merged = self.fields.clone();
        let others = fields.fields.iter();
        (merged.fields).extend(others.map(|(name, value)| (name.clone(), value.clone())));
        MetadataMatchCriteria::of_fields(merged)
    }

    /// The criteria with these fields of the namespace `envoy.lb`.
    #[must_use]
    pub fn of_fields(fields: Struct) -> MetadataMatchCriteria {
        let criteria = (fields.fields.iter()).map(|(name, value)| MetadataCriterion {
            name: name.as_str().into(),
            value: MetadataValue::of(value),
        });
        let list = fields.fields.get(FALLBACK_LIST);
        MetadataMatchCriteria {
            criteria: criteria.collect(),
            fallbacks: list.map(|list| fallbacks(&fields, list)),
            fields,
        }
    }

    /// The criteria, in the order of their names.
    pub(crate) fn criteria(&self) -> &[MetadataCriterion] {
        &self.criteria
    }

    /// What to try in turn instead of these criteria, if they list that.
    pub(crate) fn fallbacks(&self) -> Option<&[MetadataMatchCriteria]> {
        self.fallbacks.as_deref()
    }
}

/// For each entry of `list`: `fields` without the list, overridden by the entry. There is at least one.
fn fallbacks(fields: &Struct, list: &Value) -> Box<[MetadataMatchCriteria]> {
    let mut fields = fields.clone();
    fields.fields.remove(FALLBACK_LIST);
    let base = MetadataMatchCriteria::of_fields(fields);
    let entries = match &list.kind {
        Some(Kind::ListValue(list)) => &*list.values,
        _ => &[],
    };
    if entries.is_empty() {
        return [base].into();
    }
    let merged = entries.iter().map(|entry| match &entry.kind {
        Some(Kind::StructValue(fields)) => base.overridden_by(fields),
        _ => base.clone(),
    });
    merged.collect()
}

impl MetadataValue {
    pub(crate) fn of(value: &Value) -> MetadataValue {
        MetadataValue(value.encode_to_vec().into())
    }
}
