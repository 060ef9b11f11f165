//! `DownstreamTlsContext`: TLS connections from clients.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::CommonTlsContext;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::OcspStaplePolicy;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::SessionTicketKeysType;
use outrider_stats::Scope;
use outrider_stats::SharedCounter;
use outrider_stats::Store;
use prost::Message as _;
use rustls::CipherSuite;
use rustls::ServerConfig;
use rustls::server::ClientHello;
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;

use crate::certificate::Certificate;
use crate::common_context::CommonParts;
use crate::files;
use crate::key_log::KeyLogFile;
use crate::ocsp::Stapling;
use crate::ocsp::stapling;
use crate::report;
use crate::secrets::SecretKind;
use crate::secrets::SecretReference;
use crate::secrets::Secrets;
use crate::sessions;
use crate::sessions::SessionContext;
use crate::socket_factory::ContextCertificates;
use crate::socket_factory::SocketFactoryStats;
use crate::socket_factory::TlsContext;
use crate::socket_factory::common_references;
use crate::stats;
use crate::stats::ContextStats;
use crate::validation::Validation;
use crate::verifier::ClientVerifier;
use crate::verifier::SignatureVerifier;

/// The TLS settings of a filter chain.
pub struct ServerContext {
    /// Four configurations: without and with ALPN, first in the client's order of cipher suites, then in ours.
    configs: [Arc<ServerConfig>; 4],
    key_log: Option<Arc<KeyLogFile>>,
    /// The certificates of this proxy.
    pub certificates: Arc<Vec<Certificate>>,
    pub(crate) validation: Arc<Validation>,
}

impl TlsContext for ServerContext {
    type Message = DownstreamTlsContext;

    const STATS: &'static str = "server_ssl_socket_factory";

    fn build(
        config: &DownstreamTlsContext,
        path: &FieldPath,
        secrets: &Secrets,
    ) -> Result<Option<ServerContext>, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let own_path = path;
        let path = path.field("common_tls_context");
        let common = config.common_tls_context.as_ref();
        let Some(parts) = CommonParts::build(common, 3, &path, secrets, &mut errors) else {
            return Err(errors);
        };
        let Some(CommonParts {
            parameters,
            certificates,
            validation,
            key_log,
        }) = parts
        else {
            return errors.finish(None);
        };
        if certificates.is_empty() {
            errors.push(&path, "No TLS certificates found for server context");
            return Err(errors);
        }
        check_staples(config, &certificates, &path, &mut errors);
        let required =
            config.require_client_certificate.unwrap_or(false) || validation.requires_certificate();
        warn_of_optional_certificates(config, &path);
        let signatures = SignatureVerifier::new(&parameters);
        let verifier = ClientVerifier::new(validation.clone(), required, signatures);
        let built = ServerConfig::builder_with_provider(parameters.provider)
            .with_protocol_versions(&parameters.versions);
        let mut server = match built {
            Ok(builder) => builder
                .with_client_cert_verifier(Arc::new(verifier))
                .with_cert_resolver(Arc::new(ServerCertResolver::new(
                    config,
                    certificates.clone(),
                ))),
            Err(error) => {
                errors.push(&path.field("tls_params"), error.to_string());
                return Err(errors);
            }
        };
        let context = session_context(&certificates, &validation, config, secrets);
        let resumes = sessions::set_up(&mut server, config, context, secrets, own_path);
        match errors.collect(resumes) {
            Some(true) => {}
            Some(false) => return errors.finish(None),
            None => return Err(errors),
        }
        let protocols = common.iter().flat_map(|common| &common.alpn_protocols);
        let protocols: Vec<Vec<u8>> = protocols.map(|name| name.clone().into_bytes()).collect();
        let variant = |has_alpn: bool, ours: bool| {
            let mut server = server.clone();
            server.ignore_client_order = ours && !config.prefer_client_ciphers;
            if has_alpn {
                server.alpn_protocols.clone_from(&protocols);
            }
            Arc::new(server)
        };
        errors.finish(Some(ServerContext {
            configs: [
                variant(false, false),
                variant(true, false),
                variant(false, true),
                variant(true, true),
            ],
            key_log,
            certificates,
            validation,
        }))
    }

    fn references(
        config: &DownstreamTlsContext,
        path: &FieldPath,
    ) -> Vec<(SecretReference, FieldPath)> {
        let mut found = common_references(Self::common(config), path);
        if let Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(keys)) =
            &config.session_ticket_keys_type
        {
            let reference = SecretReference::new(SecretKind::TicketKeys, keys);
            found.push((
                reference,
                path.field("session_ticket_keys_sds_secret_config"),
            ));
        }
        found
    }

    fn own_files(config: &DownstreamTlsContext) -> Vec<PathBuf> {
        match &config.session_ticket_keys_type {
            Some(SessionTicketKeysType::SessionTicketKeys(keys)) => files::of_ticket_keys(keys),
            _ => Vec::new(),
        }
    }

    fn common(config: &DownstreamTlsContext) -> Option<&CommonTlsContext> {
        config.common_tls_context.as_ref()
    }

    fn stats(&self, store: &Store, scope: &Scope) -> ContextStats {
        stats::of_context(&self.certificates, &self.validation, store, scope)
    }

    fn certificates(&self) -> ContextCertificates {
        ContextCertificates::new(&self.certificates, &self.validation)
    }

    fn not_ready(stats: &SocketFactoryStats) -> &SharedCounter {
        &stats.downstream_context_secrets_not_ready
    }
}

