//! Builds a message's head from the fields of a header block, and rejects what HTTP/2 forbids (RFC 9113, section 8), as
//! strictly as Envoy's codec.

use bytes::Bytes;
use http::Method;
use http::StatusCode;
use http::uri::Scheme;

use crate::HeaderValue;
use crate::RequestHead;
use crate::Target;
use crate::UnderscoresAction;
use crate::header;
use crate::header::HeaderMap;
use crate::header::HeaderName;
use crate::header::Kind;
use crate::header::NameSet;
use crate::hpack::Name;
use crate::hpack::Value;
use crate::request::is_valid_authority;
use crate::stats::Http2Stats;

/// Limits for header blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// The maximum length of the names and values of one block.
    pub(super) max_bytes: usize,
    /// The maximum number of fields of one block.
    pub(super) max_count: usize,
    pub(super) underscores: UnderscoresAction,
    /// Whether requests may have `:protocol` (RFC 8441).
    pub(super) extended_connect: bool,
}

/// The maximum number of fields of a block, even if the config allows more: lookups take time proportional to it.
const MOST_FIELDS: usize = 16 * 1024;

/// The fields that the codec interprets.
const SPECIAL: NameSet = NameSet::of(&[
    "connection",
    "content-length",
    "cookie",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
]);

/// What is needed to check a field.
#[derive(Clone, Copy)]
pub(super) struct Judge<'a> {
    pub(super) rules: &'a Rules,
    /// Counts dropped and refused fields.
    pub(super) stats: &'a Http2Stats,
}

/// Why a header block is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// A field is invalid.
    Field,
    /// The fields do not form a valid message, or the body's length differs from `content-length`.
    Message,
    /// `max_headers_count`
    TooManyFields,
    /// `max_request_headers_kb`, or the equivalent for responses.
    TooLarge,
    /// `headers_with_underscores_action`
    Underscore,
}

impl Flaw {
    /// `%RESPONSE_CODE_DETAILS%`
    pub(super) fn details(self) -> &'static str {
        match self {
            Flaw::Field => "http2.invalid.header.field",
            Flaw::Message => "http2.violation.of.messaging.rule",
            Flaw::TooManyFields => "http2.too_many_headers",
            Flaw::TooLarge => "http2.header_list_size_too_large",
            Flaw::Underscore => "http2.unexpected_underscore",
        }
    }

    /// Whether the peer broke the protocol. Otherwise it exceeded a limit of ours.
    pub(super) fn is_violation(self) -> bool {
        matches!(self, Flaw::Field | Flaw::Message)
    }
}

/// The fields of one block.
#[derive(Debug)]
pub(super) struct Fields {
    kind: Kind,
    pub(super) headers: HeaderMap,
    method: Option<Method>,
    scheme: Option<Scheme>,
    authority: Option<HeaderValue>,
    path: Option<Target>,
    protocol: Option<HeaderValue>,
    status: Option<StatusCode>,
    host: Option<HeaderValue>,
    cookies: Vec<HeaderValue>,
    /// The value of `content-length`.
    pub(super) content_length: Option<u64>,
    /// The length of names and values in bytes.
    pub(super) bytes: usize,
    /// The length that counts towards the limit.
    limited_bytes: usize,
    /// The number of fields, where joined fields count as one.
    count: usize,
    regular: bool,
    flaw: Option<Flaw>,
}

impl Fields {
    pub(super) fn new(kind: Kind) -> Fields {
        // Capacity for the usual number of fields and for those that a proxy adds.
        let room = match kind {
            Kind::Request | Kind::Response => 12,
            Kind::Trailers => 3,
        };
        Fields {
            kind,
            headers: HeaderMap::with_capacity(room),
            method: None,
            scheme: None,
            authority: None,
            path: None,
            protocol: None,
            status: None,
            host: None,
            cookies: Vec::new(),
            content_length: None,
            bytes: 0,
            limited_bytes: 0,
            count: 0,
            regular: false,
            flaw: None,
        }
    }

    /// Adds the next field, of `size` bytes. After an error, fields are only counted.
    pub(super) fn add(&mut self, name: &Name, value: &Value, size: usize, judge: &Judge<'_>) {
        if self.flaw.is_some() {
            return;
        }
        self.flaw = self.take(name, value, size, judge).err();
    }

