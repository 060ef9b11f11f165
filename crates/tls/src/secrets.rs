//! Secrets that contexts refer to by name: those of `static_resources.secrets`, and those that sources give (SDS).

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::Bootstrap;
use outrider_config::api::envoy::config::core::v3::ConfigSource;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::CertificateValidationContext;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::SdsSecretConfig;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::Secret;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::TlsCertificate;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::TlsSessionTicketKeys;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use prost::Message as _;

/// What a secret is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SecretKind {
    /// `tls_certificate`
    Certificate,
    /// `validation_context`
    Validation,
    /// `session_ticket_keys`
    TicketKeys,
}

impl SecretKind {
    /// The kind of `secret`; none if it is of no kind that is supported.
    #[must_use]
    pub fn of(secret: &Secret) -> Option<SecretKind> {
        match &secret.r#type {
            Some(Type::TlsCertificate(_)) => Some(SecretKind::Certificate),
            Some(Type::ValidationContext(_)) => Some(SecretKind::Validation),
            Some(Type::SessionTicketKeys(_)) => Some(SecretKind::TicketKeys),
            _ => None,
        }
    }

    /// The field of `Secret` that holds it.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            SecretKind::Certificate => "tls_certificate",
            SecretKind::Validation => "validation_context",
            SecretKind::TicketKeys => "session_ticket_keys",
        }
    }

    /// Envoy's name of it in messages.
    fn message_name(self) -> &'static str {
        match self {
            SecretKind::Certificate => "TlsCertificate",
            SecretKind::Validation => "CertificateValidationContext",
            SecretKind::TicketKeys => "TlsSessionTicketKeys",
        }
    }
}

/// A secret by kind, name and source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecretReference {
    /// What it is for.
    pub kind: SecretKind,
    /// `SdsSecretConfig.name`
    pub name: String,
    /// `SdsSecretConfig.sds_config` as protobuf bytes; none for a static secret.
    source: Option<Vec<u8>>,
}

impl SecretReference {
    /// The reference that `config` is, to a secret of this kind.
    #[must_use]
    pub fn new(kind: SecretKind, config: &SdsSecretConfig) -> SecretReference {
        SecretReference {
            kind,
            name: config.name.clone(),
            source: config.sds_config.as_ref().map(ConfigSource::encode_to_vec),
        }
    }

    /// Where the secret comes from; none for a static secret.
    #[must_use]
    pub fn source(&self) -> Option<ConfigSource> {
        // These bytes were encoded above, so they decode again.
        let source = self.source.as_ref();
        source.map(|source| ConfigSource::decode(source.as_slice()).unwrap_or_default())
    }

    /// Whether it is a secret of `static_resources.secrets`.
    #[must_use]
    pub fn is_static(&self) -> bool {
        self.source.is_none()
    }
}

/// The secrets of a bootstrap.
#[derive(Debug, Default)]
pub struct StaticSecrets {
    by_name: HashMap<(SecretKind, String), (Secret, FieldPath)>,
    /// In the order of the config.
    list: Vec<(SecretKind, String)>,
}

impl StaticSecrets {
    /// The secrets of `bootstrap`. The contexts that refer to them check their contents.
    ///
    /// # Errors
    /// Two of one kind and name.
    pub fn build(bootstrap: &Bootstrap) -> Result<StaticSecrets, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut secrets = StaticSecrets::default();
        let path = FieldPath::root().field("static_resources").field("secrets");
        let resources = bootstrap.static_resources.as_ref();
        let list = resources.map_or(&[][..], |resources| &resources.secrets);
        for (index, secret) in list.iter().enumerate() {
            let path = path.index(index);
            let Some(kind) = SecretKind::of(secret) else {
                errors.push(&path, "Secret type not implemented");
                continue;
            };
            let key = (kind, secret.name.clone());
            let entry = (secret.clone(), path.field(kind.field()));
            secrets.list.push(key.clone());
            if secrets.by_name.insert(key, entry).is_some() {
                let (kind, name) = (kind.message_name(), &secret.name);
                let message = format!("Duplicate static {kind} secret name {name}");
                errors.push(&path.field("name"), message);
            }
        }
        errors.finish(secrets)
    }

    /// All of them: by kind, then in the order of the config.
    pub fn iter(&self) -> impl Iterator<Item = &Secret> {
        let mut keys: Vec<_> = self.list.iter().collect();
        keys.sort_by_key(|(kind, _)| *kind);
        let found = keys.into_iter().filter_map(|key| self.by_name.get(key));
        found.map(|(secret, _)| secret)
    }

    /// The names of the secrets that are not the same in both.
    #[must_use]
    pub fn changed(&self, other: &StaticSecrets) -> Vec<String> {
        let keys: BTreeSet<_> = self.by_name.keys().chain(other.by_name.keys()).collect();
        let of =
            |secrets: &StaticSecrets, key| secrets.by_name.get(key).map(|(one, _)| one.clone());
        let changed = keys
            .into_iter()
            .filter(|key| of(self, key) != of(other, key));
        changed.map(|(_, name)| name.clone()).collect()
    }

    /// Whether there is a secret for `reference`.
    #[must_use]
    pub fn has(&self, reference: &SecretReference) -> bool {
        let key = (reference.kind, reference.name.clone());
        self.by_name.contains_key(&key)
    }

    /// Whether the secret that `reference` names is the same in both.
    #[must_use]
    pub fn has_same(&self, other: &StaticSecrets, reference: &SecretReference) -> bool {
        let key = (reference.kind, reference.name.clone());
        let of = |secrets: &StaticSecrets| secrets.by_name.get(&key).map(|(one, _)| one.clone());
        of(self) == of(other)
    }
}

