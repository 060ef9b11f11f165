//! Secrets that contexts refer to by name (`static_resources.secrets`).

use std::collections::HashMap;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::Bootstrap;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::CertificateValidationContext;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::SdsSecretConfig;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::TlsCertificate;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::secret::Type;

/// The secrets of a bootstrap by type and name, each with its config path.
#[derive(Debug, Default)]
pub struct Secrets {
    certificates: HashMap<String, (TlsCertificate, FieldPath)>,
    validations: HashMap<String, (CertificateValidationContext, FieldPath)>,
}

impl Secrets {
    /// Reads the secrets of `bootstrap`. Their contents are checked by the contexts that refer to them.
    ///
    /// # Errors
    /// Two secrets have the same type and name.
    pub fn build(bootstrap: &Bootstrap) -> Result<Secrets, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut secrets = Secrets::default();
        let path = FieldPath::root().field("static_resources").field("secrets");
        let resources = bootstrap.static_resources.as_ref();
        let list = resources.map_or(&[][..], |resources| &resources.secrets);
        for (index, secret) in list.iter().enumerate() {
            let path = path.index(index);
            let name = secret.name.clone();
            let (kind, earlier) = match &secret.r#type {
                Some(Type::TlsCertificate(certificate)) => {
                    let entry = (certificate.clone(), path.field("tls_certificate"));
                    let earlier = secrets.certificates.insert(name, entry).is_some();
                    ("TlsCertificate", earlier)
                }
                Some(Type::ValidationContext(context)) => {
                    let entry = (context.clone(), path.field("validation_context"));
                    let earlier = secrets.validations.insert(name, entry).is_some();
                    ("CertificateValidationContext", earlier)
                }
                _ => {
                    errors.push(&path, "Secret type not implemented");
                    continue;
                }
            };
            if earlier {
                let message = format!("Duplicate static {kind} secret name {}", secret.name);
                errors.push(&path.field("name"), message);
            }
        }
        errors.finish(secrets)
    }

    /// The certificate that `config`, found at `path`, refers to.
    pub(crate) fn certificate(
        &self,
        config: &SdsSecretConfig,
        path: &FieldPath,
    ) -> Result<&(TlsCertificate, FieldPath), ConfigError> {
        let found = self.certificates.get(&config.name);
        found.ok_or_else(|| unknown(config, path))
    }

    /// The validation context that `config`, found at `path`, refers to.
    pub(crate) fn validation(
        &self,
        config: &SdsSecretConfig,
        path: &FieldPath,
    ) -> Result<&(CertificateValidationContext, FieldPath), ConfigError> {
        let found = self.validations.get(&config.name);
        found.ok_or_else(|| unknown(config, path))
    }
}

fn unknown(config: &SdsSecretConfig, path: &FieldPath) -> ConfigError {
    let message = format!("Unknown static secret: {}", config.name);
    ConfigError::new(&path.field("name"), message)
}
