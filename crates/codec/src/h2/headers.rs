//! Between the `h2` crate's messages and the one shape that both codecs share.

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Uri;
use http::header;
use http::request;
use http::uri;
use http::uri::PathAndQuery;
use http::uri::Scheme;

use crate::RequestHead;
use crate::ServerOptions;
use crate::StreamError;
use crate::Target;
use crate::UnderscoresAction;
use crate::stats::Http2Stats;

/// Bytes of names and values.
pub(super) fn size(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum()
}

/// Turns a received request's head into the shared shape.
///
/// `bytes` is the size of its header fields.
pub(super) fn accept(
    mut head: request::Parts,
    bytes: usize,
    options: &ServerOptions,
    stats: &Http2Stats,
) -> Result<RequestHead, Refused> {
    let target = std::mem::take(&mut head.uri).into_parts();
    let path = target.path_and_query.as_ref();
    let total = bytes
        + path.map_or(0, |path| path.as_str().len())
        + target
            .authority
            .as_ref()
            .map_or(0, |host| host.as_str().len());
    if total > options.max_request_headers_kb as usize * 1024 {
        stats.header_overflow.inc();
        return Err(Refused::Stream);
    }
    if head.headers.len() > options.max_headers_count as usize {
        stats.header_overflow.inc();
        return Err(Refused::Stream);
    }
    check_underscores(&mut head.headers, options.underscores, stats)?;
    join_cookies(&mut head.headers);
    let host = head.headers.remove(header::HOST);
    let authority = match target.authority {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => host,
    };
    let authority = authority.ok_or(Refused::Message)?;
    upgrade_from_connect(&mut head);
    let path = target
        .path_and_query
        .filter(|_| head.method != Method::CONNECT);
    Ok(RequestHead {
        method: head.method,
        scheme: Some(target.scheme.unwrap_or(Scheme::HTTP)),
        authority: Some(authority),
        path: path.and_then(|path| Target::try_from(path.as_str()).ok()),
        headers: head.headers,
    })
}

/// A request that is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It breaks a limit: its stream is reset.
    Stream,
    /// It breaks the rules of messages, as if the `h2` crate had found out.
    Message,
}

fn check_underscores(
    headers: &mut HeaderMap,
    action: UnderscoresAction,
    stats: &Http2Stats,
) -> Result<(), Refused> {
    if action == UnderscoresAction::Allow {
        return Ok(());
    }
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().contains('_'))
        .cloned()
        .collect();
    if !names.is_empty() && action == UnderscoresAction::Reject {
        stats.requests_rejected_with_underscores_in_headers.inc();
        return Err(Refused::Stream);
    }
    for name in names {
        while headers.remove(&name).is_some() {}
        stats.dropped_headers_with_underscores.inc();
    }
    Ok(())
}

