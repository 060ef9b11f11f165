//! Joins repeated header fields into one field.
//!
//! Envoy stores some header names in dedicated slots that hold one value: when such a name is repeated, the value is
//! appended to the first. Fields with other names stay separate.

use super::HeaderMap;
use super::HeaderValue;
use super::NameRef;
use super::NameSet;

/// Header names that are joined in requests. The codec removes some of Envoy's names before joining; they are listed
/// for completeness.
pub const JOINED_IN_REQUESTS: NameSet = NameSet::of(&[
    "accept",
    "accept-encoding",
    "access-control-request-headers",
    "access-control-request-method",
    "access-control-request-private-network",
    "authorization",
    "cache-control",
    "cdn-loop",
    "connection",
    "content-encoding",
    "content-type",
    "expect",
    "grpc-accept-encoding",
    "grpc-timeout",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "origin",
    "pragma",
    "referer",
    "te",
    "upgrade",
    "user-agent",
    "via",
    "x-client-trace-id",
    "x-envoy-attempt-count",
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-external-address",
    "x-envoy-force-trace",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-ip-tags",
    "x-envoy-is-timeout-retry",
    "x-envoy-max-retries",
    "x-envoy-original-host",
    "x-envoy-original-path",
    "x-envoy-original-url",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-stream-duration-ms",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-request-id",
]);

/// Header names that are joined in responses.
pub const JOINED_IN_RESPONSES: NameSet = NameSet::of(&[
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-allow-private-network",
    "access-control-expose-headers",
    "access-control-max-age",
    "age",
    "cache-control",
    "connection",
    "content-encoding",
    "content-type",
    "date",
    "etag",
    "expires",
    "grpc-message",
    "grpc-status",
    "last-modified",
    "location",
    "server",
    "upgrade",
    "vary",
    "via",
    "x-envoy-attempt-count",
    "x-envoy-decorator-operation",
    "x-envoy-degraded",
    "x-envoy-immediate-health-check-fail",
    "x-envoy-ratelimited",
    "x-envoy-upstream-canary",
    "x-envoy-upstream-healthchecked-cluster",
    "x-request-id",
]);

/// How many extra fields a block may have when repeated fields count as one.
pub(crate) const MAX_JOINED_EXTRA: usize = 1024;

/// Which part of a message a block of header fields is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockKind {
    /// A request's head.
    Request,
    /// A response's head.
    Response,
    /// The fields after a body.
    Trailers,
}

impl BlockKind {
    /// The names whose repeated fields are joined.
    pub(crate) const fn joined_names(self) -> NameSet {
        match self {
            BlockKind::Request => JOINED_IN_REQUESTS,
            BlockKind::Response => JOINED_IN_RESPONSES,
            BlockKind::Trailers => JOINED_IN_TRAILERS,
        }
    }
}

/// Spare capacity that a header map keeps after joining, for fields that are added later.
const SPARE_CAPACITY: usize = 8;

/// Header names that are joined in trailers.
pub const JOINED_IN_TRAILERS: NameSet = NameSet::of(&["grpc-message", "grpc-status"]);

impl HeaderMap {
    /// Joins repeated fields with one of these names: one field in the place of the first, with comma-separated values.
    /// Call this once all fields are there: joining after each repetition would copy the values again and again.
    #[inline]
    pub fn join(&mut self, names: NameSet) {
        if self.names.repeated {
            self.join_repeated(names);
        }
    }

    #[cold]
    fn join_repeated(&mut self, names: NameSet) {
        let (mut seen, mut repeated) = (0u128, 0u128);
        for (name, _) in &self.fields {
            if let NameRef::Known(index) = NameRef::from(name) {
                repeated |= seen & 1 << index;
                seen |= 1 << index;
            }
        }
        for index in 0..128 {
            if repeated & names.0 & 1 << index != 0 {
                self.join_one(NameRef::Known(index));
            }
        }
        // Joining may leave much unused capacity, which is released. Some stays, because proxies add fields.
        self.fields.shrink_to(self.fields.len() + SPARE_CAPACITY);
    }

    fn join_one(&mut self, name: NameRef<'_>) {
        let Some((first, _)) = self.position(name).and_then(|at| self.fields.get(at)) else {
            return;
        };
        let first = first.clone();
        if let Some(value) = join_values(self.get_all(&first)) {
            self.insert(first, value);
        }
    }
}

/// Joins several values into one, separated by commas. Empty values add no comma.
pub(crate) fn join_values<'v>(
    values: impl Iterator<Item = &'v HeaderValue>,
) -> Option<HeaderValue> {
    let mut text = Vec::new();
    let mut sensitive = false;
    for value in values {
        sensitive |= value.is_sensitive();
        if !text.is_empty() && !value.is_empty() {
            text.push(b',');
        }
        text.extend_from_slice(value.as_bytes());
    }
    // Valid because it consists of valid values.
    let mut value = HeaderValue::from_bytes(&text).ok()?;
    value.set_sensitive(sensitive);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::super::tests::map;
    use super::*;
    use crate::HeaderName;

    #[test]
    fn repeated_fields_are_joined_in_the_place_of_the_first() {
        let mut headers = map(&[
            ("x-own", "1"),
            ("via", ""),
            ("x-own", "2"),
            ("te", "a"),
            ("via", "b"),
            ("cookie", "c"),
            ("te", "d"),
            ("via", ""),
            ("cookie", "e"),
            ("via", "f"),
        ]);
        headers.join(JOINED_IN_REQUESTS);
        let joined = map(&[
            ("x-own", "1"),
            ("via", "b,f"),
            ("x-own", "2"),
            ("te", "a,d"),
            ("cookie", "c"),
            ("cookie", "e"),
        ]);
        assert_eq!(headers, joined);
        headers.join(JOINED_IN_REQUESTS);
        assert_eq!(headers, joined);
    }

    #[test]
    fn removed_fields_are_not_joined() {
        let mut headers = map(&[("via", "1"), ("via", "2"), ("age", "3")]);
        headers.remove("via");
        headers.join(JOINED_IN_REQUESTS);
        assert_eq!(headers, map(&[("age", "3")]));
        headers.append(
            HeaderName::from_static("via"),
            HeaderValue::from_static("4"),
        );
        headers.join(JOINED_IN_REQUESTS);
        assert_eq!(headers, map(&[("age", "3"), ("via", "4")]));
    }

    #[test]
    fn joined_values_stay_sensitive() {
        let mut headers = map(&[("authorization", "1")]);
        let mut secret = HeaderValue::from_static("2");
        secret.set_sensitive(true);
        headers.append(HeaderName::from_static("authorization"), secret);
        headers.join(JOINED_IN_REQUESTS);
        assert!(headers["authorization"].is_sensitive());
    }
}
