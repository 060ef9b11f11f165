//! Request targets and methods (RFC 9112 section 3.2): origin, absolute, authority and asterisk form.

use bytes::Bytes;
use http::HeaderValue;
use http::Method;
use http::Uri;

use super::head::origin_form;

/// What a target says.
#[derive(Debug)]
pub(crate) struct Target {
    /// Path and query.
    pub(crate) uri: Uri,
    /// The authority of an absolute or a CONNECT target.
    pub(crate) authority: Option<HeaderValue>,
}

/// The methods that Envoy's parser knows; others are malformed.
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
    "M-SEARCH",
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

/// The method of that name, in upper case as it must come.
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

/// Takes a target apart; none when it has no form that a request may have.
pub(crate) fn parse(method: &Method, target: &Bytes, allow_absolute: bool) -> Option<Target> {
    if *method == Method::CONNECT {
        let authority = HeaderValue::from_maybe_shared(target.clone()).ok()?;
        return Some(Target {
            uri: Uri::from_static("/"),
            authority: Some(authority),
        });
    }
    if target.starts_with(b"/") {
        return Some(Target {
            uri: origin_form(target.clone())?,
            authority: None,
        });
    }
    if target.as_ref() == b"*" {
        return Some(Target {
            uri: Uri::from_static("*"),
            authority: None,
        });
    }
    if !allow_absolute {
        return None;
    }
    let lower = target.get(..8)?.to_ascii_lowercase();
    let start = if lower.starts_with(b"http://") {
        7
    } else if lower.starts_with(b"https://") {
        8
    } else {
        return None;
    };
    let end = target[start..]
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?' | b'#'))
        .map_or(target.len(), |at| start + at);
    let authority = HeaderValue::from_maybe_shared(target.slice(start..end)).ok()?;
    let uri = match target.get(end) {
        Some(b'/') => origin_form(target.slice(end..))?,
        Some(_) => origin_form([b"/", &target[end..]].concat().into())?,
        None => Uri::from_static("/"),
    };
    Some(Target {
        uri,
        authority: Some(authority),
    })
}

/// Whether only bytes stand in it that a host, a port and user information may have (RFC 3986 section 3.2).
pub(crate) fn is_valid_authority(authority: &[u8]) -> bool {
    authority
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@[]".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_target() {
        for (method, target, expected) in [
            ("GET", "/a?b", Some(("/a?b", None))),
            (
                "GET",
                "http://other:81/p?q",
                Some(("/p?q", Some("other:81"))),
            ),
            ("GET", "HTTPS://other", Some(("/", Some("other")))),
            ("GET", "http://other?q", Some(("/?q", Some("other")))),
            ("OPTIONS", "*", Some(("*", None))),
            ("CONNECT", "h:80", Some(("/", Some("h:80")))),
            ("GET", "foo", None),
            ("GET", "ftp://other/", None),
        ] {
            let parsed = parse(
                &known_method(method.as_bytes()).unwrap(),
                &Bytes::from(target),
                true,
            );
            let seen = parsed
                .as_ref()
                .map(|t| (t.uri.to_string(), t.authority.clone()));
            let expected =
                expected.map(|(uri, a)| (uri.to_owned(), a.map(|a: &str| a.parse().unwrap())));
            assert_eq!(seen, expected, "{method} {target}");
        }
        assert!(parse(&Method::GET, &Bytes::from("http://other/"), false).is_none());
    }

    #[test]
    fn only_known_methods_in_upper_case() {
        assert!(known_method(b"M-SEARCH").is_some());
        assert!(
            known_method(b"get").is_none()
                && known_method(b"FOO").is_none()
                && known_method(b"").is_none()
        );
    }
}
