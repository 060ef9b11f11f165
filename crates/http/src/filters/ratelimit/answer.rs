//! The messages of the service: descriptors in questions, headers in answers.

use bytes::Bytes;
use http::StatusCode;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::header;
use outrider_config::api::envoy::config::core::v3::HeaderValue as HeaderMessage;
use outrider_config::api::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use outrider_config::api::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor as api;
use outrider_config::api::envoy::service::ratelimit::v3::RateLimitResponse;
use outrider_config::api::envoy::service::ratelimit::v3::rate_limit_response::Code;
use outrider_config::api::envoy::service::ratelimit::v3::rate_limit_response::DescriptorStatus;
use outrider_config::api::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;
use prost_types::Struct;

use crate::filters::X_RATELIMIT_LIMIT;
use crate::filters::X_RATELIMIT_REMAINING;
use crate::filters::X_RATELIMIT_RESET;
use crate::rate_limits::LimitDescriptor;

use super::config::RateLimitConfig;

/// Marks responses to requests over the limit.
static X_ENVOY_RATELIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// What an answer changes.
#[derive(Debug, Default)]
pub(super) struct LimitAnswer {
    pub(super) request_headers: HeaderMap,
    pub(super) response_headers: HeaderMap,
    retry_after: Option<u64>,
    pub(super) body: Bytes,
    pub(super) metadata: Struct,
}

impl LimitAnswer {
    /// What `response` asks for; `descriptors` are those of the question.
    pub(super) fn new(
        config: &RateLimitConfig,
        response: RateLimitResponse,
        descriptors: &[LimitDescriptor],
    ) -> LimitAnswer {
        let mut answer = LimitAnswer {
            request_headers: headers(&response.request_headers_to_add),
            response_headers: headers(&response.response_headers_to_add),
            ..LimitAnswer::default()
        };
        let is_over = response.overall_code() == Code::OverLimit;
        if is_over && config.marks_limited {
            let value = HeaderValue::from_static("true");
            answer.response_headers.append(&X_ENVOY_RATELIMITED, value);
        }
        let shows = |at: usize| {
            let own = descriptors.get(at).and_then(|one| one.shows_limit);
            own.unwrap_or(config.shows_limit)
        };
        show_limit(&response.statuses, shows, &mut answer.response_headers);
        if config.shows_retry_after && config.limited_status == StatusCode::TOO_MANY_REQUESTS {
            answer.retry_after = retry_after(&response.statuses);
        }
        answer.body = response.raw_body.into();
        answer.metadata = response.dynamic_metadata.unwrap_or_default();
        answer
    }

    /// The headers of the reply to a request over the limit.
    pub(super) fn into_reply_headers(mut self) -> Vec<(HeaderName, HeaderValue)> {
        if let Some(seconds) = self.retry_after {
            let value = HeaderValue::from(seconds);
            (self.response_headers).insert_if_absent(&header::RETRY_AFTER, value);
        }
        let headers = self.response_headers.iter();
        headers
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }
}

/// The valid headers among these. As in Envoy, only `value` counts.
fn headers(messages: &[HeaderMessage]) -> HeaderMap {
    let valid = messages.iter().filter_map(|message| {
        let name = HeaderName::try_from(message.key.to_ascii_lowercase().as_str()).ok()?;
        Some((name, HeaderValue::try_from(message.value.as_str()).ok()?))
    });
    valid.collect()
}

/// Adds the headers that tell the limit that is closest to be reached, if `shows` says so for its descriptor.
fn show_limit(
    statuses: &[DescriptorStatus],
    shows: impl Fn(usize) -> bool,
    headers: &mut HeaderMap,
) {
    let limited = statuses
        .iter()
        .enumerate()
        .filter_map(|(at, status)| Some((at, status, status.current_limit.as_ref()?)));
    let closest = limited
        .clone()
        .min_by_key(|(_, status, _)| status.limit_remaining);
    let Some((_, closest, limit)) = closest.filter(|(at, _, _)| shows(*at)) else {
        return;
    };
    let mut text = limit.requests_per_unit.to_string();
    for (_, _, limit) in limited.filter(|(at, _, _)| shows(*at)) {
        if let Some(window) = seconds(limit.unit()) {
            text.push_str(&format!(", {};w={window}", limit.requests_per_unit));
            if !limit.name.is_empty() {
                text.push_str(&format!(";name=\"{}\"", limit.name));
            }
        }
    }
    let reset = closest
        .duration_until_reset
        .map_or(0, |after| after.seconds);
    // A name of a limit may be no valid part of a header.
    if let Ok(text) = HeaderValue::try_from(text) {
        headers.append(&X_RATELIMIT_LIMIT, text);
    }
    let remaining = HeaderValue::from(u64::from(closest.limit_remaining));
    headers.append(&X_RATELIMIT_REMAINING, remaining);
    headers.append(
        &X_RATELIMIT_RESET,
        HeaderValue::from(reset.max(0).unsigned_abs()),
    );
}

/// How many seconds a unit has; `None` if it is not known.
fn seconds(unit: Unit) -> Option<u32> {
    Some(match unit {
        Unit::Unknown => return None,
        Unit::Second => 1,
        Unit::Minute => 60,
        Unit::Hour => 3600,
        Unit::Day => 86400,
        Unit::Week => 7 * 86400,
        Unit::Month => 30 * 86400,
        Unit::Year => 365 * 86400,
    })
}

/// How many seconds it takes until all limits that are exceeded begin anew, at least one.
fn retry_after(statuses: &[DescriptorStatus]) -> Option<u64> {
    let over = statuses
        .iter()
        .filter(|status| status.code() == Code::OverLimit);
    let seconds = over.map(|status| status.duration_until_reset.map_or(0, |after| after.seconds));
    seconds.max().map(|seconds| seconds.max(1).unsigned_abs())
}

/// A descriptor as the service gets it.
pub(super) fn descriptor(descriptor: &LimitDescriptor) -> RateLimitDescriptor {
    let entries = descriptor.entries.iter().map(|(key, value)| api::Entry {
        key: key.clone(),
        value: value.clone(),
    });
    RateLimitDescriptor {
        entries: entries.collect(),
        limit: descriptor.limit.map(|limit| api::RateLimitOverride {
            requests_per_unit: limit.requests_per_unit,
            unit: limit.unit.into(),
        }),
        hits_addend: descriptor.hits,
        is_negative_hits: descriptor.is_negative,
    }
}
