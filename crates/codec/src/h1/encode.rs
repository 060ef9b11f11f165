//! Encodes message heads and chunks.

use std::io::Write;

use http::Method;
use http::StatusCode;
use http::Version;

use crate::HeaderValue;
use crate::Http1Options;
use crate::RequestHead;
use crate::ResponseHead;
use crate::Target;
use crate::header;
use crate::header::HeaderMap;
use crate::header::HeaderName;
use crate::options::HeaderCase;

/// How the body after a head is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyCoding {
    /// No body: a response to HEAD, a 204 or 304, or a message that is known to end with its head.
    None,
    /// Without framing: `content-length` was announced, the end of the connection ends the body, or the connection is a
    /// tunnel.
    Plain,
    /// In chunks.
    Chunked,
}

/// What a response's head depends on, apart from the response itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResponseContext<'a> {
    pub(crate) options: &'a Http1Options,
    /// The request's method.
    pub(crate) method: &'a Method,
    /// The request's version.
    pub(crate) version: Version,
    /// Whether body and trailers are known to be empty.
    pub(crate) ends: bool,
    /// Whether the connection closes after this response.
    pub(crate) close: bool,
}

/// The result of encoding a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EncodedHead {
    pub(crate) coding: BodyCoding,
    /// The `content-length` of the body that follows.
    pub(crate) length: Option<u64>,
    /// Whether the connection becomes a tunnel after the head, or will if the server accepts the request.
    pub(crate) tunnel: bool,
    /// Length of the field lines in bytes.
    pub(crate) fields: usize,
}

/// Fields that matter for the body, noted while encoding them.
#[derive(Clone, Copy, Debug, Default)]
struct BodyFields {
    has_length: bool,
    length: Option<u64>,
    has_upgrade: bool,
}

impl BodyFields {
    fn encoded(self, coding: BodyCoding, tunnel: bool, fields: usize) -> EncodedHead {
        EncodedHead {
            coding,
            // A tunnel has no length, even if its opening message has `content-length`.
            length: (self.length).filter(|_| coding == BodyCoding::Plain && !tunnel),
            tunnel,
            fields,
        }
    }
}

/// Writes a response's head to `out`, and returns how its body is encoded.
pub(crate) fn response(
    head: &ResponseHead,
    cx: ResponseContext<'_>,
    out: &mut Vec<u8>,
) -> EncodedHead {
    let status = head.status;
    status_line(cx.version, status, out);
    let first = out.len();
    let case = cx.options.header_case;
    let connects = *cx.method == Method::CONNECT && status.is_success();
    // The header is only still there if the client asked for an upgrade.
    let switches = connects || head.headers.contains_key(&header::UPGRADE);
    let bodiless = status.is_informational() || status == StatusCode::NO_CONTENT;
    // RFC 9110 section 8.6: no length in 1xx, 204, or a successful response to CONNECT.
    let body_fields = fields(&head.headers, case, !connects && !bodiless, out);
    if let Some(connection) = connection_field(cx).filter(|_| !switches) {
        field(&header::CONNECTION, connection, case, out);
    }
    let coding = if switches {
        BodyCoding::Plain
    } else if bodiless || status == StatusCode::NOT_MODIFIED {
        BodyCoding::None
    } else if body_fields.has_length {
        if cx.ends || *cx.method == Method::HEAD {
            BodyCoding::None
        } else {
            BodyCoding::Plain
        }
    } else if *cx.method == Method::HEAD {
        // Like Envoy: the coding that the response to a GET would have had.
        if cx.version != Version::HTTP_10 {
            field(&header::TRANSFER_ENCODING, b"chunked", case, out);
        }
        BodyCoding::None
    } else if cx.ends {
        field(&header::CONTENT_LENGTH, b"0", case, out);
        BodyCoding::None
    } else if cx.version == Version::HTTP_10 {
        BodyCoding::Plain
    } else {
        field(&header::TRANSFER_ENCODING, b"chunked", case, out);
        BodyCoding::Chunked
    };
    let lines = out.len() - first;
    out.extend_from_slice(b"\r\n");
    body_fields.encoded(coding, switches, lines)
}

