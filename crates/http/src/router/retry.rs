//! Decides whether a failed attempt is followed by another, and when (`RetryPolicy` and the `x-envoy-retry-…` headers).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use http::StatusCode;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::ResponseHead;
use outrider_codec::StreamError;
use outrider_codec::header;
use outrider_net::BackOff;
use outrider_net::clock;
use outrider_upstream::Cluster;
use outrider_upstream::Host;
use outrider_upstream::Permit;
use outrider_upstream::RoutingPriority;

use crate::RequestHead;
use crate::ResponseFlag;
use crate::Stream;
use crate::names;
use crate::route::BackOffIntervals;
use crate::route::DEFAULT_BASE_INTERVAL;
use crate::route::ResetFormat;
use crate::route::RetryOn;
use crate::route::RetryPolicy;
use crate::router::upstream_request::ExtraStats;

/// The conditions that depend on a gRPC status.
const GRPC: [(RetryOn, &str); 5] = [
    (RetryOn::GRPC_CANCELLED, "1"),
    (RetryOn::GRPC_DEADLINE_EXCEEDED, "4"),
    (RetryOn::GRPC_RESOURCE_EXHAUSTED, "8"),
    (RetryOn::GRPC_INTERNAL, "13"),
    (RetryOn::GRPC_UNAVAILABLE, "14"),
];

/// The retries of one request.
#[derive(Debug)]
pub(super) struct RetryState {
    policy: Option<Arc<RetryPolicy>>,
    on: RetryOn,
    remaining: u64,
    /// Status codes and response headers that the request asks to be retried.
    status_codes: Vec<u32>,
    header_names: Vec<HeaderName>,
    priority: RoutingPriority,
    cluster: Rc<Cluster>,
    extra_stats: ExtraStats,
    back_off: BackOff,
    /// Counts the retry under way; given back when the next decision is made.
    permit: Option<Permit>,
    tried: Vec<Arc<Host>>,
}

/// What comes after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetryVerdict {
    /// Its outcome is the request's.
    Final,
    /// Its outcome is the request's, because retries are used up or too many are under way.
    Denied(ResponseFlag),
    /// Another attempt, after this wait.
    Retry(RetryWait),
}

/// The wait before a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RetryWait {
    pub(super) time: Duration,
    /// Whether the response told it (`rate_limited_retry_back_off`).
    was_told: bool,
}

/// How an attempt failed before its response.
#[derive(Clone, Copy, Debug)]
pub(super) struct FailedAttempt<'a> {
    pub(super) error: &'a StreamError,
    /// Whether any part of the request was sent.
    pub(super) request_began: bool,
}

impl RetryState {
    /// The retries that the route's policy or the request's headers ask for; `None` for none.
    pub(super) fn new(
        stream: &Stream,
        policy: Option<&Arc<RetryPolicy>>,
        (cluster, extra_stats): (&Rc<Cluster>, &ExtraStats),
        priority: RoutingPriority,
    ) -> Option<RetryState> {
        let request = &stream.request;
        let asked = Asked::of(&request.headers);
        let of_policy = policy.map(|policy| policy.on).unwrap_or_default();
        let allowed = policy.is_none_or(|policy| allows(policy, request));
        let of_policy = if allowed {
            of_policy
        } else {
            RetryOn::default()
        };
        let on = of_policy.with(asked.on);
        if on.is_empty() {
            return None;
        }
        let by_policy = policy.map_or(1, |policy| u64::from(policy.num_retries));
        let base = stream
            .runtime()
            .and_then(|runtime| runtime.number("upstream.base_retry_backoff_ms"))
            .map_or(DEFAULT_BASE_INTERVAL, Duration::from_millis);
        let intervals = policy.and_then(|policy| policy.back_off);
        let intervals = intervals.unwrap_or(BackOffIntervals {
            base,
            max: base * 10,
        });
        Some(RetryState {
            policy: policy.cloned(),
            on,
            remaining: asked.max_retries.unwrap_or(by_policy),
            status_codes: asked.status_codes,
            header_names: asked.header_names,
            priority,
            cluster: cluster.clone(),
            extra_stats: extra_stats.clone(),
            back_off: BackOff::new(intervals.base, intervals.max),
            permit: None,
            tried: Vec::new(),
        })
    }