    fn take(
        &mut self,
        name: &Name,
        value: &Value,
        size: usize,
        judge: &Judge<'_>,
    ) -> Result<(), Flaw> {
        let Value::Valid(value) = value else {
            return Err(Flaw::Field);
        };
        let mut limited = size;
        let mut joins = false;
        match name {
            Name::Header(name) => {
                if *name == header::COOKIE && self.kind == Kind::Request {
                    // Cookies are joined into one field, so only the added length counts, as in Envoy.
                    let separator = if self.cookies.is_empty() { 0 } else { 2 };
                    limited = value.len() + separator;
                }
                self.regular = true;
                joins = self.kind.joined().has(name) && self.headers.contains_key(name);
                if !self.take_header(name, value, judge)? {
                    return Ok(());
                }
            }
            Name::UnknownPseudo | Name::Malformed(_) => return Err(Flaw::Field),
            pseudo => {
                if self.regular {
                    return Err(Flaw::Field);
                }
                self.take_pseudo(pseudo, value, judge.rules)?;
            }
        }
        self.bytes += size;
        self.limited_bytes += limited;
        if !joins {
            self.count += 1;
        }
        if self.limited_bytes > judge.rules.max_bytes {
            judge.stats.header_list_size_too_large.inc();
            return Err(Flaw::TooLarge);
        }
        let most = judge.rules.max_count.min(MOST_FIELDS);
        if self.count > most || self.headers.len() > most + header::MOST_JOINED {
            judge.stats.header_overflow.inc();
            return Err(Flaw::TooManyFields);
        }
        Ok(())
    }

    fn take_pseudo(&mut self, name: &Name, value: &HeaderValue, rules: &Rules) -> Result<(), Flaw> {
        let bytes = value.as_bytes();
        if bytes.is_empty() {
            return Err(Flaw::Field);
        }
        let fits = match self.kind {
            Kind::Request => !matches!(name, Name::Status),
            Kind::Response => matches!(name, Name::Status),
            Kind::Trailers => false,
        };
        if !fits {
            return Err(Flaw::Field);
        }
        match name {
            Name::Method => {
                let method = Method::from_bytes(bytes).map_err(|_| Flaw::Field)?;
                once(&mut self.method, method)
            }
            Name::Status => {
                let status = StatusCode::from_bytes(bytes).map_err(|_| Flaw::Field)?;
                // RFC 9113, section 8.6: HTTP/2 has no upgrade by 101.
                if status == StatusCode::SWITCHING_PROTOCOLS {
                    return Err(Flaw::Field);
                }
                once(&mut self.status, status)
            }
            Name::Scheme => once(&mut self.scheme, scheme(bytes)?),
            Name::Authority => {
                check_authority(bytes)?;
                once(&mut self.authority, value.clone())
            }
            Name::Path => {
                let target = Target::try_from(Bytes::copy_from_slice(bytes));
                once(&mut self.path, target.map_err(|_| Flaw::Field)?)
            }
            Name::Protocol if rules.extended_connect => once(&mut self.protocol, value.clone()),
            _ => Err(Flaw::Field),
        }
    }

    /// Checks a regular field. Returns false if it is to be dropped.
    fn take_header(
        &mut self,
        name: &HeaderName,
        value: &HeaderValue,
        judge: &Judge<'_>,
    ) -> Result<bool, Flaw> {
        let underscores = judge.rules.underscores;
        if underscores != UnderscoresAction::Allow && name.as_str().contains('_') {
            return take_underscore(underscores, judge.stats);
        }
        if !SPECIAL.has(name) {
            self.headers.append(name, value.clone());
            return Ok(true);
        }
        match name.as_str() {
            "host" if self.kind == Kind::Request => {
                check_authority(value.as_bytes())?;
                once(&mut self.host, value.clone())?;
                return Ok(true);
            }
            "cookie" if self.kind == Kind::Request => {
                self.cookies.push(value.clone());
                return Ok(true);
            }
            "content-length" => {
                let length = value.as_number().ok_or(Flaw::Field)?;
                once(&mut self.content_length, length)?;
                if self.status == Some(StatusCode::NO_CONTENT) {
                    // RFC 9110, section 8.6, forbids it here. Zero is tolerated.
                    return if length == 0 {
                        Ok(true)
                    } else {
                        Err(Flaw::Field)
                    };
                }
            }
            "te" if self.kind != Kind::Trailers
                && !value.as_bytes().eq_ignore_ascii_case(b"trailers") =>
            {
                return Err(Flaw::Field);
            }
            // RFC 9113, section 8.2.2.
            "connection" | "transfer-encoding" | "upgrade" | "keep-alive" | "proxy-connection" => {
                return Err(Flaw::Field);
            }
            _ => {}
        }
        self.headers.append(name, value.clone());
        Ok(true)
    }

