//! Asks a service by HTTP: a copy of the request's head, and of its body if the filter says so.

use bytes::Bytes;
use http::Method;
use http::uri::Scheme;
use outrider_client::CallOptions;
use outrider_client::InternalClient;
use outrider_client::Response;
use outrider_codec::Body;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::RequestHead;
use outrider_codec::Target;
use outrider_codec::header;
use outrider_config::api::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use outrider_config::api::envoy::service::auth::v3::attribute_context::HttpRequest;
use prost_types::Value;
use prost_types::value::Kind;

use super::answer::AllowedChanges;
use super::answer::AuthzDecision;
use super::answer::Field;
use super::answer::Rejection;
use super::answer::Verdict;
use super::config::HttpAuthService;
use crate::filters::string_matchers::StringMatchers;

/// The response header in which the service lists the headers to remove from the request.
const HEADERS_TO_REMOVE: &str = "x-envoy-auth-headers-to-remove";

/// Asks about `request`.
pub(super) async fn ask(
    service: &HttpAuthService,
    client: &InternalClient,
    request: HttpRequest,
) -> AuthzDecision {
    let (head, body) = question(service, request);
    let timeout = service.service.timeout;
    let options = CallOptions {
        timeout: (!timeout.is_zero()).then_some(timeout),
        request_end: None,
        is_internal: true,
        forwarded_for: false,
    };
    let called = client
        .request(&service.service.cluster, head, Body::full(body), &options)
        .await;
    match called {
        Ok(response) if response.head.status.is_server_error() => AuthzDecision::default(),
        Ok(response) => answer(service, response),
        Err(failure) => {
            log::debug!(target: "ext_authz", "no answer: {failure}");
            AuthzDecision::default()
        }
    }
}

/// The request to the service.
fn question(service: &HttpAuthService, request: HttpRequest) -> (RequestHead, Bytes) {
    let body = match request.raw_body.is_empty() {
        true => Bytes::from(request.body),
        false => Bytes::from(request.raw_body),
    };
    let mut head = RequestHead {
        method: Method::GET,
        scheme: Some(Scheme::HTTP),
        path: Some(Target::root()),
        ..RequestHead::default()
    };
    head.headers
        .append(&header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    let raw = request.header_map.unwrap_or_default().headers.into_iter();
    let raw = raw.map(|header| (header.key, header.raw_value));
    let mut fields: Vec<_> = request.headers.into_iter().collect();
    fields.sort_unstable();
    let fields = fields.into_iter();
    let fields = fields.map(|(name, value)| (name, value.into_bytes()));
    for (name, value) in fields.chain(raw) {
        add(service, &mut head, &name, &value);
    }
    for (name, value) in &service.headers_to_add {
        head.headers.insert(name.clone(), value.clone());
    }
    (head, body)
}

fn add(service: &HttpAuthService, head: &mut RequestHead, name: &str, value: &[u8]) {
    match name {
        ":path" => {
            let path = match service.path_override.is_empty() {
                true => [service.path_prefix.as_bytes(), value].concat(),
                false => service.path_override.clone().into_bytes(),
            };
            if let Ok(path) = Target::try_from(Bytes::from(path)) {
                head.path = Some(path);
            }
        }
        ":method" => head.method = Method::from_bytes(value).unwrap_or_default(),
        ":authority" => head.authority = HeaderValue::from_bytes(value).ok(),
        ":scheme" => {
            if let Ok(scheme) = Scheme::try_from(value) {
                head.scheme = Some(scheme);
            }
        }
        // The length of the body that the service gets is set already.
        "content-length" => {}
        name => {
            let field = HeaderName::try_from(name).ok();
            if let Some((name, value)) = field.zip(HeaderValue::from_bytes(value).ok()) {
                head.headers.append(name, value);
            }
        }
    }
}

fn answer(service: &HttpAuthService, response: Response) -> AuthzDecision {
    let status = response.head.status;
    let is_ok = status == http::StatusCode::OK;
    let mut headers = response.head.headers;
    let removed = headers.get_all(HEADERS_TO_REMOVE);
    let remove: Vec<String> = removed
        .filter_map(HeaderValue::as_str)
        .flat_map(|list| list.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !name.is_empty())
        .collect();
    headers.remove(HEADERS_TO_REMOVE);
    let mut answer = AuthzDecision {
        verdict: if is_ok {
            Verdict::Ok(Box::new(changes(service, &headers, remove)))
        } else {
            Verdict::Denied(Rejection {
                status: status.as_u16(),
                headers: fields(&headers, |name| client_gets(service, name)),
                body: response.body,
            })
        },
        ..AuthzDecision::default()
    };
    for (name, value) in fields(&headers, |name| service.metadata.matches(name)) {
        let text = String::from_utf8_lossy(&value).into_owned();
        let kind = Some(Kind::StringValue(text));
        answer.metadata.fields.insert(name, Value { kind });
    }
    answer
}

fn changes(service: &HttpAuthService, headers: &HeaderMap, remove: Vec<String>) -> AllowedChanges {
    let added = fields(headers, |name| service.client_on_success.matches(name));
    let added = added.into_iter();
    AllowedChanges {
        set: fields(headers, |name| service.upstream.matches(name)),
        add: fields(headers, |name| service.upstream_append.matches(name)),
        remove,
        response: added
            .map(|field| (field, HeaderAppendAction::AppendIfExistsOrAdd))
            .collect(),
        ..AllowedChanges::default()
    }
}

/// Whether the client of a denied request gets this header of the service's response.
fn client_gets(service: &HttpAuthService, name: &str) -> bool {
    let always = ["location", "www-authenticate", "content-length"];
    let matches = |matchers: &StringMatchers| matchers.matches(name);
    service
        .client
        .as_ref()
        .is_none_or(|client| always.contains(&name) || matches(client))
}

fn fields(headers: &HeaderMap, has: impl Fn(&str) -> bool) -> Vec<Field> {
    let selected = headers.iter().filter(|(name, _)| has(name.as_str()));
    selected
        .map(|(name, value)| {
            let value = Bytes::copy_from_slice(value.as_bytes());
            (name.as_str().to_owned(), value)
        })
        .collect()
}
