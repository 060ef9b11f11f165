//! `UpstreamTlsContext`: TLS connections to upstream hosts.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::CommonTlsContext;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use outrider_stats::Scope;
use outrider_stats::SharedCounter;
use outrider_stats::Store;
use rustls::ClientConfig;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;

use crate::certificate::Certificate;
use crate::common_context::CommonParts;
use crate::key_log::KeyLogFile;
use crate::report;
use crate::secrets::Secrets;
use crate::socket_factory::ContextCertificates;
use crate::socket_factory::SocketFactoryStats;
use crate::socket_factory::TlsContext;
use crate::stats;
use crate::stats::ContextStats;
use crate::validation::Validation;
use crate::verifier::ServerVerifier;
use crate::verifier::SignatureVerifier;

/// The TLS settings of a cluster.
pub struct ClientContext {
    /// `sni`; empty if it is not set.
    server_name: String,
    /// `auto_host_sni`
    uses_host_name: bool,
    /// Whether the config sets `alpn_protocols`.
    has_own_alpn: bool,
    config: Arc<ClientConfig>,
    verifier: ServerVerifier,
    /// `max_session_keys`
    max_sessions: u32,
    key_log: Option<Arc<KeyLogFile>>,
    /// The certificates of this proxy.
    pub certificates: Arc<Vec<Certificate>>,
    pub(crate) validation: Arc<Validation>,
}

/// The settings of one TLS connection.
#[derive(Clone, Debug)]
pub struct ClientSession {
    /// The `rustls` configuration.
    pub config: Arc<ClientConfig>,
    /// The name to send as SNI. For an IP address, no SNI is sent.
    pub server_name: ServerName<'static>,
}

impl TlsContext for ClientContext {
    type Message = UpstreamTlsContext;

    const STATS: &'static str = "client_ssl_socket_factory";

    fn build(
        config: &UpstreamTlsContext,
        path: &FieldPath,
        secrets: &Secrets,
    ) -> Result<Option<ClientContext>, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let default = CommonTlsContext::default();
        let common = config.common_tls_context.as_ref().unwrap_or(&default);
        let common_path = path.field("common_tls_context");
        let parts = CommonParts::build(Some(common), 2, &common_path, secrets, &mut errors);
        let named = common.tls_certificate_sds_secret_configs.len();
        if common.tls_certificates.len().max(named) > 1 {
            errors.push(
                &common_path.field("tls_certificates"),
                "Multiple TLS certificates are not supported for client contexts",
            );
        }
        let Some(parts) = parts else {
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
        if config.auto_sni_san_validation && !validation.has_authorities() {
            let message = match common.validation_context_type {
                None => "'auto_sni_san_validation' was configured without a validation context",
                Some(_) => {
                    "'auto_sni_san_validation' was configured without configuring a trusted CA"
                }
            };
            errors.push(&path.field("auto_sni_san_validation"), message);
        }
        if !validation.checks_anything() {
            log::warn!(
                target: "config",
                "{common_path}: the certificates of hosts are not verified; set validation_context.trusted_ca"
            );
        }
        let verifier = ServerVerifier {
            validation: validation.clone(),
            checks_server_name: config.auto_sni_san_validation,
            required_name: None,
            signatures: SignatureVerifier::new(&parameters),
        };
        let built = ClientConfig::builder_with_provider(parameters.provider)
            .with_protocol_versions(&parameters.versions);
        let mut client = match built {
            Ok(builder) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier.clone()))
                .with_client_cert_resolver(Arc::new(ClientCertResolver(certificates.clone()))),
            Err(error) => {
                errors.push(&common_path.field("tls_params"), error.to_string());
                return Err(errors);
            }
        };
        let max_sessions = config.max_session_keys.unwrap_or(1);
        client.resumption = resumption(max_sessions);
        let protocols = common.alpn_protocols.iter();
        client.alpn_protocols = protocols.map(|name| name.clone().into_bytes()).collect();
        errors.finish(Some(ClientContext {
            server_name: config.sni.clone(),
            uses_host_name: config.auto_host_sni,
            has_own_alpn: !common.alpn_protocols.is_empty(),
            config: Arc::new(client),
            verifier,
            max_sessions,
            key_log,
            certificates,
            validation,
        }))
    }

    fn common(config: &UpstreamTlsContext) -> Option<&CommonTlsContext> {
        config.common_tls_context.as_ref()
    }

    fn stats(&self, store: &Store, scope: &Scope) -> ContextStats {
        stats::of_context(&self.certificates, &self.validation, store, scope)
    }

    fn certificates(&self) -> ContextCertificates {
        ContextCertificates::new(&self.certificates, &self.validation)
    }

    fn not_ready(stats: &SocketFactoryStats) -> &SharedCounter {
        &stats.upstream_context_secrets_not_ready
    }
}

