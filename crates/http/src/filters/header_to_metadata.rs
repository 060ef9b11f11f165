//! Copies headers and cookies into dynamic metadata (`envoy.filters.http.header_to_metadata`).

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::general_purpose::GeneralPurposeConfig;
use outrider_codec::Body;
use outrider_codec::HeaderName;
use outrider_codec::header;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::http::header_to_metadata::v3::Config as Message;
use outrider_config::api::envoy::extensions::filters::http::header_to_metadata::v3::config as api;
use outrider_config::unpack;
use outrider_matching::MatchedHeader;
use outrider_matching::cookie_value;
use outrider_stats::Scope;
use outrider_stats::SharedCounter;
use outrider_stats::Store;
use prost::Message as _;
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
use super::RouteConfig;
use super::RouteFactory;
use crate::Stream;
use crate::route::Substitution;

pub(super) const FACTORY: FilterFactory = FilterFactory {
    message: "envoy.extensions.filters.http.header_to_metadata.v3.Config",
    build,
    routes: Some(&RouteFactory {
        message: "envoy.extensions.filters.http.header_to_metadata.v3.Config",
        build: |config, path, cx| {
            let message: Message = unpack(config, path)?;
            if message.request_rules.is_empty() && message.response_rules.is_empty() {
                let text = "expected request_rules or response_rules for these routes";
                return Err(ConfigErrors::from(ConfigError::new(path, text)));
            }
            Ok(Arc::new(Rules::build(&message, path, cx.store)?))
        },
    }),
};

/// The namespace of values that name none.
const NAMESPACE: &str = "envoy.filters.http.header_to_metadata";
/// Values of this length or more are not copied.
const TOO_LONG: usize = 8 * 1024;

/// Base64, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

outrider_stats::group! {
    /// `http_filter_name.<stat_prefix>.*`
    pub(super) struct HeaderToMetadataStats {
        base64_decode_failed: SharedCounter,
        header_value_too_long: SharedCounter,
        regex_substitution_failed: SharedCounter,
        request_header_not_found: SharedCounter,
        request_metadata_added: SharedCounter,
        request_rules_processed: SharedCounter,
        response_header_not_found: SharedCounter,
        response_metadata_added: SharedCounter,
        response_rules_processed: SharedCounter,
    }
}

fn build(
    config: &Any,
    path: &FieldPath,
    cx: &FilterBuildCx<'_>,
) -> Result<Arc<dyn HttpFilterConfig>, ConfigErrors> {
    let message: Message = unpack(config, path)?;
    Ok(Arc::new(Rules::build(&message, path, cx.process.store)?))
}

/// The rules, of the filter or for some routes.
#[derive(Debug)]
struct Rules {
    request: Vec<Rule>,
    response: Vec<Rule>,
    /// Only with a `stat_prefix`.
    stats: Option<Arc<HeaderToMetadataStats>>,
}

#[derive(Debug)]
struct Rule {
    source: Source,
    on_present: Option<CopyRule>,
    on_missing: Option<CopyRule>,
}

/// Where a value comes from.
#[derive(Debug)]
enum Source {
    Header {
        name: MatchedHeader,
        /// Whether it is removed.
        removed: Option<HeaderName>,
    },
    Cookie(String),
}

/// What becomes of a value.
#[derive(Debug)]
struct CopyRule {
    namespace: String,
    key: String,
    /// Instead of the value; empty for the value itself.
    fixed: String,
    rewrite: Option<Substitution>,
    kind: api::ValueType,
    is_base64: bool,
}

/// Requests or responses.
#[derive(Clone, Copy, Debug)]
enum Direction {
    Request,
    Response,
}