    /// Builds a request. An extended CONNECT (RFC 8441) becomes the equivalent HTTP/1 upgrade.
    pub(super) fn request(&mut self, ends: bool) -> Result<RequestHead, Flaw> {
        if let Some(flaw) = self.flaw {
            return Err(flaw);
        }
        let mut method = self.method.take().ok_or(Flaw::Message)?;
        let authority = self.authority.take().or(self.host.take());
        let authority = Some(authority.ok_or(Flaw::Message)?);
        let is_connect = method == Method::CONNECT;
        if is_connect && self.protocol.is_none() {
            if self.scheme.is_some() || self.path.is_some() {
                return Err(Flaw::Message);
            }
        } else {
            if self.protocol.is_some() && !is_connect {
                return Err(Flaw::Message);
            }
            let scheme = self.scheme.as_ref().ok_or(Flaw::Message)?;
            let path = self.path.as_ref().ok_or(Flaw::Message)?.as_bytes();
            let is_http = *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS;
            let good_path = path.starts_with(b"/") || path == b"*" && method == Method::OPTIONS;
            if is_http && !good_path {
                return Err(Flaw::Message);
            }
        }
        if ends && self.content_length.is_some_and(|length| length > 0) {
            return Err(Flaw::Message);
        }
        self.headers.join(self.kind.joined());
        join_cookies(&mut self.headers, &self.cookies);
        // A plain CONNECT asks for a byte tunnel, not an upgrade.
        if let Some(protocol) = self.protocol.take()
            && protocol != "bytestream"
        {
            method = Method::GET;
            self.headers.insert(&header::UPGRADE, protocol);
            let upgrade = HeaderValue::from_static("upgrade");
            self.headers.insert(&header::CONNECTION, upgrade);
        }
        Ok(RequestHead {
            method,
            scheme: self.scheme.take(),
            authority,
            path: self.path.take(),
            headers: std::mem::take(&mut self.headers),
        })
    }

    /// Builds a response. An interim one must not end the stream.
    pub(super) fn response(&mut self, ends: bool) -> Result<(StatusCode, HeaderMap), Flaw> {
        if let Some(flaw) = self.flaw {
            return Err(flaw);
        }
        let status = self.status.ok_or(Flaw::Message)?;
        if status.is_informational() && (ends || self.content_length.is_some()) {
            return Err(Flaw::Message);
        }
        self.headers.join(self.kind.joined());
        Ok((status, std::mem::take(&mut self.headers)))
    }

    /// Builds trailers, which must end the stream.
    pub(super) fn trailers(&mut self, ends: bool) -> Result<HeaderMap, Flaw> {
        self.headers.join(self.kind.joined());
        match self.flaw {
            Some(flaw) => Err(flaw),
            None if ends => Ok(std::mem::take(&mut self.headers)),
            None => Err(Flaw::Message),
        }
    }
}

/// RFC 9113, section 8.2.3: joins cookie fields into one again.
fn join_cookies(headers: &mut HeaderMap, cookies: &[HeaderValue]) {
    match cookies {
        [] => {}
        [cookie] => {
            headers.insert(&header::COOKIE, cookie.clone());
        }
        cookies => {
            let parts: Vec<&[u8]> = cookies.iter().map(HeaderValue::as_bytes).collect();
            // Valid because it consists of valid values.
            if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
                headers.insert(&header::COOKIE, joined);
            }
        }
    }
}

fn scheme(bytes: &[u8]) -> Result<Scheme, Flaw> {
    match bytes {
        b"http" => return Ok(Scheme::HTTP),
        b"https" => return Ok(Scheme::HTTPS),
        _ => {}
    }
    check(bytes, |i, byte| {
        byte.is_ascii_alphabetic() || i > 0 && (byte.is_ascii_digit() || b"+-.".contains(&byte))
    })?;
    Scheme::try_from(bytes).map_err(|_| Flaw::Field)
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), Flaw> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Flaw::Field),
    }
}

fn check(bytes: &[u8], legal: impl Fn(usize, u8) -> bool) -> Result<(), Flaw> {
    let good = bytes.iter().enumerate().all(|(i, byte)| legal(i, *byte));
    if good { Ok(()) } else { Err(Flaw::Field) }
}

/// Like HTTP/1's, but without user information.
fn check_authority(bytes: &[u8]) -> Result<(), Flaw> {
    if bytes.is_empty() || bytes.contains(&b'@') || !is_valid_authority(bytes) {
        return Err(Flaw::Field);
    }
    Ok(())
}

/// Handles a name with an underscore. Returns false if the field is to be dropped.
fn take_underscore(action: UnderscoresAction, stats: &Http2Stats) -> Result<bool, Flaw> {
    if action == UnderscoresAction::Reject {
        stats.requests_rejected_with_underscores_in_headers.inc();
        return Err(Flaw::Underscore);
    }
    stats.dropped_headers_with_underscores.inc();
    Ok(false)
}

#[cfg(test)]
mod tests;