fn status_line(version: Version, status: StatusCode, out: &mut Vec<u8>) {
    if version == Version::HTTP_10 {
        out.extend_from_slice(b"HTTP/1.0 ");
    } else if status == StatusCode::OK {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    } else {
        out.extend_from_slice(b"HTTP/1.1 ");
    }
    out.extend_from_slice(status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The value of `connection`, if it differs from the version's default.
fn connection_field(cx: ResponseContext<'_>) -> Option<&'static [u8]> {
    if cx.close {
        Some(b"close")
    } else {
        (cx.version == Version::HTTP_10).then_some(b"keep-alive")
    }
}

/// Writes an interim response's head.
pub(crate) fn informational(head: &ResponseHead, options: &Http1Options, out: &mut Vec<u8>) {
    // HTTP/1.0 clients never receive interim responses.
    status_line(Version::HTTP_11, head.status, out);
    fields(&head.headers, options.header_case, true, out);
    out.extend_from_slice(b"\r\n");
}

/// Writes a request's head to `out`, and returns how its body is encoded. `ends`: the body is known to be empty.
pub(crate) fn request(
    head: &RequestHead,
    options: &Http1Options,
    ends: bool,
    out: &mut Vec<u8>,
) -> EncodedHead {
    let method = &head.method;
    let case = options.header_case;
    let authority = head.authority();
    out.extend_from_slice(method.as_str().as_bytes());
    out.extend_from_slice(b" ");
    if *method == Method::CONNECT {
        out.extend_from_slice(authority);
    } else {
        if options.send_fully_qualified_url {
            let scheme = head
                .headers
                .get("x-forwarded-proto")
                .map_or(b"http".as_slice(), HeaderValue::as_bytes);
            out.extend_from_slice(scheme);
            out.extend_from_slice(b"://");
            out.extend_from_slice(authority);
        }
        let target = head.path.as_ref().map_or(b"/".as_slice(), Target::as_bytes);
        out.extend_from_slice(target);
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let first = out.len();
    field(&header::HOST, authority, case, out);
    let body_fields = fields(&head.headers, case, true, out);
    let tunnel = *method == Method::CONNECT || body_fields.has_upgrade;
    let coding = if tunnel {
        BodyCoding::Plain
    } else if body_fields.has_length {
        if ends {
            BodyCoding::None
        } else {
            BodyCoding::Plain
        }
    } else if ends {
        // A server must be able to tell that an empty POST is complete (RFC 9110 section 8.6).
        if !matches!(
            *method,
            Method::GET | Method::HEAD | Method::DELETE | Method::TRACE
        ) {
            field(&header::CONTENT_LENGTH, b"0", case, out);
        }
        BodyCoding::None
    } else {
        field(&header::TRANSFER_ENCODING, b"chunked", case, out);
        BodyCoding::Chunked
    };
    let lines = out.len() - first;
    out.extend_from_slice(b"\r\n");
    body_fields.encoded(coding, tunnel, lines)
}

/// Writes the line with a chunk's size.
pub(crate) fn push_chunk_line(size: usize, out: &mut Vec<u8>) {
    let mut text = [0u8; 18];
    let mut rest = text.as_mut_slice();
    // 16 digits and a line end always fit.
    let written = write!(rest, "{size:x}\r\n").map_or(0, |()| 18 - rest.len());
    out.extend_from_slice(text.get(..written).unwrap_or_default());
}

/// Writes the last chunk, with the trailers if the options allow them.
pub(crate) fn last_chunk(trailers: Option<&HeaderMap>, options: &Http1Options, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    if let Some(trailers) = trailers
        && options.enable_trailers
    {
        fields(trailers, options.header_case, true, out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the fields, and notes `content-length` and the first `upgrade` on the way, which is cheaper than looking them
/// up.
fn fields(map: &HeaderMap, case: HeaderCase, with_length: bool, out: &mut Vec<u8>) -> BodyFields {
    let mut body_fields = BodyFields::default();
    for (name, value) in map {
        if *name == header::CONTENT_LENGTH {
            if !body_fields.has_length {
                body_fields.has_length = true;
                body_fields.length = value.as_number();
            }
            if !with_length {
                continue;
            }
        } else if *name == header::UPGRADE {
            body_fields.has_upgrade = true;
        }
        field(name, value.as_bytes(), case, out);
    }
    body_fields
}

fn field(name: &HeaderName, value: &[u8], case: HeaderCase, out: &mut Vec<u8>) {
    let name = name.as_str().as_bytes();
    out.reserve(name.len() + value.len() + 4);
    match case {
        HeaderCase::Lower => out.extend_from_slice(name),
        HeaderCase::ProperWords => {
            let mut upper = true;
            out.extend(name.iter().map(|byte| {
                let written = if upper {
                    byte.to_ascii_uppercase()
                } else {
                    *byte
                };
                upper = !byte.is_ascii_alphanumeric();
                written
            }));
        }
    }
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Envoy's reason phrases, most of which are those of the IANA registry.
fn reason(status: StatusCode) -> &'static str {
    match status.as_u16() {
        203 => "Non-Authoritative Information",
        302 => "Found",
        413 => "Payload Too Large",
        418 | 451 => "Unknown",
        422 => "Unprocessable Entity",
        599 => "Last Unassigned Server Error Code",
        _ => status.canonical_reason().unwrap_or("Unknown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(
        head: &ResponseHead,
        method: &Method,
        version: Version,
        ends: bool,
        close: bool,
    ) -> (String, BodyCoding) {
        let options = Http1Options::default();
        let mut out = Vec::new();
        let cx = ResponseContext {
            options: &options,
            method,
            version,
            ends,
            close,
        };
        let encoded = response(head, cx, &mut out);
        (String::from_utf8(out).unwrap(), encoded.coding)
    }

    #[test]
    fn response_heads_announce_how_the_body_ends() {
        let plain = ResponseHead::default();
        let mut length = ResponseHead::default();
        let five = HeaderValue::from_static("5");
        length.headers.insert(&header::CONTENT_LENGTH, five);
        let no_content = ResponseHead::from(StatusCode::NO_CONTENT);
        let (get, head) = (Method::GET, Method::HEAD);
        let ok = "HTTP/1.1 200 OK\r\n";
        for (message, method, version, ends, text, coding) in [
            (
                &plain,
                &get,
                Version::HTTP_11,
                true,
                format!("{ok}content-length: 0\r\n\r\n"),
                BodyCoding::None,
            ),
            (
                &plain,
                &get,
                Version::HTTP_11,
                false,
                format!("{ok}transfer-encoding: chunked\r\n\r\n"),
                BodyCoding::Chunked,
            ),
            (
                &plain,
                &get,
                Version::HTTP_10,
                false,
                "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n\r\n".into(),
                BodyCoding::Plain,
            ),
            (
                &plain,
                &head,
                Version::HTTP_11,
                true,
                format!("{ok}transfer-encoding: chunked\r\n\r\n"),
                BodyCoding::None,
            ),
            (
                &length,
                &get,
                Version::HTTP_11,
                false,
                format!("{ok}content-length: 5\r\n\r\n"),
                BodyCoding::Plain,
            ),
            (
                &length,
                &head,
                Version::HTTP_11,
                true,
                format!("{ok}content-length: 5\r\n\r\n"),
                BodyCoding::None,
            ),
            (
                &no_content,
                &get,
                Version::HTTP_11,
                true,
                "HTTP/1.1 204 No Content\r\n\r\n".into(),
                BodyCoding::None,
            ),
        ] {
            assert_eq!(
                encoded(message, method, version, ends, false),
                (text, coding)
            );
        }
        let (text, _) = encoded(&plain, &get, Version::HTTP_11, true, true);
        assert_eq!(
            text,
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
    }

    #[test]
    fn proper_words_are_capitalised() {
        let options = Http1Options {
            header_case: HeaderCase::ProperWords,
            ..Http1Options::default()
        };
        let mut message = RequestHead {
            authority: Some(HeaderValue::from_static("h")),
            path: Target::try_from("/p").ok(),
            ..RequestHead::default()
        };
        let name = HeaderName::from_static("x-a-bc");
        let value = HeaderValue::from_static("v");
        message.headers.insert(name, value);
        let mut out = Vec::new();
        request(&message, &options, true, &mut out);
        assert_eq!(out, b"GET /p HTTP/1.1\r\nHost: h\r\nX-A-Bc: v\r\n\r\n");
    }

    #[test]
    fn chunk_lines_are_hexadecimal() {
        let mut out = Vec::new();
        push_chunk_line(255, &mut out);
        push_chunk_line(usize::MAX, &mut out);
        assert_eq!(out, b"ff\r\nffffffffffffffff\r\n");
    }
}
