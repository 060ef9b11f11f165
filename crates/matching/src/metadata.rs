//! `MetadataMatcher`: a condition on one value in metadata.

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::Metadata;
use outrider_config::api::envoy::r#type::matcher::v3 as api;
use outrider_config::api::envoy::r#type::matcher::v3::metadata_matcher::path_segment::Segment;
use prost_types::Value;
use prost_types::value::Kind;

use crate::ValueMatcher;

/// A condition on the value at a path in metadata (`envoy.type.matcher.v3.MetadataMatcher`).
#[derive(Clone, Debug)]
pub struct MetadataMatcher {
    namespace: Box<str>,
    keys: Box<[Box<str>]>,
    value: ValueMatcher,
    invert: bool,
}

impl MetadataMatcher {
    /// Builds the matcher found at `path`.
    ///
    /// # Errors
    /// A pattern is not valid.
    pub fn build(
        config: &api::MetadataMatcher,
        path: &FieldPath,
    ) -> Result<MetadataMatcher, ConfigErrors> {
        let default = api::ValueMatcher::default();
        let value = config.value.as_ref().unwrap_or(&default);
        let keys = config.path.iter().map(|segment| match &segment.segment {
            Some(Segment::Key(key)) => key.as_str().into(),
            None => "".into(),
        });
        Ok(MetadataMatcher {
            namespace: config.filter.as_str().into(),
            keys: keys.collect(),
            value: ValueMatcher::build(value, &path.field("value"))?,
            invert: config.invert,
        })
    }

    /// Whether the value at the path, which may be absent, meets the condition.
    #[must_use]
    pub fn matches(&self, metadata: Option<&Metadata>) -> bool {
        let value = metadata.and_then(|metadata| self.find(metadata));
        self.value.matches(value) != self.invert
    }

    fn find<'m>(&self, metadata: &'m Metadata) -> Option<&'m Value> {
        let mut fields = metadata.filter_metadata.get(&*self.namespace)?;
        let (last, parents) = self.keys.split_last()?;
        for key in parents {
            match &fields.fields.get(&**key)?.kind {
                Some(Kind::StructValue(inner)) => fields = inner,
                _ => return None,
            }
        }
        fields.fields.get(&**last)
    }
}
