//! The properties of a connection after its handshake.

use std::sync::Arc;
use std::time::Instant;

use rustls::CommonState;
use rustls::HandshakeKind;
use rustls::ProtocolVersion;
use rustls::SignatureScheme;
use rustls::pki_types::CertificateDer;

use crate::failure::Check;
use crate::peer::PeerCertificate;
use crate::provider;
use crate::report::Report;

/// The properties of a TLS connection, for logs, headers, matching and stats.
#[derive(Clone, Debug, Default)]
pub struct TlsInfo {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// OpenSSL's name of the cipher suite.
    pub cipher: &'static str,
    /// Envoy's name of the key exchange group.
    pub curve: &'static str,
    /// The name of the peer's signature algorithm; empty if the peer did not sign.
    pub signature: &'static str,
    /// The server name that the client, which may be this proxy, sent (SNI); empty if it sent none.
    pub server_name: String,
    /// The protocol that both sides agreed on (ALPN); empty if there is none.
    pub alpn: Vec<u8>,
    /// When the handshake was complete.
    pub completed: Option<Instant>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// Whether the peer's certificate was checked against a trusted CA.
    pub validated: bool,
    /// The check that the peer's certificate failed, if it was accepted nevertheless.
    pub(crate) forgiven: Option<Check>,
    /// The peer's certificate.
    pub peer: Option<Box<PeerCertificate>>,
    /// The certificates that the peer sent; its own is the first.
    pub peer_chain: Vec<CertificateDer<'static>>,
    /// The certificate that this proxy sent.
    pub local: Option<Arc<PeerCertificate>>,
}

impl TlsInfo {
    /// The properties of a connection whose handshake is complete.
    #[must_use]
    pub fn new(state: &CommonState, server_name: &str, report: Report) -> TlsInfo {
        let chain: Vec<CertificateDer<'static>> =
            state.peer_certificates().unwrap_or_default().to_vec();
        let curve = state.negotiated_key_exchange_group();
        TlsInfo {
            version: match state.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                _ => "",
            },
            cipher: state
                .negotiated_cipher_suite()
                .map_or("", provider::suite_name),
            curve: curve.map_or("", |group| provider::group_name(group.name())),
            signature: report.scheme.map_or("", scheme_name),
            server_name: server_name.to_owned(),
            alpn: state.alpn_protocol().unwrap_or_default().to_vec(),
            completed: Some(Instant::now()),
            resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
            validated: report.validated,
            forgiven: report.failure.map(|failure| failure.check),
            peer: chain.first().and_then(PeerCertificate::parse).map(Box::new),
            peer_chain: chain,
            local: report.certificate,
        }
    }
}

/// BoringSSL's names of the signature algorithms.
pub(crate) const SCHEMES: [(&str, SignatureScheme); 11] = [
    (
        "ecdsa_secp256r1_sha256",
        SignatureScheme::ECDSA_NISTP256_SHA256,
    ),
    ("rsa_pss_rsae_sha256", SignatureScheme::RSA_PSS_SHA256),
    ("rsa_pkcs1_sha256", SignatureScheme::RSA_PKCS1_SHA256),
    (
        "ecdsa_secp384r1_sha384",
        SignatureScheme::ECDSA_NISTP384_SHA384,
    ),
    ("rsa_pss_rsae_sha384", SignatureScheme::RSA_PSS_SHA384),
    ("rsa_pkcs1_sha384", SignatureScheme::RSA_PKCS1_SHA384),
    (
        "ecdsa_secp521r1_sha512",
        SignatureScheme::ECDSA_NISTP521_SHA512,
    ),
    ("rsa_pss_rsae_sha512", SignatureScheme::RSA_PSS_SHA512),
    ("rsa_pkcs1_sha512", SignatureScheme::RSA_PKCS1_SHA512),
    ("ed25519", SignatureScheme::ED25519),
    ("rsa_pkcs1_sha1", SignatureScheme::RSA_PKCS1_SHA1),
];

/// BoringSSL's name of a signature algorithm.
pub(crate) fn scheme_name(scheme: SignatureScheme) -> &'static str {
    let found = SCHEMES.iter().find(|(_, known)| *known == scheme);
    found.map_or("", |(name, _)| *name)
}
