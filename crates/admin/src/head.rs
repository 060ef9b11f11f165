//! Reads the heads of HTTP/1.1 requests, and says why one is refused.

use crate::request::Request;
use crate::request::unescape;

/// Envoy's `max_request_headers_kb` default.
pub(crate) const MAX_HEAD: usize = 60 * 1024;
const MAX_HEADERS: usize = 100;

/// A request head.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) request: Request,
    pub(crate) framing: Framing,
    /// Whether the client will send no more requests.
    pub(crate) closes: bool,
    pub(crate) expects_continue: bool,
}

/// How a request's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(usize),
    Chunked,
}

/// A request that is answered without an endpoint, before the connection closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// Empty for refusals that say nothing.
    pub(crate) body: &'static str,
}

const BAD_REQUEST: Refusal = refusal(400, "Bad Request");
const UPGRADE_REQUIRED: Refusal = refusal(426, "Upgrade Required");
const NOT_IMPLEMENTED: Refusal = refusal(501, "Not Implemented");
const TOO_LARGE: Refusal = refusal(431, "Request Header Fields Too Large");

const fn refusal(status: u16, body: &'static str) -> Refusal {
    Refusal { status, body }
}

/// Takes a head off the front of `buffer`; `None` when it is not all there yet.
pub(crate) fn take(buffer: &mut Vec<u8>) -> Result<Option<Head>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(buffer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if buffer.len() > MAX_HEAD => return Err(TOO_LARGE),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(TOO_LARGE),
        Err(_) => return Err(BAD_REQUEST),
    };
    let head = check(&parsed)?;
    buffer.drain(..length);
    Ok(Some(head))
}

fn check(parsed: &httparse::Request<'_, '_>) -> Result<Head, Refusal> {
    if parsed.version != Some(1) {
        return Err(UPGRADE_REQUIRED);
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let headers = parsed.headers.iter();
    let request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        target: parsed.path.unwrap_or_default().to_owned(),
        headers: headers
            .map(|header| (header.name.to_ascii_lowercase(), text(header.value)))
            .collect(),
        body: Vec::new(),
    };
    let framing = framing(&request)?;
    if request.header("host").is_none() || request.target.contains('#') {
        return Err(refusal(400, ""));
    }
    if !request.target.starts_with('/') {
        return Err(refusal(404, ""));
    }
    let has = |name: &str, value: &str| {
        request
            .header(name)
            .is_some_and(|known| known.eq_ignore_ascii_case(value))
    };
    Ok(Head {
        framing,
        closes: has("connection", "close"),
        expects_continue: has("expect", "100-continue"),
        request: Request {
            target: normalize(&request.target),
            ..request
        },
    })
}

fn framing(request: &Request) -> Result<Framing, Refusal> {
    let length = request.header("content-length");
    match request.header("transfer-encoding") {
        Some(coding) if coding.eq_ignore_ascii_case("chunked") && length.is_none() => {
            Ok(Framing::Chunked)
        }
        Some(coding) if coding.eq_ignore_ascii_case("chunked") => Err(BAD_REQUEST),
        Some(_) => Err(NOT_IMPLEMENTED),
        None => match length.map(str::parse) {
            None => Ok(Framing::Length(0)),
            Some(Ok(length)) => Ok(Framing::Length(length)),
            Some(Err(_)) => Err(BAD_REQUEST),
        },
    }
}

/// The admin server merges slashes and unescapes the path, as Envoy's does.
fn normalize(target: &str) -> String {
    let (path, query) = match target.find('?') {
        Some(at) => target.split_at(at),
        None => (target, ""),
    };
    let mut merged = String::with_capacity(target.len());
    for letter in unescape(path).chars() {
        if letter != '/' || !merged.ends_with('/') {
            merged.push(letter);
        }
    }
    merged + query
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> Option<Refusal> {
        take(&mut text.as_bytes().to_vec()).err()
    }

    #[test]
    fn takes_one_request_after_another() {
        let mut buffer = b"GET //%72eady?a HTTP/1.1\r\nHost: x\r\n\r\nPOST /b HTTP/1.1\r\nHost: x\r\nConnection: Close\r\nContent-Length: 3\r\n\r\nabc".to_vec();
        let first = take(&mut buffer).unwrap().unwrap();
        assert_eq!(first.request.target, "/ready?a");
        assert_eq!(first.framing, Framing::Length(0));
        assert!(!first.closes);
        let second = take(&mut buffer).unwrap().unwrap();
        assert_eq!(second.framing, Framing::Length(3));
        assert!(second.closes);
        assert_eq!(buffer, b"abc");
    }

    #[test]
    fn waits_for_the_rest_but_not_forever() {
        let mut part = b"GET /ready HTTP/1.1\r\nHost".to_vec();
        assert!(take(&mut part).unwrap().is_none());
        let mut endless = b"GET /ready HTTP/1.1\r\nx: ".to_vec();
        endless.resize(MAX_HEAD + 1, b'a');
        assert_eq!(take(&mut endless).unwrap_err(), TOO_LARGE);
    }

    /// As Envoy's admin server answers them.
    #[test]
    fn refuses_what_envoy_refuses() {
        let get = |line: &str| format!("GET {line}\r\nHost: x\r\n\r\n");
        for (text, want) in [
            ("GARBAGE\r\n\r\n".to_owned(), BAD_REQUEST),
            ("GET /ready HTTP/1.0\r\n\r\n".to_owned(), UPGRADE_REQUIRED),
            ("GET /ready HTTP/1.1\r\n\r\n".to_owned(), refusal(400, "")),
            (get("/ready#a HTTP/1.1"), refusal(400, "")),
            (get("http://x/ready HTTP/1.1"), refusal(404, "")),
            (get("* HTTP/1.1"), refusal(404, "")),
            (get("/ HTTP/1.1\r\nTransfer-Encoding: foo"), NOT_IMPLEMENTED),
            (get("/ HTTP/1.1\r\nContent-Length: -1"), BAD_REQUEST),
            (
                get("/ HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked"),
                BAD_REQUEST,
            ),
        ] {
            assert_eq!(refused(&text), Some(want), "{text:?}");
        }
    }
}
