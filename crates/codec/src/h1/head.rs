//! Parses message heads into [`crate::RequestHead`] and [`crate::ResponseHead`] (RFC 9112 sections 2 to 6), as lenient
//! and as strict as Envoy's parser: a bare LF ends a line, folded lines are joined, and ambiguous framing is refused.

use bytes::Buf;
use bytes::BytesMut;
use http::Method;
use http::StatusCode;
use http::Version;
use http::uri::Scheme;
use memchr::memchr;

use crate::ResponseHead;
use crate::header::BlockKind;
use crate::header::HeaderMap;

use super::fields::HeadFields;
use super::fields::block_end;
use super::fields::split_line;
use super::framing::Framing;
use super::target;
use crate::Http1Options;
use crate::MalformedRequest;
use crate::RequestHead;
use crate::UnderscoresAction;
use crate::request::is_valid_authority;
use crate::stats::Http1Stats;

/// A request's head, and what it determines about the connection.
#[derive(Debug)]
pub(crate) struct ReceivedRequest {
    pub(crate) head: RequestHead,
    pub(crate) version: Version,
    pub(crate) framing: Framing,
    /// Whether the client wants to keep the connection open.
    pub(crate) keep_alive: bool,
    /// Length of the received head in bytes.
    pub(crate) bytes: usize,
    /// Length of its field lines in bytes.
    pub(crate) field_bytes: usize,
}

/// A response's head, and what it determines about the connection.
#[derive(Debug)]
pub(crate) struct ReceivedResponse {
    pub(crate) head: ResponseHead,
    pub(crate) framing: Framing,
    /// Whether the server wants to keep the connection open.
    pub(crate) keep_alive: bool,
    /// Length of the received head in bytes.
    pub(crate) bytes: usize,
    /// Length of its field lines in bytes.
    pub(crate) field_bytes: usize,
}

/// Limits for a head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    /// The maximum length of all lines in bytes.
    pub(crate) bytes: usize,
    /// The maximum number of header fields.
    pub(crate) fields: usize,
    /// What to do with header names that contain an underscore.
    pub(crate) underscores: UnderscoresAction,
}

/// Why a head is invalid: Envoy's name for the error, and the status of the response to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeadError {
    pub(crate) status: StatusCode,
    pub(crate) details: &'static str,
}

impl HeadError {
    pub(crate) const CODEC: HeadError = HeadError::bad_request("http1.codec_error");
    pub(crate) const INVALID_URL: HeadError = HeadError::bad_request("http1.invalid_url");
    pub(crate) const INVALID_SCHEME: HeadError = HeadError::bad_request("http1.invalid_scheme");
    const TOO_LARGE: HeadError = HeadError {
        status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        details: "http1.headers_too_large",
    };
    pub(super) const TOO_MANY: HeadError = HeadError {
        status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        details: "http1.too_many_headers",
    };
    pub(super) const TRANSFER_ENCODING: HeadError = HeadError {
        status: StatusCode::NOT_IMPLEMENTED,
        details: "http1.invalid_transfer_encoding",
    };
    const HTTPS_TARGET: HeadError = HeadError {
        status: StatusCode::FORBIDDEN,
        details: "http1.https_url_on_plaintext_connection",
    };
    const LOW_VERSION: HeadError = HeadError {
        status: StatusCode::UPGRADE_REQUIRED,
        details: "low_version",
    };

    pub(super) const UNDERSCORE: HeadError = HeadError::bad_request("http1.unexpected_underscore");

    pub(super) const fn bad_request(details: &'static str) -> HeadError {
        HeadError {
            status: StatusCode::BAD_REQUEST,
            details,
        }
    }

    /// The response to the client that sent this request.
    pub(crate) fn into_malformed(self) -> MalformedRequest {
        MalformedRequest {
            status: self.status,
            body: self.status.canonical_reason().unwrap_or_default().into(),
            details: self.details,
        }
    }
}

/// Removes a request's head from the front of `buffer`; `None` while it is incomplete.
///
/// `searched` keeps the position up to which earlier calls searched, so that a head that arrives byte by byte is not
/// searched from its beginning each time.
pub(crate) fn take_request(
    buffer: &mut BytesMut,
    searched: &mut usize,
    limits: HeadLimits,
    options: &Http1Options,
    stats: &Http1Stats,
) -> Result<Option<ReceivedRequest>, HeadError> {
    // A server should skip empty lines before a request (RFC 9112 section 2.2).
    let blank = buffer
        .iter()
        .position(|byte| !matches!(byte, b'\r' | b'\n'));
    let blank = blank.unwrap_or(buffer.len());
    if blank > 0 {
        buffer.advance(blank);
        *searched = 0;
    }
    if buffer.first().is_some_and(|&first| first <= b' ') {
        return Err(HeadError::CODEC);
    }
    let begin = *searched;
    let Some(end) = find_end(buffer, searched, limits)? else {
        check_request_line(buffer, begin)?;
        return Ok(None);
    };
    let head = request(
        buffer.get(..end).unwrap_or_default(),
        limits,
        options,
        stats,
    )?;
    buffer.advance(end);
    Ok(Some(head))
}

