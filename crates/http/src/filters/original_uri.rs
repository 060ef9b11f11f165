//! The URI in the `WWW-Authenticate` of a denied request.

use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::RequestHead;
use outrider_codec::header;

/// How many bytes of a path are told to a client whose request is denied.
const MAX_TOLD_PATH: usize = 256;

pub(super) static WWW_AUTHENTICATE: HeaderName = HeaderName::from_static("www-authenticate");

/// The URI that the client asked for.
pub(super) fn original_uri(request: &RequestHead) -> String {
    let Some(target) = &request.path else {
        return String::new();
    };
    let original = request.headers.get(&header::X_ENVOY_ORIGINAL_PATH);
    let path = original.map_or(target.as_bytes(), HeaderValue::as_bytes);
    let path = String::from_utf8_lossy(path.get(..MAX_TOLD_PATH).unwrap_or(path));
    let scheme = request.headers.get(&header::X_FORWARDED_PROTO);
    let scheme = scheme.and_then(HeaderValue::as_str).unwrap_or_default();
    format!("{scheme}://{}{path}", request.host())
}
