//! The filter's configuration: `RateLimit`, and `RateLimitPerRoute` for some routes.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use outrider_client::ServiceCx;
use outrider_client::grpc::GrpcService;
use outrider_codec::RequestHead;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::RuntimeFractionalPercent;
use outrider_config::api::envoy::extensions::filters::http::ratelimit::v3 as api;
use outrider_config::api::envoy::extensions::filters::http::ratelimit::v3::rate_limit::XRateLimitHeadersRfcVersion;
use outrider_config::api::envoy::extensions::filters::http::ratelimit::v3::rate_limit_per_route::VhRateLimitsOptions;
use outrider_config::api::envoy::r#type::v3::FractionalPercent;
use outrider_config::api::envoy::r#type::v3::HttpStatus;
use outrider_config::duration;
use outrider_runtime::RuntimeFraction;
use outrider_runtime::Snapshot;

use crate::rate_limits::RateLimits;
use crate::route::HeaderMutations;
use crate::route::HostLimits;

/// The timeout of a question, if the filter sets none.
const TIMEOUT: Duration = Duration::from_millis(20);
/// `metadata_namespace`, if it is not set.
const NAMESPACE: &str = "envoy.filters.http.ratelimit";
/// The gRPC status RESOURCE_EXHAUSTED.
const RESOURCE_EXHAUSTED: u8 = 8;

/// The built `RateLimit`.
#[derive(Debug)]
pub(super) struct RateLimitConfig {
    pub(super) domain: String,
    pub(super) stage: u32,
    pub(super) requests: LimitedRequests,
    pub(super) service: GrpcService,
    /// `None` for no limit.
    pub(super) timeout: Option<Duration>,
    failure_mode_deny: bool,
    /// `failure_mode_deny_percent`: replaces `failure_mode_deny`.
    deny_share: Option<RuntimeFraction>,
    /// The gRPC status of requests over the limit, if it is not the usual one.
    pub(super) grpc_status: Option<u8>,
    /// `enable_x_ratelimit_headers`
    pub(super) shows_limit: bool,
    /// Whether responses to requests over the limit have `x-envoy-ratelimited`.
    pub(super) marks_limited: bool,
    pub(super) limited_status: StatusCode,
    pub(super) response_headers: Option<Arc<HeaderMutations>>,
    pub(super) status_on_error: StatusCode,
    pub(super) stat_prefix: String,
    pub(super) enabled: RuntimeFraction,
    pub(super) enforced: RuntimeFraction,
    pub(super) limits: RateLimits,
    pub(super) metadata_namespace: String,
    /// `enable_retry_after_header`
    pub(super) shows_retry_after: bool,
}

/// `request_type`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LimitedRequests {
    Internal,
    External,
    Both,
}

/// The built `RateLimitPerRoute`.
#[derive(Debug)]
pub(super) struct RateLimitOfRoute {
    pub(super) limits: RateLimits,
    pub(super) of_host: HostLimits,
    /// Replaces the filter's, unless it is empty.
    pub(super) domain: String,
}

