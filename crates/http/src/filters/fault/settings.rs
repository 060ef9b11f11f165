//! The message `HTTPFault`: which requests get which faults.

use std::time::Duration;

use http::StatusCode;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderValue;
use outrider_codec::header;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use outrider_config::api::envoy::extensions::filters::common::fault::v3::fault_rate_limit::LimitType;
use outrider_config::api::envoy::extensions::filters::http::fault::v3::HttpFault;
use outrider_config::api::envoy::extensions::filters::http::fault::v3::fault_abort::ErrorType;
use outrider_config::api::envoy::r#type::v3::FractionalPercent;
use outrider_config::duration;
use outrider_runtime::Fraction;

use crate::Stream;
use crate::local_reply::LocalReply;
use crate::route::Action;
use outrider_matching::HeaderMatcher;

/// The faults of the filter, or of a route.
#[derive(Debug)]
pub(super) struct FaultSettings {
    delay: Option<InjectedFault<Duration>>,
    abort: Option<InjectedFault<Abort>>,
    rate: Option<InjectedFault<u64>>,
    /// `upstream_cluster`; empty for any.
    upstream_cluster: Box<str>,
    /// `downstream_nodes`; empty for any.
    downstream_nodes: Vec<Box<str>>,
    headers: Vec<HeaderMatcher>,
    max_active_faults: Option<u32>,
    /// `disable_downstream_cluster_stats`
    pub(super) disables_cluster_stats: bool,
    keys: RuntimeKeys,
}

/// One kind of fault: what it is and how many requests get it.
#[derive(Debug)]
struct InjectedFault<T> {
    /// `None` if each request asks for it in a header.
    fixed: Option<T>,
    share: Fraction,
}

/// How a request is aborted.
#[derive(Clone, Copy, Debug)]
enum Abort {
    Http(u64),
    Grpc(u64),
}

/// The runtime keys that override the settings.
#[derive(Debug)]
struct RuntimeKeys {
    delay_percent: Box<str>,
    abort_percent: Box<str>,
    delay_duration: Box<str>,
    abort_http_status: Box<str>,
    abort_grpc_status: Box<str>,
    max_active_faults: Box<str>,
    rate_percent: Box<str>,
}

impl RuntimeKeys {
    fn of(message: &HttpFault) -> RuntimeKeys {
        let or = |key: &str, default: &str| match key {
            "" => default.into(),
            key => key.into(),
        };
        RuntimeKeys {
            delay_percent: or(
                &message.delay_percent_runtime,
                "fault.http.delay.fixed_delay_percent",
            ),
            abort_percent: or(
                &message.abort_percent_runtime,
                "fault.http.abort.abort_percent",
            ),
            delay_duration: or(
                &message.delay_duration_runtime,
                "fault.http.delay.fixed_duration_ms",
            ),
            abort_http_status: or(
                &message.abort_http_status_runtime,
                "fault.http.abort.http_status",
            ),
            abort_grpc_status: or(
                &message.abort_grpc_status_runtime,
                "fault.http.abort.grpc_status",
            ),
            max_active_faults: or(
                &message.max_active_faults_runtime,
                "fault.http.max_active_faults",
            ),
            rate_percent: or(
                &message.response_rate_limit_percent_runtime,
                "fault.http.rate_limit.response_percent",
            ),
        }
    }
}