/// Parses the request head `bytes`.
fn request(
    bytes: &[u8],
    limits: HeadLimits,
    options: &Http1Options,
    stats: &Http1Stats,
) -> Result<ReceivedRequest, HeadError> {
    let (line, rest) = split_line(bytes, 0);
    let (method, target, version) = request_line(bytes.get(line).unwrap_or_default())?;
    let mut fields = HeadFields::parse(bytes, rest, BlockKind::Request, limits, Some(stats))?;
    let upgrade = fields.is_upgrade();
    // With an upgrade, `connection` is passed on, including its other names.
    if !upgrade {
        fields.remove_named_by_connection()?;
    }
    if version == Version::HTTP_10 && !options.accept_http_10 {
        return Err(HeadError::LOW_VERSION);
    }
    let framing = if method == Method::CONNECT || upgrade {
        Framing::Raw
    } else {
        fields
            .body_framing(options.allow_chunked_length)?
            .unwrap_or(Framing::None)
    };
    let keep_alive = fields.keep_alive(version);
    let mut authority = fields.host.take();
    fields.remove_hop_by_hop(upgrade);

    let parsed = target::parse(&method, target, options.allow_absolute_url)?;
    if options.refuse_https_targets && parsed.scheme == Some(Scheme::HTTPS) {
        return Err(HeadError::HTTPS_TARGET);
    }
    if let Some(named) = parsed.authority {
        authority = Some(named);
    }
    if authority.is_none()
        && version == Version::HTTP_10
        && !options.default_host_for_http_10.is_empty()
    {
        authority = options.default_host_for_http_10.parse().ok();
    }
    if let Some(authority) = &authority
        && !is_valid_authority(authority.as_bytes())
    {
        return Err(HeadError::bad_request("http.invalid_authority"));
    }
    Ok(ReceivedRequest {
        head: RequestHead {
            method,
            scheme: parsed.scheme,
            authority,
            path: parsed.path,
            headers: fields.map,
        },
        version,
        framing,
        keep_alive,
        bytes: bytes.len(),
        field_bytes: fields.bytes,
    })
}

/// The properties of a request that determine its response's framing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SentRequest<'a> {
    pub(crate) method: &'a Method,
    /// Whether the request asks for an upgrade.
    pub(crate) upgrade: bool,
}

/// Removes a response's head from the front of `buffer`; `None` while it is incomplete.
pub(crate) fn take_response(
    buffer: &mut BytesMut,
    searched: &mut usize,
    limits: HeadLimits,
    options: &Http1Options,
    asked: SentRequest<'_>,
) -> Result<Option<ReceivedResponse>, HeadError> {
    // A server that speaks another protocol may never send the end of a head, so the first bytes are checked at once.
    if !buffer.iter().zip(b"HTTP/1.").all(|(a, b)| a == b) {
        return Err(HeadError::CODEC);
    }
    let Some(end) = find_end(buffer, searched, limits)? else {
        return Ok(None);
    };
    let head = response(
        buffer.get(..end).unwrap_or_default(),
        limits,
        options,
        asked,
    )?;
    buffer.advance(end);
    Ok(Some(head))
}

/// Parses the response head `bytes`.
fn response(
    bytes: &[u8],
    limits: HeadLimits,
    options: &Http1Options,
    asked: SentRequest<'_>,
) -> Result<ReceivedResponse, HeadError> {
    let (line, rest) = split_line(bytes, 0);
    let (version, status) = status_line(bytes.get(line).unwrap_or_default())?;
    let mut fields = HeadFields::parse(bytes, rest, BlockKind::Response, limits, None)?;
    let connects = *asked.method == Method::CONNECT && status.is_success();
    // Like Envoy, does not check the status: the response accepts the upgrade if both messages have the upgrade
    // headers.
    let switches = connects || asked.upgrade && fields.is_upgrade();
    if status == StatusCode::SWITCHING_PROTOCOLS && fields.announces_body() {
        return Err(HeadError::CODEC);
    }
    let bodiless = *asked.method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    let framing = if switches {
        Framing::Raw
    } else if bodiless {
        fields.check_without_body(status, options.allow_chunked_length)?;
        Framing::None
    } else {
        fields
            .body_framing(options.allow_chunked_length)?
            .unwrap_or(Framing::UntilClose)
    };
    let keep_alive = fields.keep_alive(version) && !matches!(framing, Framing::UntilClose);
    fields.remove_hop_by_hop(switches);

    Ok(ReceivedResponse {
        head: ResponseHead {
            status,
            headers: fields.map,
        },
        framing,
        keep_alive,
        bytes: bytes.len(),
        field_bytes: fields.bytes,
    })
}

