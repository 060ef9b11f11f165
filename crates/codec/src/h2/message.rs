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
use crate::header::BlockKind;
use crate::header::HeaderMap;
use crate::header::HeaderName;
use crate::header::NameSet;
use crate::hpack::DecodedValue;
use crate::hpack::Name;
use crate::request::is_valid_authority;
use crate::stats::Http2Stats;

/// Limits for header blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeaderRules {
    /// The maximum length of the names and values of one block.
    pub(super) max_bytes: usize,
    /// The maximum number of fields of one block.
    pub(super) max_count: usize,
    pub(super) underscores: UnderscoresAction,
    /// Whether requests may have `:protocol` (RFC 8441).
    pub(super) extended_connect: bool,
}

/// The maximum number of fields of a block, even if the config allows more: lookups take time proportional to it.
const MAX_FIELDS: usize = 16 * 1024;

/// The fields that the codec interprets.
const INTERPRETED: NameSet = NameSet::of(&[
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
pub(super) struct FieldChecker<'a> {
    pub(super) rules: &'a HeaderRules,
    /// Counts dropped and refused fields.
    pub(super) stats: &'a Http2Stats,
}

/// Why a header block is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockError {
    /// A field is invalid.
    InvalidField,
    /// The fields do not form a valid message, or the body's length differs from `content-length`.
    InvalidMessage,
    /// `max_headers_count`
    TooManyFields,
    /// `max_request_headers_kb`, or the equivalent for responses.
    TooLarge,
    /// `headers_with_underscores_action`
    Underscore,
}

impl BlockError {
    /// `%RESPONSE_CODE_DETAILS%`
    pub(super) fn details(self) -> &'static str {
        match self {
            BlockError::InvalidField => "http2.invalid.header.field",
            BlockError::InvalidMessage => "http2.violation.of.messaging.rule",
            BlockError::TooManyFields => "http2.too_many_headers",
            BlockError::TooLarge => "http2.header_list_size_too_large",
            BlockError::Underscore => "http2.unexpected_underscore",
        }
    }

    /// Whether the peer broke the protocol. Otherwise it exceeded a limit of ours.
    pub(super) fn is_violation(self) -> bool {
        matches!(self, BlockError::InvalidField | BlockError::InvalidMessage)
    }
}

/// The fields of one block.
#[derive(Debug)]
pub(super) struct BlockFields {
    kind: BlockKind,
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
    block_error: Option<BlockError>,
}

impl BlockFields {
    pub(super) fn new(kind: BlockKind) -> BlockFields {
        // Capacity for the usual number of fields and for those that a proxy adds.
        let room = match kind {
            BlockKind::Request | BlockKind::Response => 12,
            BlockKind::Trailers => 3,
        };
        BlockFields {
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
            block_error: None,
        }
    }

    /// Adds the next field, of `size` bytes. After an error, fields are only counted.
    pub(super) fn add(
        &mut self,
        name: &Name,
        value: &DecodedValue,
        size: usize,
        checker: &FieldChecker<'_>,
    ) {
        if self.block_error.is_some() {
            return;
        }
        self.block_error = self.take(name, value, size, checker).err();
    }

