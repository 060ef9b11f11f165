//! The files that certificates, validation contexts and secrets name.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::Hash as _;
use std::hash::Hasher as _;
use std::path::PathBuf;

use outrider_config::api::envoy::config::core::v3::DataSource;
use outrider_config::api::envoy::config::core::v3::WatchedDirectory;
use outrider_config::api::envoy::config::core::v3::data_source::Specifier;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::CertificateValidationContext;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::CommonTlsContext;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::Secret;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::TlsCertificate;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::TlsSessionTicketKeys;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::secret::Type;

/// How often files are read again until they do not change meanwhile.
const ATTEMPTS: usize = 5;

type DataSources<'a> = Vec<&'a mut DataSource>;

fn of_certificate(certificate: &mut TlsCertificate) -> DataSources<'_> {
    let sources = [
        &mut certificate.certificate_chain,
        &mut certificate.private_key,
        &mut certificate.pkcs12,
        &mut certificate.password,
        &mut certificate.ocsp_staple,
    ];
    sources.into_iter().flatten().collect()
}

fn of_validation(context: &mut CertificateValidationContext) -> DataSources<'_> {
    let sources = [&mut context.trusted_ca, &mut context.crl];
    sources.into_iter().flatten().collect()
}

fn of_secret(secret: &mut Secret) -> DataSources<'_> {
    match &mut secret.r#type {
        Some(Type::TlsCertificate(certificate)) => of_certificate(certificate),
        Some(Type::ValidationContext(context)) => of_validation(context),
        Some(Type::SessionTicketKeys(keys)) => keys.keys.iter_mut().collect(),
        _ => Vec::new(),
    }
}

fn names(sources: DataSources<'_>) -> impl Iterator<Item = PathBuf> {
    sources
        .into_iter()
        .filter_map(|source| match &source.specifier {
            Some(Specifier::Filename(name)) => Some(PathBuf::from(name)),
            _ => None,
        })
}

/// The files that a context names itself, and not through secrets.
pub(crate) fn of_context(common: &CommonTlsContext) -> Vec<PathBuf> {
    let mut common = common.clone();
    let mut files: Vec<PathBuf> = (common.tls_certificates.iter_mut())
        .flat_map(|certificate| names(of_certificate(certificate)))
        .collect();
    match &mut common.validation_context_type {
        Some(ValidationContextType::ValidationContext(context)) => {
            files.extend(names(of_validation(context)));
        }
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            if let Some(context) = &mut combined.default_validation_context {
                files.extend(names(of_validation(context)));
            }
        }
        _ => {}
    }
    files
}

/// The files that ticket keys name.
pub(crate) fn of_ticket_keys(keys: &TlsSessionTicketKeys) -> Vec<PathBuf> {
    names(keys.clone().keys.iter_mut().collect()).collect()
}

/// The files that a secret names.
#[must_use]
pub fn files_of(secret: &Secret) -> Vec<PathBuf> {
    names(of_secret(&mut secret.clone())).collect()
}

/// `watched_directory` of a secret.
#[must_use]
pub fn watched_directory(secret: &Secret) -> Option<PathBuf> {
    let of = |directory: &Option<WatchedDirectory>| {
        let directory = directory.as_ref();
        directory.map(|directory| PathBuf::from(&directory.path))
    };
    match &secret.r#type {
        Some(Type::TlsCertificate(certificate)) => of(&certificate.watched_directory),
        Some(Type::ValidationContext(context)) => of(&context.watched_directory),
        _ => None,
    }
}

/// A digest of the contents of `files`.
#[must_use]
pub fn fingerprint(files: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        fs::read(file).ok().hash(&mut hasher);
    }
    hasher.finish()
}

/// The secret with the contents of its files in place of their names. Reads them again if one was replaced meanwhile, so
/// that a certificate and its key belong together.
///
/// # Errors
/// The first file that cannot be read, in Envoy's words.
pub fn with_contents(secret: &Secret) -> Result<Secret, String> {
    let files = files_of(secret);
    let mut before = fingerprint(&files);
    for _ in 0..ATTEMPTS {
        let mut read = secret.clone();
        for source in of_secret(&mut read) {
            if let Some(Specifier::Filename(name)) = &source.specifier {
                let bytes = fs::read(name).map_err(|_| format!("Invalid path: {name}"))?;
                source.specifier = Some(Specifier::InlineBytes(bytes));
            }
        }
        let after = fingerprint(&files);
        if before == after {
            return Ok(read);
        }
        before = after;
    }
    Err("its files are replaced again and again".to_owned())
}
