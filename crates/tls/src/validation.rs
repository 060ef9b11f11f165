//! `CertificateValidationContext`: which certificates of peers are accepted.

use aws_lc_rs::digest;
use base64::Engine as _;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::DataSource;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::CertificateValidationContext;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::certificate_validation_context::TrustChainVerification;
use outrider_config::data_source;
use rustls::DistinguishedName;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::TrustAnchor;
use rustls::pki_types::UnixTime;
use rustls::pki_types::pem::PemObject as _;
use webpki::BorrowedCertRevocationList;
use webpki::CertRevocationList;
use webpki::EndEntityCert;
use webpki::ExpirationPolicy;
use webpki::KeyUsage;
use webpki::OwnedCertRevocationList;
use webpki::RevocationCheckDepth;
use webpki::RevocationOptionsBuilder;
use webpki::UnknownStatusPolicy;

use crate::failure::VerifyFailure;
use crate::peer::PeerCertificate;
use crate::sans::SanMatcher;
use crate::sans::dns_name_covers;

/// How certificates of peers are verified.
#[derive(Debug, Default)]
pub(crate) struct Validation {
    /// The trusted CA's certificates.
    pub(crate) authorities: Vec<PeerCertificate>,
    /// The CA's name in stats: the secret's, or Envoy's for a CA without a name.
    pub(crate) stat_name: String,
    /// The file of the trusted CA, or Envoy's text for an inline one.
    pub(crate) ca_path: String,
    anchors: Vec<TrustAnchor<'static>>,
    revoked: Vec<CertRevocationList<'static>>,
    only_leaf_is_checked_for_revocation: bool,
    sans: Vec<SanMatcher>,
    key_pins: Vec<[u8; 32]>,
    certificate_pins: Vec<[u8; 32]>,
    accepts_expired: bool,
    /// Whether certificates that fail a check are accepted and only counted (`ACCEPT_UNTRUSTED`).
    pub(crate) accepts_untrusted: bool,
    max_depth: usize,
    pub(crate) sends_authorities: bool,
}

/// The role of the peer whose certificate is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    Server,
    Client,
}

/// The names that a peer's certificate must have.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WantedNames<'a> {
    /// Those of the validation context.
    Configured,
    /// This name, of any kind, in addition to those of the context (`auto_san_validation`).
    Also(&'a str),
    /// This DNS name, instead of those of the context (`auto_sni_san_validation`).
    Only(&'a str),
}

/// The certificates that a peer presented, and when.
pub(crate) struct PresentedChain<'a> {
    pub(crate) leaf: &'a CertificateDer<'a>,
    pub(crate) intermediates: &'a [CertificateDer<'a>],
    pub(crate) now: UnixTime,
    pub(crate) usage: Usage,
}

impl PresentedChain<'_> {
    /// The start of the time in which all certificates of the chain are valid: the latest `not_before`.
    fn moment_of_validity(&self) -> UnixTime {
        let begins = std::iter::once(self.leaf)
            .chain(self.intermediates)
            .filter_map(PeerCertificate::parse)
            .map(|certificate| certificate.not_before)
            .max();
        let seconds = begins.and_then(|seconds| u64::try_from(seconds).ok());
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds.unwrap_or(0)))
    }
}

