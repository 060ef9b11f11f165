//! Message heads: from bytes to [`crate::RequestHead`] and [`http::Response`] (RFC 9112 sections 2 to 6), as lenient and as
//! strict as Envoy's parser: bare LF ends a line, a folded line is joined, and whatever makes framing ambiguous is refused.

use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::Response;
use http::StatusCode;
use http::Version;
use http::header;
use http::header::AsHeaderName;
use memchr::memchr;

use super::framing::Framing;
use super::target;
use crate::Http1Options;
use crate::MalformedRequest;
use crate::RequestHead;
use crate::UnderscoresAction;
use crate::stats::Http1Stats;

/// A request's head, and what it says of the connection.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) head: RequestHead,
    pub(crate) version: Version,
    pub(crate) framing: Framing,
    /// Whether the client wants to go on using the connection.
    pub(crate) keep_alive: bool,
    /// Bytes of the head as they came.
    pub(crate) bytes: usize,
}

/// A response's head, and what it says of the connection.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) response: Response<()>,
    pub(crate) framing: Framing,
    /// Whether the server wants to go on using the connection.
    pub(crate) keep_alive: bool,
    /// Bytes of the head as they came.
    pub(crate) bytes: usize,
}

/// How much of a head there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of all lines.
    pub(crate) bytes: usize,
    /// Header fields.
    pub(crate) fields: usize,
    /// What to do with names that hold an underscore.
    pub(crate) underscores: UnderscoresAction,
}

/// What is wrong with a head: Envoy's name for it, and the status that a client gets.
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
    const TOO_MANY: HeadError = HeadError {
        status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        details: "http1.too_many_headers",
    };
    const TRANSFER_ENCODING: HeadError = HeadError {
        status: StatusCode::NOT_IMPLEMENTED,
        details: "http1.invalid_transfer_encoding",
    };
    const LOW_VERSION: HeadError = HeadError {
        status: StatusCode::UPGRADE_REQUIRED,
        details: "low_version",
    };

    const fn bad_request(details: &'static str) -> HeadError {
        HeadError {
            status: StatusCode::BAD_REQUEST,
            details,
        }
    }

    /// The answer to a client whose request this is.
    pub(crate) fn into_malformed(self) -> MalformedRequest {
        MalformedRequest {
            status: self.status,
            body: self.status.canonical_reason().unwrap_or_default().into(),
            details: self.details,
        }
    }
}

/// Takes a request's head off the front of `buffer`; `None` while it is incomplete.
///
/// `searched` remembers how far earlier calls have looked, so that a slow sender costs no more than a fast one.
pub(crate) fn take_request(
    buffer: &mut BytesMut,
    searched: &mut usize,
    limits: Limits,
    options: &Http1Options,
    stats: &Http1Stats,
) -> Result<Option<Received>, HeadError> {
    // A robust server skips empty lines before a request (RFC 9112 section 2.2).
    let blank = buffer
        .iter()
        .position(|byte| !matches!(byte, b'\r' | b'\n'));
    let blank = blank.unwrap_or(buffer.len());
    if blank > 0 {
        drop(buffer.split_to(blank));
        *searched = 0;
    }
    let Some(bytes) = take_block(buffer, searched, limits)? else {
        return Ok(None);
    };
    let size = bytes.len();
    let (line, rest) = split_line(&bytes, 0);
    let (method, target, version) = request_line(&bytes[line.clone()])?;
    let mut fields = Fields::parse(&bytes, rest, limits, Some(stats))?;
    if version == Version::HTTP_10 && !options.accept_http_10 {
        return Err(HeadError::LOW_VERSION);
    }
    let target = bytes.slice_ref(target);
    let upgrade = fields.is_upgrade();
    let framing = if method == Method::CONNECT || upgrade {
        Framing::Raw
    } else {
        fields
            .body_framing(options.allow_chunked_length)?
            .unwrap_or(Framing::None)
    };
    let keep_alive = fields.keep_alive(version);
    let mut authority = fields.host.take();
    fields.remove_named_by_connection();
    fields.remove_hop_by_hop(upgrade);

    let parsed = target::parse(&method, &target, options.allow_absolute_url)?;
    if let Some(named) = parsed.authority {
        authority = Some(named);
    }
    if authority.is_none()
        && version == Version::HTTP_10
        && !options.default_host_for_http_10.is_empty()
    {
        authority = HeaderValue::from_str(&options.default_host_for_http_10).ok();
    }
    if let Some(authority) = &authority
        && !target::is_valid_authority(authority.as_bytes())
    {
        return Err(HeadError::bad_request("http.invalid_authority"));
    }
    Ok(Some(Received {
        head: RequestHead {
            method,
            scheme: None,
            authority,
            path: parsed.path,
            headers: fields.map,
        },
        version,
        framing,
        keep_alive,
        bytes: size,
    }))
}

