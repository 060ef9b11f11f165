//! Parses the lines of a head into header fields.

use std::ops::Range;

use http::StatusCode;
use http::Version;
use memchr::memchr;

use crate::HeaderValue;
use crate::UnderscoresAction;
use crate::byte_scan::find;
use crate::header;
use crate::header::BlockKind;
use crate::header::HeaderMap;
use crate::header::HeaderName;
use crate::header::MAX_JOINED_EXTRA;
use crate::header::NameSet;
use crate::stats::Http1Stats;

use super::framing::Framing;
use super::head::HeadError;
use super::head::HeadLimits;

/// The end of the block of lines, after the empty line that closes it. The bytes before `from` were searched before.
pub(super) fn block_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from + before_end(bytes.get(from..)?);
    loop {
        at += find(b'\n', bytes.get(at..).unwrap_or_default())? + 1;
        match bytes.get(at..) {
            Some([b'\n', ..]) => return Some(at + 1),
            Some([b'\r', b'\n', ..]) => return Some(at + 2),
            _ => {}
        }
    }
}

/// A lower bound for the position of the block's end. Here only line ends must be found, not lines, which SIMD
/// instructions do quickly.
fn before_end(bytes: &[u8]) -> usize {
    const CHUNK: usize = 32;
    let (these, _) = bytes.as_chunks::<CHUNK>();
    let (those, _) = bytes.get(1..).unwrap_or_default().as_chunks::<CHUNK>();
    let may_end =
        |(&byte, &next): (&u8, &u8)| (byte == b'\n') & ((next == b'\n') | (next == b'\r'));
    let without = these.iter().zip(those).position(|(chunk, next)| {
        (chunk.iter().zip(next)).fold(false, |found, pair| found | may_end(pair))
    });
    without.unwrap_or(these.len().min(those.len())) * CHUNK
}

/// The line that begins at `from`, without its line end, and the position of the next line.
pub(super) fn split_line(bytes: &[u8], from: usize) -> (Range<usize>, usize) {
    let newline =
        find(b'\n', bytes.get(from..).unwrap_or_default()).map_or(bytes.len(), |at| from + at);
    let end = if newline > from && bytes.get(newline - 1) == Some(&b'\r') {
        newline - 1
    } else {
        newline
    };
    (from..end, (newline + 1).min(bytes.len()))
}

/// The length of a received field's line as Envoy counts it: with the colon and the line end, without white space.
pub(super) fn line_size(name: usize, value: usize) -> usize {
    name + value + b":\r\n".len()
}

/// The minimum initial capacity of a header map: fewer fields take no less memory.
const MIN_CAPACITY: usize = 6;
/// The maximum initial capacity of a header map, for heads of any length.
const MAX_CAPACITY: usize = 24;
/// A typical length of a field in bytes, to estimate the number of fields.
const USUAL_LENGTH: usize = 24;

/// A request is refused if its `connection` has this many names or more.
const MAX_NAMED: usize = 10;
/// A request is refused if `connection` names `te` and its value has this many bytes or more.
const MAX_TE_LENGTH: usize = 256;

/// The fields that [`HeadFields::note`] inspects.
const NOTED_NAMES: NameSet =
    NameSet::of(&["connection", "content-length", "host", "transfer-encoding"]);
/// The fields that [`HeadFields::keep_alive`] inspects.
const KEEP_ALIVE_NAMES: NameSet = NameSet::of(&["connection", "proxy-connection"]);
/// Fields that apply to one connection only.
const HOP_BY_HOP: NameSet =
    NameSet::of(&["connection", "keep-alive", "proxy-connection", "upgrade"]);

/// How many fields a proxy typically adds to a block, minus those that it removes.
fn typical_additions(kind: BlockKind) -> usize {
    match kind {
        BlockKind::Request => 2,
        BlockKind::Response => 1,
        BlockKind::Trailers => 0,
    }
}