impl Validation {
    /// Builds the context found at `path`.
    pub(crate) fn build(
        config: Option<&CertificateValidationContext>,
        path: &FieldPath,
    ) -> Result<Validation, ConfigErrors> {
        let Some(config) = config else {
            return Ok(Validation::default());
        };
        let mut errors = ConfigErrors::new();
        let ca_path = path.field("trusted_ca");
        let ca = errors.collect(read_certificates(config.trusted_ca.as_ref(), &ca_path));
        let ca = ca.unwrap_or_default();
        let anchors = errors.collect(anchors(&ca, &ca_path)).unwrap_or_default();
        let crl_path = path.field("crl");
        let revoked = errors.collect(read_crls(config.crl.as_ref(), &crl_path));
        let sans = errors.collect(SanMatcher::build_all(config, path));
        let certificate_pins = errors.collect(certificate_pins(config, path));
        let key_pins = errors.collect(key_pins(config, path));
        let validation = Validation {
            stat_name: "unnamed_ca_cert_e3b0c442".to_owned(),
            ca_path: config
                .trusted_ca
                .as_ref()
                .map_or_else(String::new, source_name),
            authorities: ca.iter().filter_map(PeerCertificate::parse).collect(),
            anchors,
            revoked: revoked.unwrap_or_default(),
            only_leaf_is_checked_for_revocation: config.only_verify_leaf_cert_crl,
            sans: sans.unwrap_or_default(),
            key_pins: key_pins.unwrap_or_default(),
            certificate_pins: certificate_pins.unwrap_or_default(),
            accepts_expired: config.allow_expired_certificate,
            accepts_untrusted: config.trust_chain_verification()
                == TrustChainVerification::AcceptUntrusted,
            max_depth: config
                .max_verify_depth
                .map_or(100, |depth| usize::try_from(depth).unwrap_or(usize::MAX)),
            sends_authorities: !config.suppress_client_ca_list,
        };
        if validation.anchors.is_empty() {
            validation.refuse_what_needs_a_ca(config, path, &mut errors);
        }
        errors.finish(validation)
    }

    /// Sets the name in stats, which is that of the secret.
    pub(crate) fn with_stat_name(self, name: &str) -> Validation {
        let stat_name = name.to_owned();
        Validation { stat_name, ..self }
    }

    /// Refuses settings that need a trusted CA, with Envoy's messages.
    fn refuse_what_needs_a_ca(
        &self,
        config: &CertificateValidationContext,
        path: &FieldPath,
        errors: &mut ConfigErrors,
    ) {
        if !self.sans.is_empty() {
            let message = "SAN-based verification of peer certificates without trusted CA is insecure and not allowed";
            errors.push(&path.field("match_typed_subject_alt_names"), message);
        }
        if config.allow_expired_certificate {
            let message = "Certificate validity period is always ignored without trusted CA";
            errors.push(&path.field("allow_expired_certificate"), message);
        }
        if let Some(crl) = &config.crl {
            let message = format!(
                "Failed to load CRL from {} without trusted CA",
                source_name(crl)
            );
            errors.push(&path.field("crl"), message);
        }
    }

    /// Whether peers are verified at all.
    pub(crate) fn checks_anything(&self) -> bool {
        self.has_authorities()
            || self.accepts_untrusted
            || !self.sans.is_empty()
            || !self.key_pins.is_empty()
            || !self.certificate_pins.is_empty()
    }

    /// Whether clients must present a certificate: true if more than its chain is checked.
    pub(crate) fn requires_certificate(&self) -> bool {
        let pinned = !self.key_pins.is_empty() || !self.certificate_pins.is_empty();
        pinned || !self.sans.is_empty()
    }

    /// Whether there is a trusted CA.
    pub(crate) fn has_authorities(&self) -> bool {
        !self.anchors.is_empty()
    }

    /// The subjects of the trusted CA, which are sent to clients.
    pub(crate) fn subjects(&self) -> Vec<DistinguishedName> {
        let subjects = self.anchors.iter().map(|anchor| anchor.subject.as_ref());
        subjects.map(DistinguishedName::in_sequence).collect()
    }

    /// Checks a peer's certificates. Returns true if they were checked against a trusted CA, a name or a pin.
    pub(crate) fn check(
        &self,
        presented: &PresentedChain<'_>,
        wanted: WantedNames<'_>,
    ) -> Result<bool, VerifyFailure> {
        if matches!(wanted, WantedNames::Also(_)) && !self.checks_anything() {
            return Err(VerifyFailure::unconfigured());
        }
        if self.has_authorities() {
            self.check_chain(presented)?;
        }
        if self.sans.is_empty()
            && matches!(wanted, WantedNames::Configured)
            && self.key_pins.is_empty()
            && self.certificate_pins.is_empty()
        {
            return Ok(self.has_authorities());
        }
        let certificate = PeerCertificate::parse(presented.leaf)
            .ok_or_else(|| VerifyFailure::chain("cannot be read".to_owned()))?;
        let mut matchers = self.sans.iter();
        let has_name = match wanted {
            WantedNames::Also(name) if !has_name(&certificate, name) => {
                return Err(VerifyFailure::san_of_request(&certificate, name));
            }
            WantedNames::Only(name) => is_for(&certificate, name),
            WantedNames::Configured | WantedNames::Also(_) => {
                self.sans.is_empty() || matchers.any(|matcher| matcher.matches(&certificate))
            }
        };
        if !has_name {
            return Err(VerifyFailure::san(&certificate));
        }
        if !self.is_pinned(&certificate) {
            return Err(VerifyFailure::pin());
        }
        Ok(true)
    }

