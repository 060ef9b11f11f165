//! Requests that are refused before they reach an endpoint, and their responses: those of Envoy's HTTP connection
//! manager.

use hyper::Method;
use hyper::Version;
use hyper::header;
use hyper::http::request::Parts;
use hyper::http::uri::Authority;

use crate::RequestFailure;
use crate::ServerControl;

/// Envoy's `max_request_headers_kb` default, in bytes.
pub(crate) const MAX_HEAD: u16 = 60 * 1024;
/// Envoy's `max_headers_count` default.
const MAX_HEADERS: usize = 100;

/// The response to a refused request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// The body, which may be empty.
    pub(crate) body: &'static str,
    /// `%RESPONSE_CODE_DETAILS%`
    pub(crate) details: &'static str,
    pub(crate) failure: Option<RequestFailure>,
    /// Whether an HTTP/1.1 connection is closed after it.
    pub(crate) closes: bool,
    /// Whether the access log shows no part of the request, because Envoy's parser refuses it as a whole.
    pub(crate) hides_head: bool,
    /// Whether the request is refused before the headers about the client are added.
    pub(crate) is_early: bool,
}

/// A request that is not valid HTTP/1.1.
const fn malformed(status: u16, body: &'static str, details: &'static str) -> Refusal {
    Refusal {
        status,
        body,
        details,
        failure: Some(RequestFailure::Protocol),
        closes: true,
        hides_head: true,
        is_early: true,
    }
}

/// A request whose target or host is invalid.
const fn invalid_target(status: u16, details: &'static str) -> Refusal {
    Refusal {
        status,
        body: "",
        details,
        failure: None,
        closes: status == 400,
        hides_head: false,
        is_early: true,
    }
}

/// A request that fails while its body is read.
const fn in_body(
    status: u16,
    body: &'static str,
    details: &'static str,
    failure: Option<RequestFailure>,
) -> Refusal {
    Refusal {
        status,
        body,
        details,
        failure,
        closes: true,
        hides_head: false,
        is_early: false,
    }
}

const LOW_VERSION: Refusal = malformed(426, "Upgrade Required", "low_version");
const MALFORMED: Refusal = malformed(400, "Bad Request", "http1.codec_error");
const INVALID_URL: Refusal = malformed(400, "Bad Request", "http1.invalid_url");
const INVALID_AUTHORITY: Refusal = malformed(400, "Bad Request", "http.invalid_authority");
const UNKNOWN_CODING: Refusal =
    malformed(501, "Not Implemented", "http1.invalid_transfer_encoding");
const TOO_LARGE: Refusal = malformed(
    431,
    "Request Header Fields Too Large",
    "http1.headers_too_large",
);
const TOO_MANY_HEADERS: Refusal = malformed(
    431,
    "Request Header Fields Too Large",
    "http1.too_many_headers",
);
const NO_HOST: Refusal = invalid_target(400, "missing_host_header");
const NO_PATH: Refusal = invalid_target(404, "absolute_path_rejected");
const INVALID_PATH: Refusal = invalid_target(400, "path_normalization_failed");
pub(crate) const MALFORMED_BODY: Refusal = in_body(
    400,
    "Bad Request",
    "http1.codec_error",
    Some(RequestFailure::Protocol),
);
pub(crate) const BODY_TOO_LARGE: Refusal =
    in_body(413, "Payload Too Large", "request_payload_too_large", None);
pub(crate) const BODY_TIMED_OUT: Refusal = in_body(
    408,
    "stream timeout",
    "stream_idle_timeout",
    Some(RequestFailure::IdleTimeout),
);
/// The client has closed the connection, so it gets no response.
pub(crate) const DISCONNECTED: Refusal = in_body(
    400,
    "",
    "downstream_remote_disconnect",
    Some(RequestFailure::Disconnect),
);

/// The methods that Envoy's HTTP/1.1 parser knows.
const METHODS: &[&str] = &[
    "ACL",
    "BIND",
    "CHECKOUT",
    "CONNECT",
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MOVE",
    "MSEARCH",
    "NOTIFY",
    "OPTIONS",
    "PATCH",
    "POST",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "PUT",
    "REBIND",
    "REPORT",
    "SEARCH",
    "SOURCE",
    "SUBSCRIBE",
    "TRACE",
    "UNBIND",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
];

/// Checks a request. Returns its normalised path, and its query.
///
/// # Errors
/// If the request is refused.
pub(crate) fn check(parts: &Parts, control: &dyn ServerControl) -> Result<String, Refusal> {
    if parts.version != Version::HTTP_2 {
        check_http1(parts)?;
    }
    let target = match parts.uri.path_and_query() {
        Some(target) if target.path().starts_with('/') => target,
        _ => return Err(NO_PATH),
    };
    let path = control.normalize_path(target.path()).ok_or(INVALID_PATH)?;
    Ok(match target.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    })
}

fn check_http1(parts: &Parts) -> Result<(), Refusal> {
    if parts.version != Version::HTTP_11 {
        return Err(LOW_VERSION);
    }
    let target = &parts.uri;
    let is_authority = target.scheme().is_none() && target.authority().is_some();
    let is_connect = parts.method == Method::CONNECT;
    if is_connect && !is_authority {
        return Err(INVALID_URL);
    }
    let is_ascii = target.path().is_ascii() && target.query().is_none_or(str::is_ascii);
    let is_known = METHODS.contains(&parts.method.as_str());
    if !is_known || !is_ascii || is_authority && !is_connect {
        return Err(MALFORMED);
    }
    if parts.headers.len() > MAX_HEADERS {
        return Err(TOO_MANY_HEADERS);
    }
    if size(parts) > MAX_HEAD.into() {
        return Err(TOO_LARGE);
    }
    let mut codings = parts.headers.get_all(header::TRANSFER_ENCODING).iter();
    let only = (codings.next(), codings.next());
    match only {
        (None, _) => {}
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {}
        _ => return Err(UNKNOWN_CODING),
    }
    let host = parts.headers.get(header::HOST).ok_or(NO_HOST)?;
    let is_host = host.is_empty() || Authority::try_from(host.as_bytes()).is_ok();
    if !is_host {
        return Err(INVALID_AUTHORITY);
    }
    match parts.uri.scheme() {
        Some(_) => Err(NO_PATH),
        None => Ok(()),
    }
}

/// The approximate size of the head in bytes.
fn size(parts: &Parts) -> usize {
    let target = parts.uri.path_and_query().map_or(0, |t| t.as_str().len());
    let headers = parts.headers.iter();
    let headers = headers.map(|(name, value)| name.as_str().len() + value.len());
    target + headers.sum::<usize>()
}
