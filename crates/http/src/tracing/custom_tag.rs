//! Tags that the configuration adds to spans (`envoy.type.tracing.v3.CustomTag`).

use std::borrow::Cow;
use std::sync::Arc;

use outrider_codec::HeaderName;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::Metadata;
use outrider_config::api::envoy::r#type::metadata::v3::metadata_key::path_segment::Segment;
use outrider_config::api::envoy::r#type::metadata::v3::metadata_kind::Kind;
use outrider_config::api::envoy::r#type::tracing::v3::CustomTag as Message;
use outrider_config::api::envoy::r#type::tracing::v3::custom_tag;
use outrider_config::api::envoy::r#type::tracing::v3::custom_tag::Type;
use prost_types::Value;
use prost_types::value::Kind as ValueKind;

use super::span::Span;
use crate::Captures;
use crate::Stream;
use crate::format::Formatter;
use crate::format::write_json;

/// A tag that each span gets, unless its value is absent.
#[derive(Debug)]
pub(crate) struct CustomTag {
    name: Arc<str>,
    value: TagValue,
}

#[derive(Debug)]
enum TagValue {
    /// A literal, or a variable of the environment, which does not change.
    Constant(Box<str>),
    Header(HeaderName, Box<str>),
    Metadata(MetadataTag),
    Format(Formatter),
}

/// A value in metadata.
#[derive(Debug)]
struct MetadataTag {
    of: MetadataOf,
    namespace: Box<str>,
    keys: Box<[Box<str>]>,
    default: Box<str>,
}

#[derive(Clone, Copy, Debug)]
enum MetadataOf {
    Request,
    Route,
    Cluster,
    Host,
}

impl CustomTag {
    /// The tags found at `path`. Of several with one name, the first counts, as in Envoy.
    pub(super) fn list(
        messages: &[Message],
        path: &FieldPath,
    ) -> Result<Vec<Arc<CustomTag>>, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut tags: Vec<Arc<CustomTag>> = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            let built = CustomTag::build(message, &path.index(index));
            let built = errors.collect(built.map_err(ConfigErrors::from)).flatten();
            if let Some(tag) = built
                && tags.iter().all(|known| known.name != tag.name)
            {
                tags.push(Arc::new(tag));
            }
        }
        errors.finish(tags)
    }

    /// Those of a route and those of its connection manager, which give way to those of the same name.
    pub(super) fn merge(
        route: &[Arc<CustomTag>],
        manager: &[Arc<CustomTag>],
    ) -> Box<[Arc<CustomTag>]> {
        let others = manager.iter();
        let others = others.filter(|tag| route.iter().all(|own| own.name != tag.name));
        route.iter().chain(others).cloned().collect()
    }

    /// `None` for a variable of the environment that is not set.
    fn build(message: &Message, path: &FieldPath) -> Result<Option<CustomTag>, ConfigError> {
        let value = match &message.r#type {
            Some(Type::Literal(literal)) => TagValue::Constant(literal.value.as_str().into()),
            Some(Type::Environment(environment)) => {
                let value = std::env::var(&environment.name).ok();
                let value = value.unwrap_or_else(|| environment.default_value.clone());
                if value.is_empty() {
                    return Ok(None);
                }
                TagValue::Constant(value.into())
            }
            Some(Type::RequestHeader(header)) => {
                let name = HeaderName::try_from(header.name.as_str()).map_err(|_| {
                    let text = format!("{:?} is no header name", header.name);
                    ConfigError::new(&path.field("request_header").field("name"), text)
                })?;
                TagValue::Header(name, header.default_value.as_str().into())
            }
            Some(Type::Metadata(metadata)) => {
                TagValue::Metadata(MetadataTag::build(metadata, &path.field("metadata"))?)
            }
            Some(Type::Value(format)) => {
                TagValue::Format(Formatter::compile_omitting(format, &path.field("value"))?)
            }
            None => return Err(ConfigError::new(path, "expected the value of the tag")),
        };
        Ok(Some(CustomTag {
            name: message.tag.as_str().into(),
            value,
        }))
    }

    /// Adds the headers of responses that the tag reads.
    pub(crate) fn capture(&self, captures: &mut Captures) {
        if let TagValue::Format(format) = &self.value {
            format.capture(captures);
        }
    }

    /// Sets the tag, if it has a value for this request.
    pub(super) fn set(&self, stream: &Stream, span: &mut Span) {
        let value = match &self.value {
            TagValue::Constant(text) => Some(text.to_string()),
            TagValue::Header(name, default) => {
                let sent = stream.request.headers.get(name);
                let sent = sent.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
                sent.or_else(|| not_empty(default))
            }
            TagValue::Metadata(metadata) => metadata.value(stream),
            TagValue::Format(format) => {
                let mut text = Vec::new();
                format.write(stream, &mut text);
                let text = String::from_utf8_lossy(&text).into_owned();
                (!text.is_empty()).then_some(text)
            }
        };
        if let Some(value) = value {
            span.set_tag(Cow::Owned(self.name.to_string()), value);
        }
    }
}

