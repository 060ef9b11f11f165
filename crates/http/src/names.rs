//! Sets of header names that are treated alike.

use outrider_codec::HeaderMap;
use outrider_codec::header::NameSet;

/// Envoy's own, as far as they are known beforehand.
const ENVOY_HEADERS: NameSet = NameSet::beginning_with("x-envoy-");

/// Whether any header is one of Envoy's own.
pub(crate) fn has_envoy_headers(headers: &HeaderMap) -> bool {
    headers.contains_any(ENVOY_HEADERS)
        || headers.has_unknown()
            && headers
                .keys()
                .any(|name| name.as_str().starts_with("x-envoy-"))
}

/// What belongs to one hop only (RFC 9110 section 7.6.1), `te` apart.
pub(crate) const HOP_BY_HOP: NameSet = NameSet::of(&[
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
]);

/// The same but for what an upgrade consists of.
pub(crate) const HOP_BY_HOP_EXCEPT_UPGRADE: NameSet =
    NameSet::of(&["keep-alive", "proxy-connection", "transfer-encoding"]);

/// What only an internal client may say; taken from all others.
pub(crate) const INTERNAL_ONLY: NameSet = NameSet::of(&[
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-max-retries",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-stream-duration-ms",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-ip-tags",
    "x-envoy-original-url",
    "x-envoy-hedge-on-per-try-timeout",
]);

/// What asks the router for retries; it goes no further.
pub(crate) const RETRY: NameSet = NameSet::of(&[
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-max-retries",
    "x-envoy-hedge-on-per-try-timeout",
]);

/// What an edge takes from its clients besides [`INTERNAL_ONLY`].
pub(crate) const REMOVED_AT_EDGE: NameSet = NameSet::of(&[
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-original-path",
    "x-envoy-original-host",
]);