impl FaultSettings {
    pub(super) fn build(
        message: &HttpFault,
        path: &FieldPath,
    ) -> Result<FaultSettings, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let headers_path = path.field("headers");
        let headers = message.headers.iter().enumerate();
        let headers = headers.filter_map(|(at, matcher)| {
            errors.collect(HeaderMatcher::build(matcher, &headers_path.index(at)))
        });
        let headers = headers.collect();
        let delay = message.delay.as_ref().map(|delay| {
            let path = path.field("delay").field("fixed_delay");
            let fixed = match &delay.fault_delay_secifier {
                Some(FaultDelaySecifier::FixedDelay(delay)) => errors
                    .collect(duration::optional(Some(delay), &path))
                    .flatten(),
                Some(FaultDelaySecifier::HeaderDelay(_)) | None => None,
            };
            InjectedFault::new(fixed, delay.percentage.as_ref())
        });
        let abort = message.abort.as_ref().map(|abort| {
            let fixed = match &abort.error_type {
                Some(ErrorType::HttpStatus(status)) => Some(Abort::Http(u64::from(*status))),
                Some(ErrorType::GrpcStatus(status)) => Some(Abort::Grpc(u64::from(*status))),
                Some(ErrorType::HeaderAbort(_)) | None => None,
            };
            InjectedFault::new(fixed, abort.percentage.as_ref())
        });
        let rate = message.response_rate_limit.as_ref().map(|limit| {
            let fixed = match &limit.limit_type {
                Some(LimitType::FixedLimit(limit)) => Some(limit.limit_kbps),
                Some(LimitType::HeaderLimit(_)) | None => None,
            };
            InjectedFault::new(fixed, limit.percentage.as_ref())
        });
        let nodes = message.downstream_nodes.iter();
        errors.finish(FaultSettings {
            delay,
            abort,
            rate,
            upstream_cluster: message.upstream_cluster.as_str().into(),
            downstream_nodes: nodes.map(|node| node.as_str().into()).collect(),
            headers,
            max_active_faults: message.max_active_faults,
            disables_cluster_stats: message.disable_downstream_cluster_stats,
            keys: RuntimeKeys::of(message),
        })
    }

    /// Whether the request may get a fault.
    pub(super) fn applies(&self, stream: &Stream) -> bool {
        let head = &stream.request;
        self.is_for_cluster(stream)
            && self.is_for_node(&head.headers)
            && self.headers.iter().all(|matcher| matcher.matches(head))
    }

    fn is_for_cluster(&self, stream: &Stream) -> bool {
        if self.upstream_cluster.is_empty() {
            return true;
        }
        match stream.route.as_deref().map(|route| &route.action) {
            Some(Action::Forward(forward)) => {
                forward.cluster_name(&stream.request) == Some(&*self.upstream_cluster)
            }
            _ => false,
        }
    }

    fn is_for_node(&self, headers: &HeaderMap) -> bool {
        let node = headers.get(&header::X_ENVOY_DOWNSTREAM_SERVICE_NODE);
        let is_named = |node: &HeaderValue| {
            let mut named = self.downstream_nodes.iter();
            named.any(|named| *node == **named)
        };
        self.downstream_nodes.is_empty() || node.is_some_and(is_named)
    }

    /// How many faults may be active at once.
    pub(super) fn max_active_faults(&self, stream: &Stream) -> i64 {
        let max = number(stream, &self.keys.max_active_faults);
        let max = max.or(self.max_active_faults.map(u64::from));
        max.and_then(|max| i64::try_from(max).ok())
            .unwrap_or(i64::MAX)
    }

    /// How long the request is to be delayed, if it is.
    pub(super) fn delay(&self, stream: &Stream) -> Option<Duration> {
        let delay = self.delay.as_ref()?;
        let percent = (&*self.keys.delay_percent, "delay.fixed_delay_percent");
        if !delay.is_chosen(stream, percent, "x-envoy-fault-delay-request-percentage") {
            return None;
        }
        let asked = || asked(stream, "x-envoy-fault-delay-request");
        let millis = match delay.fixed {
            Some(fixed) => u64::try_from(fixed.as_millis()).unwrap_or(u64::MAX),
            None => asked()?,
        };
        let millis = number(stream, &self.keys.delay_duration).unwrap_or(millis);
        let millis = number_of_cluster(stream, "delay.fixed_duration_ms").unwrap_or(millis);
        (millis > 0).then(|| Duration::from_millis(millis))
    }

    /// How many KiB of the response may be sent in a second, if that is limited.
    pub(super) fn response_rate(&self, stream: &Stream) -> Option<u64> {
        let rate = self.rate.as_ref()?;
        let percent = (&*self.keys.rate_percent, "");
        if !rate.is_chosen(
            stream,
            percent,
            "x-envoy-fault-throughput-response-percentage",
        ) {
            return None;
        }
        match rate.fixed {
            Some(fixed) => Some(fixed),
            None => asked(stream, "x-envoy-fault-throughput-response").filter(|rate| *rate > 0),
        }
    }

    /// The reply to a request that is to be aborted, if it is.
    pub(super) fn abort(&self, stream: &Stream) -> Option<LocalReply> {
        let abort = self.abort.as_ref()?;
        let percent = (&*self.keys.abort_percent, "abort.abort_percent");
        if !abort.is_chosen(stream, percent, "x-envoy-fault-abort-request-percentage") {
            return None;
        }
        let asked = || {
            let http = asked(stream, "x-envoy-fault-abort-request");
            let http = http.filter(|status| (200..600).contains(status));
            let grpc = || asked(stream, "x-envoy-fault-abort-grpc-request").map(Abort::Grpc);
            http.map(Abort::Http).or_else(grpc)
        };
        let overridden = |key: &str, of_cluster: &str| {
            number_of_cluster(stream, of_cluster).or_else(|| {
                let is_of_cluster = downstream_cluster(stream).is_some();
                number(stream, key).filter(|_| !is_of_cluster)
            })
        };
        let reply =
            |status| LocalReply::new(status, "fault_filter_abort").body("fault filter abort");
        match abort.fixed.or_else(asked)? {
            Abort::Http(status) => {
                let status =
                    overridden(&self.keys.abort_http_status, "abort.http_status").unwrap_or(status);
                let status = u16::try_from(status).ok();
                let status = status.and_then(|status| StatusCode::from_u16(status).ok());
                // Envoy sends any number; a number that is not a status cannot be sent here.
                Some(reply(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)))
            }
            Abort::Grpc(status) => {
                let status =
                    overridden(&self.keys.abort_grpc_status, "abort.grpc_status").unwrap_or(status);
                let mut reply = reply(StatusCode::OK);
                reply.grpc_status = Some(u8::try_from(status).unwrap_or(2)); // UNKNOWN
                Some(reply)
            }
        }
    }
}

