//! Well-known header names. They are so common that finding them in a table is cheaper than allocating them.
//!
//! To add a name, add a line to `names!`.

#![expect(
    clippy::indexing_slicing,
    reason = "slots are computed modulo their number, and hold positions in `KNOWN`"
)]

use super::HeaderName;

/// How HPACK encodes a field with a given name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Indexing {
    /// Added to the dynamic table when the same field is sent the second time.
    Adaptive,
    /// Never added to the table, because its values do not repeat.
    Unique,
    /// Never indexed, neither here nor by a later hop (RFC 7541 section 7.1.3).
    Secret,
    /// Never indexed if short: a peer that can inject guesses could recover it from the compressed size (as in CRIME).
    /// Otherwise as `Adaptive`.
    SecretIfShort,
}

/// A well-known name and its properties.
#[derive(Debug)]
pub(crate) struct KnownName {
    pub(crate) text: &'static str,
    /// The index of the first field with this name in HPACK's static table, or zero.
    pub(crate) index: u8,
    pub(crate) indexing: Indexing,
}

/// A `NameSet` has one bit for each name.
const _: () = assert!(KNOWN.len() <= u128::BITS as usize);

/// The position of `name`, given in lower case, in [`KNOWN`].
#[inline]
pub(super) const fn index_of(name: &[u8]) -> Option<u8> {
    let mut slot = slot_of(hash(name));
    loop {
        let next = SLOTS[slot];
        if next == 0 {
            return None;
        }
        if equal(KNOWN[next as usize - 1].text.as_bytes(), name) {
            return Some(next - 1);
        }
        slot = (slot + 1) % SLOT_COUNT;
    }
}

/// The position of `name`, given in any case, in [`KNOWN`].
#[inline]
pub(super) fn index_of_any_case(name: &[u8]) -> Option<u8> {
    let mut slot = slot_of(hash(name));
    loop {
        let index = SLOTS[slot].checked_sub(1)?;
        if equal_in_any_case(KNOWN[usize::from(index)].text.as_bytes(), name) {
            return Some(index);
        }
        slot = (slot + 1) % SLOT_COUNT;
    }
}

/// Slice equality in a `const fn`, where `==` is not available.
#[inline]
pub(super) const fn equal(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    // Eight bytes at a time; the last eight may overlap with those before.
    if let (Some(a), Some(b)) = (one.last_chunk::<8>(), other.last_chunk::<8>()) {
        let (mut one, mut other) = (one, other);
        while let (Some((a, rest)), Some((b, others))) =
            (one.split_first_chunk::<8>(), other.split_first_chunk::<8>())
        {
            if u64::from_le_bytes(*a) != u64::from_le_bytes(*b) {
                return false;
            }
            (one, other) = (rest, others);
        }
        return u64::from_le_bytes(*a) == u64::from_le_bytes(*b);
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// Whether `name`, in any case, equals `known`, which consists of lower-case letters, digits and hyphens.
#[inline]
fn equal_in_any_case(known: &[u8], name: &[u8]) -> bool {
    if known.len() != name.len() {
        return false;
    }
    let differ = |known: u64, name: u64| {
        // Of the bytes that `known` may contain, only letters have this bit, and only letters have two cases.
        let letters = known & (u64::MAX / 255 * 0x40);
        (known ^ name) & !(letters >> 1) != 0
    };
    // Eight bytes at a time; the last eight may overlap with those before.
    if let (Some(a), Some(b)) = (known.last_chunk(), name.last_chunk()) {
        let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
        let pairs = known.as_chunks().0.iter().zip(name.as_chunks().0);
        let all = pairs.fold(differ(word(a), word(b)), |found, (a, b)| {
            found | differ(word(a), word(b))
        });
        return !all;
    }
    if let (Some(a), Some(b)) = (both_ends(known), both_ends(name)) {
        return !differ(a, b);
    }
    known.eq_ignore_ascii_case(name)
}

/// The first and the last four bytes, which may overlap, as one number.
#[inline]
fn both_ends(name: &[u8]) -> Option<u64> {
    let (first, last) = (name.first_chunk()?, name.last_chunk()?);
    Some(u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32)
}

/// The bit in each byte that makes an ASCII letter lower case.
const LOWER_CASE: u64 = u64::MAX / 255 * 0x20;

/// A hash of a name's length, first and last bytes, which is enough to distinguish the well-known names. It does not
/// depend on case.
#[inline]
pub(crate) const fn hash(name: &[u8]) -> u64 {
    let (first, last) = if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        (u64::from_le_bytes(*first), u64::from_le_bytes(*last))
    } else if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        (
            u32::from_le_bytes(*first) as u64,
            u32::from_le_bytes(*last) as u64,
        )
    } else if let (Some(first), Some(last)) = (name.first(), name.last()) {
        (*first as u64, *last as u64)
    } else {
        (0, 0)
    };
    let (first, last) = (first | LOWER_CASE, last | LOWER_CASE);
    let mixed = first ^ last.rotate_left(27) ^ (name.len() as u64) << 59;
    let mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 32
}

