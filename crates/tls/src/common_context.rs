//! `CommonTlsContext`: the settings that both sides of TLS build in the same way.

use std::sync::Arc;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::CommonTlsContext;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use prost::Message as _;

use crate::certificate::Certificate;
use crate::key_log::KeyLogFile;
use crate::parameters::Parameters;
use crate::secrets::Secrets;
use crate::validation::Validation;

/// The built settings of a `CommonTlsContext`, except `alpn_protocols`.
pub(crate) struct CommonParts {
    pub(crate) parameters: Parameters,
    pub(crate) certificates: Arc<Vec<Certificate>>,
    pub(crate) validation: Arc<Validation>,
    pub(crate) key_log: Option<Arc<KeyLogFile>>,
}

impl CommonParts {
    /// Builds the settings of the context found at `path`, and adds what is wrong with them to `errors`. `highest` is
    /// the minor version that `TLS_AUTO` means as a maximum. `None` after an error; `Some(None)` as long as a secret has
    /// not come.
    pub(crate) fn build(
        common: Option<&CommonTlsContext>,
        highest: u8,
        path: &FieldPath,
        secrets: &Secrets,
        errors: &mut ConfigErrors,
    ) -> Option<Option<CommonParts>> {
        let default = CommonTlsContext::default();
        let common = common.unwrap_or(&default);
        let parameters = Parameters::build(
            common.tls_params.as_ref(),
            highest,
            &path.field("tls_params"),
        );
        let parameters = errors.collect(parameters)?;
        let certificates = errors.collect(certificates(common, &parameters, secrets, path));
        let validation = errors.collect(validation(common, secrets, path));
        let key_log = KeyLogFile::build(common.key_log.as_ref(), &path.field("key_log"));
        let key_log = errors.collect(key_log).flatten();
        let (certificates, validation) = (certificates?, validation?);
        let ready = certificates.zip(validation);
        Some(ready.map(|(certificates, validation)| CommonParts {
            parameters,
            certificates: Arc::new(certificates),
            validation: Arc::new(validation),
            key_log,
        }))
    }
}

/// Builds the certificates of a context. `None` as long as the secret of one has not come.
fn certificates(
    common: &CommonTlsContext,
    parameters: &Parameters,
    secrets: &Secrets,
    path: &FieldPath,
) -> Result<Option<Vec<Certificate>>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let mut certificates = Vec::new();
    let own_path = path.field("tls_certificates");
    for (index, config) in common.tls_certificates.iter().enumerate() {
        let built = Certificate::build(config, &own_path.index(index), parameters);
        certificates.extend(errors.collect(built));
    }
    if !common.tls_certificates.is_empty() {
        // If certificates are inline, secrets are ignored.
        return errors.finish(Some(certificates));
    }
    let mut awaited = false;
    let path = path.field("tls_certificate_sds_secret_configs");
    let configs = common.tls_certificate_sds_secret_configs.iter();
    for (index, config) in configs.enumerate() {
        let secret = errors.collect(secrets.certificate(config, &path.index(index)));
        awaited |= matches!(secret, Some(None));
        if let Some((certificate, path)) = secret.flatten() {
            let built = Certificate::build(certificate, &path, parameters);
            certificates.extend(errors.collect(built).map(|built| Certificate {
                stat_name: config.name.clone(),
                ..built
            }));
        }
    }
    errors.finish((!awaited).then_some(certificates))
}

/// Builds the validation of a context. `None` as long as its secret has not come.
fn validation(
    common: &CommonTlsContext,
    secrets: &Secrets,
    path: &FieldPath,
) -> Result<Option<Validation>, ConfigErrors> {
    let built = match &common.validation_context_type {
        Some(ValidationContextType::ValidationContext(context)) => {
            Validation::build(Some(context), &path.field("validation_context"))?
        }
        Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) => {
            let path = path.field("validation_context_sds_secret_config");
            let Some((context, path)) = secrets.validation(config, &path)? else {
                return Ok(None);
            };
            Validation::build(Some(context), &path)?.with_stat_name(&config.name)
        }
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            let path = path.field("combined_validation_context");
            let mut context = combined
                .default_validation_context
                .clone()
                .unwrap_or_default();
            let config = combined
                .validation_context_sds_secret_config
                .clone()
                .unwrap_or_default();
            let secret_path = path.field("validation_context_sds_secret_config");
            let Some((secret, _)) = secrets.validation(&config, &secret_path)? else {
                return Ok(None);
            };
            // Merged as protobuf messages are: lists are concatenated, and fields that the secret sets override the
            // others.
            let merged = context.merge(secret.encode_to_vec().as_slice());
            merged.map_err(|error| ConfigError::new(&secret_path, error.to_string()))?;
            Validation::build(Some(&context), &path)?.with_stat_name(&config.name)
        }
        _ => Validation::build(None, path)?,
    };
    Ok(Some(built))
}