impl ClientContext {
    /// The settings for connections that offer `protocols`. If the config sets protocols, those are offered instead.
    #[must_use]
    pub fn config_offering(&self, protocols: &[&str]) -> Arc<ClientConfig> {
        if self.has_own_alpn {
            return self.config.clone();
        }
        let mut config = ClientConfig::clone(&self.config);
        let names = protocols.iter().map(|name| name.as_bytes().to_vec());
        config.alpn_protocols = names.collect();
        Arc::new(config)
    }

    /// The settings for connections to hosts whose certificate must also be valid for `name` (`auto_san_validation`). They
    /// resume only sessions of connections with the same requirement.
    #[must_use]
    pub fn config_requiring(&self, config: &ClientConfig, name: &str) -> Arc<ClientConfig> {
        let mut config = config.clone();
        let verifier = ServerVerifier {
            required_name: Some(name.into()),
            ..self.verifier.clone()
        };
        (config.dangerous()).set_certificate_verifier(Arc::new(verifier));
        config.resumption = resumption(self.max_sessions);
        Arc::new(config)
    }

    /// The settings for health checks: they offer `protocols` if there are any, else those that the config names.
    #[must_use]
    pub fn config_of_checks(&self, protocols: &[String]) -> Arc<ClientConfig> {
        if protocols.is_empty() {
            return self.config.clone();
        }
        let mut config = ClientConfig::clone(&self.config);
        let names = protocols.iter().map(|name| name.clone().into_bytes());
        config.alpn_protocols = names.collect();
        Arc::new(config)
    }

    /// The settings `config` for a connection between the addresses that `addresses` returns, local and remote: they are
    /// asked for with `key_log` only.
    #[must_use]
    pub fn config_between(
        &self,
        config: Arc<ClientConfig>,
        addresses: impl FnOnce() -> (Option<IpAddr>, Option<IpAddr>),
    ) -> Arc<ClientConfig> {
        let Some(key_log) = &self.key_log else {
            return config;
        };
        let (local, remote) = addresses();
        if !key_log.covers(local, remote) {
            return config;
        }
        let mut config = ClientConfig::clone(&config);
        config.key_log = key_log.clone();
        Arc::new(config)
    }

    /// The name to send as SNI. `host_name` and `address` are the host's. `of_request` is the name from the request
    /// (`auto_sni`).
    #[must_use]
    pub fn server_name(
        &self,
        host_name: &str,
        address: Option<IpAddr>,
        of_request: Option<&str>,
    ) -> ServerName<'static> {
        let name = match of_request {
            Some(name) => name,
            None if self.uses_host_name && !host_name.is_empty() => host_name,
            None => &self.server_name,
        };
        let unnamed = || ServerName::from(address.unwrap_or(IpAddr::from([0, 0, 0, 0])));
        ServerName::try_from(name.to_owned()).unwrap_or_else(|_| unnamed())
    }
}

fn resumption(max_sessions: u32) -> Resumption {
    match max_sessions {
        0 => Resumption::disabled(),
        most => Resumption::in_memory_sessions(usize::try_from(most).unwrap_or(usize::MAX)),
    }
}

impl fmt::Debug for ClientContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientContext")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

/// Presents this proxy's certificate, if it has one, regardless of the CAs that the server names.
#[derive(Debug)]
struct ClientCertResolver(Arc<Vec<Certificate>>);

impl ResolvesClientCert for ClientCertResolver {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let certificate = self.0.first()?;
        report::update(|report| report.certificate = Some(certificate.facts.clone()));
        Some(certificate.key.clone())
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}