/// Parses the trailer fields of a chunked body from their block of lines, `bytes`.
pub(crate) fn trailers(
    bytes: &[u8],
    limits: HeadLimits,
    requests: Option<&Http1Stats>,
) -> Result<HeaderMap, HeadError> {
    let fields = HeadFields::parse(bytes, 0, BlockKind::Trailers, limits, requests);
    match fields {
        Ok(fields) => Ok(fields.map),
        Err(error) if error == HeadError::UNDERSCORE => Err(error),
        Err(_) => Err(HeadError::CODEC),
    }
}

/// The end of the head at the front of `buffer`, including its empty line, or `None` while that has not arrived.
fn find_end(
    buffer: &[u8],
    searched: &mut usize,
    limits: HeadLimits,
) -> Result<Option<usize>, HeadError> {
    match block_end(buffer, *searched) {
        Some(end) if end > limits.bytes => Err(HeadError::TOO_LARGE),
        Some(end) => {
            *searched = 0;
            Ok(Some(end))
        }
        None if buffer.len() > limits.bytes => Err(HeadError::TOO_LARGE),
        None => {
            // The last three bytes may be part of the end.
            *searched = buffer.len().saturating_sub(3);
            Ok(None)
        }
    }
}

fn request_line(line: &[u8]) -> Result<(Method, &[u8], Version), HeadError> {
    let (method, rest) = split_word(line).ok_or(HeadError::CODEC)?;
    let method = target::known_method(method).ok_or(HeadError::CODEC)?;
    // A line without a version is HTTP/0.9.
    let (target, version) = split_word(rest).ok_or(HeadError::LOW_VERSION)?;
    if target.is_empty() || target.iter().any(|&byte| byte <= b' ' || byte >= 0x7f) {
        return Err(HeadError::CODEC);
    }
    Ok((method, target, version_of(version)?))
}

/// Refuses an incomplete head as soon as its first line is complete and not a valid request line. Lines that end before
/// `begin` were checked before.
fn check_request_line(buffer: &[u8], begin: usize) -> Result<(), HeadError> {
    let (before, new) = buffer.split_at(begin.min(buffer.len()));
    if memchr(b'\n', new).is_some() && memchr(b'\n', before).is_none() {
        let (line, _) = split_line(buffer, 0);
        request_line(buffer.get(line).unwrap_or_default())?;
    }
    Ok(())
}

/// Splits at the first run of spaces.
fn split_word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr(b' ', line)?;
    let (word, rest) = line.split_at(end);
    let next = rest.iter().position(|&byte| byte != b' ');
    Some((
        word,
        rest.get(next.unwrap_or(rest.len())..).unwrap_or_default(),
    ))
}

fn status_line(line: &[u8]) -> Result<(Version, StatusCode), HeadError> {
    let (version, rest) = split_word(line).ok_or(HeadError::CODEC)?;
    let (code, reason) = match memchr(b' ', rest) {
        Some(end) => rest.split_at(end),
        None => (rest, &b""[..]),
    };
    let is_text = |&byte: &u8| byte == b'\t' || byte >= b' ' && byte != 0x7f;
    if !reason.iter().all(is_text) {
        return Err(HeadError::CODEC);
    }
    let status = StatusCode::from_bytes(code).map_err(|_| HeadError::CODEC)?;
    Ok((version_of(version)?, status))
}

/// HTTP/1.1, or HTTP/1.0 for every other version of that form: Envoy treats HTTP/1.2 and HTTP/2.0 like HTTP/1.0.
fn version_of(text: &[u8]) -> Result<Version, HeadError> {
    match text {
        b"HTTP/1.1" => Ok(Version::HTTP_11),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Ok(Version::HTTP_10)
        }
        _ => Err(HeadError::CODEC),
    }
}

#[cfg(test)]
mod tests;
