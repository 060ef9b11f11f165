//! The verifiers that `rustls` calls with a peer's certificate, for clients and for servers.

use std::sync::Arc;

use rustls::DigitallySignedStruct;
use rustls::DistinguishedName;
use rustls::Error;
use rustls::PeerMisbehaved;
use rustls::SignatureScheme;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::crypto::verify_tls12_signature;
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::UnixTime;
use rustls::server::danger::ClientCertVerified;
use rustls::server::danger::ClientCertVerifier;

use crate::parameters::Parameters;
use crate::report;
use crate::validation::PresentedChain;
use crate::validation::Usage;
use crate::validation::Validation;
use crate::validation::WantedNames;

/// Checks the certificates of clients.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    validation: Arc<Validation>,
    /// `require_client_certificate`
    required: bool,
    authorities: Vec<DistinguishedName>,
    signatures: SignatureVerifier,
}

/// Checks the certificates of servers.
#[derive(Clone, Debug)]
pub(crate) struct ServerVerifier {
    pub(crate) validation: Arc<Validation>,
    /// Whether the certificate must be valid for the requested name (`auto_sni_san_validation`).
    pub(crate) checks_server_name: bool,
    /// A name that the certificate must also be valid for (`auto_san_validation`).
    pub(crate) required_name: Option<Box<str>>,
    pub(crate) signatures: SignatureVerifier,
}

/// Verifies the signatures of peers in the handshake, and reports their algorithm to the connection.
#[derive(Clone, Debug)]
pub(crate) struct SignatureVerifier {
    algorithms: WebPkiSupportedAlgorithms,
    /// `signature_algorithms`; all if there are none.
    schemes: Option<Arc<[SignatureScheme]>>,
}

impl ClientVerifier {
    pub(crate) fn new(
        validation: Arc<Validation>,
        required: bool,
        signatures: SignatureVerifier,
    ) -> ClientVerifier {
        let authorities = match validation.sends_authorities {
            true => validation.subjects(),
            false => Vec::new(),
        };
        ClientVerifier {
            validation,
            required,
            authorities,
            signatures,
        }
    }
}

impl SignatureVerifier {
    pub(crate) fn new(parameters: &Parameters) -> SignatureVerifier {
        SignatureVerifier {
            algorithms: parameters.provider.signature_verification_algorithms,
            schemes: parameters.schemes.clone(),
        }
    }

    /// The algorithms that the peer may sign with.
    fn supported(&self) -> Vec<SignatureScheme> {
        let all = self.algorithms.supported_schemes();
        match &self.schemes {
            Some(schemes) => schemes
                .iter()
                .copied()
                .filter(|s| all.contains(s))
                .collect(),
            None => all,
        }
    }

    fn check_scheme(&self, scheme: SignatureScheme) -> Result<(), Error> {
        report::update(|report| report.scheme = Some(scheme));
        match &self.schemes {
            Some(schemes) if !schemes.contains(&scheme) => {
                Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
            }
            _ => Ok(()),
        }
    }

    fn verify_tls12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_scheme(signature.scheme)?;
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_scheme(signature.scheme)?;
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

impl Validation {
    /// Calls [`Validation::check`] and reports the result to the connection.
    fn check_and_report(
        &self,
        presented: &PresentedChain<'_>,
        wanted: WantedNames<'_>,
    ) -> Result<(), Error> {
        let checked = self.check(presented, wanted);
        match checked {
            Ok(validated) => {
                report::update(|report| report.validated = validated);
                Ok(())
            }
            Err(failure) => {
                let error = failure.to_error();
                report::update(|report| report.failure = Some(failure));
                match self.accepts_untrusted {
                    true => Ok(()),
                    false => Err(error),
                }
            }
        }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.required || self.validation.checks_anything()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.authorities
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let presented = PresentedChain {
            leaf,
            intermediates,
            now,
            usage: Usage::Client,
        };
        let checked = (self.validation).check_and_report(&presented, WantedNames::Configured);
        checked.map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        (self.signatures).verify_tls12(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        (self.signatures).verify_tls13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported()
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let wanted = match (&self.required_name, server_name) {
            (Some(name), _) => WantedNames::Also(name),
            (None, ServerName::DnsName(name)) if self.checks_server_name => {
                WantedNames::Only(name.as_ref())
            }
            _ => WantedNames::Configured,
        };
        let presented = PresentedChain {
            leaf,
            intermediates,
            now,
            usage: Usage::Server,
        };
        let checked = self.validation.check_and_report(&presented, wanted);
        checked.map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        (self.signatures).verify_tls12(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        (self.signatures).verify_tls13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported()
    }
}
