//! Request targets and methods (RFC 9112 section 3.2): origin, absolute, authority and asterisk form.

use bytes::Bytes;
use http::Method;
use http::uri::Scheme;
use memchr::memchr;

use crate::HeaderValue;
use crate::Target;
use crate::request::is_valid_authority;

use super::head::HeadError;

/// A parsed request target.
#[derive(Debug)]
pub(crate) struct Parsed {
    /// Path and query; `None` for CONNECT.
    pub(crate) path: Option<Target>,
    /// The scheme of an absolute target.
    pub(crate) scheme: Option<Scheme>,
    /// The authority of an absolute or a CONNECT target.
    pub(crate) authority: Option<HeaderValue>,
}

/// The extension methods that Envoy's parser accepts; requests with others are malformed.
const EXTENSION_METHODS: &[&str] = &[
    "ACL",
    "BIND",
    "CHECKOUT",
    "COPY",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MOVE",
    "MSEARCH",
    "NOTIFY",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "REBIND",
    "REPORT",
    "SEARCH",
    "SOURCE",
    "SUBSCRIBE",
    "UNBIND",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
];

/// The method with that name, which must be in upper case.
pub(crate) fn known_method(name: &[u8]) -> Option<Method> {
    Some(match name {
        b"GET" => Method::GET,
        b"POST" => Method::POST,
        b"PUT" => Method::PUT,
        b"DELETE" => Method::DELETE,
        b"HEAD" => Method::HEAD,
        b"OPTIONS" => Method::OPTIONS,
        b"CONNECT" => Method::CONNECT,
        b"PATCH" => Method::PATCH,
        b"TRACE" => Method::TRACE,
        other
            if EXTENSION_METHODS
                .iter()
                .any(|known| known.as_bytes() == other) =>
        {
            Method::from_bytes(other).ok()?
        }
        _ => return None,
    })
}

/// Parses a target. The error is Envoy's for invalid targets.
pub(crate) fn parse(
    method: &Method,
    target: &[u8],
    allow_absolute: bool,
) -> Result<Parsed, HeadError> {
    if *method == Method::CONNECT {
        return Ok(Parsed {
            path: None,
            scheme: None,
            authority: Some(named_authority(target, true)?),
        });
    }
    if target.starts_with(b"/") {
        return Ok(Parsed {
            path: Some(origin_form(target)?),
            scheme: None,
            authority: None,
        });
    }
    if target == b"*" {
        if *method != Method::OPTIONS {
            return Err(HeadError::INVALID_URL);
        }
        return Ok(Parsed {
            path: Some(Target::asterisk()),
            scheme: None,
            authority: None,
        });
    }
    if !allow_absolute {
        return Err(HeadError::CODEC);
    }
    absolute_form(target)
}

fn absolute_form(target: &[u8]) -> Result<Parsed, HeadError> {
    let end = memchr::memmem::find(target, b"://").ok_or(HeadError::CODEC)?;
    let scheme = match target.get(..end).unwrap_or_default() {
        scheme if scheme.eq_ignore_ascii_case(b"http") => Scheme::HTTP,
        scheme if scheme.eq_ignore_ascii_case(b"https") => Scheme::HTTPS,
        _ => return Err(HeadError::INVALID_SCHEME),
    };
    let start = end + 3;
    let end = target
        .get(start..)
        .unwrap_or_default()
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?' | b'#'))
        .map_or(target.len(), |at| start + at);
    let path = match target.get(end) {
        // A target with a query but no path is invalid, which the connection manager detects.
        Some(b'/' | b'?') => origin_form(target.get(end..).unwrap_or_default())?,
        Some(_) => return Err(HeadError::CODEC),
        None => Target::root(),
    };
    // User information is not forwarded.
    let authority = target.get(start..end).unwrap_or_default();
    let host = memchr::memrchr(b'@', authority)
        .map_or(authority, |at| authority.get(at + 1..).unwrap_or_default());
    if !host.iter().all(|&byte| is_host_byte(byte)) {
        return Err(HeadError::INVALID_URL);
    }
    Ok(Parsed {
        path: Some(path),
        scheme: Some(scheme),
        authority: Some(named_authority(host, false)?),
    })
}

