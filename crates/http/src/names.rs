//! The header names that Envoy has of its own, made once.

use http::HeaderMap;
use http::HeaderName;

macro_rules! names {
    ($($name:ident = $text:literal;)*) => {
        $(pub(crate) static $name: HeaderName = HeaderName::from_static($text);)*
    };
}

names! {
    CLIENT_CERT = "x-forwarded-client-cert";
    FORWARDED_FOR = "x-forwarded-for";
    FORWARDED_PORT = "x-forwarded-port";
    FORWARDED_PROTO = "x-forwarded-proto";
    GRPC_MESSAGE = "grpc-message";
    GRPC_STATUS = "grpc-status";
    GRPC_TIMEOUT = "grpc-timeout";
    KEEP_ALIVE = "keep-alive";
    PROXY_CONNECTION = "proxy-connection";
    REQUEST_ID = "x-request-id";
    ALT_RESPONSE = "x-envoy-upstream-rq-timeout-alt-response";
    ATTEMPT_COUNT = "x-envoy-attempt-count";
    CANARY = "x-envoy-upstream-canary";
    DOWNSTREAM_SERVICE_CLUSTER = "x-envoy-downstream-service-cluster";
    DOWNSTREAM_SERVICE_NODE = "x-envoy-downstream-service-node";
    EXPECTED_TIMEOUT = "x-envoy-expected-rq-timeout-ms";
    EXTERNAL_ADDRESS = "x-envoy-external-address";
    FORCE_TRACE = "x-envoy-force-trace";
    INTERNAL = "x-envoy-internal";
    OVERLOADED = "x-envoy-overloaded";
    PER_TRY_TIMEOUT = "x-envoy-upstream-rq-per-try-timeout-ms";
    SERVICE_TIME = "x-envoy-upstream-service-time";
    STREAM_DURATION = "x-envoy-upstream-stream-duration-ms";
    UPSTREAM_TIMEOUT = "x-envoy-upstream-rq-timeout-ms";
}

/// Whether any header is one of Envoy's own: looking through the few that there are is cheaper than asking the map for
/// each that may be.
pub(crate) fn any_of_envoy(headers: &HeaderMap) -> bool {
    headers
        .keys()
        .any(|name| name.as_str().starts_with("x-envoy-"))
}

/// Whether any header belongs to one hop only (RFC 9110 section 7.6.1), `te` apart.
pub(crate) fn any_hop_by_hop(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        matches!(
            name.as_str(),
            "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade"
        )
    })
}

/// What only an internal client may say; taken from all others.
pub(crate) static INTERNAL_ONLY: [HeaderName; 14] = [
    HeaderName::from_static("x-envoy-retry-on"),
    HeaderName::from_static("x-envoy-retry-grpc-on"),
    HeaderName::from_static("x-envoy-retriable-status-codes"),
    HeaderName::from_static("x-envoy-retriable-header-names"),
    HeaderName::from_static("x-envoy-max-retries"),
    HeaderName::from_static("x-envoy-upstream-alt-stat-name"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response"),
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-force-trace"),
    HeaderName::from_static("x-envoy-ip-tags"),
    HeaderName::from_static("x-envoy-original-url"),
    HeaderName::from_static("x-envoy-hedge-on-per-try-timeout"),
];

/// What asks the router for retries; it goes no further.
pub(crate) static RETRY: [HeaderName; 6] = [
    HeaderName::from_static("x-envoy-retry-on"),
    HeaderName::from_static("x-envoy-retry-grpc-on"),
    HeaderName::from_static("x-envoy-retriable-status-codes"),
    HeaderName::from_static("x-envoy-retriable-header-names"),
    HeaderName::from_static("x-envoy-max-retries"),
    HeaderName::from_static("x-envoy-hedge-on-per-try-timeout"),
];

/// What an edge takes from its clients besides [`INTERNAL_ONLY`].
pub(crate) static NOT_ACROSS_THE_EDGE: [HeaderName; 5] = [
    HeaderName::from_static("x-envoy-decorator-operation"),
    HeaderName::from_static("x-envoy-downstream-service-cluster"),
    HeaderName::from_static("x-envoy-downstream-service-node"),
    HeaderName::from_static("x-envoy-original-path"),
    HeaderName::from_static("x-envoy-original-host"),
];
