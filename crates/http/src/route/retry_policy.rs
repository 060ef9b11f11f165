//! `RetryPolicy`: when and how a failed request is tried again.

use std::collections::HashMap;
use std::time::Duration;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::route::v3 as api;
use outrider_config::api::envoy::config::route::v3::retry_policy::ResetHeaderFormat as ResetFormatMessage;
use outrider_config::api::envoy::extensions::retry::host::omit_canary_hosts::v3::OmitCanaryHostsPredicate;
use outrider_config::api::envoy::extensions::retry::host::omit_host_metadata::v3::OmitHostMetadataConfig;
use outrider_config::api::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use outrider_config::duration;
use outrider_config::type_name;
use outrider_config::unpack;
use outrider_upstream::Host;
use prost::Name;
use prost_types::Struct;

use outrider_matching::HeaderMatcher;
use outrider_matching::MatchedHeader;

/// `RetryBackOff.base_interval` when it is not set and the runtime has none either.
pub(crate) const DEFAULT_BASE_INTERVAL: Duration = Duration::from_millis(25);
/// `RateLimitedRetryBackOff.max_interval` when it is not set.
const DEFAULT_RESET_MAX: Duration = Duration::from_secs(300);
/// The filter metadata that load balancing uses.
const LB_METADATA: &str = "envoy.lb";

/// When and how a failed request is tried again (`envoy.config.route.v3.RetryPolicy`).
#[derive(Debug)]
pub(crate) struct RetryPolicy {
    /// `retry_on`
    pub(crate) on: RetryOn,
    /// `num_retries`
    pub(crate) num_retries: u32,
    /// `per_try_timeout`: from the end of the request, or from when the try got its connection if that is later, to the
    /// response's end.
    pub(crate) per_try_timeout: Option<Duration>,
    /// `per_try_idle_timeout`
    pub(crate) per_try_idle_timeout: Option<Duration>,
    /// `retriable_status_codes`
    pub(crate) status_codes: Box<[u32]>,
    /// `retriable_headers`: responses with one of them are retried.
    pub(crate) headers: Box<[HeaderMatcher]>,
    /// `retriable_request_headers`: only requests with one of them are retried. Empty for no condition.
    pub(crate) request_headers: Box<[HeaderMatcher]>,
    /// `retry_host_predicate`
    pub(crate) host_predicates: Box<[HostPredicate]>,
    /// `host_selection_retry_max_attempts`: how often another host is picked in place of one that a predicate rejects.
    pub(crate) host_selection_attempts: u32,
    /// `retry_back_off`
    pub(crate) back_off: Option<BackOffIntervals>,
    /// `rate_limited_retry_back_off`
    pub(crate) rate_limited: Option<RateLimitedBackOff>,
}

/// `RetryPolicy.RetryBackOff`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BackOffIntervals {
    /// The longest wait before the first retry; it doubles with each retry.
    pub(crate) base: Duration,
    /// The longest wait of all.
    pub(crate) max: Duration,
}

/// `RetryPolicy.RateLimitedRetryBackOff`: the response tells how long to wait.
#[derive(Debug)]
pub(crate) struct RateLimitedBackOff {
    /// The headers that may tell it; the first with a valid value counts.
    pub(crate) headers: Box<[ResetHeader]>,
    /// A longer wait than this is not obeyed.
    pub(crate) max: Duration,
}

/// `RetryPolicy.ResetHeader`.
#[derive(Debug)]
pub(crate) struct ResetHeader {
    /// The header's name.
    pub(crate) name: MatchedHeader,
    /// What its number means.
    pub(crate) format: ResetFormat,
}

/// `RetryPolicy.ResetHeaderFormat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResetFormat {
    /// Seconds to wait.
    Seconds,
    /// The time from which on to retry, in seconds since 1970.
    UnixTimestamp,
}

/// An extension of `envoy.retry_host_predicates`: a reason to pick another host for a retry.
#[derive(Debug)]
pub(crate) enum HostPredicate {
    /// The request was sent to the host before.
    PreviousHosts,
    /// The host is marked as a canary.
    OmitCanaryHosts,
    /// The host has these values in its metadata `envoy.lb`.
    OmitHostMetadata(Struct),
}

/// The conditions of `retry_on` and `x-envoy-retry-on`, `x-envoy-retry-grpc-on`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RetryOn(u32);

macro_rules! conditions {
    ($($name:ident $word:literal $bit:literal;)*) => {
        impl RetryOn {
            $(
                #[doc = concat!("`", $word, "`")]
                pub(crate) const $name: RetryOn = RetryOn(1 << $bit);
            )*

            fn of_word(word: &str) -> Option<RetryOn> {
                match word {
                    $($word => Some(RetryOn::$name),)*
                    _ => None,
                }
            }
        }
    };
}

