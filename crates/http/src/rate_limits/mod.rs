//! `rate_limits` of routes, virtual hosts and filters: what of a request the limits apply to.
//!
//! A policy describes a request by a [`LimitDescriptor`]. The filter `ratelimit` sends the descriptors to a service, and
//! `local_ratelimit` chooses token buckets by them.

mod action;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::route::v3::RateLimit as Message;
use outrider_config::api::envoy::config::route::v3::rate_limit as api;
use outrider_config::api::envoy::config::route::v3::rate_limit::XRateLimitOption;
use outrider_config::api::envoy::r#type::v3::RateLimitUnit;
use prost_types::value::Kind;

use crate::Captures;
use crate::Stream;
use crate::format::Formatter;
use crate::rate_limits::action::ActionEntry;
use crate::rate_limits::action::LimitAction;
use crate::rate_limits::action::MetadataPath;

/// The most hits that a format may count for one request.
const MAX_HITS: f64 = 1e9;

/// A list of policies.
#[derive(Clone, Debug, Default)]
pub(crate) struct RateLimits(Box<[RateLimitPolicy]>);

/// How a request is described, and when.
#[derive(Clone, Debug)]
struct RateLimitPolicy {
    stage: u32,
    /// The runtime key that turns the policy off.
    enabled_key: Option<Box<str>>,
    actions: Box<[LimitAction]>,
    limit: Option<LimitOverride>,
    hits: Option<Hits>,
    is_negative: bool,
    on_stream_done: bool,
    shows_limit: Option<bool>,
}

/// How many hits a request counts as.
#[derive(Clone, Debug)]
enum Hits {
    Number(u64),
    Format(Formatter),
}

/// A limit that replaces the service's.
#[derive(Clone, Debug)]
enum LimitOverride {
    Fixed(OverriddenLimit),
    /// A struct in the dynamic metadata, with `requests_per_unit` and `unit`.
    Metadata(MetadataPath),
}

/// A limit that replaces the service's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverriddenLimit {
    pub(crate) requests_per_unit: u32,
    pub(crate) unit: RateLimitUnit,
}

/// What a policy says of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LimitDescriptor {
    /// Keys and values, in the order of the actions.
    pub(crate) entries: Vec<(String, String)>,
    pub(crate) limit: Option<OverriddenLimit>,
    pub(crate) hits: Option<u64>,
    /// Whether the hits are given back.
    pub(crate) is_negative: bool,
    /// `x_ratelimit_option`; `None` leaves it to the filter.
    pub(crate) shows_limit: Option<bool>,
}

/// A descriptor whose hits are not counted yet. As in Envoy, the formats of hits may read the response, and actions may not.
#[derive(Debug)]
pub(crate) struct DescribedRequest<'l> {
    descriptor: LimitDescriptor,
    hits: Option<&'l Hits>,
}

impl DescribedRequest<'_> {
    /// The whole descriptor; `None` if the number of hits is not valid.
    pub(crate) fn counted(self, stream: &Stream) -> Option<LimitDescriptor> {
        let hits = match self.hits {
            None => None,
            Some(Hits::Number(number)) => Some(*number),
            Some(Hits::Format(format)) => Some(formatted_hits(format, stream)?),
        };
        Some(LimitDescriptor {
            hits,
            ..self.descriptor
        })
    }
}

/// Which policies of a list apply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LimitSelection<'a> {
    pub(crate) stage: u32,
    pub(crate) on_stream_done: bool,
    /// `node.cluster`, for `source_cluster`.
    pub(crate) node_cluster: &'a str,
    /// A random number, for shares in the runtime.
    pub(crate) random: u64,
}

impl RateLimits {
    /// The `rate_limits` of a route or a virtual host, found at `path`.
    pub(crate) fn of_routes(
        messages: &[Message],
        path: &FieldPath,
    ) -> Result<RateLimits, ConfigErrors> {
        RateLimits::build(messages, path, |message, path| {
            let mut policy = RateLimitPolicy::build(message, path)?;
            // As in Envoy, only the lists of filters count hits.
            policy.hits = None;
            policy.is_negative = false;
            Ok(policy)
        })
    }

    /// The `rate_limits` of a filter, found at `path`. They have fewer fields.
    pub(crate) fn of_filter(
        messages: &[Message],
        path: &FieldPath,
    ) -> Result<RateLimits, ConfigErrors> {
        RateLimits::build(messages, path, |message, path| {
            let mut errors = ConfigErrors::new();
            if message.stage.is_some() {
                errors.push(&path.field("stage"), "not supported in a filter's own list");
            }
            if !message.disable_key.is_empty() {
                let text = "not supported in a filter's own list";
                errors.push(&path.field("disable_key"), text);
            }
            let policy = errors.collect(RateLimitPolicy::build(message, path));
            policy.filter(|_| errors.is_empty()).ok_or(errors)
        })
    }

    fn build(
        messages: &[Message],
        path: &FieldPath,
        build: impl Fn(&Message, &FieldPath) -> Result<RateLimitPolicy, ConfigErrors>,
    ) -> Result<RateLimits, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let path = path.field("rate_limits");
        let policies = messages.iter().enumerate();
        let policies = policies
            .filter_map(|(at, message)| errors.collect(build(message, &path.index(at))))
            .collect();
        errors.finish(RateLimits(policies))
    }

    /// Whether there is no policy.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a policy applies when the response has ended.
    pub(crate) fn follow_end(&self) -> bool {
        self.0.iter().any(|policy| policy.on_stream_done)
    }

    /// Adds the response headers that are read when the response has ended.
    pub(crate) fn capture(&self, captures: &mut Captures) {
        for policy in self.0.iter().filter(|policy| policy.on_stream_done) {
            policy.capture(captures);
        }
    }

    /// Appends what the selected policies say of the request of `stream`. The hits are not counted yet.
    pub(crate) fn describe<'l>(
        &'l self,
        stream: &Stream,
        selection: &LimitSelection<'_>,
        described: &mut Vec<DescribedRequest<'l>>,
    ) {
        for policy in &self.0 {
            let is_selected = policy.stage == selection.stage
                && policy.on_stream_done == selection.on_stream_done
                && policy.is_enabled(stream, selection.random);
            if is_selected {
                described.extend(policy.describe(stream, selection.node_cluster));
            }
        }
    }
}