/// RFC 9113 § 8.2.3: cookie pairs that came as fields of their own become one field again.
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    if cookies.nth(1).is_none() {
        return;
    }
    let mut joined = Vec::new();
    for cookie in headers.get_all(header::COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(cookie.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Shows an extended CONNECT (RFC 8441) as the HTTP/1 upgrade that it stands for.
fn upgrade_from_connect(head: &mut request::Parts) {
    if let Some(protocol) = head.extensions.remove::<h2::ext::Protocol>()
        && let Ok(protocol) = HeaderValue::from_str(protocol.as_str())
    {
        head.method = Method::GET;
        head.headers.insert(header::UPGRADE, protocol);
        head.headers
            .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Makes the head that the `h2` crate sends for a request in the shared shape.
pub(super) fn send(shared: RequestHead) -> Result<Request<()>, StreamError> {
    let plain_connect = shared.method == Method::CONNECT;
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = shared.method;
    head.headers = shared.headers;
    if let Some(protocol) = head.headers.remove(header::UPGRADE) {
        let protocol = protocol.to_str().map_err(|_| INVALID)?;
        head.extensions.insert(h2::ext::Protocol::from(protocol));
        head.method = Method::CONNECT;
    }
    head.headers.remove(header::CONNECTION);
    let mut target = uri::Parts::default();
    if let Some(authority) = shared.authority.filter(|authority| !authority.is_empty()) {
        target.authority =
            Some(uri::Authority::try_from(authority.as_bytes()).map_err(|_| INVALID)?);
    }
    if !plain_connect {
        let scheme = shared.scheme.unwrap_or(Scheme::HTTP);
        target.scheme = target.authority.is_some().then_some(scheme);
        let path = shared.path.unwrap_or_else(Target::root);
        target.path_and_query = Some(PathAndQuery::try_from(path.as_bytes()).map_err(|_| INVALID)?);
    }
    head.uri = Uri::from_parts(target).map_err(|_| INVALID)?;
    // Without an authority, the crate takes the request only as one that is forwarded from HTTP/1.
    head.version = match head.uri.authority() {
        Some(_) => http::Version::HTTP_2,
        None => http::Version::HTTP_11,
    };
    Ok(Request::from_parts(head, ()))
}

/// A head that HTTP/2 has no form for.
const INVALID: StreamError = StreamError::ProtocolError("http2.invalid_header");

#[cfg(test)]
mod tests {
    use outrider_net::Drain;
    use outrider_net::Timers;

    use super::*;

    fn accepted(
        request: Request<()>,
        change: impl FnOnce(&mut ServerOptions),
    ) -> Option<RequestHead> {
        let mut options = ServerOptions::new(Timers::new(), Drain::new());
        change(&mut options);
        let (head, ()) = request.into_parts();
        let bytes = size(&head.headers);
        accept(head, bytes, &options, &Http2Stats::default()).ok()
    }

    #[test]
    fn the_authority_goes_apart_and_comes_back() {
        let request = Request::get("https://a.example:8080/x?y=z")
            .body(())
            .unwrap();
        let head = accepted(request, |_| {}).unwrap();
        assert_eq!(head.path(), "/x?y=z");
        assert_eq!(head.host(), "a.example:8080");
        let sent = send(head).unwrap();
        assert_eq!(sent.uri(), "https://a.example:8080/x?y=z");
    }

    #[test]
    fn cookies_are_joined() {
        let request = Request::get("http://a/")
            .header("cookie", "a=1")
            .header("cookie", "b=2");
        let head = accepted(request.body(()).unwrap(), |_| {}).unwrap();
        let cookies: Vec<_> = head.headers.get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
    }

    #[test]
    fn limits_and_underscores_are_enforced() {
        let many = (0..101).fold(Request::get("http://a/"), |request, i| {
            request.header(format!("x{i}"), "1")
        });
        assert!(accepted(many.body(()).unwrap(), |_| {}).is_none());
        let large = Request::get("http://a/").header("x", "1".repeat(61 * 1024));
        assert!(accepted(large.body(()).unwrap(), |_| {}).is_none());
        let request = || {
            Request::get("http://a/")
                .header("a_b", "1")
                .body(())
                .unwrap()
        };
        let headers = |action| {
            accepted(request(), |options| options.underscores = action)
                .map(|head| head.headers.len())
        };
        assert_eq!(headers(UnderscoresAction::Allow), Some(1));
        assert_eq!(headers(UnderscoresAction::Drop), Some(0));
        assert_eq!(headers(UnderscoresAction::Reject), None);
    }

    #[test]
    fn an_extended_connect_is_an_upgrade() {
        let mut request = Request::builder()
            .method("CONNECT")
            .uri("http://a/chat")
            .body(())
            .unwrap();
        request
            .extensions_mut()
            .insert(h2::ext::Protocol::from_static("websocket"));
        let head = accepted(request, |_| {}).unwrap();
        assert_eq!(
            (head.method.as_str(), head.headers["upgrade"].as_bytes()),
            ("GET", &b"websocket"[..])
        );
        let sent = send(head).unwrap();
        assert_eq!(sent.method(), Method::CONNECT);
        assert_eq!(
            sent.extensions()
                .get::<h2::ext::Protocol>()
                .unwrap()
                .as_str(),
            "websocket"
        );
    }
}