/// About four slots for each name keep searches short.
const SLOT_COUNT: usize = 512;

const fn slot_of(hash: u64) -> usize {
    (hash >> 8) as usize % SLOT_COUNT
}

/// The hash table: each slot holds a position in [`KNOWN`] plus one, or zero if empty.
static SLOTS: [u8; SLOT_COUNT] = slots();

const fn slots() -> [u8; SLOT_COUNT] {
    let mut slots = [0; SLOT_COUNT];
    let mut index = 0;
    while index < KNOWN.len() {
        let mut slot = slot_of(hash(KNOWN[index].text.as_bytes()));
        while slots[slot] != 0 {
            slot = (slot + 1) % SLOT_COUNT;
        }
        index += 1;
        slots[slot] = index as u8;
    }
    slots
}

macro_rules! names {
    ($($name:ident $text:literal $index:literal $indexing:ident;)*) => {
        $(
            #[doc = concat!("`", $text, "`")]
            pub static $name: HeaderName = HeaderName::from_static($text);
        )*

        pub(super) static KNOWN: [KnownName; [$($text),*].len()] = [$(
            KnownName {
                text: $text,
                index: $index,
                indexing: Indexing::$indexing,
            },
        )*];
    };
}

names! {
    ACCEPT_CHARSET "accept-charset" 15 Adaptive;
    ACCEPT_ENCODING "accept-encoding" 16 Adaptive;
    ACCEPT_LANGUAGE "accept-language" 17 Adaptive;
    ACCEPT_RANGES "accept-ranges" 18 Adaptive;
    ACCEPT "accept" 19 Adaptive;
    ACCESS_CONTROL_ALLOW_ORIGIN "access-control-allow-origin" 20 Adaptive;
    AGE "age" 21 Adaptive;
    ALLOW "allow" 22 Adaptive;
    AUTHORIZATION "authorization" 23 Secret;
    CACHE_CONTROL "cache-control" 24 Adaptive;
    CONTENT_DISPOSITION "content-disposition" 25 Adaptive;
    CONTENT_ENCODING "content-encoding" 26 Adaptive;
    CONTENT_LANGUAGE "content-language" 27 Adaptive;
    CONTENT_LENGTH "content-length" 28 Adaptive;
    CONTENT_LOCATION "content-location" 29 Adaptive;
    CONTENT_RANGE "content-range" 30 Adaptive;
    CONTENT_TYPE "content-type" 31 Adaptive;
    COOKIE "cookie" 32 SecretIfShort;
    DATE "date" 33 Adaptive;
    ETAG "etag" 34 Adaptive;
    EXPECT "expect" 35 Adaptive;
    EXPIRES "expires" 36 Adaptive;
    FROM "from" 37 Adaptive;
    HOST "host" 38 Adaptive;
    IF_MATCH "if-match" 39 Adaptive;
    IF_MODIFIED_SINCE "if-modified-since" 40 Adaptive;
    IF_NONE_MATCH "if-none-match" 41 Adaptive;
    IF_RANGE "if-range" 42 Adaptive;
    IF_UNMODIFIED_SINCE "if-unmodified-since" 43 Adaptive;
    LAST_MODIFIED "last-modified" 44 Adaptive;
    LINK "link" 45 Adaptive;
    LOCATION "location" 46 Adaptive;
    MAX_FORWARDS "max-forwards" 47 Adaptive;
    PROXY_AUTHENTICATE "proxy-authenticate" 48 Adaptive;
    PROXY_AUTHORIZATION "proxy-authorization" 49 Secret;
    RANGE "range" 50 Adaptive;
    REFERER "referer" 51 Adaptive;
    REFRESH "refresh" 52 Adaptive;
    RETRY_AFTER "retry-after" 53 Adaptive;
    SERVER "server" 54 Adaptive;
    SET_COOKIE "set-cookie" 55 Secret;
    STRICT_TRANSPORT_SECURITY "strict-transport-security" 56 Adaptive;
    TRANSFER_ENCODING "transfer-encoding" 57 Adaptive;
    USER_AGENT "user-agent" 58 Adaptive;
    VARY "vary" 59 Adaptive;
    VIA "via" 60 Adaptive;
    WWW_AUTHENTICATE "www-authenticate" 61 Adaptive;
    TE "te" 0 Adaptive;
    PRIORITY "priority" 0 Adaptive;
    ORIGIN "origin" 0 Adaptive;
    GRPC_TIMEOUT "grpc-timeout" 0 Adaptive;
    GRPC_ENCODING "grpc-encoding" 0 Adaptive;
    GRPC_ACCEPT_ENCODING "grpc-accept-encoding" 0 Adaptive;
    GRPC_STATUS "grpc-status" 0 Adaptive;
    GRPC_MESSAGE "grpc-message" 0 Adaptive;
    GRPC_STATUS_DETAILS_BIN "grpc-status-details-bin" 0 Adaptive;
    X_REQUEST_ID "x-request-id" 0 Unique;
    X_CLIENT_TRACE_ID "x-client-trace-id" 0 Adaptive;
    X_FORWARDED_FOR "x-forwarded-for" 0 Adaptive;
    X_FORWARDED_PROTO "x-forwarded-proto" 0 Adaptive;
    X_FORWARDED_HOST "x-forwarded-host" 0 Adaptive;
    X_FORWARDED_PORT "x-forwarded-port" 0 Adaptive;
    X_FORWARDED_CLIENT_CERT "x-forwarded-client-cert" 0 Adaptive;
    X_REAL_IP "x-real-ip" 0 Adaptive;
    X_B3_TRACEID "x-b3-traceid" 0 Unique;
    X_B3_SPANID "x-b3-spanid" 0 Unique;
    X_B3_PARENTSPANID "x-b3-parentspanid" 0 Unique;
    X_B3_SAMPLED "x-b3-sampled" 0 Adaptive;
    B3 "b3" 0 Unique;
    TRACEPARENT "traceparent" 0 Unique;
    TRACESTATE "tracestate" 0 Adaptive;
    BAGGAGE "baggage" 0 Adaptive;
    X_ENVOY_ATTEMPT_COUNT "x-envoy-attempt-count" 0 Adaptive;
    X_ENVOY_DECORATOR_OPERATION "x-envoy-decorator-operation" 0 Adaptive;
    X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER "x-envoy-downstream-service-cluster" 0 Adaptive;
    X_ENVOY_DOWNSTREAM_SERVICE_NODE "x-envoy-downstream-service-node" 0 Adaptive;
    X_ENVOY_EXPECTED_RQ_TIMEOUT_MS "x-envoy-expected-rq-timeout-ms" 0 Adaptive;
    X_ENVOY_EXTERNAL_ADDRESS "x-envoy-external-address" 0 Adaptive;
    X_ENVOY_INTERNAL "x-envoy-internal" 0 Adaptive;
    X_ENVOY_MAX_RETRIES "x-envoy-max-retries" 0 Adaptive;
    X_ENVOY_ORIGINAL_PATH "x-envoy-original-path" 0 Adaptive;
    X_ENVOY_OVERLOADED "x-envoy-overloaded" 0 Adaptive;
    X_ENVOY_RETRY_ON "x-envoy-retry-on" 0 Adaptive;
    X_ENVOY_RETRY_GRPC_ON "x-envoy-retry-grpc-on" 0 Adaptive;
    X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS "x-envoy-upstream-rq-timeout-ms" 0 Adaptive;
    X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS "x-envoy-upstream-rq-per-try-timeout-ms" 0 Adaptive;
    X_ENVOY_UPSTREAM_SERVICE_TIME "x-envoy-upstream-service-time" 0 Adaptive;
    X_ENVOY_PEER_METADATA "x-envoy-peer-metadata" 0 Adaptive;
    X_ENVOY_PEER_METADATA_ID "x-envoy-peer-metadata-id" 0 Adaptive;
    ACCESS_CONTROL_REQUEST_HEADERS "access-control-request-headers" 0 Adaptive;
    ACCESS_CONTROL_REQUEST_METHOD "access-control-request-method" 0 Adaptive;
    ACCESS_CONTROL_ALLOW_CREDENTIALS "access-control-allow-credentials" 0 Adaptive;
    ACCESS_CONTROL_ALLOW_HEADERS "access-control-allow-headers" 0 Adaptive;
    ACCESS_CONTROL_ALLOW_METHODS "access-control-allow-methods" 0 Adaptive;
    ACCESS_CONTROL_EXPOSE_HEADERS "access-control-expose-headers" 0 Adaptive;
    ACCESS_CONTROL_MAX_AGE "access-control-max-age" 0 Adaptive;
    ALT_SVC "alt-svc" 0 Adaptive;
    CONTENT_SECURITY_POLICY "content-security-policy" 0 Adaptive;
    SEC_FETCH_DEST "sec-fetch-dest" 0 Adaptive;
    SEC_FETCH_MODE "sec-fetch-mode" 0 Adaptive;
    SEC_FETCH_SITE "sec-fetch-site" 0 Adaptive;
    UPGRADE_INSECURE_REQUESTS "upgrade-insecure-requests" 0 Adaptive;
    X_CONTENT_TYPE_OPTIONS "x-content-type-options" 0 Adaptive;
    X_FRAME_OPTIONS "x-frame-options" 0 Adaptive;
    CONNECTION "connection" 0 Adaptive;
    UPGRADE "upgrade" 0 Adaptive;
    KEEP_ALIVE "keep-alive" 0 Adaptive;
    PROXY_CONNECTION "proxy-connection" 0 Adaptive;
    X_ENVOY_RETRIABLE_STATUS_CODES "x-envoy-retriable-status-codes" 0 Adaptive;
    X_ENVOY_RETRIABLE_HEADER_NAMES "x-envoy-retriable-header-names" 0 Adaptive;
    X_ENVOY_UPSTREAM_ALT_STAT_NAME "x-envoy-upstream-alt-stat-name" 0 Adaptive;
    X_ENVOY_UPSTREAM_RQ_TIMEOUT_ALT_RESPONSE "x-envoy-upstream-rq-timeout-alt-response" 0 Adaptive;
    X_ENVOY_FORCE_TRACE "x-envoy-force-trace" 0 Adaptive;
    X_ENVOY_IP_TAGS "x-envoy-ip-tags" 0 Adaptive;
    X_ENVOY_ORIGINAL_URL "x-envoy-original-url" 0 Adaptive;
    X_ENVOY_ORIGINAL_HOST "x-envoy-original-host" 0 Adaptive;
    X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT "x-envoy-hedge-on-per-try-timeout" 0 Adaptive;
    X_ENVOY_UPSTREAM_CANARY "x-envoy-upstream-canary" 0 Adaptive;
    ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK "access-control-request-private-network" 0 Adaptive;
    ACCESS_CONTROL_ALLOW_PRIVATE_NETWORK "access-control-allow-private-network" 0 Adaptive;
    CDN_LOOP "cdn-loop" 0 Adaptive;
    PRAGMA "pragma" 0 Adaptive;
    X_ENVOY_IS_TIMEOUT_RETRY "x-envoy-is-timeout-retry" 0 Adaptive;
    X_ENVOY_RATELIMITED "x-envoy-ratelimited" 0 Adaptive;
    X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL "x-envoy-immediate-health-check-fail" 0 Adaptive;
    X_ENVOY_DEGRADED "x-envoy-degraded" 0 Adaptive;
    X_ENVOY_UPSTREAM_HEALTHCHECKED_CLUSTER "x-envoy-upstream-healthchecked-cluster" 0 Adaptive;
    X_ENVOY_UPSTREAM_STREAM_DURATION_MS "x-envoy-upstream-stream-duration-ms" 0 Adaptive;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_known_names_are_found() {
        for (at, known) in KNOWN.iter().enumerate() {
            let small = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
            assert!(known.text.bytes().all(small), "{}", known.text);
            assert_eq!(index_of(known.text.as_bytes()).map(usize::from), Some(at));
            for wrong in [
                &known.text[1..],
                &known.text.replace('-', "_"),
                &format!("{}x", known.text),
            ] {
                let found = index_of(wrong.as_bytes()).map(|at| KNOWN[usize::from(at)].text);
                assert!(found.is_none_or(|found| found == wrong), "{wrong}");
            }
        }
        assert_eq!(index_of(b""), None);
    }

    #[test]
    fn only_case_is_ignored() {
        for (at, known) in KNOWN.iter().enumerate() {
            let upper = known.text.to_ascii_uppercase().into_bytes();
            assert_eq!(index_of_any_case(&upper).map(usize::from), Some(at));
            assert_eq!(index_of(&upper), None);
            for changed in 0..upper.len() {
                for byte in 0..=u8::MAX {
                    let mut name = upper.clone();
                    name[changed] = byte;
                    let found = index_of_any_case(&name).map(|at| KNOWN[usize::from(at)].text);
                    let is_it = known.text.as_bytes().eq_ignore_ascii_case(&name);
                    let same = found.map(|found| found.as_bytes().eq_ignore_ascii_case(&name));
                    assert_ne!(same, Some(false), "{found:?} is not {name:?}");
                    assert!(found.is_some() || !is_it, "{name:?} is not found");
                }
            }
        }
    }
}