/// Takes a response's head off the front of `buffer`; `None` while it is incomplete. `method` is the request's.
pub(crate) fn take_response(
    buffer: &mut BytesMut,
    searched: &mut usize,
    limits: Limits,
    options: &Http1Options,
    method: &Method,
) -> Result<Option<ResponseHead>, HeadError> {
    // A server of another protocol may never send the end of a head.
    let known = buffer.len().min(b"HTTP/1.".len());
    if buffer[..known] != b"HTTP/1."[..known] {
        return Err(HeadError::CODEC);
    }
    let Some(bytes) = take_block(buffer, searched, limits)? else {
        return Ok(None);
    };
    let size = bytes.len();
    let (line, rest) = split_line(&bytes, 0);
    let (version, status) = status_line(&bytes[line])?;
    let mut fields = Fields::parse(&bytes, rest, limits, None)?;
    let switches = status == StatusCode::SWITCHING_PROTOCOLS
        || (*method == Method::CONNECT && status.is_success());
    let bodiless = *method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    let framing = if switches {
        Framing::Raw
    } else if bodiless {
        Framing::None
    } else {
        fields
            .body_framing(options.allow_chunked_length)?
            .unwrap_or(Framing::UntilClose)
    };
    let keep_alive = fields.keep_alive(version) && !matches!(framing, Framing::UntilClose);
    fields.remove_hop_by_hop(switches);

    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = version;
    *response.headers_mut() = fields.map;
    Ok(Some(ResponseHead {
        response,
        framing,
        keep_alive,
        bytes: size,
    }))
}

/// Parses the trailer fields of a chunked body, whose block of lines is `bytes`.
pub(crate) fn trailers(bytes: &Bytes, limits: Limits) -> Result<HeaderMap, HeadError> {
    Ok(Fields::parse(bytes, 0, limits, None)?.map)
}

/// Takes all lines up to and with the empty one, once they are there.
fn take_block(
    buffer: &mut BytesMut,
    searched: &mut usize,
    limits: Limits,
) -> Result<Option<Bytes>, HeadError> {
    match block_end(buffer, *searched) {
        Some(end) if end > limits.bytes => Err(HeadError::TOO_LARGE),
        Some(end) => {
            *searched = 0;
            // All of it, mostly: then the buffer need not become a shared one.
            let block = if end == buffer.len() {
                std::mem::take(buffer)
            } else {
                buffer.split_to(end)
            };
            Ok(Some(block.freeze()))
        }
        None if buffer.len() > limits.bytes => Err(HeadError::TOO_LARGE),
        None => {
            // The last three bytes may be the beginning of the end.
            *searched = buffer.len().saturating_sub(3);
            Ok(None)
        }
    }
}

