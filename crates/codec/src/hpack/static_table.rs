//! What is known of names beforehand: the static table (RFC 7541 appendix A), and the names met so often that finding
//! them here is cheaper than making them.

use http::HeaderName;
use http::HeaderValue;

use super::Name;
use super::Value;
use super::table::Field;

/// How many fields the static table has; the dynamic table's begin after them.
pub(super) const LENGTH: usize = 61;

/// The index of the field with this name that comes first.
pub(super) const AUTHORITY: u8 = 1;
pub(super) const METHOD: u8 = 2;
pub(super) const PATH: u8 = 4;
pub(super) const SCHEME: u8 = 6;
pub(super) const STATUS: u8 = 8;
pub(super) const ACCEPT_ENCODING: u8 = 16;

/// How a field of some name is put on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Indexing {
    /// In the dynamic table, once it has been seen twice.
    Adaptive,
    /// Not in the table: its values do not come twice.
    Unique,
    /// Not in this table nor in that of anyone behind (RFC 7541 section 7.1.3).
    Secret,
    /// As a secret if its value is short enough to be guessed, by who can make us compress guesses beside it.
    SecretIfShort,
}

/// A name known beforehand.
pub(super) struct Known {
    pub(super) name: HeaderName,
    /// The index of the static table's first field with this name, or zero.
    pub(super) index: u8,
    pub(super) indexing: Indexing,
    text: &'static str,
}

/// The static table's field of `index`, which counts from one.
#[inline]
pub(super) fn field(index: usize) -> Option<&'static Field> {
    FIELDS.get(index.wrapping_sub(1))
}

/// What is known of the header `name`, whose hash is `hash`.
#[inline]
pub(super) fn known(name: &[u8], hash: u64) -> Option<&'static Known> {
    let mut slot = slot_of(hash);
    loop {
        let known = KNOWN.get(usize::from(SLOTS[slot]).wrapping_sub(1))?;
        if known.text.as_bytes() == name {
            return Some(known);
        }
        slot = (slot + 1) % SLOT_COUNT;
    }
}

/// The header of that name, in lower case, if it is known beforehand.
#[inline]
pub(crate) fn known_name(name: &[u8]) -> Option<&'static HeaderName> {
    known(name, hash(name)).map(|known| &known.name)
}

/// A hash of a name by its length, beginning and end, which is enough to tell names known beforehand apart.
#[inline]
pub(super) const fn hash(name: &[u8]) -> u64 {
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
    let mixed = first ^ last.rotate_left(27) ^ (name.len() as u64) << 59;
    let mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 32
}

/// Four slots for each name or so: searches are short.
const SLOT_COUNT: usize = 512;

const fn slot_of(hash: u64) -> usize {
    (hash >> 8) as usize % SLOT_COUNT
}

/// Where each name's hash leads: its place in [`KNOWN`], from one on; then zero.
static SLOTS: [u8; SLOT_COUNT] = slots();

const fn slots() -> [u8; SLOT_COUNT] {
    let mut slots = [0; SLOT_COUNT];
    let mut place = 0;
    while place < TEXTS.len() {
        let mut slot = slot_of(hash(TEXTS[place].as_bytes()));
        while slots[slot] != 0 {
            slot = (slot + 1) % SLOT_COUNT;
        }
        place += 1;
        slots[slot] = place as u8;
    }
    slots
}

macro_rules! fields {
    ($($name:expr, $length:expr, $value:literal;)*) => {
        /// The static table.
        static FIELDS: [Field; LENGTH] = [$(
            Field {
                name: $name,
                value: Value::Valid(HeaderValue::from_static($value)),
                name_len: $length,
                value_len: $value.len() as u32,
            },
        )*];
    };
}

macro_rules! headers {
    ($($text:literal $index:literal $indexing:ident)*) => {
        static KNOWN: [Known; TEXTS.len()] = [$(
            Known {
                name: HeaderName::from_static($text),
                index: $index,
                indexing: Indexing::$indexing,
                text: $text,
            },
        )*];

        const TEXTS: &[&str] = &[$($text),*];
    };
}