impl ServerContext {
    /// The configuration for a client that sent this ClientHello. `addresses` are the connection's, local and remote; they
    /// are asked for with `key_log` only.
    #[must_use]
    pub fn config_for(
        &self,
        hello: &ClientHello<'_>,
        asks_for_staple: bool,
        addresses: impl FnOnce() -> (Option<IpAddr>, Option<IpAddr>),
    ) -> Arc<ServerConfig> {
        report::note_request_for_staple(asks_for_staple);
        let config = self.config_of_hello(hello);
        if let Some(key_log) = &self.key_log {
            let (local, remote) = addresses();
            if key_log.covers(local, remote) {
                let mut config = ServerConfig::clone(&config);
                config.key_log = key_log.clone();
                return Arc::new(config);
            }
        }
        config
    }

    fn config_of_hello(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        let [_, with_alpn, ..] = &self.configs;
        let known = &with_alpn.alpn_protocols;
        let mut offered = hello.alpn().into_iter().flatten();
        // If no protocol is common to both, the connection is accepted without one.
        let common = offered.any(|offered| known.iter().any(|known| known == offered));
        // As in BoringSSL, the client's preference decides among the suites of TLS 1.3.
        let offers_tls13 = (hello.cipher_suites().iter()).any(|suite| is_of_tls13(*suite));
        let [neither, alpn, order, both] = &self.configs;
        let config = match (common, !offers_tls13) {
            (false, false) => neither,
            (true, false) => alpn,
            (false, true) => order,
            (true, true) => both,
        };
        config.clone()
    }
}

/// Identifies the context of sessions, as in Envoy: the names of the certificates, and how clients are verified.
fn session_context(
    certificates: &[Certificate],
    validation: &Validation,
    config: &DownstreamTlsContext,
    secrets: &Secrets,
) -> SessionContext {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    let required = config.require_client_certificate.unwrap_or(false);
    parts.push(vec![u8::from(required)]);
    let names = certificates.iter().flat_map(Certificate::names);
    parts.extend(names.map(String::into_bytes));
    parts.extend(validation.authorities.iter().map(|ca| ca.der.clone()));
    let common = config.common_tls_context.clone().unwrap_or_default();
    let checks = CommonTlsContext {
        validation_context_type: common.validation_context_type,
        ..CommonTlsContext::default()
    };
    parts.push(checks.encode_to_vec());
    let root = FieldPath::root();
    for (reference, _) in common_references(Some(&checks), &root) {
        if let Ok(Some((secret, _))) = secrets.find(&reference, &root) {
            parts.push(secret.encode_to_vec());
        }
    }
    sessions::session_context(parts.iter().map(Vec::as_slice))
}

/// Refuses a context whose certificates lack OCSP responses that the policy or they themselves demand.
fn check_staples(
    config: &DownstreamTlsContext,
    certificates: &[Certificate],
    path: &FieldPath,
    errors: &mut ConfigErrors,
) {
    let path = path.field("tls_certificates");
    let mut missing = certificates.iter().filter(|one| one.ocsp.is_none());
    if config.ocsp_staple_policy() == OcspStaplePolicy::MustStaple {
        if missing.next().is_some() {
            errors.push(&path, "Required OCSP response is missing from TLS context");
        }
    } else if missing.any(|one| one.must_staple) {
        errors.push(
            &path,
            "OCSP response is required for must-staple certificate",
        );
    }
}