impl MetadataTag {
    fn build(message: &custom_tag::Metadata, path: &FieldPath) -> Result<MetadataTag, ConfigError> {
        let kind = message.kind.as_ref().and_then(|kind| kind.kind.as_ref());
        let of = match kind {
            Some(Kind::Request(_)) => MetadataOf::Request,
            Some(Kind::Route(_)) => MetadataOf::Route,
            Some(Kind::Cluster(_)) => MetadataOf::Cluster,
            Some(Kind::Host(_)) => MetadataOf::Host,
            None => return Err(ConfigError::new(&path.field("kind"), "expected a kind")),
        };
        let key = message.metadata_key.clone().unwrap_or_default();
        // An index is refused by name when the configuration is read.
        let keys = key.path.into_iter().filter_map(|part| match part.segment {
            Some(Segment::Key(key)) => Some(key.into()),
            Some(Segment::Index(_)) | None => None,
        });
        Ok(MetadataTag {
            of,
            namespace: key.key.into(),
            keys: keys.collect(),
            default: message.default_value.as_str().into(),
        })
    }

    fn value(&self, stream: &Stream) -> Option<String> {
        let route = stream.route.as_ref();
        let upstream = stream.upstream.as_ref();
        let request = upstream.and_then(|upstream| upstream.request.as_ref());
        let found = match self.of {
            MetadataOf::Request => self.find(stream.dynamic_metadata.get()),
            MetadataOf::Route => self.find(route.and_then(|route| route.metadata.as_deref())),
            MetadataOf::Cluster => {
                let cluster = stream.cluster.as_ref();
                self.find(cluster.and_then(|cluster| cluster.info().metadata.as_deref()))
            }
            MetadataOf::Host => self.find(request.and_then(|request| request.host().metadata())),
        };
        found.or_else(|| not_empty(&self.default))
    }

    fn find(&self, metadata: Option<&Metadata>) -> Option<String> {
        let mut fields = metadata?.filter_metadata.get(&*self.namespace)?;
        let (last, path) = self.keys.split_last()?;
        for key in path {
            match &fields.fields.get(&**key)?.kind {
                Some(ValueKind::StructValue(inner)) => fields = inner,
                _ => return None,
            }
        }
        text_of(fields.fields.get(&**last)?)
    }
}

/// A value as a tag shows it; `None` for one without a text.
fn text_of(value: &Value) -> Option<String> {
    match &value.kind {
        Some(ValueKind::StringValue(text)) => not_empty(text),
        None | Some(ValueKind::NullValue(_)) => None,
        Some(_) => {
            let mut json = Vec::new();
            write_json(value, &mut json);
            String::from_utf8(json).ok()
        }
    }
}

fn not_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
