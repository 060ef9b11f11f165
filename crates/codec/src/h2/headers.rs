//! Heads in the one shape that both codecs share, written as HTTP/2's header blocks.

use http::Method;

use crate::RequestHead;
use crate::header;
use crate::header::HeaderMap;
use crate::hpack::Encoder;
use crate::hpack::Pseudo;

/// Writes a request's head; returns the bytes of its fields. An upgrade becomes an extended CONNECT (RFC 8441).
pub(super) fn encode_request(
    head: &RequestHead,
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
) -> usize {
    let upgrade = head.headers.get(&header::UPGRADE);
    match upgrade {
        Some(_) => encoder.method(&Method::CONNECT, out),
        None => encoder.method(&head.method, out),
    }
    if head.method != Method::CONNECT || upgrade.is_some() {
        encoder.pseudo(Pseudo::Scheme, head.scheme().as_bytes(), out);
        let path = head.path.as_ref().map_or(&b"/"[..], |path| path.as_bytes());
        encoder.pseudo(Pseudo::Path, path, out);
    }
    if let Some(authority) = &head.authority {
        encoder.pseudo(Pseudo::Authority, authority.as_bytes(), out);
    }
    if let Some(protocol) = upgrade {
        encoder.pseudo(Pseudo::Protocol, protocol.as_bytes(), out);
    }
    encode_fields(&head.headers, encoder, out)
}

/// Writes the fields of a message, but for those that only HTTP/1 has; returns the bytes of their names and values.
pub(super) fn encode_fields(
    headers: &HeaderMap,
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
) -> usize {
    let mut bytes = 0;
    for (name, value) in headers {
        if *name != header::CONNECTION && *name != header::UPGRADE {
            bytes += name.as_str().len() + value.len();
            encoder.header(name, value, out);
        }
    }
    bytes
}
