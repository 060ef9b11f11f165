//! The question to the authorization service: a description of the request (`CheckRequest`).

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::Version;
use outrider_codec::header;
use outrider_config::api::envoy::config::core::v3 as core;
use outrider_config::api::envoy::service::auth::v3::AttributeContext;
use outrider_config::api::envoy::service::auth::v3::CheckRequest;
use outrider_config::api::envoy::service::auth::v3::attribute_context as attributes;
use outrider_net::Address;
use outrider_net::PeerCertificate;
use outrider_net::sanitized_utf8;

use crate::RequestHead;
use crate::Stream;
use crate::format::url_encoded_pem;

use super::config::ExtAuthzConfig;
use super::config::HeaderSelection;

/// Tells the service whether it got only a part of the body.
const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";

/// What a `CheckRequest` needs in addition to the stream.
pub(super) struct CheckRequestCx {
    /// The body, as far as the service gets it.
    pub(super) body: Option<CheckedBody>,
    /// `context_extensions` of the route.
    pub(super) context: HashMap<String, String>,
    /// Bytes of the body that have arrived.
    pub(super) received: u64,
}

/// The body of a request, or its first part.
pub(super) struct CheckedBody {
    pub(super) data: Bytes,
    pub(super) is_partial: bool,
}

/// Describes the request of `stream`.
pub(super) fn build(config: &ExtAuthzConfig, stream: &Stream, cx: CheckRequestCx) -> CheckRequest {
    let connection = &stream.connection;
    let tls = connection.tls.as_deref();
    let peer = tls.and_then(|tls| tls.peer.as_deref());
    let service = stream
        .request
        .headers
        .get(&header::X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER);
    let source = attributes::Peer {
        address: Some(address(&connection.remote)),
        principal: peer.map(principal).unwrap_or_default(),
        service: service.map_or(String::new(), |name| sanitized_utf8(name.as_bytes())),
        certificate: match config.includes_certificate {
            true => peer.map(url_encoded_pem).unwrap_or_default(),
            false => String::new(),
        },
        ..attributes::Peer::default()
    };
    let local = tls.and_then(|tls| tls.local.as_deref());
    let destination = attributes::Peer {
        address: Some(address(&connection.local)),
        principal: local.map(principal).unwrap_or_default(),
        ..attributes::Peer::default()
    };
    let tls_session = config.includes_tls_session.then(|| {
        let sni = tls.map_or(String::new(), |tls| tls.server_name.clone());
        attributes::TlsSession { sni }
    });
    let request = attributes::Request {
        time: Some(stream.start_time.into()),
        http: Some(http_request(config, stream, &cx)),
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(source),
            destination: Some(destination),
            request: Some(request),
            context_extensions: cx.context,
            metadata_context: Some(request_metadata(config, stream)),
            route_metadata_context: Some(route_metadata(config, stream)),
            tls_session: tls_session.filter(|_| tls.is_some()),
        }),
    }
}

fn http_request(
    config: &ExtAuthzConfig,
    stream: &Stream,
    cx: &CheckRequestCx,
) -> attributes::HttpRequest {
    let head = &stream.request;
    let mut request = attributes::HttpRequest {
        id: stream.id.to_string(),
        method: head.method.as_str().to_owned(),
        path: head.path().to_owned(),
        host: head.host().to_owned(),
        scheme: head.scheme().to_owned(),
        size: i64::try_from(cx.received).unwrap_or(i64::MAX),
        protocol: match stream.protocol {
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2",
            _ => "HTTP/1.1",
        }
        .to_owned(),
        ..attributes::HttpRequest::default()
    };
    let mut fields = fields(head, &config.headers);
    if let Some(body) = &cx.body {
        let is_partial = if body.is_partial { "true" } else { "false" };
        fields.push((PARTIAL_BODY, is_partial.as_bytes()));
        match config.packs_as_bytes {
            true => request.raw_body = body.data.to_vec(),
            false => request.body = sanitized_utf8(&body.data),
        }
    }
    if config.encodes_raw_headers {
        let headers = fields.into_iter().map(|(name, value)| core::HeaderValue {
            key: name.to_owned(),
            raw_value: value.to_vec(),
            ..core::HeaderValue::default()
        });
        request.header_map = Some(core::HeaderMap {
            headers: headers.collect(),
        });
        return request;
    }
    for (name, value) in fields {
        let value = sanitized_utf8(value);
        match request.headers.get_mut(name) {
            Some(known) => {
                known.push(',');
                known.push_str(&value);
            }
            None => drop(request.headers.insert(name.to_owned(), value)),
        }
    }
    request
}

/// The request's headers that the service may see, pseudo-headers first.
fn fields<'h>(head: &'h RequestHead, selection: &HeaderSelection) -> Vec<(&'h str, &'h [u8])> {
    let mut fields = Vec::with_capacity(head.headers.len() + 5);
    let pseudo = [
        (":authority", head.authority()),
        (
            ":path",
            head.path.as_ref().map_or(&b""[..], |path| path.as_bytes()),
        ),
        (":method", head.method.as_str().as_bytes()),
        (":scheme", head.scheme().as_bytes()),
    ];
    fields.extend(pseudo.into_iter().filter(|(_, value)| !value.is_empty()));
    for (name, value) in &head.headers {
        fields.push((name.as_str(), value.as_bytes()));
    }
    fields.retain(|(name, _)| selection.has(name));
    fields
}

/// The name of a certificate's owner: its first URI, else its first DNS name, else its subject.
fn principal(certificate: &PeerCertificate) -> String {
    let names = certificate.uris.first().or(certificate.dns_names.first());
    names.unwrap_or(&certificate.subject).clone()
}

fn address(address: &Address) -> core::Address {
    let address = match address {
        Address::Ip(ip) => core::address::Address::SocketAddress(core::SocketAddress {
            address: ip.ip().to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(
                ip.port().into(),
            )),
            ..core::SocketAddress::default()
        }),
        Address::Pipe(_) => core::address::Address::Pipe(core::Pipe {
            path: address.to_string(),
            ..core::Pipe::default()
        }),
        Address::Internal(internal) => {
            core::address::Address::EnvoyInternalAddress(core::EnvoyInternalAddress {
                endpoint_id: internal.endpoint_id.to_string(),
                address_name_specifier: Some(
                    core::envoy_internal_address::AddressNameSpecifier::ServerListenerName(
                        internal.listener.to_string(),
                    ),
                ),
            })
        }
    };
    core::Address {
        address: Some(address),
    }
}

/// The dynamic metadata that the service gets.
fn request_metadata(config: &ExtAuthzConfig, stream: &Stream) -> core::Metadata {
    let mut selected = core::Metadata::default();
    for name in &config.metadata_namespaces {
        if let Some(fields) = stream.dynamic_metadata.namespace(name) {
            selected
                .filter_metadata
                .insert(name.clone(), fields.clone());
        }
    }
    selected
}

/// The route's metadata that the service gets.
fn route_metadata(config: &ExtAuthzConfig, stream: &Stream) -> core::Metadata {
    let mut selected = core::Metadata::default();
    let metadata = stream
        .route
        .as_ref()
        .and_then(|route| route.metadata.as_ref());
    let Some(metadata) = metadata.map(Arc::as_ref) else {
        return selected;
    };
    for name in &config.route_metadata_namespaces {
        if let Some(fields) = metadata.filter_metadata.get(name) {
            selected
                .filter_metadata
                .insert(name.clone(), fields.clone());
        }
    }
    selected
}