    fn is_pinned(&self, certificate: &PeerCertificate) -> bool {
        if self.key_pins.is_empty() && self.certificate_pins.is_empty() {
            return true;
        }
        let sha256 = |bytes: &[u8]| digest::digest(&digest::SHA256, bytes);
        let of_certificate = sha256(&certificate.der);
        let of_key = sha256(&certificate.public_key);
        self.certificate_pins
            .iter()
            .any(|pin| pin == of_certificate.as_ref())
            || self.key_pins.iter().any(|pin| pin == of_key.as_ref())
    }

    fn check_chain(&self, presented: &PresentedChain<'_>) -> Result<(), VerifyFailure> {
        let first = self.check_chain_at(presented, presented.now);
        match first {
            Err(webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. })
                if self.accepts_expired =>
            {
                let then = presented.moment_of_validity();
                let again = self.check_chain_at(presented, then);
                again.map_err(|error| VerifyFailure::of_webpki(&error))
            }
            Err(error) => Err(VerifyFailure::of_webpki(&error)),
            Ok(()) => Ok(()),
        }
    }

    fn check_chain_at(
        &self,
        presented: &PresentedChain<'_>,
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let (leaf, intermediates) = (presented.leaf, presented.intermediates);
        if let Some(trusted) = self.authorities.iter().find(|ca| *ca.der == **leaf) {
            // The peer's certificate is itself a trust anchor: webpki would refuse a CA's certificate as a peer's.
            return check_time(trusted, now);
        }
        let revoked: Vec<&CertRevocationList<'_>> = self.revoked.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&revoked).ok().map(|options| {
            let depth = match self.only_leaf_is_checked_for_revocation {
                true => RevocationCheckDepth::EndEntity,
                false => RevocationCheckDepth::Chain,
            };
            options
                .with_depth(depth)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let depth = |path: &webpki::VerifiedPath<'_>| match path.intermediate_certificates().count()
            > self.max_depth
        {
            true => Err(webpki::Error::MaximumPathDepthExceeded),
            false => Ok(()),
        };
        let usage = match presented.usage {
            Usage::Server => KeyUsage::server_auth(),
            Usage::Client => KeyUsage::client_auth(),
        };
        let certificate = EndEntityCert::try_from(leaf)?;
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        let verified = certificate.verify_for_usage(
            algorithms,
            &self.anchors,
            intermediates,
            now,
            usage,
            revocation,
            Some(&depth),
        );
        verified.map(drop)
    }
}

/// Whether `wanted` is one of a certificate's names, of whatever kind.
fn has_name(certificate: &PeerCertificate, wanted: &str) -> bool {
    let (uris, emails) = (&certificate.uris, &certificate.emails);
    is_for(certificate, wanted)
        || uris.iter().chain(emails).any(|name| name == wanted)
        || certificate.ips.iter().any(|ip| ip.to_string() == wanted)
}

/// Whether a certificate is valid for the DNS name `name`.
fn is_for(certificate: &PeerCertificate, name: &str) -> bool {
    let mut names = certificate.dns_names.iter();
    names.any(|pattern| dns_name_covers(pattern, name))
}