/// The header fields of a head, and the properties noted while parsing them.
pub(super) struct HeadFields {
    pub(super) map: HeaderMap,
    pub(super) content_length: Option<u64>,
    /// `host`, which is not in the map. Repeated ones are joined as in Envoy.
    pub(super) host: Option<HeaderValue>,
    /// `connection: close` or `connection: keep-alive` was received, as a field's only value. These fields are not
    /// added to the map, and neither is `transfer-encoding`: so most messages have no connection-specific fields to
    /// remove.
    has_close: bool,
    has_keep_alive: bool,
    /// How many of these fields were received.
    simple_connection_fields: usize,
    /// Length of all field lines, as Envoy counts it.
    pub(super) bytes: usize,
    /// The number of fields, where joined fields count as one.
    count: usize,
    encoding: Option<TransferCoding>,
}

/// The value of `transfer-encoding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TransferCoding {
    Chunked,
    /// Any other value, or several values.
    Unsupported,
}

impl HeadFields {
    /// Parses the lines of `bytes` that begin at `from`. For a client's messages, `requests` counts dropped and refused
    /// fields.
    pub(super) fn parse(
        bytes: &[u8],
        from: usize,
        kind: BlockKind,
        limits: HeadLimits,
        requests: Option<&Http1Stats>,
    ) -> Result<HeadFields, HeadError> {
        let room = (bytes.len() - from) / USUAL_LENGTH + typical_additions(kind);
        let mut fields = HeadFields {
            map: HeaderMap::with_capacity(room.clamp(MIN_CAPACITY, MAX_CAPACITY)),
            bytes: 0,
            count: 0,
            content_length: None,
            host: None,
            has_close: false,
            has_keep_alive: false,
            simple_connection_fields: 0,
            encoding: None,
        };
        let mut next = from;
        while next < bytes.len() {
            let (mut line, after) = split_line(bytes, next);
            next = after;
            if line.is_empty() {
                break;
            }
            let mut folded = None;
            while matches!(bytes.get(next), Some(b' ' | b'\t')) {
                let (more, after) = split_line(bytes, next);
                let joined = folded
                    .get_or_insert_with(|| bytes.get(line.clone()).unwrap_or_default().to_vec());
                joined.push(b' ');
                joined.extend_from_slice(trim(bytes.get(more).unwrap_or_default()));
                next = after;
                line.end = line.start; // from now on, the joined copy is used
            }
            match folded {
                None => fields.add(bytes.get(line).unwrap_or_default(), kind, limits, requests)?,
                Some(joined) => fields.add(&joined, kind, limits, requests)?,
            }
        }
        fields.join_hosts();
        fields.map.join(kind.joined_names());
        Ok(fields)
    }

    /// Parses a line and adds its field.
    fn add(
        &mut self,
        line: &[u8],
        kind: BlockKind,
        limits: HeadLimits,
        requests: Option<&Http1Stats>,
    ) -> Result<(), HeadError> {
        let colon = find(b':', line).ok_or(HeadError::CODEC)?;
        let name = HeaderName::from_bytes(line.get(..colon).unwrap_or_default())
            .map_err(|_| HeadError::CODEC)?;
        let text = trim(line.get(colon + 1..).unwrap_or_default());
        self.bytes += line_size(colon, text.len());
        if let Some(stats) = requests
            && limits.underscores != UnderscoresAction::Allow
            && memchr(b'_', name.as_str().as_bytes()).is_some()
        {
            if limits.underscores == UnderscoresAction::Drop {
                stats.dropped_headers_with_underscores.inc();
                return Ok(());
            }
            stats.requests_rejected_with_underscores_in_headers.inc();
            return Err(HeadError::UNDERSCORE);
        }
        let value = HeaderValue::from_bytes(text)
            .map_err(|_| HeadError::bad_request("http1.invalid_characters"))?;
        let is_joined = self.is_joined(&name, kind);
        if self.note(&name, &value)? {
            self.map.append(name, value);
        }
        if !is_joined {
            self.count += 1;
        }
        let most = limits.fields.saturating_add(MAX_JOINED_EXTRA);
        if self.count > limits.fields || self.map.len() > most {
            return Err(HeadError::TOO_MANY);
        }
        Ok(())
    }

