//! `x-forwarded-client-cert`: who the client is by its certificate, for the upstream.

use outrider_codec::HeaderMap;
use outrider_codec::HeaderValue;
use outrider_codec::header;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::ForwardClientCertDetails;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::ForwardClientCertFormat;
use outrider_net::PeerCertificate;
use outrider_net::TlsInfo;

use super::forwarding::append;
use crate::format::tls::url_encoded;
use crate::format::tls::url_encoded_pem;

/// What is done with the header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientCert {
    mode: ForwardClientCertDetails,
    /// `set_current_client_cert_details`
    cert: bool,
    chain: bool,
    subject: bool,
    uri: bool,
    dns: bool,
    issuer: bool,
    json: bool,
}

impl ClientCert {
    /// As on Envoy's admin port.
    pub(crate) const SANITIZE: ClientCert = ClientCert {
        mode: ForwardClientCertDetails::Sanitize,
        cert: false,
        chain: false,
        subject: false,
        uri: false,
        dns: false,
        issuer: false,
        json: false,
    };

    pub(crate) fn build(config: &HttpConnectionManager) -> ClientCert {
        let details = config.set_current_client_cert_details.unwrap_or_default();
        ClientCert {
            mode: config.forward_client_cert_details(),
            cert: details.cert,
            chain: details.chain,
            subject: details.subject.unwrap_or(false),
            uri: details.uri,
            dns: details.dns,
            issuer: details.issuer,
            json: details.format() == ForwardClientCertFormat::Json,
        }
    }

    /// Removes, keeps or writes the header of a request that came in over `tls`.
    pub(crate) fn apply(self, headers: &mut HeaderMap, tls: Option<&TlsInfo>) {
        let name = &header::X_FORWARDED_CLIENT_CERT;
        let mutual = tls.and_then(|tls| Some((tls, tls.peer.as_deref()?)));
        match (self.mode, mutual) {
            (ForwardClientCertDetails::AlwaysForwardOnly, _)
            | (ForwardClientCertDetails::ForwardOnly, Some(_)) => {}
            (ForwardClientCertDetails::AppendForward, Some((tls, peer))) => {
                self.append(headers, tls, peer);
            }
            (ForwardClientCertDetails::SanitizeSet, Some((tls, peer))) => {
                headers.remove(name);
                self.append(headers, tls, peer);
            }
            _ => {
                headers.remove(name);
            }
        }
    }

    /// Adds the client to those that the header names. JSON is added only to a JSON list; to any other value, text is added.
    fn append(self, headers: &mut HeaderMap, tls: &TlsInfo, peer: &PeerCertificate) {
        let name = &header::X_FORWARDED_CLIENT_CERT;
        let earlier = headers.get(name).filter(|value| !value.is_empty());
        let earlier = earlier.map(HeaderValue::as_bytes);
        let list = match earlier {
            _ if !self.json => None,
            None => Some(&b"["[..]),
            Some(list) if list.starts_with(b"[") => list.strip_suffix(b"]"),
            Some(_) => None,
        };
        let Some(list) = list else {
            append(headers, name, self.text(tls, peer).as_bytes(), ",");
            return;
        };
        let comma: &[u8] = match list.trim_ascii() {
            b"[" => b"",
            _ => b",",
        };
        let one = self.json(tls, peer).to_string();
        let value = [list, comma, one.as_bytes(), b"]"].concat();
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            headers.insert(name, value);
        }
    }

    fn json(self, tls: &TlsInfo, peer: &PeerCertificate) -> serde_json::Value {
        let mut object = serde_json::Map::new();
        let mut add = |name: &str, value: serde_json::Value| object.insert(name.to_owned(), value);
        let own = tls.local.as_deref().map_or(&[][..], |local| &local.uris);
        if !own.is_empty() {
            add("by", own.into());
        }
        add("hash", peer.sha256().into());
        if self.cert {
            add("cert", peer.pem().into());
        }
        if self.chain {
            let chain = tls.peer_chain.iter().filter_map(PeerCertificate::parse);
            let chain: Vec<String> = chain.map(|certificate| certificate.pem()).collect();
            add("chain", chain.into());
        }
        if self.subject {
            add("subject", peer.subject.as_str().into());
        }
        if self.uri && !peer.uris.is_empty() {
            add("uri", peer.uris.as_slice().into());
        }
        if self.dns && !peer.dns_names.is_empty() {
            add("dns", peer.dns_names.as_slice().into());
        }
        if self.issuer {
            add("issuer", peer.issuer.as_str().into());
        }
        object.into()
    }

    fn text(self, tls: &TlsInfo, peer: &PeerCertificate) -> String {
        let mut parts = Vec::new();
        let own = tls.local.iter().flat_map(|local| &local.uris);
        parts.extend(own.map(|uri| format!("By={uri}")));
        parts.push(format!("Hash={}", peer.sha256()));
        if self.cert {
            parts.push(format!("Cert=\"{}\"", url_encoded_pem(peer)));
        }
        if self.chain {
            let chain = tls.peer_chain.iter().filter_map(PeerCertificate::parse);
            let chain: String = chain.map(|certificate| certificate.pem()).collect();
            parts.push(format!("Chain=\"{}\"", url_encoded(&chain)));
        }
        if self.subject {
            parts.push(format!("Subject=\"{}\"", escaped(&peer.subject)));
        }
        if self.uri {
            match peer.uris.as_slice() {
                [] => parts.push("URI=".to_owned()),
                uris => parts.extend(uris.iter().map(|uri| format!("URI={uri}"))),
            }
        }
        if self.dns {
            parts.extend(peer.dns_names.iter().map(|name| format!("DNS={name}")));
        }
        if self.issuer {
            parts.push(format!("Issuer=\"{}\"", escaped(&peer.issuer)));
        }
        parts.join(";")
    }
}

fn escaped(name: &str) -> String {
    name.replace('"', "\\\"")
}
