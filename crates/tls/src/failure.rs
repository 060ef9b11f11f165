//! Why TLS failed, with BoringSSL's texts and numbers, which Envoy logs.

use std::fmt;

use rustls::AlertDescription;
use rustls::CertificateError;
use rustls::Error;
use rustls::PeerIncompatible;
use rustls::PeerMisbehaved;

use crate::peer::PeerCertificate;

/// The checks of a peer's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The chain to a trusted CA, with validity periods and revocation.
    Chain,
    /// The subject alternative names.
    San,
    /// The pinned certificates and keys.
    Pin,
    /// A name from the request, in a context that is configured to check nothing.
    Unconfigured,
}

/// Why a peer's certificate was refused.
#[derive(Clone, Debug)]
pub struct VerifyFailure {
    /// The check that it failed.
    pub check: Check,
    reason: String,
    /// The error that selects the alert for the peer.
    error: CertificateError,
}

/// Why a TLS connection failed: what to count, and the text of the transport failure reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFailure {
    /// The check that the peer's certificate failed, if one failed.
    pub check: Option<Check>,
    /// The client sent no certificate, but one is required.
    pub no_certificate: bool,
    /// The handshake exceeded its time limit.
    pub timed_out: bool,
    /// A secret that the context needs had not come.
    pub secrets_not_ready: bool,
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

    /// The certificate is valid only for other names.
    pub(crate) fn san(certificate: &PeerCertificate) -> VerifyFailure {
        let names = certificate.names().join(", ");
        VerifyFailure {
            check: Check::San,
            reason: format!("verify cert failed: SAN matcher, certificate SANs are [{names}]"),
            error: certificate_unknown(),
        }
    }

    /// A certificate that is not for `wanted`, a name that the request asked for.
    pub(crate) fn san_of_request(certificate: &PeerCertificate, wanted: &str) -> VerifyFailure {
        let names = certificate.names().join(", ");
        VerifyFailure {
            check: Check::San,
            reason: format!(
                "verify cert failed: verify SAN list, expected SANs: [{wanted}], certificate SANs: [{names}]"
            ),
            error: certificate_unknown(),
        }
    }

    /// A certificate that must be for a name, by a context that checks nothing.
    pub(crate) fn unconfigured() -> VerifyFailure {
        VerifyFailure {
            check: Check::Unconfigured,
            reason: String::new(),
            error: CertificateError::UnknownIssuer,
        }
    }

    pub(crate) fn pin() -> VerifyFailure {
        VerifyFailure {
            check: Check::Pin,
            reason: "verify cert failed: cert hash and spki".to_owned(),
            error: certificate_unknown(),
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

    /// The error for `rustls`.
    pub(crate) fn to_error(&self) -> Error {
        Error::InvalidCertificate(self.error.clone())
    }
}

/// An error that `rustls` reports to the peer by the alert `certificate_unknown`, as Envoy does.
fn certificate_unknown() -> CertificateError {
    let refused = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    CertificateError::Other(rustls::OtherError(std::sync::Arc::new(refused)))
}

/// Whether the peer gets an alert. It gets none if it does not speak TLS, because it would not understand it.
#[must_use]
pub fn sends_alert(error: &Error) -> bool {
    !matches!(
        error,
        Error::InvalidMessage(
            rustls::InvalidMessage::InvalidContentType
                | rustls::InvalidMessage::UnknownProtocolVersion
        )
    )
}

impl TlsFailure {
    /// The failure for an error of `rustls`. `refused` is the verifier's reason, if it refused the peer's certificate.
    #[must_use]
    pub fn of(error: &Error, refused: Option<VerifyFailure>) -> TlsFailure {
        if let Some(refused) = refused {
            let words = match refused.reason.as_str() {
                "" => "CERTIFICATE_VERIFY_FAILED".to_owned(),
                reason => format!("CERTIFICATE_VERIFY_FAILED:{reason}"),
            };
            return TlsFailure {
                check: Some(refused.check),
                no_certificate: false,
                timed_out: false,
                secrets_not_ready: false,
                text: text(125, &words),
            };
        }
        let (reason, words) = boringssl_reason(error);
        TlsFailure {
            check: None,
            no_certificate: matches!(error, Error::NoCertificatesPresented),
            timed_out: false,
            secrets_not_ready: false,
            text: text(reason, &words),
        }
    }

    /// The connection ended during the handshake.
    #[must_use]
    pub fn closed() -> TlsFailure {
        TlsFailure {
            check: None,
            no_certificate: false,
            timed_out: false,
            secrets_not_ready: false,
            text: String::new(),
        }
    }

    /// The handshake exceeded its time limit.
    #[must_use]
    pub fn timed_out() -> TlsFailure {
        TlsFailure {
            timed_out: true,
            ..TlsFailure::closed()
        }
    }

    /// A secret that the context needs has not come yet.
    #[must_use]
    pub fn secrets_not_ready() -> TlsFailure {
        TlsFailure {
            secrets_not_ready: true,
            text: "TLS error: Secret is not supplied by SDS".to_owned(),
            ..TlsFailure::closed()
        }
    }

    /// Whether the peer only closed the connection.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.text.is_empty() && !self.timed_out
    }
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Formats an error as BoringSSL does. The error code is the library's number (16) and the reason.
fn text(reason: u32, words: &str) -> String {
    let code = (16 << 24) + reason;
    format!("TLS_error:|{code}:SSL routines:OPENSSL_internal:{words}:TLS_error_end")
}

fn boringssl_reason(error: &Error) -> (u32, String) {
    let (reason, words) = match error {
        Error::AlertReceived(alert) => return boringssl_alert(*alert),
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

fn boringssl_alert(alert: AlertDescription) -> (u32, String) {
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