impl RateLimitPolicy {
    fn build(message: &Message, path: &FieldPath) -> Result<RateLimitPolicy, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let actions = message.actions.iter().enumerate();
        let actions_path = path.field("actions");
        let actions = actions
            .filter_map(|(at, action)| {
                errors.collect(LimitAction::build(action, &actions_path.index(at)))
            })
            .collect();
        let limit = message.limit.as_ref().map(LimitOverride::new);
        let hits = message.hits_addend.as_ref();
        let hits = hits.map(|hits| Hits::build(hits, &path.field("hits_addend")));
        let hits = errors.collect(hits.transpose().map_err(ConfigErrors::from));
        let key = &message.disable_key;
        errors.finish(RateLimitPolicy {
            stage: message.stage.unwrap_or(0),
            enabled_key: (!key.is_empty())
                .then(|| format!("ratelimit.{key}.http_filter_enabled").into()),
            actions,
            limit: limit.flatten(),
            hits: hits.flatten(),
            is_negative: message
                .hits_addend
                .as_ref()
                .is_some_and(|hits| hits.is_negative_hits),
            on_stream_done: message.apply_on_stream_done,
            shows_limit: match message.x_ratelimit_option() {
                XRateLimitOption::Unspecified => None,
                XRateLimitOption::Off => Some(false),
                XRateLimitOption::DraftVersion03 => Some(true),
            },
        })
    }

    fn is_enabled(&self, stream: &Stream, random: u64) -> bool {
        let share = self.enabled_key.as_ref().zip(stream.runtime());
        let share = share.and_then(|(key, runtime)| runtime.number(key));
        share.is_none_or(|percent| random % 100 < percent)
    }

    fn capture(&self, captures: &mut Captures) {
        if let Some(Hits::Format(format)) = &self.hits {
            format.capture(captures);
        }
    }

    /// What the policy says of the request; `None` if an action finds nothing.
    fn describe(&self, stream: &Stream, node_cluster: &str) -> Option<DescribedRequest<'_>> {
        let mut entries = Vec::with_capacity(self.actions.len());
        for action in &self.actions {
            match action.entry(stream, node_cluster) {
                ActionEntry::Found(key, value) => entries.push((key, value)),
                ActionEntry::Skipped => {}
                ActionEntry::Missing => return None,
            }
        }
        let descriptor = LimitDescriptor {
            entries,
            limit: self.limit.as_ref().and_then(|limit| limit.find(stream)),
            hits: None,
            is_negative: self.is_negative,
            shows_limit: self.shows_limit,
        };
        Some(DescribedRequest {
            descriptor,
            hits: self.hits.as_ref(),
        })
    }
}

/// The number that a format gives; `None` if it is none, or out of range.
fn formatted_hits(format: &Formatter, stream: &Stream) -> Option<u64> {
    let mut text = Vec::new();
    format.write(stream, &mut text);
    let number: f64 = std::str::from_utf8(&text).ok()?.trim().parse().ok()?;
    (0.0..=MAX_HITS).contains(&number).then_some(number as u64)
}

impl Hits {
    fn build(message: &api::HitsAddend, path: &FieldPath) -> Result<Hits, ConfigError> {
        match (message.number, message.format.as_str()) {
            (Some(number), "") => Ok(Hits::Number(number)),
            (None, format) if !format.is_empty() => {
                let path = path.field("format");
                let formatter = Formatter::compile_omitting(format, &path)?;
                match formatter.is_single() {
                    true => Ok(Hits::Format(formatter)),
                    false => Err(ConfigError::new(
                        &path,
                        "hits_addend format must contain exactly one substitution",
                    )),
                }
            }
            _ => Err(ConfigError::new(
                path,
                "hits_addend must contain either a format or a number",
            )),
        }
    }
}

impl LimitOverride {
    fn new(message: &api::Override) -> Option<LimitOverride> {
        use api::r#override::OverrideSpecifier;
        Some(match message.override_specifier.as_ref()? {
            OverrideSpecifier::DynamicMetadata(place) => {
                LimitOverride::Metadata(MetadataPath::new(place.metadata_key.as_ref()))
            }
            OverrideSpecifier::RateLimit(limit) => LimitOverride::Fixed(OverriddenLimit {
                requests_per_unit: limit.requests_per_unit,
                unit: limit.unit(),
            }),
        })
    }

    fn find(&self, stream: &Stream) -> Option<OverriddenLimit> {
        let place = match self {
            LimitOverride::Fixed(limit) => return Some(*limit),
            LimitOverride::Metadata(place) => place,
        };
        let Kind::StructValue(limit) = place.find(stream.dynamic_metadata.get())? else {
            return None;
        };
        let number = limit.fields.get("requests_per_unit")?.kind.as_ref()?;
        let unit = limit.fields.get("unit")?.kind.as_ref()?;
        let (Kind::NumberValue(number), Kind::StringValue(unit)) = (number, unit) else {
            return None;
        };
        let is_whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(number);
        is_whole.then_some(OverriddenLimit {
            requests_per_unit: *number as u32,
            unit: RateLimitUnit::from_str_name(unit)?,
        })
    }
}

#[cfg(test)]
mod tests;
