//! Why TLS failed, in BoringSSL's words and numbers, which are what Envoy logs.

use std::fmt;

use rustls::AlertDescription;
use rustls::CertificateError;
use rustls::Error;
use rustls::PeerIncompatible;
use rustls::PeerMisbehaved;

use crate::peer::PeerCertificate;

/// Which check a peer's certificate did not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The chain to a trusted CA, its validity or its revocation.
    Chain,
    /// A subject alternative name.
    San,
    /// A pinned certificate or key.
    Pin,
}

/// Why a peer's certificate was refused.
#[derive(Clone, Debug)]
pub struct VerifyFailure {
    /// The check.
    pub check: Check,
    reason: String,
    /// What the peer is told by.
    error: CertificateError,
}

/// A TLS connection that failed: what is counted, and the text of the transport failure reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The check that the peer's certificate did not pass, if that was it.
    pub check: Option<Check>,
    /// The client sent no certificate though it must.
    pub no_certificate: bool,
    /// It took too long.
    pub timed_out: bool,
    text: String,
}

impl VerifyFailure {
    pub(crate) fn chain(reason: String) -> VerifyFailure {
        VerifyFailure {
            check: Check::Chain,
            reason,
            error: CertificateError::BadEncoding,
        }
    }

    /// A certificate that is only for other names.
    pub(crate) fn san(certificate: &PeerCertificate) -> VerifyFailure {
        let ips = certificate.ips.iter().map(ToString::to_string);
        let texts = [
            &certificate.dns_names,
            &certificate.uris,
            &certificate.emails,
        ];
        let names: Vec<String> = texts.into_iter().flatten().cloned().chain(ips).collect();
        let names = names.join(",");
        VerifyFailure {
            check: Check::San,
            reason: format!("verify cert failed: SAN matcher, certificate SANs are [{names}]"),
            error: unknown(),
        }
    }

    pub(crate) fn pin() -> VerifyFailure {
        VerifyFailure {
            check: Check::Pin,
            reason: "verify cert failed: cert hash and spki".to_owned(),
            error: unknown(),
        }
    }

    pub(crate) fn of_webpki(error: &webpki::Error) -> VerifyFailure {
        let (words, error) = match error {
            webpki::Error::CertExpired { .. } => {
                ("certificate has expired", CertificateError::Expired)
            }
            webpki::Error::CertNotValidYet { .. } => (
                "certificate is not yet valid",
                CertificateError::NotValidYet,
            ),
            webpki::Error::CertRevoked => ("certificate revoked", CertificateError::Revoked),
            webpki::Error::UnknownIssuer => (
                "unable to get local issuer certificate",
                CertificateError::UnknownIssuer,
            ),
            webpki::Error::UnknownRevocationStatus => (
                "unable to get certificate CRL",
                CertificateError::UnknownRevocationStatus,
            ),
            webpki::Error::CrlExpired { .. } => ("CRL has expired", CertificateError::Expired),
            webpki::Error::RequiredEkuNotFoundContext(_) => (
                "unsupported certificate purpose",
                CertificateError::InvalidPurpose,
            ),
            webpki::Error::InvalidSignatureForPublicKey => (
                "certificate signature failure",
                CertificateError::BadSignature,
            ),
            webpki::Error::MaximumPathDepthExceeded => (
                "certificate chain too long",
                CertificateError::UnknownIssuer,
            ),
            other => return VerifyFailure::chain(format!("verify cert failed: {other:?}")),
        };
        VerifyFailure {
            check: Check::Chain,
            reason: format!(
                "verify cert failed: X509_verify_cert: certificate verification error at depth 0: {words}"
            ),
            error,
        }
    }

    /// What rustls is told.
    pub(crate) fn to_error(&self) -> Error {
        Error::InvalidCertificate(self.error.clone())
    }
}

/// What is told by the alert `certificate_unknown`, as Envoy does.
fn unknown() -> CertificateError {
    let refused = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    CertificateError::Other(rustls::OtherError(std::sync::Arc::new(refused)))
}

/// Whether the other side is told by an alert. Who does not speak TLS would not understand it.
#[must_use]
pub fn is_told(error: &Error) -> bool {
    !matches!(
        error,
        Error::InvalidMessage(
            rustls::InvalidMessage::InvalidContentType
                | rustls::InvalidMessage::UnknownProtocolVersion
        )
    )
}

impl Failure {
    /// The failure behind an error of `rustls`; `refused` if the peer's certificate was.
    #[must_use]
    pub fn of(error: &Error, refused: Option<VerifyFailure>) -> Failure {
        if let Some(refused) = refused {
            return Failure {
                check: Some(refused.check),
                no_certificate: false,
                timed_out: false,
                text: text(
                    125,
                    &format!("CERTIFICATE_VERIFY_FAILED:{}", refused.reason),
                ),
            };
        }
        let (reason, words) = words_of(error);
        Failure {
            check: None,
            no_certificate: matches!(error, Error::NoCertificatesPresented),
            timed_out: false,
            text: text(reason, &words),
        }
    }