/// Warns, with Envoy's text, of a validation context that clients may evade.
fn warn_of_optional_certificates(config: &DownstreamTlsContext, path: &FieldPath) {
    let common = config.common_tls_context.as_ref();
    let validates = common.is_some_and(|common| common.validation_context_type.is_some());
    if config.require_client_certificate.is_none() && validates {
        log::warn!(
            target: "misc",
            "{path}: Using deprecated insecure default of not requiring client cert when a validation context is configured. This default will be changed in a future version. Please explicitly configure a value for require_client_certificate."
        );
    }
}

fn is_of_tls13(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS13_AES_256_GCM_SHA384
            | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
    )
}

impl fmt::Debug for ServerContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerContext")
            .field("certificates", &self.certificates.len())
            .finish_non_exhaustive()
    }
}

/// Selects a certificate by the name and the algorithms in the ClientHello.
#[derive(Debug)]
struct ServerCertResolver {
    certificates: Arc<Vec<Certificate>>,
    /// Each name with the indexes of the certificates that are valid for it.
    names: Vec<(String, usize)>,
    /// `full_scan_certs_on_sni_mismatch`
    scans_all: bool,
    staple_policy: OcspStaplePolicy,
}

impl ServerCertResolver {
    fn new(
        config: &DownstreamTlsContext,
        certificates: Arc<Vec<Certificate>>,
    ) -> ServerCertResolver {
        let numbered = certificates.iter().enumerate();
        let names = numbered
            .flat_map(|(number, certificate)| {
                certificate
                    .names()
                    .into_iter()
                    .map(move |name| (name, number))
            })
            .collect();
        ServerCertResolver {
            names,
            certificates,
            scans_all: config.full_scan_certs_on_sni_mismatch.unwrap_or(false),
            staple_policy: config.ocsp_staple_policy(),
        }
    }

    /// The certificates for exactly this name.
    fn named<'a, 'b>(
        &'a self,
        wanted: &'b str,
    ) -> impl Iterator<Item = &'a Certificate> + use<'a, 'b> {
        let named = self.names.iter().filter(move |(name, _)| name == wanted);
        named.filter_map(|(_, number)| self.certificates.get(*number))
    }

    fn stapling(&self, certificate: &Certificate) -> Stapling {
        match report::asks_for_staple() {
            true => stapling(certificate, self.staple_policy),
            false => Stapling::NotRequested,
        }
    }

    fn choose(&self, hello: &ClientHello<'_>) -> Option<&Certificate> {
        let is_usable = |certificate: &Certificate| {
            let schemes = hello.signature_schemes();
            certificate.key.key.choose_scheme(schemes).is_some()
                && self.stapling(certificate) != Stapling::Failed
        };
        if let Some(name) = hello.server_name() {
            let wildcard = name
                .split_once('.')
                .map(|(_, parent)| format!("*.{parent}"));
            let wanted = [Some(name), wildcard.as_deref()];
            for name in wanted.into_iter().flatten() {
                if let Some(found) = best(self.named(name).filter(|c| is_usable(c))) {
                    return Some(found);
                }
            }
            // The certificate for this name, although the client does not support its algorithm.
            let mut named = wanted
                .into_iter()
                .flatten()
                .flat_map(|name| self.named(name))
                .filter(|certificate| self.stapling(certificate) != Stapling::Failed);
            if let Some(found) = named.next() {
                return Some(found);
            }
        }
        // No certificate is for this name: the first one that the client supports, or else the first.
        let usable = self.certificates.iter().filter(|c| is_usable(c));
        let first = match self.scans_all || hello.server_name().is_none() {
            true => best(usable),
            false => usable.into_iter().next(),
        };
        first.or_else(|| self.certificates.first())
    }
}

/// Prefers an ECDSA key to an RSA key.
fn best<'a>(certificates: impl Iterator<Item = &'a Certificate>) -> Option<&'a Certificate> {
    let mut first = None;
    for certificate in certificates {
        if certificate.is_ecdsa() {
            return Some(certificate);
        }
        first = first.or(Some(certificate));
    }
    first
}

impl ResolvesServerCert for ServerCertResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let chosen = self.choose(&hello)?;
        let stapling = self.stapling(chosen);
        report::update(|report| {
            report.certificate = Some(chosen.facts.clone());
            report.stapling = stapling;
        });
        match stapling {
            Stapling::Failed => None,
            Stapling::Sent => Some(chosen.key.clone()),
            Stapling::NotRequested | Stapling::Omitted => Some(chosen.unstapled.clone()),
        }
    }
}