conditions! {
    SERVER_ERROR "5xx" 0;
    GATEWAY_ERROR "gateway-error" 1;
    CONNECT_FAILURE "connect-failure" 2;
    ENVOY_RATE_LIMITED "envoy-ratelimited" 3;
    RETRIABLE_4XX "retriable-4xx" 4;
    REFUSED_STREAM "refused-stream" 5;
    RETRIABLE_STATUS_CODES "retriable-status-codes" 6;
    RETRIABLE_HEADERS "retriable-headers" 7;
    RESET "reset" 8;
    RESET_BEFORE_REQUEST "reset-before-request" 9;
    HTTP3_POST_CONNECT_FAILURE "http3-post-connect-failure" 10;
    GRPC_CANCELLED "cancelled" 16;
    GRPC_DEADLINE_EXCEEDED "deadline-exceeded" 17;
    GRPC_INTERNAL "internal" 18;
    GRPC_RESOURCE_EXHAUSTED "resource-exhausted" 19;
    GRPC_UNAVAILABLE "unavailable" 20;
}

impl RetryOn {
    /// The conditions of HTTP, which `x-envoy-retry-on` may set.
    const HTTP: RetryOn = RetryOn(0xffff);

    /// The words of `retry_on`, separated by commas. As in Envoy, unknown words are ignored.
    pub(crate) fn parse(text: &str) -> RetryOn {
        text.split(',')
            .filter_map(|word| RetryOn::of_word(word.trim()))
            .fold(RetryOn::default(), RetryOn::with)
    }

    /// The words of `x-envoy-retry-on`.
    pub(crate) fn parse_http(text: &str) -> RetryOn {
        RetryOn(RetryOn::parse(text).0 & RetryOn::HTTP.0)
    }

    /// The words of `x-envoy-retry-grpc-on`.
    pub(crate) fn parse_grpc(text: &str) -> RetryOn {
        RetryOn(RetryOn::parse(text).0 & !RetryOn::HTTP.0)
    }

    /// The conditions of both.
    pub(crate) fn with(self, other: RetryOn) -> RetryOn {
        RetryOn(self.0 | other.0)
    }

    /// Whether it has any of these conditions.
    pub(crate) fn has(self, any: RetryOn) -> bool {
        self.0 & any.0 != 0
    }

    /// Whether it has no condition.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl RetryPolicy {
    pub(crate) fn build(
        config: &api::RetryPolicy,
        path: &FieldPath,
    ) -> Result<RetryPolicy, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut optional = |value: &Option<prost_types::Duration>, field: &'static str| {
            let value = duration::optional(value.as_ref(), &path.field(field));
            let value = errors.collect(value).flatten();
            value.filter(|duration| !duration.is_zero())
        };
        let per_try_timeout = optional(&config.per_try_timeout, "per_try_timeout");
        let per_try_idle_timeout = optional(&config.per_try_idle_timeout, "per_try_idle_timeout");
        let mut predicates = Vec::with_capacity(config.retry_host_predicate.len());
        for (at, predicate) in config.retry_host_predicate.iter().enumerate() {
            let path = path.field("retry_host_predicate").index(at);
            predicates.extend(errors.collect(HostPredicate::build(predicate, &path)));
        }
        let back_off = config.retry_back_off.as_ref().and_then(|intervals| {
            let path = path.field("retry_back_off");
            errors.collect(BackOffIntervals::build(intervals, &path))
        });
        let rate_limited = config
            .rate_limited_retry_back_off
            .as_ref()
            .and_then(|limited| {
                let path = path.field("rate_limited_retry_back_off");
                errors.collect(RateLimitedBackOff::build(limited, &path))
            });
        let mut matchers = |config: &[api::HeaderMatcher], field: &'static str| {
            let mut matchers = Vec::with_capacity(config.len());
            for (at, header) in config.iter().enumerate() {
                let path = path.field(field).index(at);
                matchers.extend(errors.collect(HeaderMatcher::build(header, &path)));
            }
            matchers.into_boxed_slice()
        };
        let headers = matchers(&config.retriable_headers, "retriable_headers");
        let request_headers = matchers(
            &config.retriable_request_headers,
            "retriable_request_headers",
        );
        let host_selection_attempts = config.host_selection_retry_max_attempts;
        errors.finish(RetryPolicy {
            on: RetryOn::parse(&config.retry_on),
            num_retries: config.num_retries.unwrap_or(1),
            per_try_timeout,
            per_try_idle_timeout,
            status_codes: config.retriable_status_codes.clone().into(),
            headers,
            request_headers,
            host_predicates: predicates.into(),
            host_selection_attempts: match host_selection_attempts {
                0 => 1,
                attempts => u32::try_from(attempts).unwrap_or(1),
            },
            back_off,
            rate_limited,
        })
    }

    /// Whether a predicate rejects the host for a retry; `tried` are the hosts of the attempts before.
    pub(crate) fn rejects<'h>(
        &self,
        host: &Host,
        mut tried: impl Iterator<Item = &'h Host> + Clone,
    ) -> bool {
        self.host_predicates
            .iter()
            .any(|predicate| match predicate {
                HostPredicate::PreviousHosts => tried.any(|one| one.address() == host.address()),
                HostPredicate::OmitCanaryHosts => host.is_canary(),
                HostPredicate::OmitHostMetadata(wanted) => has_metadata(host, wanted),
            })
    }
}

