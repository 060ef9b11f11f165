//! Sets of header names that are handled in the same way.

use outrider_codec::HeaderMap;
use outrider_codec::header::NameSet;

/// Envoy's own headers, those that the codec knows by name.
const ENVOY_HEADERS: NameSet = NameSet::beginning_with("x-envoy-");

/// Whether `headers` contains any of Envoy's own.
pub(crate) fn has_envoy_headers(headers: &HeaderMap) -> bool {
    headers.contains_any(ENVOY_HEADERS)
        || headers.has_unknown()
            && headers
                .keys()
                .any(|name| name.as_str().starts_with("x-envoy-"))
}

/// Hop-by-hop headers (RFC 9110 section 7.6.1), except `te`.
pub(crate) const HOP_BY_HOP: NameSet = NameSet::of(&[
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
]);

/// Hop-by-hop headers except those that an upgrade consists of.
pub(crate) const HOP_BY_HOP_EXCEPT_UPGRADE: NameSet =
    NameSet::of(&["keep-alive", "proxy-connection", "transfer-encoding"]);

/// Headers that only an internal client may send; removed from the requests of all others.
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

/// Headers that ask the router for retries; not sent upstream.
pub(crate) const RETRY: NameSet = NameSet::of(&[
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-max-retries",
    "x-envoy-hedge-on-per-try-timeout",
]);

/// Headers that are removed at the edge, in addition to [`INTERNAL_ONLY`].
pub(crate) const REMOVED_AT_EDGE: NameSet = NameSet::of(&[
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-original-path",
    "x-envoy-original-host",
]);