    fn take(
        &mut self,
        name: &Name,
        value: &DecodedValue,
        size: usize,
        checker: &FieldChecker<'_>,
    ) -> Result<(), BlockError> {
        let DecodedValue::Valid(value) = value else {
            return Err(BlockError::InvalidField);
        };
        let mut limited = size;
        let mut joins = false;
        match name {
            Name::Header(name) => {
                if *name == header::COOKIE && self.kind == BlockKind::Request {
                    // Cookies are joined into one field, so only the added length counts, as in Envoy.
                    let separator = if self.cookies.is_empty() { 0 } else { 2 };
                    limited = value.len() + separator;
                }
                self.regular = true;
                joins = self.kind.joined_names().has(name) && self.headers.contains_key(name);
                if !self.take_header(name, value, checker)? {
                    return Ok(());
                }
            }
            Name::UnknownPseudo | Name::Malformed(_) => return Err(BlockError::InvalidField),
            pseudo => {
                if self.regular {
                    return Err(BlockError::InvalidField);
                }
                self.take_pseudo(pseudo, value, checker.rules)?;
            }
        }
        self.bytes += size;
        self.limited_bytes += limited;
        if !joins {
            self.count += 1;
        }
        if self.limited_bytes > checker.rules.max_bytes {
            checker.stats.header_list_size_too_large.inc();
            return Err(BlockError::TooLarge);
        }
        let most = checker.rules.max_count.min(MAX_FIELDS);
        if self.count > most || self.headers.len() > most + header::MAX_JOINED_EXTRA {
            checker.stats.header_overflow.inc();
            return Err(BlockError::TooManyFields);
        }
        Ok(())
    }

