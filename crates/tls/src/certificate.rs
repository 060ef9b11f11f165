//! `TlsCertificate`: a chain with its key.

use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::TlsCertificate;
use outrider_config::data_source;
use rustls::SignatureAlgorithm;
use rustls::sign::CertifiedKey;
use rustls::sign::SigningKey;

use crate::ocsp;
use crate::ocsp::OcspExpiry;
use crate::parameters::Parameters;
use crate::peer::PeerCertificate;
use crate::private_key;
use crate::private_key::RestrictedKey;
use crate::validation::read_certificates;
use crate::validation::source_name;

/// A certificate of this proxy, with its private key.
#[derive(Debug)]
pub struct Certificate {
    /// The contents of the certificate.
    pub facts: Arc<PeerCertificate>,
    /// The file that it was read from, or Envoy's text for an inline certificate.
    pub path: String,
    /// Its name in stats: the secret's, or Envoy's for certificates without a name.
    pub(crate) stat_name: String,
    pub(crate) key: Arc<CertifiedKey>,
    /// The same without the OCSP response.
    pub(crate) unstapled: Arc<CertifiedKey>,
    pub(crate) ocsp: Option<OcspExpiry>,
    /// The certificate itself demands an OCSP response.
    pub(crate) must_staple: bool,
}

impl Certificate {
    /// Builds the certificate found at `path`.
    pub(crate) fn build(
        config: &TlsCertificate,
        path: &FieldPath,
        parameters: &Parameters,
    ) -> Result<Certificate, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let chain_path = path.field("certificate_chain");
        let key_path = path.field("private_key");
        let (Some(chain_source), Some(key_source)) =
            (&config.certificate_chain, &config.private_key)
        else {
            let message = "Failed to load incomplete certificate from : both certificate_chain and private_key are required";
            errors.push(path, message);
            return Err(errors);
        };
        let chain = errors.collect(read_certificates(Some(chain_source), &chain_path));
        let key = errors.collect(data_source::read(key_source, None, &key_path));
        let password = config.password.as_ref();
        let password = password
            .map(|source| data_source::read(source, None, &path.field("password")))
            .transpose();
        let password = errors.collect(password).flatten();
        let ocsp = config.ocsp_staple.as_ref();
        let ocsp = ocsp.map(|source| data_source::read(source, None, &path.field("ocsp_staple")));
        let ocsp = errors.collect(ocsp.transpose()).flatten();
        let (Some(chain), Some(key)) = (chain, key) else {
            return Err(errors);
        };
        let name = source_name(key_source);
        let key = match private_key::read(&key, password.as_deref(), &parameters.provider) {
            Ok(key) => key,
            Err(cause) => {
                let message = format!("Failed to load private key from {name}, Cause: {cause}");
                errors.push(&key_path, message);
                return Err(errors);
            }
        };
        let chain_name = source_name(chain_source);
        let Some(facts) = chain.first().and_then(PeerCertificate::parse) else {
            let message = format!("Failed to load certificate chain from {chain_name}");
            errors.push(&chain_path, message);
            return Err(errors);
        };
        let of_key = key.public_key();
        if of_key.is_some_and(|public| *public != *facts.public_key) {
            errors.push(
                &key_path,
                format!("Failed to load private key from {name}, Cause: KEY_VALUES_MISMATCH"),
            );
        }
        let key: Arc<dyn SigningKey> = match &parameters.schemes {
            Some(schemes) => Arc::new(RestrictedKey {
                key,
                schemes: schemes.clone(),
            }),
            None => key,
        };
        let ocsp_path = path.field("ocsp_staple");
        let staple = ocsp.as_ref().map(|der| ocsp::read(der, &facts.serial));
        let staple = staple.transpose().unwrap_or_else(|why| {
            errors.push(&ocsp_path, why);
            None
        });
        let unstapled = CertifiedKey::new(chain, key);
        let mut certified = unstapled.clone();
        certified.ocsp = ocsp;
        errors.finish(Certificate {
            must_staple: facts.must_staple(),
            ocsp: staple,
            unstapled: Arc::new(unstapled),
            facts: Arc::new(facts),
            path: chain_name,
            stat_name: "unnamed_cert_e3b0c442".to_owned(),
            key: Arc::new(certified),
        })
    }

    pub(crate) fn is_ecdsa(&self) -> bool {
        self.key.key.algorithm() == SignatureAlgorithm::ECDSA
    }

    /// The names that it is valid for: its DNS names, or its common name if it has none.
    pub(crate) fn names(&self) -> Vec<String> {
        let names = match self.facts.dns_names.as_slice() {
            [] => self.facts.common_name.as_slice(),
            names => names,
        };
        names.to_vec()
    }
}
