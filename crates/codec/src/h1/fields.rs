//! The lines of a head, and the header fields in them.

use std::ops::Range;

use http::StatusCode;
use http::Version;
use memchr::memchr;

use crate::HeaderValue;
use crate::UnderscoresAction;
use crate::header;
use crate::header::HeaderMap;
use crate::header::HeaderName;
use crate::header::Kind;
use crate::header::MOST_JOINED;
use crate::header::NameSet;
use crate::stats::Http1Stats;
use crate::words::find;

use super::framing::Framing;
use super::head::HeadError;
use super::head::Limits;

/// Where the block of lines that an empty line closes ends; `from` was reached by an earlier search.
pub(super) fn block_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from + before_end(bytes.get(from..)?);
    loop {
        at += find(b'\n', &bytes[at..])? + 1;
        match bytes.get(at..) {
            Some([b'\n', ..]) => return Some(at + 1),
            Some([b'\r', b'\n', ..]) => return Some(at + 2),
            _ => {}
        }
    }
}

/// How much at least comes before the end of the block: lines need not be told apart there, which vectors see at once.
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

/// The line that begins at `from`, without its end, and where the next one begins.
pub(super) fn split_line(bytes: &[u8], from: usize) -> (Range<usize>, usize) {
    let newline = find(b'\n', &bytes[from..]).map_or(bytes.len(), |at| from + at);
    let end = if newline > from && bytes.get(newline - 1) == Some(&b'\r') {
        newline - 1
    } else {
        newline
    };
    (from..end, (newline + 1).min(bytes.len()))
}

/// The bytes of a received field's line, as Envoy counts them: with the colon and the line's end, without white space.
pub(super) fn line_size(name: usize, value: usize) -> usize {
    name + value + b":\r\n".len()
}

/// The least number of header fields that a map has room for from the beginning: it takes no less memory for fewer.
const MIN_CAPACITY: usize = 6;
/// The most that it has room for, whatever the length of the head.
const MAX_CAPACITY: usize = 24;
/// How long fields are, in bytes: by this their number is guessed.
const USUAL_LENGTH: usize = 24;

/// From so many on, the names in a client's `connection` are too many.
const MOST_NAMED: usize = 10;
/// From this length on, a `te` that `connection` names is too long.
const MOST_TE: usize = 256;

/// What [`Fields::keeps`] looks at.
const NOTED: NameSet = NameSet::of(&["connection", "content-length", "host", "transfer-encoding"]);
/// What [`Fields::keep_alive`] looks for.
const LIFE: NameSet = NameSet::of(&["connection", "proxy-connection"]);
/// What belongs to one connection only.
const HOP_BY_HOP: NameSet =
    NameSet::of(&["connection", "keep-alive", "proxy-connection", "upgrade"]);

/// How many fields a proxy mostly adds to a block, beyond those that it takes away.
fn added(kind: Kind) -> usize {
    match kind {
        Kind::Request => 2,
        Kind::Response => 1,
        Kind::Trailers => 0,
    }
}

/// The header fields of a head, and what was seen among them.
pub(super) struct Fields {
    pub(super) map: HeaderMap,
    pub(super) content_length: Option<u64>,
    /// `host`, which does not stay in the map; several are joined as Envoy joins them.
    pub(super) host: Option<HeaderValue>,
    /// `connection: close` or `connection: keep-alive` came, the fields in which nothing else stands. They never enter the
    /// map, and neither does `transfer-encoding`: what most messages have of this connection is known without a search.
    closes: bool,
    keeps_alive: bool,
    /// How many of these came.
    kept_out: usize,
    /// Bytes of their lines, as Envoy counts them.
    pub(super) bytes: usize,
    /// How many fields there are, those that are joined being one.
    count: usize,
    encoding: Option<Encoding>,
}

/// What `transfer-encoding` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Chunked,
    /// Anything else, or several.
    Unsupported,
}