/// Whether the byte may be part of a host, a port or an address in brackets.
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-_:[]%".contains(&byte)
}

/// A path, unchanged. A request line accepts only visible ASCII.
fn origin_form(path: &[u8]) -> Result<Target, HeadError> {
    if path == b"/" {
        return Ok(Target::root());
    }
    Target::try_from(Bytes::copy_from_slice(path)).map_err(|_| HeadError::CODEC)
}

/// Validates a target's authority: a host, optionally with a colon and a port, which CONNECT requires.
fn named_authority(authority: &[u8], needs_port: bool) -> Result<HeaderValue, HeadError> {
    let from = memchr::memrchr(b'@', authority).map_or(0, |at| at + 1);
    let host_and_port = authority.get(from..).unwrap_or_default();
    let host_end = match host_and_port.first() {
        Some(b'[') => memchr(b']', host_and_port).map(|at| at + 1),
        _ => memchr(b':', host_and_port),
    };
    let (host, port) = host_and_port.split_at(host_end.unwrap_or(host_and_port.len()));
    let port = match port {
        [] => !needs_port,
        [b':', digits @ ..] => std::str::from_utf8(digits).is_ok_and(|d| d.parse::<u16>().is_ok()),
        _ => false,
    };
    if host.is_empty() || !port || !is_valid_authority(authority) {
        return Err(HeadError::INVALID_URL);
    }
    HeaderValue::from_bytes(authority).map_err(|_| HeadError::INVALID_URL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_target_is_parsed() {
        for (method, target, expected) in [
            ("GET", "/a?b", Ok((Some("/a?b"), None))),
            (
                "GET",
                "http://other:81/p?q",
                Ok((Some("/p?q"), Some("other:81"))),
            ),
            ("GET", "HTTPS://other", Ok((Some("/"), Some("other")))),
            ("GET", "/<{^`|}>#\"", Ok((Some("/<{^`|}>#\""), None))),
            ("GET", "http://other?q", Ok((Some("?q"), Some("other")))),
            ("GET", "http://other#f", Err("http1.codec_error")),
            ("GET", "http://other*", Err("http1.invalid_url")),
            (
                "GET",
                "http://u:p@[::1]:80/",
                Ok((Some("/"), Some("[::1]:80"))),
            ),
            ("OPTIONS", "*", Ok((Some("*"), None))),
            ("CONNECT", "h:80", Ok((None, Some("h:80")))),
            ("GET", "foo", Err("http1.codec_error")),
            ("GET", "ftp://other/", Err("http1.invalid_scheme")),
            ("GET", "*", Err("http1.invalid_url")),
            ("GET", "http:///x", Err("http1.invalid_url")),
            ("GET", "http://a:99999/x", Err("http1.invalid_url")),
            ("CONNECT", "h", Err("http1.invalid_url")),
            ("CONNECT", ":80", Err("http1.invalid_url")),
            ("CONNECT", "h:", Err("http1.invalid_url")),
            ("CONNECT", "h:80/x", Err("http1.invalid_url")),
        ] {
            let method = known_method(method.as_bytes()).unwrap();
            let parsed = parse(&method, &Bytes::from(target), true)
                .map(|target| (target.path.map(|path| path.to_string()), target.authority))
                .map_err(|error| error.details);
            let expected = expected
                .map(|(path, a)| (path.map(str::to_owned), a.map(|a: &str| a.parse().unwrap())));
            assert_eq!(parsed, expected, "{method} {target}");
        }
        assert!(parse(&Method::GET, &Bytes::from("http://other/"), false).is_err());
    }

    #[test]
    fn only_known_upper_case_methods_are_accepted() {
        assert!(known_method(b"PROPFIND").is_some());
        assert!(
            known_method(b"get").is_none()
                && known_method(b"M-SEARCH").is_none()
                && known_method(b"FOO").is_none()
                && known_method(b"").is_none()
        );
    }
}