    /// Notes the host of an attempt.
    pub(super) fn tries(&mut self, host: &Arc<Host>) {
        self.tried.push(host.clone());
    }

    /// How often another host is picked in place of one that is [rejected](Self::rejects).
    pub(super) fn host_selection_attempts(&self) -> u32 {
        let policy = self.policy.as_ref();
        policy.map_or(0, |policy| policy.host_selection_attempts)
    }

    /// Whether a host predicate rejects the host for a retry.
    pub(super) fn rejects(&self, host: &Host) -> bool {
        let policy = self.policy.as_ref();
        policy.is_some_and(|policy| policy.rejects(host, self.tried.iter().map(|host| &**host)))
    }

    /// The verdict on an attempt that was answered with this head.
    pub(super) fn after_response(&mut self, head: &ResponseHead, stream: &Stream) -> RetryVerdict {
        let retries = self.would_retry_response(head);
        let wait = self
            .policy
            .as_ref()
            .filter(|_| retries)
            .and_then(|policy| told_wait(policy, head));
        let verdict = self.decide(retries, wait, stream);
        if matches!(verdict, RetryVerdict::Retry(_)) {
            let stats = self.cluster.stats();
            stats.retry.get().upstream_rq.record(head.status.as_u16());
        }
        verdict
    }

    /// The verdict on an attempt that failed without a response.
    pub(super) fn after_failure(
        &mut self,
        failed: FailedAttempt<'_>,
        stream: &Stream,
    ) -> RetryVerdict {
        let retries = self.would_retry_failure(failed);
        self.decide(retries, None, stream)
    }

    fn would_retry_response(&self, head: &ResponseHead) -> bool {
        if head.headers.contains_key(&header::X_ENVOY_RATELIMITED) {
            return self.on.has(RetryOn::ENVOY_RATE_LIMITED);
        }
        let status = head.status;
        let code = u32::from(status.as_u16());
        let policy = self.policy.as_deref();
        let listed = || {
            let by_policy = policy.is_some_and(|policy| policy.status_codes.contains(&code));
            by_policy || self.status_codes.contains(&code)
        };
        let named = || {
            let by_policy = policy.map_or(&[][..], |policy| &policy.headers);
            by_policy.iter().any(|header| header.matches_response(head))
                || self
                    .header_names
                    .iter()
                    .any(|name| head.headers.contains_key(name))
        };
        self.on.has(RetryOn::SERVER_ERROR) && status.is_server_error()
            || self.on.has(RetryOn::GATEWAY_ERROR) && matches!(code, 502..=504)
            || self.on.has(RetryOn::RETRIABLE_4XX) && status == StatusCode::CONFLICT
            || self.on.has(RetryOn::RETRIABLE_STATUS_CODES) && listed()
            || self.on.has(RetryOn::RETRIABLE_HEADERS) && named()
            || self.would_retry_grpc(&head.headers)
    }

    fn would_retry_grpc(&self, headers: &HeaderMap) -> bool {
        let Some(status) = headers.get(&header::GRPC_STATUS) else {
            return false;
        };
        GRPC.iter()
            .any(|(condition, code)| self.on.has(*condition) && status == *code)
    }

    fn would_retry_failure(&self, failed: FailedAttempt<'_>) -> bool {
        let any = RetryOn::SERVER_ERROR
            .with(RetryOn::GATEWAY_ERROR)
            .with(RetryOn::RESET);
        match failed.error {
            StreamError::Overflow => false,
            _ if self.on.has(any) => true,
            _ if self.on.has(RetryOn::RESET_BEFORE_REQUEST) && !failed.request_began => true,
            StreamError::RemoteRefused => self.on.has(RetryOn::REFUSED_STREAM),
            StreamError::ConnectionFailure(_)
            | StreamError::LocalConnectionFailure(_)
            | StreamError::ConnectionTimeout => self.on.has(RetryOn::CONNECT_FAILURE),
            _ => false,
        }
    }