impl Fields {
    /// The fields of the lines of `bytes` that begin at `from`; `requests` counts what is turned away of a client's.
    pub(super) fn parse(
        bytes: &[u8],
        from: usize,
        kind: Kind,
        limits: Limits,
        requests: Option<&Http1Stats>,
    ) -> Result<Fields, HeadError> {
        let room = (bytes.len() - from) / USUAL_LENGTH + added(kind);
        let mut fields = Fields {
            map: HeaderMap::with_capacity(room.clamp(MIN_CAPACITY, MAX_CAPACITY)),
            bytes: 0,
            count: 0,
            content_length: None,
            host: None,
            closes: false,
            keeps_alive: false,
            kept_out: 0,
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
                let joined = folded.get_or_insert_with(|| bytes[line.clone()].to_vec());
                joined.push(b' ');
                joined.extend_from_slice(trim(&bytes[more]));
                next = after;
                line.end = line.start; // the joined copy counts from now on
            }
            match folded {
                None => fields.add(&bytes[line], kind, limits, requests)?,
                Some(joined) => fields.add(&joined, kind, limits, requests)?,
            }
        }
        fields.join_hosts();
        fields.map.join(kind.joined());
        Ok(fields)
    }

    /// Adds the field of a line.
    fn add(
        &mut self,
        line: &[u8],
        kind: Kind,
        limits: Limits,
        requests: Option<&Http1Stats>,
    ) -> Result<(), HeadError> {
        let colon = find(b':', line).ok_or(HeadError::CODEC)?;
        let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| HeadError::CODEC)?;
        let text = trim(&line[colon + 1..]);
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
        let joins = self.joins(&name, kind);
        if self.keeps(&name, &value)? {
            self.map.append(name, value);
        }
        if !joins {
            self.count += 1;
        }
        let most = limits.fields.saturating_add(MOST_JOINED);
        if self.count > limits.fields || self.map.len() > most {
            return Err(HeadError::TOO_MANY);
        }
        Ok(())
    }

    /// Whether a field of this name becomes one with an earlier one, and is not counted for that.
    fn joins(&self, name: &HeaderName, kind: Kind) -> bool {
        if kind.joined().has(name) && self.map.contains_key(name) {
            return true;
        }
        NOTED.has(name)
            && (*name == header::HOST && self.host.is_some()
                || *name == header::CONNECTION && self.kept_out > 0
                || *name == header::TRANSFER_ENCODING && self.encoding.is_some())
    }

    /// Notes what a field says of the message and of its connection; false if it does not enter the map.
    fn keeps(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<bool, HeadError> {
        if !NOTED.has(name) {
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
                self.keeps_alive = true;
                self.kept_out += 1;
                return Ok(false);
            }
            if value.as_bytes().eq_ignore_ascii_case(b"close") {
                self.closes = true;
                self.kept_out += 1;
                return Ok(false);
            }
        } else if *name == header::TRANSFER_ENCODING {
            let is_chunked = value.as_bytes().eq_ignore_ascii_case(b"chunked");
            self.encoding = Some(match self.encoding {
                None if is_chunked => Encoding::Chunked,
                _ => Encoding::Unsupported,
            });
            return Ok(false);
        }
        Ok(true)
    }

    /// Takes what came of `host` after the first out of the map again.
    fn join_hosts(&mut self) {
        if self.map.contains_key(&header::HOST) {
            let all = self.host.iter().chain(self.map.get_all(&header::HOST));
            self.host = header::joined(all);
            self.map.remove(&header::HOST);
        }
    }

    /// Whether some body is announced, of whatever length.
    pub(super) fn announces_body(&self) -> bool {
        self.encoding.is_some() || self.content_length.is_some_and(|length| length > 0)
    }

    /// How the body is framed; none when no field says so. RFC 9112 section 6.3.
    pub(super) fn body_framing(
        &mut self,
        allow_chunked_length: bool,
    ) -> Result<Option<Framing>, HeadError> {
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
            self.map.remove(&header::CONTENT_LENGTH);
        }
        if is_chunked {
            Ok(Some(Framing::chunked()))
        } else {
            Err(HeadError::TRANSFER_ENCODING)
        }
    }

    /// Refuses what a response without a body may not say of one: to HEAD and with 304 nothing that contradicts itself, with
    /// 204 and interim ones (RFC 9110 section 8.6, RFC 9112 section 6.1) only that its length is zero, which is forgotten.
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
        if !self.map.contains_any(LIFE) {
            return if version == Version::HTTP_11 {
                !self.closes
            } else {
                self.keeps_alive
            };
        }
        let by_version = if version == Version::HTTP_11 {
            !self.closes && !self.has_token(b"close")
        } else {
            self.keeps_alive || self.has_token(b"keep-alive")
        };
        // No standard's field, but old clients use it, and Envoy obeys it.
        let closes = |token: &[u8]| token.eq_ignore_ascii_case(b"close");
        by_version && !self.tokens(&header::PROXY_CONNECTION).any(closes)
    }

    /// Whether an upgrade is asked for, to whatever it may be.
    fn asks_to_upgrade(&self) -> bool {
        self.map.contains_key(&header::UPGRADE) && self.has_token(b"upgrade")
    }

    /// An upgrade to anything but `h2c`, which Envoy ignores.
    pub(super) fn is_upgrade(&self) -> bool {
        self.asks_to_upgrade()
            && (self.map.get(&header::UPGRADE))
                .is_some_and(|to| !to.as_bytes().eq_ignore_ascii_case(b"h2c"))
    }

    /// Removes the fields that a client's `connection` names (RFC 9110 section 7.6.1), and refuses what Envoy refuses
    /// there: many names, and those by whose removal the request would seem to come from elsewhere or to be another.
    pub(super) fn remove_named_by_connection(&mut self) -> Result<(), HeadError> {
        let rejected = HeadError::bad_request("http1.connection_header_rejected");
        if self.kept_out >= MOST_NAMED {
            return Err(rejected);
        }
        if !self.map.contains_key(&header::CONNECTION) {
            return Ok(());
        }
        let named = self.map.get_all(&header::CONNECTION);
        let named = named.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
        // A blank counts as a name.
        let named = named.filter(|token| !token.is_empty()).take(MOST_NAMED);
        let named: Vec<Vec<u8>> = named.map(|name| trim(name).to_ascii_lowercase()).collect();
        if self.kept_out + named.len() >= MOST_NAMED {
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
                    // What is no text is the name of no field.
                    if let Ok(name) = std::str::from_utf8(name) {
                        self.map.remove(name);
                    }
                }
            }
        }
        Ok(())
    }

    /// Leaves of `te` only `trailers`, if it is there; false if there is too much to look through.
    fn keep_only_trailers(&mut self) -> bool {
        let fits = |te: &HeaderValue| te.len() < MOST_TE;
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

    /// Removes what belongs to this connection only, but for what an upgrade consists of.
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

/// Without spaces and tabs at either end.
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

    fn limits(fields: usize) -> Limits {
        Limits {
            bytes: usize::MAX,
            fields,
            underscores: UnderscoresAction::Allow,
        }
    }

    fn parsed(lines: &str) -> Fields {
        let stats = Http1Stats::default();
        let (bytes, limits) = (lines.as_bytes(), limits(usize::MAX));
        Fields::parse(bytes, 0, Kind::Request, limits, Some(&stats)).unwrap()
    }

    #[test]
    fn fields_that_are_joined_count_as_one() {
        let parse = |lines: &str| {
            let stats = Http1Stats::default();
            let bytes = lines.as_bytes();
            let parsed = Fields::parse(bytes, 0, Kind::Request, limits(3), Some(&stats));
            parsed.map(|mut fields| (fields.host.take(), fields.map.len()))
        };
        let hosts = "host: a\n".repeat(500);
        let lines = hosts + &"via: a\n".repeat(500) + &"connection: close\n".repeat(500);
        let (host, others) = parse(&lines).unwrap();
        assert_eq!((host.unwrap().len(), others), (999, 1));
        assert!(parse(&format!("{lines}a: 1\n")).is_err());
        assert!(parse("a: 1\na: 1\na: 1\n").is_ok());
        assert!(parse("a: 1\na: 1\na: 1\na: 1\n").is_err());
        // There is an end to it all the same.
        assert!(parse(&"via: a\n".repeat(MOST_JOINED + 3)).is_ok());
        assert!(parse(&"via: a\n".repeat(MOST_JOINED + 4)).is_err());
    }

    #[test]
    fn connection_may_name_few_fields_and_none_of_some() {
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
    fn what_connection_names_is_removed() {
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