impl Rules {
    fn build(message: &Message, path: &FieldPath, store: &Store) -> Result<Rules, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut list = |rules: &[api::Rule], field: &'static str| -> Vec<Rule> {
            let rules = rules.iter().enumerate().filter_map(|(index, rule)| {
                errors.collect(Rule::build(rule, &path.field(field).index(index)))
            });
            rules.collect()
        };
        let request = list(&message.request_rules, "request_rules");
        let response = list(&message.response_rules, "response_rules");
        errors.finish(Rules {
            request,
            response,
            stats: (!message.stat_prefix.is_empty())
                .then(|| store.register(Scope::new("http_filter_name").name(&message.stat_prefix))),
        })
    }

    fn count(&self, counter: impl FnOnce(&HeaderToMetadataStats) -> &SharedCounter) {
        if let Some(stats) = &self.stats {
            counter(stats).inc();
        }
    }

    /// Copies the values of a head into the metadata of its stream.
    fn apply(&self, direction: Direction, stream: &mut Stream) {
        let rules = match direction {
            Direction::Request => &self.request,
            Direction::Response => &self.response,
        };
        let mut new: BTreeMap<&str, Struct> = BTreeMap::new();
        for rule in rules {
            let value = rule.source.take(direction, stream);
            self.count(|stats| match direction {
                Direction::Request => &stats.request_rules_processed,
                Direction::Response => &stats.response_rules_processed,
            });
            let copy = match &value {
                Some(_) => &rule.on_present,
                None => &rule.on_missing,
            };
            let Some(copy) = copy else {
                continue;
            };
            if value.is_none() {
                self.count(|stats| match direction {
                    Direction::Request => &stats.request_header_not_found,
                    Direction::Response => &stats.response_header_not_found,
                });
            }
            if let Some(value) = self.made(copy, value.unwrap_or_default()) {
                let fields = new.entry(&copy.namespace).or_default();
                fields.fields.insert(copy.key.clone(), value);
                self.count(|stats| match direction {
                    Direction::Request => &stats.request_metadata_added,
                    Direction::Response => &stats.response_metadata_added,
                });
            }
        }
        for (namespace, fields) in new {
            stream.dynamic_metadata.merge(namespace, fields);
        }
    }

    /// The value as it is copied.
    fn made(&self, copy: &CopyRule, value: Vec<u8>) -> Option<Value> {
        let mut value = match (copy.fixed.as_str(), &copy.rewrite) {
            ("", None) => value,
            ("", Some(rewrite)) => {
                let new = rewrite.apply(&String::from_utf8_lossy(&value));
                if !value.is_empty() && new.is_empty() {
                    self.count(|stats| &stats.regex_substitution_failed);
                }
                new.into_bytes()
            }
            (fixed, _) => fixed.as_bytes().to_vec(),
        };
        if value.is_empty() {
            return None;
        }
        if value.len() >= TOO_LONG {
            self.count(|stats| &stats.header_value_too_long);
            return None;
        }
        if copy.is_base64 {
            value = BASE64.decode(&value).unwrap_or_default();
            if value.is_empty() {
                self.count(|stats| &stats.base64_decode_failed);
                return None;
            }
        }
        match copy.kind {
            api::ValueType::String => {
                let text = String::from_utf8_lossy(&value).into_owned();
                Some(Kind::StringValue(text))
            }
            api::ValueType::Number => {
                let text = std::str::from_utf8(value.trim_ascii()).ok()?;
                Some(Kind::NumberValue(text.parse().ok()?))
            }
            api::ValueType::ProtobufValue => return Value::decode(value.as_slice()).ok(),
        }
        .map(|kind| Value { kind: Some(kind) })
    }
}

impl Rule {
    fn build(rule: &api::Rule, path: &FieldPath) -> Result<Rule, ConfigErrors> {
        let wrong =
            |path: &FieldPath, text: &str| Err(ConfigErrors::from(ConfigError::new(path, text)));
        let source = match (rule.header.as_str(), rule.cookie.as_str()) {
            ("", "") => return wrong(path, "One of Cookie or Header option needs to be specified"),
            ("", _) if rule.remove => {
                return wrong(&path.field("remove"), "Cannot specify remove for cookie");
            }
            ("", cookie) => Source::Cookie(cookie.to_owned()),
            (name, "") => Source::Header {
                name: MatchedHeader::new(name),
                removed: match rule.remove {
                    true => name.to_ascii_lowercase().parse().ok(),
                    false => None,
                },
            },
            _ => {
                return wrong(
                    path,
                    "Cannot specify both header and cookie in the same rule",
                );
            }
        };
        let (present, missing) = (&rule.on_header_present, &rule.on_header_missing);
        if present.is_none() && missing.is_none() {
            let text = "expected on_header_present or on_header_missing";
            return wrong(path, text);
        }
        if missing
            .as_ref()
            .is_some_and(|missing| missing.value.is_empty())
        {
            let path = path.field("on_header_missing").field("value");
            let text = "Cannot specify on_header_missing rule with an empty value";
            return wrong(&path, text);
        }
        let build = |copy: &Option<api::KeyValuePair>, field| {
            let copy = copy.as_ref();
            copy.map(|copy| CopyRule::build(copy, &path.field(field)))
                .transpose()
        };
        Ok(Rule {
            source,
            on_present: build(present, "on_header_present")?,
            on_missing: build(missing, "on_header_missing")?,
        })
    }
}

