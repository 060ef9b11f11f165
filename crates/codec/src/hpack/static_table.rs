//! HPACK's static table (RFC 7541 appendix A).

use crate::HeaderValue;
use crate::header::HeaderName;

use super::DecodedValue;
use super::Name;
use super::table::TableEntry;

/// The number of fields in the static table. Indices of the dynamic table follow.
pub(super) const LENGTH: usize = 61;

/// Index of the first field with this name.
pub(super) const AUTHORITY: u8 = 1;
pub(super) const METHOD: u8 = 2;
pub(super) const PATH: u8 = 4;
pub(super) const SCHEME: u8 = 6;
pub(super) const STATUS: u8 = 8;
pub(super) const ACCEPT_ENCODING: u8 = 16;

/// The field at `index`, which counts from one.
#[inline]
pub(super) fn field(index: usize) -> Option<&'static TableEntry> {
    FIELDS.get(index.wrapping_sub(1))
}

macro_rules! fields {
    ($($name:expr, $length:expr, $value:literal;)*) => {
        /// The static table.
        static FIELDS: [TableEntry; LENGTH] = [$(
            TableEntry {
                name: $name,
                value: DecodedValue::Valid(HeaderValue::from_static($value)),
                name_len: $length,
                value_len: $value.len() as u32,
            },
        )*];
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