/// Whether the host has all these values in its metadata for load balancing. No values are never had.
fn has_metadata(host: &Host, wanted: &Struct) -> bool {
    let metadata = host.metadata();
    let Some(values) = metadata.and_then(|all| all.filter_metadata.get(LB_METADATA)) else {
        return false;
    };
    let has = |(key, value)| values.fields.get(key) == Some(value);
    !wanted.fields.is_empty() && wanted.fields.iter().all(has)
}

impl HostPredicate {
    fn build(
        config: &api::retry_policy::RetryHostPredicate,
        path: &FieldPath,
    ) -> Result<HostPredicate, ConfigErrors> {
        use api::retry_policy::retry_host_predicate::ConfigType;
        let mut errors = ConfigErrors::new();
        let path = path.field("typed_config");
        let Some(ConfigType::TypedConfig(any)) = &config.config_type else {
            errors.push(&path, "expected the config of a retry host predicate");
            return Err(errors);
        };
        let name = type_name(any);
        if name == PreviousHostsPredicate::full_name() {
            return Ok(HostPredicate::PreviousHosts);
        }
        if name == OmitCanaryHostsPredicate::full_name() {
            return Ok(HostPredicate::OmitCanaryHosts);
        }
        let config: OmitHostMetadataConfig = unpack(any, &path)?;
        let metadata: HashMap<_, _> = config
            .metadata_match
            .map(|metadata| metadata.filter_metadata.into_iter().collect())
            .unwrap_or_default();
        let wanted = metadata.get(LB_METADATA).cloned();
        Ok(HostPredicate::OmitHostMetadata(wanted.unwrap_or_default()))
    }
}

impl BackOffIntervals {
    fn build(
        config: &api::retry_policy::RetryBackOff,
        path: &FieldPath,
    ) -> Result<BackOffIntervals, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let base_path = path.field("base_interval");
        let base = duration::optional(config.base_interval.as_ref(), &base_path);
        let base = errors.collect(base).flatten().map(at_least_a_millisecond);
        let max = duration::optional(config.max_interval.as_ref(), &path.field("max_interval"));
        let max = errors.collect(max).flatten().map(at_least_a_millisecond);
        let base = base.unwrap_or(DEFAULT_BASE_INTERVAL);
        if max.is_some_and(|max| max < base) {
            errors.push(
                path,
                "retry_policy.max_interval must greater than or equal to the base_interval",
            );
        }
        errors.finish(BackOffIntervals {
            base,
            max: max.unwrap_or(base * 10),
        })
    }
}

fn at_least_a_millisecond(interval: Duration) -> Duration {
    interval.max(Duration::from_millis(1))
}

impl RateLimitedBackOff {
    fn build(
        config: &api::retry_policy::RateLimitedRetryBackOff,
        path: &FieldPath,
    ) -> Result<RateLimitedBackOff, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let max = duration::optional(config.max_interval.as_ref(), &path.field("max_interval"));
        let max = errors.collect(max).flatten();
        let headers = config.reset_headers.iter().map(|header| ResetHeader {
            name: MatchedHeader::new(&header.name),
            format: match header.format() {
                ResetFormatMessage::Seconds => ResetFormat::Seconds,
                ResetFormatMessage::UnixTimestamp => ResetFormat::UnixTimestamp,
            },
        });
        let headers = headers.collect();
        errors.finish(RateLimitedBackOff {
            headers,
            max: max.unwrap_or(DEFAULT_RESET_MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_separated_by_commas_and_unknown_ones_are_ignored() {
        let on = RetryOn::parse("5xx, reset,nonsense,unavailable");
        assert!(on.has(RetryOn::SERVER_ERROR) && on.has(RetryOn::RESET));
        assert!(on.has(RetryOn::GRPC_UNAVAILABLE) && !on.has(RetryOn::GATEWAY_ERROR));
        assert!(RetryOn::parse("nonsense,").is_empty());
    }

    #[test]
    fn each_header_has_words_of_its_own() {
        let text = "5xx,unavailable";
        assert_eq!(RetryOn::parse_http(text), RetryOn::SERVER_ERROR);
        assert_eq!(RetryOn::parse_grpc(text), RetryOn::GRPC_UNAVAILABLE);
    }
}