    /// Envoy's order: the limit of retries, the breaker, the runtime.
    fn decide(&mut self, retries: bool, wait: Option<Duration>, stream: &Stream) -> RetryVerdict {
        let stats = self.cluster.stats();
        if self.permit.take().is_some() && !retries {
            stats.upstream_rq_retry_success.inc();
            self.extra_stats
                .count(|stats| &stats.upstream_rq_retry_success);
        }
        if !retries {
            return RetryVerdict::Final;
        }
        let Some(remaining) = self.remaining.checked_sub(1) else {
            stats.upstream_rq_retry_limit_exceeded.inc();
            self.extra_stats
                .count(|stats| &stats.upstream_rq_retry_limit_exceeded);
            return RetryVerdict::Denied(ResponseFlag::UpstreamRetryLimitExceeded);
        };
        self.remaining = remaining;
        let Some(permit) = self.cluster.acquire_retry(self.priority) else {
            stats.upstream_rq_retry_overflow.inc();
            self.extra_stats
                .count(|stats| &stats.upstream_rq_retry_overflow);
            return RetryVerdict::Denied(ResponseFlag::UpstreamOverflow);
        };
        let percent = stream
            .runtime()
            .and_then(|runtime| runtime.number("upstream.use_retry"));
        if percent.is_some_and(|percent| fastrand::u64(..100) >= percent) {
            return RetryVerdict::Final;
        }
        self.permit = Some(permit);
        RetryVerdict::Retry(match wait {
            Some(least) => RetryWait {
                time: least + least.mul_f64(fastrand::f64() / 2.0),
                was_told: true,
            },
            None => RetryWait {
                time: self.back_off.next_wait(),
                was_told: false,
            },
        })
    }

    /// Counts a retry, after its wait.
    pub(super) fn begins(&self, wait: RetryWait) {
        let stats = self.cluster.stats();
        stats.upstream_rq_retry.inc();
        self.extra_stats.count(|stats| &stats.upstream_rq_retry);
        if wait.was_told {
            stats.upstream_rq_retry_backoff_ratelimited.inc();
        } else {
            stats.upstream_rq_retry_backoff_exponential.inc();
        }
    }
}

/// What a request's own headers ask for.
#[derive(Debug, Default)]
struct Asked {
    on: RetryOn,
    max_retries: Option<u64>,
    status_codes: Vec<u32>,
    header_names: Vec<HeaderName>,
}

impl Asked {
    fn of(headers: &HeaderMap) -> Asked {
        if !names::has_envoy_headers(headers) {
            return Asked::default();
        }
        let text = |name: &HeaderName| headers.get(name).and_then(HeaderValue::as_str);
        let on = text(&header::X_ENVOY_RETRY_ON).map(RetryOn::parse_http);
        let grpc = text(&header::X_ENVOY_RETRY_GRPC_ON).map(RetryOn::parse_grpc);
        let list = |name| text(name).unwrap_or_default().split(',').map(str::trim);
        Asked {
            on: on.unwrap_or_default().with(grpc.unwrap_or_default()),
            max_retries: text(&header::X_ENVOY_MAX_RETRIES)
                .and_then(|number| number.trim().parse().ok()),
            status_codes: list(&header::X_ENVOY_RETRIABLE_STATUS_CODES)
                .filter_map(|code| code.parse().ok())
                .collect(),
            header_names: list(&header::X_ENVOY_RETRIABLE_HEADER_NAMES)
                .filter_map(|name| name.parse().ok())
                .collect(),
        }
    }
}

/// Whether the policy's own conditions apply to this request.
fn allows(policy: &RetryPolicy, request: &RequestHead) -> bool {
    let required = &policy.request_headers;
    required.is_empty() || required.iter().any(|header| header.matches(request))
}

/// How long the response tells to wait, by the policy's `reset_headers`.
fn told_wait(policy: &RetryPolicy, head: &ResponseHead) -> Option<Duration> {
    let limited = policy.rate_limited.as_ref()?;
    limited.headers.iter().find_map(|header| {
        let value = header.name.values_of_response(head).next()?;
        let number: u64 = std::str::from_utf8(value).ok()?.trim().parse().ok()?;
        let seconds = match header.format {
            ResetFormat::Seconds => number,
            ResetFormat::UnixTimestamp => {
                let now = clock::wall().duration_since(UNIX_EPOCH).ok()?;
                number.checked_sub(now.as_secs())?
            }
        };
        let wait = Duration::from_secs(seconds);
        (!wait.is_zero() && wait <= limited.max).then_some(wait)
    })
}