/// Where the block of lines that an empty line closes ends; `from` was reached by an earlier search.
pub(crate) fn block_end(bytes: &[u8], from: usize) -> Option<usize> {
    memchr::memchr_iter(b'\n', &bytes[from..]).find_map(|at| {
        let next = from + at + 1;
        match bytes.get(next..) {
            Some([b'\n', ..]) => Some(next + 1),
            Some([b'\r', b'\n', ..]) => Some(next + 2),
            _ => None,
        }
    })
}

/// The line that begins at `from`, without its end, and where the next one begins.
fn split_line(bytes: &[u8], from: usize) -> (std::ops::Range<usize>, usize) {
    let newline = memchr(b'\n', &bytes[from..]).map_or(bytes.len(), |at| from + at);
    let end = if newline > from && bytes.get(newline - 1) == Some(&b'\r') {
        newline - 1
    } else {
        newline
    };
    (from..end, (newline + 1).min(bytes.len()))
}

fn request_line(line: &[u8]) -> Result<(Method, &[u8], Version), HeadError> {
    let (method, rest) = split_word(line).ok_or(HeadError::CODEC)?;
    let method = target::known_method(method).ok_or(HeadError::CODEC)?;
    // Without a version, the line is one of HTTP/0.9.
    let (target, version) = split_word(rest).ok_or(HeadError::LOW_VERSION)?;
    if target.is_empty() || target.iter().any(|&byte| byte <= b' ' || byte >= 0x7f) {
        return Err(HeadError::CODEC);
    }
    Ok((method, target, version_of(version)?))
}

/// The bytes before a run of spaces, and those after it.
fn split_word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr(b' ', line)?;
    let (word, rest) = line.split_at(end);
    let next = rest.iter().position(|&byte| byte != b' ');
    Some((word, &rest[next.unwrap_or(rest.len())..]))
}

fn status_line(line: &[u8]) -> Result<(Version, StatusCode), HeadError> {
    let (Some(version), Some(code)) = (line.get(..8), line.get(9..12)) else {
        return Err(HeadError::CODEC);
    };
    if line[8] != b' ' || !matches!(line.get(12), None | Some(b' ')) {
        return Err(HeadError::CODEC);
    }
    let status = StatusCode::from_bytes(code).map_err(|_| HeadError::CODEC)?;
    Ok((version_of(version)?, status))
}

/// HTTP/1.1, or HTTP/1.0 for all else of that form: Envoy treats an HTTP/1.2 or 2.0 like a 1.0.
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

/// Header fields that a map has room for from the beginning: those of most messages, and what we add.
const CAPACITY: usize = 12;

/// The header fields of a head, and what was seen among them.
struct Fields {
    map: HeaderMap,
    content_length: Option<u64>,
    /// `host`, which never enters the map; several are joined as Envoy joins them.
    host: Option<HeaderValue>,
    /// `connection: close` or `connection: keep-alive` came, the fields in which nothing else stands. They never enter the
    /// map, and neither does `transfer-encoding`: what most messages have of this connection is known without a search.
    closes: bool,
    keeps_alive: bool,
    encoding: Option<Encoding>,
    /// Whether any other field of this connection only is in the map.
    hop_by_hop: bool,
}

/// What `transfer-encoding` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Chunked,
    /// Anything else, or several.
    Unsupported,
}

impl Fields {
    fn parse(
        bytes: &Bytes,
        from: usize,
        limits: Limits,
        requests: Option<&Http1Stats>,
    ) -> Result<Fields, HeadError> {
        let mut fields = Fields {
            map: HeaderMap::with_capacity(CAPACITY),
            content_length: None,
            host: None,
            closes: false,
            keeps_alive: false,
            encoding: None,
            hop_by_hop: false,
        };
        let mut next = from;
        let mut count = 0;
        while next < bytes.len() {
            let (mut line, after) = split_line(bytes, next);
            next = after;
            if line.is_empty() {
                break;
            }
            let mut folded = None;
            while matches!(bytes.get(next), Some(b' ' | b'\t')) {
                let (more, after) = split_line(bytes, next);
                let joined = folded.get_or_insert_with(|| bytes[line.clone()].to_vec());
                joined.push(b' ');
                joined.extend_from_slice(trim(&bytes[more]));
                next = after;
                line.end = line.start; // the joined copy counts from now on
            }
            count += 1;
            if count > limits.fields {
                return Err(HeadError::TOO_MANY);
            }
            match folded {
                None => fields.add(bytes, line, limits.underscores, requests)?,
                Some(joined) => {
                    let all = 0..joined.len();
                    fields.add(&joined.into(), all, limits.underscores, requests)?;
                }
            }
        }
        Ok(fields)
    }