impl CopyRule {
    fn build(message: &api::KeyValuePair, path: &FieldPath) -> Result<CopyRule, ConfigError> {
        let path = path.field("regex_value_rewrite");
        let rewrite = message.regex_value_rewrite.as_ref();
        if rewrite.is_some() && !message.value.is_empty() {
            let text = "Cannot specify both value and regex_value_rewrite";
            return Err(ConfigError::new(&path, text));
        }
        let rewrite = rewrite.map(|rewrite| Substitution::build(rewrite, &path));
        Ok(CopyRule {
            namespace: match message.metadata_namespace.as_str() {
                "" => NAMESPACE.to_owned(),
                namespace => namespace.to_owned(),
            },
            key: message.key.clone(),
            fixed: message.value.clone(),
            rewrite: rewrite.transpose()?,
            kind: message.r#type(),
            is_base64: message.encode() == api::ValueEncode::Base64,
        })
    }
}

impl Source {
    /// The value in a head; several values of a header are joined by commas. Removes the header, if it is to be.
    fn take(&self, direction: Direction, stream: &mut Stream) -> Option<Vec<u8>> {
        match (self, direction) {
            (Source::Header { name, removed }, Direction::Request) => {
                let value = joined(name.values(&stream.request))?;
                if let Some(removed) = removed {
                    stream.request.headers.remove(removed);
                }
                Some(value)
            }
            (
                Source::Header {
                    name: MatchedHeader::Status,
                    ..
                },
                Direction::Response,
            ) => {
                let status = stream.response.as_ref()?.status;
                Some(status.as_str().as_bytes().to_vec())
            }
            (Source::Header { name, removed }, Direction::Response) => {
                let response = stream.response.as_mut()?;
                let value = joined(name.values_of_response(response))?;
                if let Some(removed) = removed {
                    response.headers.remove(removed);
                }
                Some(value)
            }
            (Source::Cookie(name), Direction::Request) => {
                let cookies = stream.request.headers.get_all(&header::COOKIE);
                cookie(cookies.map(|cookies| cookies.as_bytes()), name)
            }
            (Source::Cookie(name), Direction::Response) => {
                let cookies = stream.response.as_ref()?.headers.get_all(&header::COOKIE);
                cookie(cookies.map(|cookies| cookies.as_bytes()), name)
            }
        }
    }
}

fn joined<'v>(values: impl Iterator<Item = &'v [u8]>) -> Option<Vec<u8>> {
    let values: Vec<_> = values.collect();
    (!values.is_empty()).then(|| values.join(&b','))
}

/// The first value of a cookie; an empty one counts as absent, as in Envoy.
fn cookie<'c>(mut cookies: impl Iterator<Item = &'c [u8]>, name: &str) -> Option<Vec<u8>> {
    let value = cookies.find_map(|cookies| cookie_value(cookies, name.as_bytes()))?;
    (!value.is_empty()).then(|| value.to_vec())
}

impl HttpFilterConfig for Rules {
    fn worker(self: Arc<Self>, cx: &FilterWorkerCx<'_>) -> Rc<dyn HttpFilter> {
        Rc::new(HeaderToMetadataFilter {
            route: cx.route_config(),
            rules: self,
        })
    }
}

/// The filter on one worker.
#[derive(Debug)]
struct HeaderToMetadataFilter {
    rules: Arc<Rules>,
    route: RouteConfig<Rules>,
}

impl HeaderToMetadataFilter {
    fn apply(&self, direction: Direction, stream: &mut Stream) {
        let route = stream.route.clone();
        let rules = self.route.most_specific(route.as_deref());
        rules.unwrap_or(&self.rules).apply(direction, stream);
    }
}

impl HttpFilter for HeaderToMetadataFilter {
    fn on_request(&self, stream: &mut Stream, _: &mut Body, _: &FilterCx<'_>) -> FilterStatus {
        self.apply(Direction::Request, stream);
        FilterStatus::Continue
    }

    fn on_response(&self, stream: &mut Stream, _: &mut Body, _: &FilterCx<'_>) -> FilterStatus {
        self.apply(Direction::Response, stream);
        FilterStatus::Continue
    }
}
