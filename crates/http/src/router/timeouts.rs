//! How long the router waits: the route's timeouts, and what the request's headers make of them.

use std::time::Duration;

use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::header;

use crate::grpc;
use crate::route::ForwardAction;
use crate::router::Router;

/// The timeouts of one request; none for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Timeouts {
    /// From the request's end to the response's.
    pub(super) response: Option<Duration>,
    /// The same for one try, where it is shorter.
    pub(super) per_try: Option<Duration>,
    /// `x-envoy-upstream-stream-duration-ms`
    pub(super) stream: Option<Duration>,
}

impl Router {
    /// Reads the timeouts that the request asks for, and tells the upstream what was decided. `asks`: whether any of
    /// the headers is one of Envoy's own.
    pub(super) fn timeouts(
        &self,
        route: &ForwardAction,
        headers: &mut HeaderMap,
        asks: bool,
        is_grpc: bool,
    ) -> Timeouts {
        // With max_stream_duration the older fields count no more.
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
        let per_try = take_millis(
            headers,
            &header::X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS,
            asks,
        )
        .flatten();
        let per_try = per_try.filter(|per_try| !per_try.is_zero());
        let per_try = per_try.filter(|per_try| response.is_zero() || *per_try < response);
        let stream =
            take_millis(headers, &header::X_ENVOY_UPSTREAM_STREAM_DURATION_MS, asks).flatten();

        let told = per_try.unwrap_or(response);
        if !told.is_zero() {
            if !self.suppress_envoy_headers && !expected {
                headers.insert(
                    &header::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS,
                    HeaderValue::from(whole_millis(told)),
                );
            }
            if by_grpc.is_some() {
                headers.insert(&header::GRPC_TIMEOUT, grpc::timeout_value(told));
            }
        }
        Timeouts {
            response: (!response.is_zero()).then_some(response),
            per_try,
            stream,
        }
    }
}

/// The request's `grpc-timeout` within `max_grpc_timeout`, where zero is for ever on both sides.
fn grpc_timeout(headers: &HeaderMap, max: Duration, offset: Option<Duration>) -> Duration {
    let mut timeout = grpc::timeout(headers).unwrap_or_default();
    // An offset that leaves nothing would turn the timeout off, so it is left out.
    if let Some(offset) = offset.filter(|offset| *offset < timeout) {
        timeout -= offset;
    }
    if !max.is_zero() && (timeout.is_zero() || timeout > max) {
        timeout = max;
    }
    timeout
}

/// The header taken away, and its number if it holds one. `asks`: whether it is worth looking.
fn take_millis(headers: &mut HeaderMap, name: &HeaderName, asks: bool) -> Option<Option<Duration>> {
    let value = asks.then(|| headers.remove(name)).flatten()?;
    Some(parse_millis(&value))
}

/// A number of milliseconds, as these headers hold it.
pub(super) fn parse_millis(value: &HeaderValue) -> Option<Duration> {
    value
        .as_str()?
        .trim()
        .parse()
        .ok()
        .map(Duration::from_millis)
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