/// All secrets at one moment.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    statics: Arc<StaticSecrets>,
    /// Those of sources that have come, with the content of their files.
    of_sources: Arc<HashMap<SecretReference, Arc<Secret>>>,
}

impl Secrets {
    /// These static secrets, and no others.
    #[must_use]
    pub fn of_bootstrap(statics: StaticSecrets) -> Secrets {
        Secrets::default().with_static(Arc::new(statics))
    }

    /// The static secrets.
    #[must_use]
    pub fn statics(&self) -> &Arc<StaticSecrets> {
        &self.statics
    }

    /// The same secrets of sources with other static ones.
    #[must_use]
    pub fn with_static(&self, statics: Arc<StaticSecrets>) -> Secrets {
        Secrets {
            statics,
            of_sources: self.of_sources.clone(),
        }
    }

    /// The same secrets, with `secret` for `reference`.
    #[must_use]
    pub fn with(&self, reference: &SecretReference, secret: Arc<Secret>) -> Secrets {
        let mut of_sources = HashMap::clone(&self.of_sources);
        of_sources.insert(reference.clone(), secret);
        Secrets {
            statics: self.statics.clone(),
            of_sources: Arc::new(of_sources),
        }
    }

    /// The same secrets without that of `reference`, whose source is no longer followed.
    #[must_use]
    pub fn without(&self, reference: &SecretReference) -> Secrets {
        let mut of_sources = HashMap::clone(&self.of_sources);
        of_sources.remove(reference);
        Secrets {
            statics: self.statics.clone(),
            of_sources: Arc::new(of_sources),
        }
    }

    /// The secret that a source has given for `reference`.
    #[must_use]
    pub fn of_source(&self, reference: &SecretReference) -> Option<&Arc<Secret>> {
        self.of_sources.get(reference)
    }

    /// The secret that `reference`, found at `path`, names, and its own path. None if its source has not given it yet.
    pub(crate) fn find(
        &self,
        reference: &SecretReference,
        path: &FieldPath,
    ) -> Result<Option<(&Secret, FieldPath)>, ConfigError> {
        if !reference.is_static() {
            let found = self.of_sources.get(reference);
            let path = FieldPath::root().field(reference.kind.field());
            return Ok(found.map(|secret| (&**secret, path)));
        }
        let name = &reference.name;
        let key = (reference.kind, name.clone());
        let found = self.statics.by_name.get(&key);
        let (secret, path) = found.ok_or_else(|| {
            ConfigError::new(
                &path.field("name"),
                format!("Unknown static secret: {name}"),
            )
        })?;
        Ok(Some((secret, path.clone())))
    }

    /// The certificate that `config`, found at `path`, refers to.
    pub(crate) fn certificate(
        &self,
        config: &SdsSecretConfig,
        path: &FieldPath,
    ) -> Result<Option<(&TlsCertificate, FieldPath)>, ConfigError> {
        let reference = SecretReference::new(SecretKind::Certificate, config);
        let found = self.find(&reference, path)?;
        Ok(found.and_then(|(secret, path)| match &secret.r#type {
            Some(Type::TlsCertificate(certificate)) => Some((certificate, path)),
            _ => None,
        }))
    }

    /// The ticket keys that `config`, found at `path`, refers to.
    pub(crate) fn ticket_keys(
        &self,
        config: &SdsSecretConfig,
        path: &FieldPath,
    ) -> Result<Option<(&TlsSessionTicketKeys, FieldPath)>, ConfigError> {
        let reference = SecretReference::new(SecretKind::TicketKeys, config);
        let found = self.find(&reference, path)?;
        Ok(found.and_then(|(secret, path)| match &secret.r#type {
            Some(Type::SessionTicketKeys(keys)) => Some((keys, path)),
            _ => None,
        }))
    }

    /// The validation context that `config`, found at `path`, refers to.
    pub(crate) fn validation(
        &self,
        config: &SdsSecretConfig,
        path: &FieldPath,
    ) -> Result<Option<(&CertificateValidationContext, FieldPath)>, ConfigError> {
        let reference = SecretReference::new(SecretKind::Validation, config);
        let found = self.find(&reference, path)?;
        Ok(found.and_then(|(secret, path)| match &secret.r#type {
            Some(Type::ValidationContext(context)) => Some((context, path)),
            _ => None,
        }))
    }
}