fields! {
    Name::Authority, 10, "";
    Name::Method, 7, "GET";
    Name::Method, 7, "POST";
    Name::Path, 5, "/";
    Name::Path, 5, "/index.html";
    Name::Scheme, 7, "http";
    Name::Scheme, 7, "https";
    Name::Status, 7, "200";
    Name::Status, 7, "204";
    Name::Status, 7, "206";
    Name::Status, 7, "304";
    Name::Status, 7, "400";
    Name::Status, 7, "404";
    Name::Status, 7, "500";
    Name::Header(HeaderName::from_static("accept-charset")), 14, "";
    Name::Header(HeaderName::from_static("accept-encoding")), 15, "gzip, deflate";
    Name::Header(HeaderName::from_static("accept-language")), 15, "";
    Name::Header(HeaderName::from_static("accept-ranges")), 13, "";
    Name::Header(HeaderName::from_static("accept")), 6, "";
    Name::Header(HeaderName::from_static("access-control-allow-origin")), 27, "";
    Name::Header(HeaderName::from_static("age")), 3, "";
    Name::Header(HeaderName::from_static("allow")), 5, "";
    Name::Header(HeaderName::from_static("authorization")), 13, "";
    Name::Header(HeaderName::from_static("cache-control")), 13, "";
    Name::Header(HeaderName::from_static("content-disposition")), 19, "";
    Name::Header(HeaderName::from_static("content-encoding")), 16, "";
    Name::Header(HeaderName::from_static("content-language")), 16, "";
    Name::Header(HeaderName::from_static("content-length")), 14, "";
    Name::Header(HeaderName::from_static("content-location")), 16, "";
    Name::Header(HeaderName::from_static("content-range")), 13, "";
    Name::Header(HeaderName::from_static("content-type")), 12, "";
    Name::Header(HeaderName::from_static("cookie")), 6, "";
    Name::Header(HeaderName::from_static("date")), 4, "";
    Name::Header(HeaderName::from_static("etag")), 4, "";
    Name::Header(HeaderName::from_static("expect")), 6, "";
    Name::Header(HeaderName::from_static("expires")), 7, "";
    Name::Header(HeaderName::from_static("from")), 4, "";
    Name::Header(HeaderName::from_static("host")), 4, "";
    Name::Header(HeaderName::from_static("if-match")), 8, "";
    Name::Header(HeaderName::from_static("if-modified-since")), 17, "";
    Name::Header(HeaderName::from_static("if-none-match")), 13, "";
    Name::Header(HeaderName::from_static("if-range")), 8, "";
    Name::Header(HeaderName::from_static("if-unmodified-since")), 19, "";
    Name::Header(HeaderName::from_static("last-modified")), 13, "";
    Name::Header(HeaderName::from_static("link")), 4, "";
    Name::Header(HeaderName::from_static("location")), 8, "";
    Name::Header(HeaderName::from_static("max-forwards")), 12, "";
    Name::Header(HeaderName::from_static("proxy-authenticate")), 18, "";
    Name::Header(HeaderName::from_static("proxy-authorization")), 19, "";
    Name::Header(HeaderName::from_static("range")), 5, "";
    Name::Header(HeaderName::from_static("referer")), 7, "";
    Name::Header(HeaderName::from_static("refresh")), 7, "";
    Name::Header(HeaderName::from_static("retry-after")), 11, "";
    Name::Header(HeaderName::from_static("server")), 6, "";
    Name::Header(HeaderName::from_static("set-cookie")), 10, "";
    Name::Header(HeaderName::from_static("strict-transport-security")), 25, "";
    Name::Header(HeaderName::from_static("transfer-encoding")), 17, "";
    Name::Header(HeaderName::from_static("user-agent")), 10, "";
    Name::Header(HeaderName::from_static("vary")), 4, "";
    Name::Header(HeaderName::from_static("via")), 3, "";
    Name::Header(HeaderName::from_static("www-authenticate")), 16, "";
}