fn check_time(certificate: &PeerCertificate, now: UnixTime) -> Result<(), webpki::Error> {
    let at = |seconds: i64| {
        let seconds = u64::try_from(seconds).unwrap_or(0);
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
    };
    let (not_before, not_after) = (at(certificate.not_before), at(certificate.not_after));
    if now > not_after {
        return Err(webpki::Error::CertExpired {
            time: now,
            not_after,
        });
    }
    if now < not_before {
        return Err(webpki::Error::CertNotValidYet {
            time: now,
            not_before,
        });
    }
    Ok(())
}

/// Reads the PEM certificates of a data source.
pub(crate) fn read_certificates(
    source: Option<&DataSource>,
    path: &FieldPath,
) -> Result<Vec<CertificateDer<'static>>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let Some(source) = source else {
        return Ok(Vec::new());
    };
    let Some(bytes) = errors.collect(data_source::read(source, None, path)) else {
        return Err(errors);
    };
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => {
            let name = source_name(source);
            errors.push(path, format!("Failed to load certificates from {name}"));
            Err(errors)
        }
    }
}

/// Envoy's name of a data source in messages and on `/certs`.
pub(crate) fn source_name(source: &DataSource) -> String {
    use outrider_config::api::envoy::config::core::v3::data_source::Specifier;
    match &source.specifier {
        Some(Specifier::Filename(name)) => name.clone(),
        _ => "<inline>".to_owned(),
    }
}

fn anchors(
    certificates: &[CertificateDer<'static>],
    path: &FieldPath,
) -> Result<Vec<TrustAnchor<'static>>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let mut anchors = Vec::new();
    for certificate in certificates {
        match webpki::anchor_from_trusted_cert(certificate) {
            Ok(anchor) => anchors.push(anchor.to_owned()),
            Err(error) => errors.push(path, format!("contains an invalid certificate: {error:?}")),
        }
    }
    errors.finish(anchors)
}

fn read_crls(
    source: Option<&DataSource>,
    path: &FieldPath,
) -> Result<Vec<CertRevocationList<'static>>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let Some(source) = source else {
        return Ok(Vec::new());
    };
    let Some(bytes) = errors.collect(data_source::read(source, None, path)) else {
        return Err(errors);
    };
    let mut lists = Vec::new();
    for list in CertificateRevocationListDer::pem_slice_iter(&bytes) {
        let list = list.ok().and_then(|der| {
            let list: Result<OwnedCertRevocationList, _> =
                BorrowedCertRevocationList::from_der(&der).and_then(|list| list.to_owned());
            list.ok()
        });
        lists.extend(list.map(CertRevocationList::from));
    }
    if lists.is_empty() {
        errors.push(
            path,
            format!("Failed to load CRL from {}", source_name(source)),
        );
    }
    errors.finish(lists)
}

/// SHA-256 hashes of certificates, as hexadecimal digits with or without colons.
fn certificate_pins(
    config: &CertificateValidationContext,
    path: &FieldPath,
) -> Result<Vec<[u8; 32]>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let path = path.field("verify_certificate_hash");
    let mut pins = Vec::new();
    for (index, text) in config.verify_certificate_hash.iter().enumerate() {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        match pin_of_digits(&digits) {
            Some(pin) => pins.push(pin),
            None => errors.push(
                &path.index(index),
                format!("Invalid hex-encoded SHA-256 {text}"),
            ),
        }
    }
    errors.finish(pins)
}

fn pin_of_digits(digits: &str) -> Option<[u8; 32]> {
    let mut pin = [0; 32];
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    for (at, byte) in pin.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Some(pin)
}

/// SHA-256 hashes of public keys, in base64.
fn key_pins(
    config: &CertificateValidationContext,
    path: &FieldPath,
) -> Result<Vec<[u8; 32]>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let path = path.field("verify_certificate_spki");
    let mut pins = Vec::new();
    for (index, text) in config.verify_certificate_spki.iter().enumerate() {
        let decoded = base64::engine::general_purpose::STANDARD.decode(text);
        match decoded
            .ok()
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
        {
            Some(pin) => pins.push(pin),
            None => errors.push(
                &path.index(index),
                format!("Invalid base64-encoded SHA-256 {text}"),
            ),
        }
    }
    errors.finish(pins)
}