    fn take_pseudo(
        &mut self,
        name: &Name,
        value: &HeaderValue,
        rules: &HeaderRules,
    ) -> Result<(), BlockError> {
        let bytes = value.as_bytes();
        if bytes.is_empty() {
            return Err(BlockError::InvalidField);
        }
        let fits = match self.kind {
            BlockKind::Request => !matches!(name, Name::Status),
            BlockKind::Response => matches!(name, Name::Status),
            BlockKind::Trailers => false,
        };
        if !fits {
            return Err(BlockError::InvalidField);
        }
        match name {
            Name::Method => {
                let method = Method::from_bytes(bytes).map_err(|_| BlockError::InvalidField)?;
                once(&mut self.method, method)
            }
            Name::Status => {
                let status = StatusCode::from_bytes(bytes).map_err(|_| BlockError::InvalidField)?;
                // RFC 9113, section 8.6: HTTP/2 has no upgrade by 101.
                if status == StatusCode::SWITCHING_PROTOCOLS {
                    return Err(BlockError::InvalidField);
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
                once(
                    &mut self.path,
                    target.map_err(|_| BlockError::InvalidField)?,
                )
            }
            Name::Protocol if rules.extended_connect => once(&mut self.protocol, value.clone()),
            _ => Err(BlockError::InvalidField),
        }
    }

    /// Checks a regular field. Returns false if it is to be dropped.
    fn take_header(
        &mut self,
        name: &HeaderName,
        value: &HeaderValue,
        checker: &FieldChecker<'_>,
    ) -> Result<bool, BlockError> {
        let underscores = checker.rules.underscores;
        if underscores != UnderscoresAction::Allow && name.as_str().contains('_') {
            return take_underscore(underscores, checker.stats);
        }
        if !INTERPRETED.has(name) {
            self.headers.append(name, value.clone());
            return Ok(true);
        }
        match name.as_str() {
            "host" if self.kind == BlockKind::Request => {
                check_authority(value.as_bytes())?;
                once(&mut self.host, value.clone())?;
                return Ok(true);
            }
            "cookie" if self.kind == BlockKind::Request => {
                self.cookies.push(value.clone());
                return Ok(true);
            }
            "content-length" => {
                let length = value.as_number().ok_or(BlockError::InvalidField)?;
                once(&mut self.content_length, length)?;
                if self.status == Some(StatusCode::NO_CONTENT) {
                    // RFC 9110, section 8.6, forbids it here. Zero is tolerated.
                    return if length == 0 {
                        Ok(true)
                    } else {
                        Err(BlockError::InvalidField)
                    };
                }
            }
            "te" if self.kind != BlockKind::Trailers
                && !value.as_bytes().eq_ignore_ascii_case(b"trailers") =>
            {
                return Err(BlockError::InvalidField);
            }
            // RFC 9113, section 8.2.2.
            "connection" | "transfer-encoding" | "upgrade" | "keep-alive" | "proxy-connection" => {
                return Err(BlockError::InvalidField);
            }
            _ => {}
        }
        self.headers.append(name, value.clone());
        Ok(true)
    }

    /// Builds a request. An extended CONNECT (RFC 8441) becomes the equivalent HTTP/1 upgrade.
    pub(super) fn request(&mut self, ends: bool) -> Result<RequestHead, BlockError> {
        if let Some(block_error) = self.block_error {
            return Err(block_error);
        }
        let mut method = self.method.take().ok_or(BlockError::InvalidMessage)?;
        let authority = self.authority.take().or(self.host.take());
        let authority = Some(authority.ok_or(BlockError::InvalidMessage)?);
        let is_connect = method == Method::CONNECT;
        if is_connect && self.protocol.is_none() {
            if self.scheme.is_some() || self.path.is_some() {
                return Err(BlockError::InvalidMessage);
            }
        } else {
            if self.protocol.is_some() && !is_connect {
                return Err(BlockError::InvalidMessage);
            }
            let scheme = self.scheme.as_ref().ok_or(BlockError::InvalidMessage)?;
            let path = self
                .path
                .as_ref()
                .ok_or(BlockError::InvalidMessage)?
                .as_bytes();
            let is_http = *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS;
            let good_path = path.starts_with(b"/") || path == b"*" && method == Method::OPTIONS;
            if is_http && !good_path {
                return Err(BlockError::InvalidMessage);
            }
        }
        if ends && self.content_length.is_some_and(|length| length > 0) {
            return Err(BlockError::InvalidMessage);
        }
        self.headers.join(self.kind.joined_names());
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
    pub(super) fn response(&mut self, ends: bool) -> Result<(StatusCode, HeaderMap), BlockError> {
        if let Some(block_error) = self.block_error {
            return Err(block_error);
        }
        let status = self.status.ok_or(BlockError::InvalidMessage)?;
        if status.is_informational() && (ends || self.content_length.is_some()) {
            return Err(BlockError::InvalidMessage);
        }
        self.headers.join(self.kind.joined_names());
        Ok((status, std::mem::take(&mut self.headers)))
    }

    /// Builds trailers, which must end the stream.
    pub(super) fn trailers(&mut self, ends: bool) -> Result<HeaderMap, BlockError> {
        self.headers.join(self.kind.joined_names());
        match self.block_error {
            Some(block_error) => Err(block_error),
            None if ends => Ok(std::mem::take(&mut self.headers)),
            None => Err(BlockError::InvalidMessage),
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

fn scheme(bytes: &[u8]) -> Result<Scheme, BlockError> {
    match bytes {
        b"http" => return Ok(Scheme::HTTP),
        b"https" => return Ok(Scheme::HTTPS),
        _ => {}
    }
    check(bytes, |i, byte| {
        byte.is_ascii_alphabetic() || i > 0 && (byte.is_ascii_digit() || b"+-.".contains(&byte))
    })?;
    Scheme::try_from(bytes).map_err(|_| BlockError::InvalidField)
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), BlockError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(BlockError::InvalidField),
    }
}

fn check(bytes: &[u8], legal: impl Fn(usize, u8) -> bool) -> Result<(), BlockError> {
    let good = bytes.iter().enumerate().all(|(i, byte)| legal(i, *byte));
    if good {
        Ok(())
    } else {
        Err(BlockError::InvalidField)
    }
}

/// Like HTTP/1's, but without user information.
fn check_authority(bytes: &[u8]) -> Result<(), BlockError> {
    if bytes.is_empty() || bytes.contains(&b'@') || !is_valid_authority(bytes) {
        return Err(BlockError::InvalidField);
    }
    Ok(())
}

/// Handles a name with an underscore. Returns false if the field is to be dropped.
fn take_underscore(action: UnderscoresAction, stats: &Http2Stats) -> Result<bool, BlockError> {
    if action == UnderscoresAction::Reject {
        stats.requests_rejected_with_underscores_in_headers.inc();
        return Err(BlockError::Underscore);
    }
    stats.dropped_headers_with_underscores.inc();
    Ok(false)
}

#[cfg(test)]
mod tests;