    /// Whether a field of this name is joined with an earlier one, so that it does not count as another field.
    fn is_joined(&self, name: &HeaderName, kind: BlockKind) -> bool {
        if kind.joined_names().has(name) && self.map.contains_key(name) {
            return true;
        }
        NOTED_NAMES.has(name)
            && (*name == header::HOST && self.host.is_some()
                || *name == header::CONNECTION && self.simple_connection_fields > 0
                || *name == header::TRANSFER_ENCODING && self.encoding.is_some())
    }

    /// Notes the properties of the message and its connection that a field sets. Returns false if the field is not
    /// added to the map.
    fn note(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<bool, HeadError> {
        if !NOTED_NAMES.has(name) {
            return Ok(true);
        }
        if *name == header::HOST {
            let repeated = self.host.is_some();
            self.host.get_or_insert_with(|| value.clone());
            return Ok(repeated);
        }
        if *name == header::CONTENT_LENGTH {
            let length = value.as_number().ok_or(HeadError::CODEC)?;
            if self.content_length.replace(length).is_some() {
                return Err(HeadError::CODEC);
            }
        } else if *name == header::CONNECTION {
            if value.as_bytes().eq_ignore_ascii_case(b"keep-alive") {
                self.has_keep_alive = true;
                self.simple_connection_fields += 1;
                return Ok(false);
            }
            if value.as_bytes().eq_ignore_ascii_case(b"close") {
                self.has_close = true;
                self.simple_connection_fields += 1;
                return Ok(false);
            }
        } else if *name == header::TRANSFER_ENCODING {
            let is_chunked = value.as_bytes().eq_ignore_ascii_case(b"chunked");
            self.encoding = Some(match self.encoding {
                None if is_chunked => TransferCoding::Chunked,
                _ => TransferCoding::Unsupported,
            });
            return Ok(false);
        }
        Ok(true)
    }

    /// Removes repeated `host` fields from the map and joins them with the first.
    fn join_hosts(&mut self) {
        if self.map.contains_key(&header::HOST) {
            let all = self.host.iter().chain(self.map.get_all(&header::HOST));
            self.host = header::join_values(all);
            self.map.remove(&header::HOST);
        }
    }

    /// Whether the fields announce a body that is not empty.
    pub(super) fn announces_body(&self) -> bool {
        self.encoding.is_some() || self.content_length.is_some_and(|length| length > 0)
    }

    /// How the body is framed; `None` if no field determines it. RFC 9112 section 6.3.
    pub(super) fn body_framing(
        &mut self,
        allow_chunked_length: bool,
    ) -> Result<Option<Framing>, HeadError> {
        let Some(encoding) = self.encoding else {
            return Ok(self.length_framing());
        };
        let is_chunked = encoding == TransferCoding::Chunked;
        if self.content_length.is_some() {
            if !(is_chunked && allow_chunked_length) {
                return Err(HeadError::bad_request(
                    "http1.content_length_and_chunked_not_allowed",
                ));
            }
            self.map.remove(&header::CONTENT_LENGTH);
        }
        if is_chunked {
            Ok(Some(Framing::chunked()))
        } else {
            Err(HeadError::TRANSFER_ENCODING)
        }
    }

    /// Checks the framing fields of a response without a body. Responses to HEAD and 304 may have any consistent ones.
    /// 204 and interim responses (RFC 9110 section 8.6, RFC 9112 section 6.1) may only have a zero `content-length`,
    /// which is removed.
    pub(super) fn check_without_body(
        &mut self,
        status: StatusCode,
        allow_chunked_length: bool,
    ) -> Result<(), HeadError> {
        self.body_framing(allow_chunked_length)?;
        if status != StatusCode::NO_CONTENT && !status.is_informational() {
            return Ok(());
        }
        if self.encoding.is_some() || self.content_length.is_some_and(|length| length > 0) {
            return Err(HeadError::CODEC);
        }
        if self.content_length.is_some() {
            self.map.remove(&header::CONTENT_LENGTH);
        }
        Ok(())
    }

    fn length_framing(&self) -> Option<Framing> {
        self.content_length.map(|length| match length {
            0 => Framing::None,
            length => Framing::Length(length),
        })
    }

    fn tokens(&self, name: &'static HeaderName) -> impl Iterator<Item = &[u8]> {
        self.map
            .get_all(name)
            .flat_map(|value| value.as_bytes().split(|&byte| byte == b',').map(trim))
    }

    /// Whether `connection` holds `token`.
    fn has_token(&self, token: &[u8]) -> bool {
        self.tokens(&header::CONNECTION)
            .any(|found| found.eq_ignore_ascii_case(token))
    }

    pub(super) fn keep_alive(&self, version: Version) -> bool {
        if !self.map.contains_any(KEEP_ALIVE_NAMES) {
            return if version == Version::HTTP_11 {
                !self.has_close
            } else {
                self.has_keep_alive
            };
        }
        let by_version = if version == Version::HTTP_11 {
            !self.has_close && !self.has_token(b"close")
        } else {
            self.has_keep_alive || self.has_token(b"keep-alive")
        };
        // Not a standard field, but old clients send it, and Envoy honours it.
        let is_close = |token: &[u8]| token.eq_ignore_ascii_case(b"close");
        by_version && !self.tokens(&header::PROXY_CONNECTION).any(is_close)
    }

    /// Whether the message asks for an upgrade to any protocol.
    fn asks_to_upgrade(&self) -> bool {
        self.map.contains_key(&header::UPGRADE) && self.has_token(b"upgrade")
    }

    /// Whether the message asks for an upgrade to a protocol other than `h2c`, which Envoy ignores.
    pub(super) fn is_upgrade(&self) -> bool {
        self.asks_to_upgrade()
            && (self.map.get(&header::UPGRADE))
                .is_some_and(|to| !to.as_bytes().eq_ignore_ascii_case(b"h2c"))
    }

    /// Removes the fields that a client's `connection` names (RFC 9110 section 7.6.1). Like Envoy, refuses requests
    /// that name many fields, or fields whose removal would change the request's target or hide its origin.
    pub(super) fn remove_named_by_connection(&mut self) -> Result<(), HeadError> {
        let rejected = HeadError::bad_request("http1.connection_header_rejected");
        if self.simple_connection_fields >= MAX_NAMED {
            return Err(rejected);
        }
        if !self.map.contains_key(&header::CONNECTION) {
            return Ok(());
        }
        let named = self.map.get_all(&header::CONNECTION);
        let named = named.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
        // White space counts as a name.
        let named = named.filter(|token| !token.is_empty()).take(MAX_NAMED);
        let named: Vec<Vec<u8>> = named.map(|name| trim(name).to_ascii_lowercase()).collect();
        if self.simple_connection_fields + named.len() >= MAX_NAMED {
            return Err(rejected);
        }
        for name in &named {
            match &name[..] {
                b"close" | b"connection" | b"http2-settings" | b"keep-alive" | b"upgrade" => {}
                b"x-forwarded-for" | b"x-forwarded-host" | b"x-forwarded-proto" | [b':', ..] => {
                    return Err(rejected);
                }
                b"host" => self.host = None,
                b"te" if !self.keep_only_trailers() => return Err(rejected),
                b"te" => {}
                name => {
                    // A name that is not valid UTF-8 is not the name of any field.
                    if let Ok(name) = std::str::from_utf8(name) {
                        self.map.remove(name);
                    }
                }
            }
        }
        Ok(())
    }

    /// Reduces `te` to `trailers` if it contains that, and removes it otherwise. Returns false if it is too long to
    /// search.
    fn keep_only_trailers(&mut self) -> bool {
        let fits = |te: &HeaderValue| te.len() < MAX_TE_LENGTH;
        let is_trailers = |token: &[u8]| token.eq_ignore_ascii_case(b"trailers");
        let fit = self.map.get(&header::TE).is_none_or(fits);
        if self.tokens(&header::TE).any(is_trailers) {
            let trailers = HeaderValue::from_static("trailers");
            self.map.insert(&header::TE, trailers);
        } else {
            self.map.remove(&header::TE);
        }
        fit
    }

    /// Removes the fields that apply to this connection only, except those of an upgrade.
    pub(super) fn remove_hop_by_hop(&mut self, upgrade: bool) {
        if !self.map.contains_any(HOP_BY_HOP) {
            return;
        }
        if !upgrade {
            if self.asks_to_upgrade() {
                self.map.remove("http2-settings");
            }
            self.map.remove(&header::CONNECTION);
            self.map.remove(&header::UPGRADE);
        }
        self.map.remove(&header::KEEP_ALIVE);
        self.map.remove(&header::PROXY_CONNECTION);
    }
}

/// Removes spaces and tabs at both ends.
fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_empty_line_ends_a_block() {
        for end in ["\n\n", "\n\r\n"] {
            for before in 0..100 {
                for after in 0..70 {
                    let mut text = "a\n\rb".repeat(before / 4) + &"c".repeat(before % 4);
                    let expected = text.len() + end.len();
                    text += end;
                    text += &"\n\n".repeat(after / 2);
                    let text = text.as_bytes();
                    assert_eq!(block_end(text, 0), Some(expected), "{before} {after}");
                    assert_eq!(block_end(&text[..expected - 1], 0), None, "{before}");
                }
            }
        }
    }