impl RateLimitConfig {
    /// The filter's settings found at `path`.
    pub(super) fn build(
        message: &api::RateLimit,
        path: &FieldPath,
        cx: &ServiceCx<'_>,
    ) -> Result<RateLimitConfig, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let service = message.rate_limit_service.as_ref();
        let service_path = path.field("rate_limit_service").field("grpc_service");
        let service = match service.and_then(|service| service.grpc_service.as_ref()) {
            Some(service) => GrpcService::build(service, &service_path, cx),
            None => Err(ConfigErrors::from(ConfigError::new(
                &service_path,
                "expected the service that is asked",
            ))),
        };
        let service = errors.collect(service);
        let timeout = duration::optional(message.timeout.as_ref(), &path.field("timeout"));
        let timeout = errors.collect(timeout).flatten().unwrap_or(TIMEOUT);
        let added = &message.response_headers_to_add;
        let headers = errors.collect(HeaderMutations::build("response", added, &[], path));
        let limits = errors.collect(RateLimits::of_filter(&message.rate_limits, path));
        let (Some(service), Some(limits)) = (service, limits) else {
            return Err(errors);
        };
        let percent = message.failure_mode_deny_percent.as_ref();
        errors.finish(RateLimitConfig {
            domain: message.domain.clone(),
            stage: message.stage,
            requests: match message.request_type.as_str() {
                "internal" => LimitedRequests::Internal,
                "external" => LimitedRequests::External,
                _ => LimitedRequests::Both,
            },
            service,
            timeout: (!timeout.is_zero()).then_some(timeout),
            failure_mode_deny: message.failure_mode_deny,
            deny_share: percent.map(RuntimeFraction::of),
            grpc_status: message
                .rate_limited_as_resource_exhausted
                .then_some(RESOURCE_EXHAUSTED),
            shows_limit: message.enable_x_ratelimit_headers()
                == XRateLimitHeadersRfcVersion::DraftVersion03,
            marks_limited: !message.disable_x_envoy_ratelimited_header,
            limited_status: status(message.rate_limited_status.as_ref(), 400)
                .unwrap_or(StatusCode::TOO_MANY_REQUESTS),
            response_headers: headers.filter(|headers| !headers.is_empty()).map(Arc::new),
            status_on_error: status(message.status_on_error.as_ref(), 100)
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            stat_prefix: message.stat_prefix.clone(),
            enabled: share(
                message.filter_enabled.as_ref(),
                "ratelimit.http_filter_enabled",
            ),
            enforced: share(
                message.filter_enforced.as_ref(),
                "ratelimit.http_filter_enforcing",
            ),
            limits,
            metadata_namespace: match message.metadata_namespace.as_str() {
                "" => NAMESPACE.to_owned(),
                namespace => namespace.to_owned(),
            },
            shows_retry_after: message.enable_retry_after_header,
        })
    }

    /// Whether a request is denied after the service has failed.
    pub(super) fn denies_on_failure(&self, runtime: Option<&Snapshot>, random: u64) -> bool {
        match &self.deny_share {
            Some(share) => share.holds(runtime, random),
            None => self.failure_mode_deny,
        }
    }
}

impl LimitedRequests {
    /// Whether the filter handles this request.
    pub(super) fn include(self, head: &RequestHead) -> bool {
        let internal = head.headers.get("x-envoy-internal");
        let is_internal = internal.is_some_and(|value| value == "true");
        match self {
            LimitedRequests::Internal => is_internal,
            LimitedRequests::External => !is_internal,
            LimitedRequests::Both => true,
        }
    }
}

impl RateLimitOfRoute {
    /// The settings for some routes, found at `path`.
    pub(super) fn build(
        message: &api::RateLimitPerRoute,
        path: &FieldPath,
    ) -> Result<RateLimitOfRoute, ConfigErrors> {
        Ok(RateLimitOfRoute {
            limits: RateLimits::of_filter(&message.rate_limits, path)?,
            of_host: match message.vh_rate_limits() {
                VhRateLimitsOptions::Override => HostLimits::Overridden,
                VhRateLimitsOptions::Include => HostLimits::Included,
                VhRateLimitsOptions::Ignore => HostLimits::Ignored,
            },
            domain: message.domain.clone(),
        })
    }
}

/// The share of requests in the message; without one, the percentage of a runtime key, all by default.
fn share(message: Option<&RuntimeFractionalPercent>, key: &str) -> RuntimeFraction {
    match message {
        Some(message) => RuntimeFraction::of(message),
        None => RuntimeFraction::of(&RuntimeFractionalPercent {
            default_value: Some(FractionalPercent {
                numerator: 100,
                ..FractionalPercent::default()
            }),
            runtime_key: key.to_owned(),
        }),
    }
}

/// A status that is at least `least`.
fn status(message: Option<&HttpStatus>, least: i32) -> Option<StatusCode> {
    let code = message?.code;
    let code = u16::try_from(code).ok().filter(|_| code >= least)?;
    StatusCode::from_u16(code).ok()
}