impl<T> InjectedFault<T> {
    fn new(fixed: Option<T>, percentage: Option<&FractionalPercent>) -> InjectedFault<T> {
        InjectedFault {
            fixed,
            share: Fraction::of(&percentage.copied().unwrap_or_default()),
        }
    }

    /// Whether a request gets the fault. `percent` has the runtime key, and the end of the key of a downstream cluster.
    /// The header may lower the share, if the fault is one that requests ask for.
    fn is_chosen(&self, stream: &Stream, percent: (&str, &str), header: &str) -> bool {
        let (key, of_cluster) = percent;
        let asked = self
            .fixed
            .is_none()
            .then(|| asked(stream, header))
            .flatten();
        let share = match asked {
            Some(asked) => {
                let numerator = asked.min(u64::from(self.share.numerator()));
                self.share.with_numerator(numerator)
            }
            None => self.share,
        };
        let cluster = downstream_cluster(stream).filter(|_| !of_cluster.is_empty());
        let set = stream.runtime().and_then(|runtime| match cluster {
            Some(cluster) => runtime.fraction(&format!("fault.http.{cluster}.{of_cluster}")),
            None => runtime.fraction(key),
        });
        set.unwrap_or(share).holds(fastrand::u64(..))
    }
}

/// A number in a request's header. Only the first value counts.
fn asked(stream: &Stream, name: &str) -> Option<u64> {
    stream
        .request
        .headers
        .get(name)?
        .as_str()?
        .trim()
        .parse()
        .ok()
}

fn number(stream: &Stream, key: &str) -> Option<u64> {
    stream.runtime()?.number(key)
}

/// The cluster that the client says it belongs to.
fn downstream_cluster(stream: &Stream) -> Option<&str> {
    let headers = &stream.request.headers;
    let cluster = headers.get(&header::X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER)?;
    cluster.as_str()
}

/// The value of a runtime key for the client's cluster.
fn number_of_cluster(stream: &Stream, end: &str) -> Option<u64> {
    let runtime = stream.runtime()?;
    runtime.number(&format!("fault.http.{}.{end}", downstream_cluster(stream)?))
}