    fn limits(fields: usize) -> HeadLimits {
        HeadLimits {
            bytes: usize::MAX,
            fields,
            underscores: UnderscoresAction::Allow,
        }
    }

    fn parsed(lines: &str) -> HeadFields {
        let stats = Http1Stats::default();
        let (bytes, limits) = (lines.as_bytes(), limits(usize::MAX));
        HeadFields::parse(bytes, 0, BlockKind::Request, limits, Some(&stats)).unwrap()
    }

    #[test]
    fn joined_fields_count_as_one() {
        let parse = |lines: &str| {
            let stats = Http1Stats::default();
            let bytes = lines.as_bytes();
            let parsed = HeadFields::parse(bytes, 0, BlockKind::Request, limits(3), Some(&stats));
            parsed.map(|mut fields| (fields.host.take(), fields.map.len()))
        };
        let hosts = "host: a\n".repeat(500);
        let lines = hosts + &"via: a\n".repeat(500) + &"connection: close\n".repeat(500);
        let (host, others) = parse(&lines).unwrap();
        assert_eq!((host.unwrap().len(), others), (999, 1));
        assert!(parse(&format!("{lines}a: 1\n")).is_err());
        assert!(parse("a: 1\na: 1\na: 1\n").is_ok());
        assert!(parse("a: 1\na: 1\na: 1\na: 1\n").is_err());
        // The number of joined fields is limited too.
        assert!(parse(&"via: a\n".repeat(MAX_JOINED_EXTRA + 3)).is_ok());
        assert!(parse(&"via: a\n".repeat(MAX_JOINED_EXTRA + 4)).is_err());
    }

