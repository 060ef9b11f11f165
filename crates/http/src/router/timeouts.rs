//! The router's timeouts: those of the route, as changed by the request's headers.

use std::time::Duration;

use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::header;

use crate::grpc;
use crate::route::ForwardAction;
use crate::router::Router;

/// The timeouts of one request; `None` for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Timeouts {
    /// From the request's end to the response's.
    pub(super) response: Option<Duration>,
    /// The same for one try, if it is shorter.
    pub(super) per_try: Option<Duration>,
    /// `x-envoy-upstream-stream-duration-ms`
    pub(super) stream: Option<Duration>,
    /// Whether the upstream is told in `x-envoy-expected-rq-timeout-ms`.
    tells_expected: bool,
    /// Whether the upstream is told in `grpc-timeout`.
    tells_grpc: bool,
}

impl Timeouts {
    /// Writes the time that is left of these timeouts into the request's headers, `elapsed` after the request's end.
    pub(super) fn tell(&self, headers: &mut HeaderMap, elapsed: Duration) {
        let Some(mut told) = self.per_try.or(self.response) else {
            return;
        };
        if let Some(response) = self.response {
            // Zero would mean no limit.
            let left = response.saturating_sub(elapsed);
            told = told.min(left.max(Duration::from_millis(1)));
        }
        if self.tells_expected {
            headers.insert(
                &header::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS,
                HeaderValue::from(whole_millis(told)),
            );
        }
        if self.tells_grpc {
            headers.insert(&header::GRPC_TIMEOUT, grpc::timeout_value(told));
        }
    }
}

impl Router {
    /// Computes the timeouts of a request, and writes them into its headers for the upstream. `per_try`: that of the
    /// policy for retries. `asks`: whether the request has any header of Envoy's own.
    pub(super) fn timeouts(
        &self,
        (route, per_try): (&ForwardAction, Option<Duration>),
        headers: &mut HeaderMap,
        asks: bool,
        is_grpc: bool,
    ) -> Timeouts {
        // If max_stream_duration is set, the older fields are ignored.
        let old = route.max_stream_duration.is_none();
        let by_grpc = route.max_grpc_timeout.filter(|_| is_grpc && old);
        let mut response = match by_grpc {
            _ if !old => Duration::ZERO,
            Some(max) => grpc_timeout(headers, max, route.grpc_timeout_offset),
            None => route.timeout,
        };
        let expected = self.respect_expected_rq_timeout
            && headers.contains_key(&header::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS);
        if expected {
            response = headers
                .get(&header::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS)
                .and_then(parse_millis)
                .unwrap_or(response);
        } else if let Some(asked) =
            take_millis(headers, &header::X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS, asks)
        {
            response = asked.unwrap_or(response);
        }
        let asked = take_millis(
            headers,
            &header::X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS,
            asks,
        )
        .flatten();
        let per_try = asked.or(per_try);
        let per_try = per_try.filter(|per_try| !per_try.is_zero());
        let per_try = per_try.filter(|per_try| response.is_zero() || *per_try < response);
        let stream =
            take_millis(headers, &header::X_ENVOY_UPSTREAM_STREAM_DURATION_MS, asks).flatten();

        let timeouts = Timeouts {
            response: (!response.is_zero()).then_some(response),
            per_try,
            stream,
            tells_expected: !self.suppress_envoy_headers && !expected,
            tells_grpc: by_grpc.is_some(),
        };
        timeouts.tell(headers, Duration::ZERO);
        timeouts
    }
}

/// The request's `grpc-timeout`, limited by `max_grpc_timeout`. Zero means no limit in both.
fn grpc_timeout(headers: &HeaderMap, max: Duration, offset: Option<Duration>) -> Duration {
    let mut timeout = grpc::timeout(headers).unwrap_or_default();
    // An offset of the whole timeout or more is ignored: a result of zero would mean no limit.
    if let Some(offset) = offset.filter(|offset| *offset < timeout) {
        timeout -= offset;
    }
    if !max.is_zero() && (timeout.is_zero() || timeout > max) {
        timeout = max;
    }
    timeout
}

/// Removes the header. Returns its number of milliseconds, if it is one. `asks`: whether the request has any header of
/// Envoy's own.
fn take_millis(headers: &mut HeaderMap, name: &HeaderName, asks: bool) -> Option<Option<Duration>> {
    let value = asks.then(|| headers.remove(name)).flatten()?;
    Some(parse_millis(&value))
}

/// Parses a number of milliseconds in one of these headers. As in Envoy, it has 63 bits.
pub(super) fn parse_millis(value: &HeaderValue) -> Option<Duration> {
    let millis: u64 = value.as_str()?.trim().parse().ok()?;
    i64::try_from(millis)
        .is_ok()
        .then_some(Duration::from_millis(millis))
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