    /// The connection ended in the handshake.
    #[must_use]
    pub fn closed() -> Failure {
        Failure {
            check: None,
            no_certificate: false,
            timed_out: false,
            text: String::new(),
        }
    }

    /// The handshake took too long.
    #[must_use]
    pub fn timed_out() -> Failure {
        Failure {
            timed_out: true,
            ..Failure::closed()
        }
    }

    /// Whether the other side only went away.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.text.is_empty() && !self.timed_out
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// BoringSSL's number of an error is its library's, 16, with the reason.
fn text(reason: u32, words: &str) -> String {
    let code = (16 << 24) + reason;
    format!("TLS_error:|{code}:SSL routines:OPENSSL_internal:{words}:TLS_error_end")
}

fn words_of(error: &Error) -> (u32, String) {
    let (reason, words) = match error {
        Error::AlertReceived(alert) => return words_of_alert(*alert),
        Error::NoCertificatesPresented => (192, "PEER_DID_NOT_RETURN_A_CERTIFICATE"),
        Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
            (247, "WRONG_VERSION_NUMBER")
        }
        Error::InvalidMessage(rustls::InvalidMessage::UnknownProtocolVersion) => {
            (247, "WRONG_VERSION_NUMBER")
        }
        Error::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => (240, "UNSUPPORTED_PROTOCOL"),
        Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon) => {
            (184, "NO_SHARED_CIPHER")
        }
        Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon) => (184, "NO_SHARED_CIPHER"),
        Error::PeerIncompatible(PeerIncompatible::NoSignatureSchemesInCommon) => {
            (253, "NO_COMMON_SIGNATURE_ALGORITHMS")
        }
        Error::DecryptError => (137, "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"),
        Error::PeerSentOversizedRecord => (136, "DATA_LENGTH_TOO_LONG"),
        Error::InvalidMessage(_) => (137, "DECODE_ERROR"),
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            (223, "UNEXPECTED_MESSAGE")
        }
        Error::PeerMisbehaved(PeerMisbehaved::TooManyRenegotiationRequests) => {
            (169, "NO_RENEGOTIATION")
        }
        other => return (223, format!("{other:?}")),
    };
    (reason, words.to_owned())
}

fn words_of_alert(alert: AlertDescription) -> (u32, String) {
    let name = match alert {
        AlertDescription::UnexpectedMessage => "SSLV3_ALERT_UNEXPECTED_MESSAGE",
        AlertDescription::BadRecordMac => "SSLV3_ALERT_BAD_RECORD_MAC",
        AlertDescription::HandshakeFailure => "SSLV3_ALERT_HANDSHAKE_FAILURE",
        AlertDescription::BadCertificate => "SSLV3_ALERT_BAD_CERTIFICATE",
        AlertDescription::UnsupportedCertificate => "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        AlertDescription::CertificateRevoked => "SSLV3_ALERT_CERTIFICATE_REVOKED",
        AlertDescription::CertificateExpired => "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        AlertDescription::CertificateUnknown => "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        AlertDescription::IllegalParameter => "SSLV3_ALERT_ILLEGAL_PARAMETER",
        AlertDescription::UnknownCA => "TLSV1_ALERT_UNKNOWN_CA",
        AlertDescription::AccessDenied => "TLSV1_ALERT_ACCESS_DENIED",
        AlertDescription::DecodeError => "TLSV1_ALERT_DECODE_ERROR",
        AlertDescription::DecryptError => "TLSV1_ALERT_DECRYPT_ERROR",
        AlertDescription::ProtocolVersion => "TLSV1_ALERT_PROTOCOL_VERSION",
        AlertDescription::InsufficientSecurity => "TLSV1_ALERT_INSUFFICIENT_SECURITY",
        AlertDescription::InternalError => "TLSV1_ALERT_INTERNAL_ERROR",
        AlertDescription::UserCanceled => "TLSV1_ALERT_USER_CANCELLED",
        AlertDescription::NoRenegotiation => "TLSV1_ALERT_NO_RENEGOTIATION",
        AlertDescription::UnsupportedExtension => "TLSV1_ALERT_UNSUPPORTED_EXTENSION",
        AlertDescription::UnrecognisedName => "TLSV1_ALERT_UNRECOGNIZED_NAME",
        AlertDescription::CertificateRequired => "TLSV1_ALERT_CERTIFICATE_REQUIRED",
        AlertDescription::NoApplicationProtocol => "TLSV1_ALERT_NO_APPLICATION_PROTOCOL",
        _ => "SSLV3_ALERT_UNKNOWN",
    };
    (1000 + u32::from(u8::from(alert)), name.to_owned())
}
