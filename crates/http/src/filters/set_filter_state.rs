//! Sets objects in the filter state (`envoy.filters.http.set_filter_state`).

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use outrider_codec::Body;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::common::set_filter_state::v3::FilterStateValue;
use outrider_config::api::envoy::extensions::filters::common::set_filter_state::v3::filter_state_value;
use outrider_config::api::envoy::extensions::filters::http::set_filter_state::v3 as api;
use outrider_config::unpack;
use prost_types::Any;
use prost_types::Value;
use prost_types::value::Kind;

use super::FilterBuildCx;
use super::FilterCx;
use super::FilterFactory;
use super::FilterStateObject;
use super::FilterStatus;
use super::FilterWorkerCx;
use super::HttpFilter;
use super::HttpFilterConfig;
use crate::Stream;
use crate::format::SubstitutionFormat;

pub(super) const FACTORY: FilterFactory = FilterFactory {
    message: "envoy.extensions.filters.http.set_filter_state.v3.Config",
    build,
    routes: None,
};

/// Makes an object of a text; `None` if the text is not valid.
type MakeObject = fn(&str) -> Option<Rc<dyn FilterStateObject>>;

/// The kinds of objects, by their `factory_key`. Envoy has more, which change what it does with a connection.
const KINDS: [(&str, MakeObject); 5] = [
    ("envoy.string", |text| Some(Rc::new(Text(text.to_owned())))),
    ("envoy.network.ip", |text| {
        let address = text.parse().ok()?;
        Some(Rc::new(Ip(address)))
    }),
    ("envoy.ratelimit.hits_addend", |text| {
        let number = text.trim().parse().ok()?;
        Some(Rc::new(Number(number)))
    }),
    ("envoy.upstream.dynamic_host", |text| {
        Some(Rc::new(Text(text.to_owned())))
    }),
    ("envoy.upstream.dynamic_port", |text| {
        let port: u32 = text.parse().ok()?;
        Some(Rc::new(Text(port.to_string())))
    }),
];

fn build(
    config: &Any,
    path: &FieldPath,
    _: &FilterBuildCx<'_>,
) -> Result<Arc<dyn HttpFilterConfig>, ConfigErrors> {
    let message: api::Config = unpack(config, path)?;
    let mut errors = ConfigErrors::new();
    let entries = message.on_request_headers.iter().enumerate();
    let entries = entries.filter_map(|(at, entry)| {
        let path = path.field("on_request_headers").index(at);
        errors.collect(Entry::build(entry, &path))
    });
    let entries = entries.collect();
    errors.finish(Arc::new(SetFilterStateConfig {
        entries,
        clears_route_cache: message.clear_route_cache,
    }))
}

#[derive(Debug)]
struct SetFilterStateConfig {
    entries: Vec<Entry>,
    clears_route_cache: bool,
}

/// One object.
#[derive(Debug)]
struct Entry {
    name: String,
    make: MakeObject,
    format: SubstitutionFormat,
    skips_empty: bool,
}

impl Entry {
    fn build(config: &FilterStateValue, path: &FieldPath) -> Result<Entry, ConfigErrors> {
        let filter_state_value::Key::ObjectKey(name) = config
            .key
            .as_ref()
            .ok_or_else(|| ConfigError::new(path, "object_key is required"))?;
        let (kind, kind_path) = match config.factory_key.as_str() {
            "" => (name.as_str(), path.field("object_key")),
            kind => (kind, path.field("factory_key")),
        };
        let found = KINDS.iter().find(|(known, _)| *known == kind);
        let (_, make) = found.ok_or_else(|| {
            let known = KINDS.map(|(known, _)| known).join(", ");
            let text = format!("'{kind}' does not have an object factory: expected one of {known}");
            ConfigError::new(&kind_path, text)
        })?;
        let Some(filter_state_value::Value::FormatString(format)) = &config.value else {
            let error = ConfigError::new(path, "format_string is required");
            return Err(ConfigErrors::from(error));
        };
        Ok(Entry {
            name: name.clone(),
            make: *make,
            format: SubstitutionFormat::build(format, &path.field("format_string"))?,
            skips_empty: config.skip_if_empty,
        })
    }
}

impl HttpFilterConfig for SetFilterStateConfig {
    fn worker(self: Arc<Self>, _: &FilterWorkerCx<'_>) -> Rc<dyn HttpFilter> {
        Rc::new(SetFilterState { config: self })
    }
}

/// The filter on one worker.
#[derive(Debug)]
struct SetFilterState {
    config: Arc<SetFilterStateConfig>,
}

impl HttpFilter for SetFilterState {
    fn on_request(&self, stream: &mut Stream, _: &mut Body, cx: &FilterCx<'_>) -> FilterStatus {
        for entry in &self.config.entries {
            let mut text = Vec::new();
            entry.format.write(&*stream, &mut text);
            if text.is_empty() && entry.skips_empty {
                continue;
            }
            if let Some(object) = (entry.make)(&String::from_utf8_lossy(&text)) {
                stream.filter_state.set(&entry.name, object);
            }
        }
        if self.config.clears_route_cache {
            cx.clear_route_cache(stream);
        }
        FilterStatus::Continue
    }
}

/// `envoy.string`
#[derive(Debug)]
struct Text(String);

impl FilterStateObject for Text {
    fn text(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(&self.0))
    }

    fn json(&self) -> Option<Value> {
        let kind = Some(Kind::StringValue(self.0.clone()));
        Some(Value { kind })
    }
}

/// `envoy.ratelimit.hits_addend`
#[derive(Debug)]
struct Number(u32);

impl FilterStateObject for Number {
    fn text(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Owned(self.0.to_string()))
    }

    fn json(&self) -> Option<Value> {
        let kind = Some(Kind::NumberValue(self.0.into()));
        Some(Value { kind })
    }
}

/// `envoy.network.ip`
#[derive(Debug)]
struct Ip(IpAddr);

impl FilterStateObject for Ip {
    fn address(&self) -> Option<IpAddr> {
        Some(self.0)
    }
}
