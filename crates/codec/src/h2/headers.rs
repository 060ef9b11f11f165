//! Between heads on the wire and the one shape that both codecs share.

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Uri;
use http::header;
use http::request;
use http::uri::PathAndQuery;
use http::uri::Scheme;

use crate::Authority;
use crate::RawTarget;
use crate::hpack::Encoder;
use crate::hpack::Pseudo;

use super::message::RequestHead;

/// Bytes of names and values.
pub(super) fn size(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum()
}

/// A received request's head in the shared shape; an extended CONNECT (RFC 8441) is the HTTP/1 upgrade that it stands for.
pub(super) fn accept(head: RequestHead) -> Option<request::Parts> {
    let mut request = Request::new(());
    *request.method_mut() = head.method;
    *request.headers_mut() = head.headers;
    if let Some(authority) = head.authority {
        request.extensions_mut().insert(Authority(authority));
    }
    if let Some(scheme) = head.scheme
        && scheme != "http"
        && let Ok(scheme) = Scheme::try_from(scheme.as_bytes())
    {
        request.extensions_mut().insert(scheme);
    }
    if let Some(path) = head.path {
        let bytes = Bytes::copy_from_slice(path.as_bytes());
        if bytes.contains(&b'#') {
            request.extensions_mut().insert(RawTarget(bytes.clone()));
        }
        *request.uri_mut() = Uri::from(PathAndQuery::from_maybe_shared(bytes).ok()?);
    }
    if let Some(protocol) = head.protocol {
        *request.method_mut() = Method::GET;
        let headers = request.headers_mut();
        headers.insert(header::UPGRADE, protocol);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    Some(request.into_parts().0)
}

/// Writes the header block of a request in the shared shape.
pub(super) fn encode_request(head: &request::Parts, encoder: &mut Encoder, out: &mut Vec<u8>) {
    let upgrade = head.headers.get(header::UPGRADE);
    let plain_connect = head.method == Method::CONNECT && upgrade.is_none();
    match upgrade {
        Some(_) => encoder.method(&Method::CONNECT, out),
        None => encoder.method(&head.method, out),
    }
    if !plain_connect {
        let scheme = head
            .extensions
            .get::<Scheme>()
            .map_or("http", Scheme::as_str);
        encoder.pseudo(Pseudo::Scheme, scheme.as_bytes(), out);
        let path = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        encoder.pseudo(Pseudo::Path, path.as_bytes(), out);
    }
    if let Some(Authority(authority)) = head.extensions.get() {
        encoder.pseudo(Pseudo::Authority, authority.as_bytes(), out);
    }
    if let Some(protocol) = upgrade {
        encoder.pseudo(Pseudo::Protocol, protocol.as_bytes(), out);
    }
    encode_fields(&head.headers, encoder, out);
}

/// Writes the fields of a message, but for those that only HTTP/1 has.
pub(super) fn encode_fields(headers: &HeaderMap, encoder: &mut Encoder, out: &mut Vec<u8>) {
    for (name, value) in headers {
        if *name != header::CONNECTION && *name != header::UPGRADE {
            encoder.header(name, value, out);
        }
    }
}