    /// Adds the field of the line at `line` of `bytes`, which its value shares.
    fn add(
        &mut self,
        bytes: &Bytes,
        line: std::ops::Range<usize>,
        underscores: UnderscoresAction,
        requests: Option<&Http1Stats>,
    ) -> Result<(), HeadError> {
        let line = &bytes[line];
        // Names are too short for a search by vectors to pay.
        let colon = line.iter().position(|&byte| byte == b':');
        let colon = colon.ok_or(HeadError::CODEC)?;
        let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| HeadError::CODEC)?;
        if let Some(stats) = requests
            && underscores != UnderscoresAction::Allow
            && memchr(b'_', name.as_str().as_bytes()).is_some()
        {
            if underscores == UnderscoresAction::Drop {
                stats.dropped_headers_with_underscores.inc();
                return Ok(());
            }
            stats.requests_rejected_with_underscores_in_headers.inc();
            return Err(HeadError::bad_request("http1.unexpected_underscore"));
        }
        let value = bytes.slice_ref(trim(&line[colon + 1..]));
        let value = HeaderValue::from_maybe_shared(value)
            .map_err(|_| HeadError::bad_request("http1.invalid_characters"))?;
        match name {
            header::HOST => {
                self.host = Some(match self.host.take() {
                    None => value,
                    Some(first) => HeaderValue::from_bytes(
                        &[first.as_bytes(), b",", value.as_bytes()].concat(),
                    )
                    .map_err(|_| HeadError::CODEC)?,
                });
                return Ok(());
            }
            header::CONTENT_LENGTH => {
                if self.content_length.is_some() {
                    return Err(HeadError::CODEC);
                }
                self.content_length = Some(parse_length(value.as_bytes()).ok_or(HeadError::CODEC)?);
            }
            header::CONNECTION if value.as_bytes().eq_ignore_ascii_case(b"keep-alive") => {
                self.keeps_alive = true;
                return Ok(());
            }
            header::CONNECTION if value.as_bytes().eq_ignore_ascii_case(b"close") => {
                self.closes = true;
                return Ok(());
            }
            header::TRANSFER_ENCODING => {
                let is_chunked = value.as_bytes().eq_ignore_ascii_case(b"chunked");
                self.encoding = Some(match self.encoding {
                    None if is_chunked => Encoding::Chunked,
                    _ => Encoding::Unsupported,
                });
                return Ok(());
            }
            header::CONNECTION | header::UPGRADE => self.hop_by_hop = true,
            _ => self.hop_by_hop |= matches!(name.as_str(), "keep-alive" | "proxy-connection"),
        }
        self.map.append(name, value);
        Ok(())
    }

    /// How the body is framed; none when no field says so. RFC 9112 section 6.3.
    fn body_framing(&mut self, allow_chunked_length: bool) -> Result<Option<Framing>, HeadError> {
        let Some(encoding) = self.encoding else {
            return Ok(self.length_framing());
        };
        let is_chunked = encoding == Encoding::Chunked;
        if self.content_length.is_some() {
            if !(is_chunked && allow_chunked_length) {
                return Err(HeadError::bad_request(
                    "http1.content_length_and_chunked_not_allowed",
                ));
            }
            self.map.remove(header::CONTENT_LENGTH);
        }
        if is_chunked {
            Ok(Some(Framing::chunked()))
        } else {
            Err(HeadError::TRANSFER_ENCODING)
        }
    }

    fn length_framing(&self) -> Option<Framing> {
        self.content_length.map(|length| match length {
            0 => Framing::None,
            length => Framing::Length(length),
        })
    }

    fn tokens(&self, name: impl AsHeaderName) -> impl Iterator<Item = &[u8]> {
        self.map
            .get_all(name)
            .iter()
            .flat_map(|value| value.as_bytes().split(|&byte| byte == b',').map(trim))
    }

    /// Whether `connection` holds `token`.
    fn has_token(&self, token: &[u8]) -> bool {
        self.hop_by_hop
            && self
                .tokens(header::CONNECTION)
                .any(|found| found.eq_ignore_ascii_case(token))
    }

    fn keep_alive(&self, version: Version) -> bool {
        let by_version = if version == Version::HTTP_11 {
            !self.closes && !self.has_token(b"close")
        } else {
            self.keeps_alive || self.has_token(b"keep-alive")
        };
        // No standard's field, but old clients use it, and Envoy obeys it.
        let closes = |token: &[u8]| token.eq_ignore_ascii_case(b"close");
        by_version && !(self.hop_by_hop && self.tokens("proxy-connection").any(closes))
    }

    /// An upgrade to anything but `h2c`, which Envoy ignores.
    fn is_upgrade(&self) -> bool {
        self.hop_by_hop
            && self
                .map
                .get(header::UPGRADE)
                .is_some_and(|to| !to.as_bytes().eq_ignore_ascii_case(b"h2c"))
            && self.has_token(b"upgrade")
    }

    /// Removes the fields that a client's `connection` names (RFC 9110 section 7.6.1), but for `te`, which is looked at
    /// later. Envoy lets those that an upstream names pass.
    fn remove_named_by_connection(&mut self) {
        if !self.hop_by_hop || !self.map.contains_key(header::CONNECTION) {
            return;
        }
        let named: Vec<HeaderName> = self
            .tokens(header::CONNECTION)
            .filter(|token| {
                !token.eq_ignore_ascii_case(b"te") && !token.eq_ignore_ascii_case(b"upgrade")
            })
            .filter_map(|token| HeaderName::from_bytes(token).ok())
            .filter(|name| !is_routing_header(name))
            .collect();
        for name in named {
            self.map.remove(name);
        }
    }

    /// Removes what belongs to this connection only, but for an upgrade's `connection: upgrade`, in the peer's spelling.
    fn remove_hop_by_hop(&mut self, upgrade: bool) {
        if !self.hop_by_hop {
            return;
        }
        let spelling = self
            .tokens(header::CONNECTION)
            .find(|token| upgrade && token.eq_ignore_ascii_case(b"upgrade"))
            .and_then(|token| HeaderValue::from_bytes(token).ok());
        self.map.remove(header::CONNECTION);
        if let Some(spelling) = spelling {
            self.map.insert(header::CONNECTION, spelling);
        }
        if !upgrade && self.map.remove(header::UPGRADE).is_some() {
            self.map.remove("http2-settings");
        }
        self.map.remove("keep-alive");
        self.map.remove("proxy-connection");
    }
}

/// Fields that say where a message goes or how long it is; a client may not have them removed by naming them.
fn is_routing_header(name: &HeaderName) -> bool {
    *name == header::CONTENT_LENGTH
        || name.as_str().starts_with("x-forwarded")
        || *name == header::HOST
}

/// Decimal digits only (RFC 9110 section 8.6).
fn parse_length(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Without spaces and tabs at either end.
fn trim(bytes: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = bytes
        .iter()
        .position(|byte| !blank(byte))
        .unwrap_or(bytes.len());
    let end = bytes
        .iter()
        .rposition(|byte| !blank(byte))
        .map_or(start, |at| at + 1);
    &bytes[start..end]
}

#[cfg(test)]
mod tests;