headers! {
    "accept-charset" 15 Adaptive
    "accept-encoding" 16 Adaptive
    "accept-language" 17 Adaptive
    "accept-ranges" 18 Adaptive
    "accept" 19 Adaptive
    "access-control-allow-origin" 20 Adaptive
    "age" 21 Adaptive
    "allow" 22 Adaptive
    "authorization" 23 Secret
    "cache-control" 24 Adaptive
    "content-disposition" 25 Adaptive
    "content-encoding" 26 Adaptive
    "content-language" 27 Adaptive
    "content-length" 28 Adaptive
    "content-location" 29 Adaptive
    "content-range" 30 Adaptive
    "content-type" 31 Adaptive
    "cookie" 32 SecretIfShort
    "date" 33 Adaptive
    "etag" 34 Adaptive
    "expect" 35 Adaptive
    "expires" 36 Adaptive
    "from" 37 Adaptive
    "host" 38 Adaptive
    "if-match" 39 Adaptive
    "if-modified-since" 40 Adaptive
    "if-none-match" 41 Adaptive
    "if-range" 42 Adaptive
    "if-unmodified-since" 43 Adaptive
    "last-modified" 44 Adaptive
    "link" 45 Adaptive
    "location" 46 Adaptive
    "max-forwards" 47 Adaptive
    "proxy-authenticate" 48 Adaptive
    "proxy-authorization" 49 Secret
    "range" 50 Adaptive
    "referer" 51 Adaptive
    "refresh" 52 Adaptive
    "retry-after" 53 Adaptive
    "server" 54 Adaptive
    "set-cookie" 55 Secret
    "strict-transport-security" 56 Adaptive
    "transfer-encoding" 57 Adaptive
    "user-agent" 58 Adaptive
    "vary" 59 Adaptive
    "via" 60 Adaptive
    "www-authenticate" 61 Adaptive
    "te" 0 Adaptive
    "trailer" 0 Adaptive
    "priority" 0 Adaptive
    "origin" 0 Adaptive
    "grpc-timeout" 0 Adaptive
    "grpc-encoding" 0 Adaptive
    "grpc-accept-encoding" 0 Adaptive
    "grpc-status" 0 Adaptive
    "grpc-message" 0 Adaptive
    "grpc-status-details-bin" 0 Adaptive
    "grpc-trace-bin" 0 Adaptive
    "grpc-previous-rpc-attempts" 0 Adaptive
    "x-request-id" 0 Unique
    "x-client-trace-id" 0 Adaptive
    "x-forwarded-for" 0 Adaptive
    "x-forwarded-proto" 0 Adaptive
    "x-forwarded-host" 0 Adaptive
    "x-forwarded-port" 0 Adaptive
    "x-forwarded-client-cert" 0 Adaptive
    "x-real-ip" 0 Adaptive
    "x-b3-traceid" 0 Unique
    "x-b3-spanid" 0 Unique
    "x-b3-parentspanid" 0 Unique
    "x-b3-sampled" 0 Adaptive
    "x-b3-flags" 0 Adaptive
    "b3" 0 Unique
    "traceparent" 0 Unique
    "tracestate" 0 Adaptive
    "baggage" 0 Adaptive
    "x-envoy-attempt-count" 0 Adaptive
    "x-envoy-decorator-operation" 0 Adaptive
    "x-envoy-downstream-service-cluster" 0 Adaptive
    "x-envoy-downstream-service-node" 0 Adaptive
    "x-envoy-expected-rq-timeout-ms" 0 Adaptive
    "x-envoy-external-address" 0 Adaptive
    "x-envoy-internal" 0 Adaptive
    "x-envoy-max-retries" 0 Adaptive
    "x-envoy-original-path" 0 Adaptive
    "x-envoy-overloaded" 0 Adaptive
    "x-envoy-retry-on" 0 Adaptive
    "x-envoy-retry-grpc-on" 0 Adaptive
    "x-envoy-upstream-rq-timeout-ms" 0 Adaptive
    "x-envoy-upstream-rq-per-try-timeout-ms" 0 Adaptive
    "x-envoy-upstream-service-time" 0 Adaptive
    "x-envoy-peer-metadata" 0 Adaptive
    "x-envoy-peer-metadata-id" 0 Adaptive
    "access-control-request-headers" 0 Adaptive
    "access-control-request-method" 0 Adaptive
    "access-control-allow-credentials" 0 Adaptive
    "access-control-allow-headers" 0 Adaptive
    "access-control-allow-methods" 0 Adaptive
    "access-control-expose-headers" 0 Adaptive
    "access-control-max-age" 0 Adaptive
    "alt-svc" 0 Adaptive
    "content-security-policy" 0 Adaptive
    "sec-fetch-dest" 0 Adaptive
    "sec-fetch-mode" 0 Adaptive
    "sec-fetch-site" 0 Adaptive
    "upgrade-insecure-requests" 0 Adaptive
    "x-content-type-options" 0 Adaptive
    "x-frame-options" 0 Adaptive
    "x-xss-protection" 0 Adaptive
}
