//! `TlsParameters`: versions, cipher suites, curves.

use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::TlsParameters;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use rustls::SignatureScheme;
use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
use rustls::version;

use crate::info::SCHEMES;
use crate::provider;

/// The versions, cipher suites and groups that are allowed.
#[derive(Debug)]
pub(crate) struct Parameters {
    pub(crate) provider: Arc<CryptoProvider>,
    pub(crate) versions: Vec<&'static SupportedProtocolVersion>,
    /// `signature_algorithms`; all if there are none.
    pub(crate) schemes: Option<Arc<[SignatureScheme]>>,
}

impl Parameters {
    /// Builds the parameters found at `path`. `highest` is the minor version that `TLS_AUTO` means as a maximum.
    pub(crate) fn build(
        config: Option<&TlsParameters>,
        highest: u8,
        path: &FieldPath,
    ) -> Result<Parameters, ConfigErrors> {
        let default = TlsParameters::default();
        let config = config.unwrap_or(&default);
        let mut errors = ConfigErrors::new();
        let lowest = version_number(config.tls_minimum_protocol_version(), 2);
        let highest = version_number(config.tls_maximum_protocol_version(), highest);
        let versions: Vec<&'static SupportedProtocolVersion> =
            [(3, &version::TLS13), (2, &version::TLS12)]
                .into_iter()
                .filter(|(number, _)| (lowest..=highest).contains(number))
                .map(|(_, version)| version)
                .collect();
        if versions.is_empty() {
            let path = path.field("tls_minimum_protocol_version");
            errors.push(&path, "is above tls_maximum_protocol_version");
        }
        let suites = names(&config.cipher_suites);
        let known = provider::suite_names();
        refuse_unknown(
            &suites,
            &known,
            "cipher suite",
            &path.field("cipher_suites"),
            &mut errors,
        );
        let groups = names(&config.ecdh_curves);
        let known = provider::group_names();
        refuse_unknown(
            &groups,
            &known,
            "curve",
            &path.field("ecdh_curves"),
            &mut errors,
        );
        let known: Vec<&str> = supported_schemes().map(|(name, _)| *name).collect();
        let wanted = names(&config.signature_algorithms);
        refuse_unknown(
            &wanted,
            &known,
            "signature algorithm",
            &path.field("signature_algorithms"),
            &mut errors,
        );
        let schemes: Vec<SignatureScheme> = wanted
            .iter()
            .filter_map(|wanted| supported_schemes().find(|(name, _)| name == wanted))
            .map(|(_, scheme)| *scheme)
            .collect();
        let suites = Some(suites.as_slice()).filter(|names| !names.is_empty());
        let groups = Some(groups.as_slice()).filter(|names| !names.is_empty());
        let (suites, groups) = (provider::suites(suites), provider::groups(groups));
        errors.finish(Parameters {
            provider: provider::provider(suites, groups),
            versions,
            schemes: Some(schemes.into()).filter(|list: &Arc<[_]>| !list.is_empty()),
        })
    }
}

/// The signature algorithms that can be configured: not those with SHA-1, which `rustls` does not have.
fn supported_schemes() -> impl Iterator<Item = &'static (&'static str, SignatureScheme)> {
    (SCHEMES.iter()).filter(|(_, scheme)| *scheme != SignatureScheme::RSA_PKCS1_SHA1)
}

fn version_number(version: TlsProtocol, auto: u8) -> u8 {
    match version {
        TlsProtocol::TlsAuto => auto,
        TlsProtocol::TlSv10 => 0,
        TlsProtocol::TlSv11 => 1,
        TlsProtocol::TlSv12 => 2,
        TlsProtocol::TlSv13 => 3,
    }
}

/// Splits a list whose entries may be lists: `A:B`, and `[A|B]` for suites of equal preference.
fn names(entries: &[String]) -> Vec<&str> {
    let separators = [':', '[', ']', '|'];
    let split = entries.iter().flat_map(|entry| entry.split(separators));
    split.filter(|name| !name.is_empty()).collect()
}

fn refuse_unknown(
    names: &[&str],
    known: &[&str],
    kind: &str,
    path: &FieldPath,
    errors: &mut ConfigErrors,
) {
    for name in names.iter().filter(|name| !known.contains(name)) {
        let known = known.join(", ");
        errors.push(
            path,
            format!("not supported: {kind} {name}; expected one of: {known}"),
        );
    }
}