    #[test]
    fn connection_with_too_many_or_forbidden_names_is_refused() {
        let refused = |lines: &str| parsed(lines).remove_named_by_connection().is_err();
        let names = |count: usize| format!("connection: {}\n", vec!["a"; count].join(","));
        assert!(!refused(&names(9)) && refused(&names(10)));
        assert!(refused(&format!("connection: close\n{}", names(9))));
        assert!(refused(&"connection: close\n".repeat(10)));
        assert!(refused("connection: a, X-Forwarded-For\n") && refused("connection: :path\n"));
        let te = |length: usize| format!("connection: te\nte: {}\n", "a".repeat(length));
        assert!(!refused(&te(255)) && refused(&te(256)));
    }

    #[test]
    fn fields_named_by_connection_are_removed() {
        let left = |lines: &str| {
            let mut fields = parsed(lines);
            assert!(fields.remove_named_by_connection().is_ok());
            let left = fields
                .map
                .iter()
                .map(|(name, value)| format!("{name}={value:?}"));
            (left.collect::<Vec<_>>().join(" "), fields.host)
        };
        let (map, host) = left("host: h\nconnection: B, host, \u{e4}\nb: 1\na: 2\nb: 3\n");
        assert_eq!(map, "connection=\"B, host, \\xc3\\xa4\" a=\"2\"");
        assert!(host.is_none());
        let (map, _) = left("connection: te\nte: gzip, Trailers\n");
        assert_eq!(map, "connection=\"te\" te=\"trailers\"");
        let (map, _) = left("connection: te\nte: gzip\n");
        assert_eq!(map, "connection=\"te\"");
    }
}
