//! `x-forwarded-client-cert`: who the client is by its certificate, for the upstream.

use outrider_codec::HeaderMap;
use outrider_codec::HeaderValue;
use outrider_codec::header;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::ForwardClientCertDetails;
use outrider_net::PeerCertificate;
use outrider_net::TlsInfo;

use super::forwarding::append;
use crate::format::tls::url_encoded;
use crate::format::tls::url_encoded_pem;

/// What becomes of the header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientCert {
    mode: ForwardClientCertDetails,
    /// `set_current_client_cert_details`
    cert: bool,
    chain: bool,
    subject: bool,
    uri: bool,
    dns: bool,
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
                append(headers, name, self.describe(tls, peer).as_bytes(), ",");
            }
            (ForwardClientCertDetails::SanitizeSet, Some((tls, peer))) => {
                headers.remove(name);
                if let Ok(value) = HeaderValue::try_from(self.describe(tls, peer)) {
                    headers.insert(name, value);
                }
            }
            _ => {
                headers.remove(name);
            }
        }
    }

    fn describe(self, tls: &TlsInfo, peer: &PeerCertificate) -> String {
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
            let subject = peer.subject.replace('"', "\\\"");
            parts.push(format!("Subject=\"{subject}\""));
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
        parts.join(";")
    }
}
