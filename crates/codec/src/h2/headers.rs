//! Encodes message heads as HTTP/2 header blocks.

use http::Method;
use http::StatusCode;

use crate::RequestHead;
use crate::ResponseHead;
use crate::header;
use crate::header::HeaderMap;
use crate::hpack::Encoder;
use crate::hpack::Pseudo;

/// Encodes a request's head; returns the length of its names and values. An upgrade becomes an extended CONNECT (RFC
/// 8441).
pub(super) fn encode_request(
    head: &RequestHead,
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
) -> usize {
    let upgrade = head.headers.get(&header::UPGRADE);
    let method = upgrade.map_or(&head.method, |_| &Method::CONNECT);
    encoder.method(method, out);
    let mut bytes = ":method".len() + method.as_str().len();
    let mut pseudo = |name: Pseudo, value: &[u8]| {
        encoder.pseudo(name, value, out);
        bytes += name.as_str().len() + value.len();
    };
    if head.method != Method::CONNECT || upgrade.is_some() {
        pseudo(Pseudo::Scheme, head.scheme().as_bytes());
        let path = head.path.as_ref().map_or(&b"/"[..], |path| path.as_bytes());
        pseudo(Pseudo::Path, path);
    }
    if let Some(authority) = &head.authority {
        pseudo(Pseudo::Authority, authority.as_bytes());
    }
    if let Some(protocol) = upgrade {
        pseudo(Pseudo::Protocol, protocol.as_bytes());
    }
    bytes + encode_fields(&head.headers, upgrade.is_some(), encoder, out)
}

/// Encodes a response's head; returns the length of its names and values. Accepting an upgrade that came as extended
/// CONNECT becomes a success.
pub(super) fn encode_response(
    head: &ResponseHead,
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
) -> usize {
    let upgraded = head.status == StatusCode::SWITCHING_PROTOCOLS
        && head.headers.contains_key(&header::UPGRADE);
    let status = if upgraded {
        StatusCode::OK
    } else {
        head.status
    };
    encoder.status(status, out);
    let bytes = ":status".len() + status.as_str().len();
    bytes + encode_fields(&head.headers, upgraded, encoder, out)
}

/// Encodes trailers; returns the length of their names and values.
pub(super) fn encode_trailers(
    trailers: &HeaderMap,
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
) -> usize {
    encode_fields(trailers, false, encoder, out)
}

/// Encodes fields, except those that only HTTP/1 has; returns the length of their names and values. A `tunnel` has no
/// `content-length`, even if the HTTP/1 message has one.
fn encode_fields(
    headers: &HeaderMap,
    tunnel: bool,
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
) -> usize {
    let mut bytes = 0;
    for (name, value) in headers {
        if *name == header::CONNECTION
            || *name == header::UPGRADE
            || tunnel && *name == header::CONTENT_LENGTH && value == "0"
        {
            continue;
        }
        bytes += name.as_str().len() + value.len();
        encoder.header(name, value, out);
    }
    bytes
}
