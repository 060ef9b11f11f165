//! The TLS of a filter chain or cluster. Its context is replaced while it is in use, when a secret or file changes: new
//! handshakes use the new context, and open connections stay.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use arc_swap::ArcSwapOption;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::CommonTlsContext;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use outrider_stats::Scope;
use outrider_stats::SharedCounter;
use outrider_stats::Store;
use prost::Message;

use crate::certificate::Certificate;
use crate::client::ClientContext;
use crate::files;
use crate::secrets::SecretKind;
use crate::secrets::SecretReference;
use crate::secrets::Secrets;
use crate::server::ServerContext;
use crate::stats::ContextStats;
use crate::validation::Validation;

/// TLS towards the clients of a filter chain.
pub type ServerTls = SocketFactory<ServerContext>;

/// TLS towards the hosts of a cluster.
pub type ClientTls = SocketFactory<ClientContext>;

outrider_stats::group! {
    /// `server_ssl_socket_factory.*` and `client_ssl_socket_factory.*`
    pub struct SocketFactoryStats {
        downstream_context_secrets_not_ready: SharedCounter,
        ssl_context_update_by_sds: SharedCounter,
        upstream_context_secrets_not_ready: SharedCounter,
    }
}

outrider_stats::group! {
    /// Stats beside [`SocketFactoryStats`] that Envoy does not have.
    pub struct FileUpdateStats {
        /// Contexts built again because a file has changed.
        ssl_context_update_by_file: SharedCounter,
        /// Changed files that were refused.
        ssl_context_file_update_rejected: SharedCounter,
    }
}

/// A context, on one of the two sides.
pub trait TlsContext: Sized + Send + Sync + 'static {
    /// `DownstreamTlsContext` or `UpstreamTlsContext`
    type Message: Message + Default;

    /// The name of the factory's stats.
    const STATS: &'static str;

    /// Builds the context found at `path`; none as long as a secret has not come.
    ///
    /// # Errors
    /// Everything about it that is wrong or not supported.
    fn build(
        config: &Self::Message,
        path: &FieldPath,
        secrets: &Secrets,
    ) -> Result<Option<Self>, ConfigErrors>;

    /// The secrets that the context found at `path` needs, each with the path of the reference.
    fn references(config: &Self::Message, path: &FieldPath) -> Vec<(SecretReference, FieldPath)> {
        common_references(Self::common(config), path)
    }

    /// The files that it names outside of `common_tls_context`.
    fn own_files(_config: &Self::Message) -> Vec<PathBuf> {
        Vec::new()
    }

    /// `common_tls_context`
    fn common(config: &Self::Message) -> Option<&CommonTlsContext>;

    /// Registers its stats, below `scope`.
    fn stats(&self, store: &Store, scope: &Scope) -> ContextStats;

    /// Its certificates.
    fn certificates(&self) -> ContextCertificates;

    /// The counter of connections that came before the secrets.
    fn not_ready(stats: &SocketFactoryStats) -> &SharedCounter;
}

/// Makes the TLS of new connections, by a context that is replaced when its secrets or files change.
pub struct SocketFactory<C> {
    /// The message as protobuf bytes.
    config: Vec<u8>,
    path: FieldPath,
    references: Vec<(SecretReference, FieldPath)>,
    /// Of the files that the present context was built from.
    fingerprint: AtomicU64,
    context: ArcSwapOption<C>,
    listed: OnceLock<ListedFactory>,
}

/// The stats of a factory in use.
struct ListedFactory {
    store: Arc<Store>,
    scope: Scope,
    stats: Arc<SocketFactoryStats>,
    files: Arc<FileUpdateStats>,
    /// Those of the present context.
    context: Mutex<Option<ContextStats>>,
}

/// Puts a context that was built into use.
pub type Commit = Box<dyn FnOnce() + Send>;

/// A [`SocketFactory`] to those who keep its secrets and files up to date.
pub trait SecretUser: Send + Sync {
    /// The secrets that it needs, each with the path of the reference.
    fn references(&self) -> &[(SecretReference, FieldPath)];

    /// Whether it needs this secret.
    fn needs(&self, reference: &SecretReference) -> bool {
        (self.references().iter()).any(|(needed, _)| needed == reference)
    }

    /// The [fingerprint](crate::fingerprint) that its files had when the context was built.
    fn fingerprint(&self) -> u64;

    /// Builds the context again with `secrets`. It is used once the result has been called.
    ///
    /// # Errors
    /// What is wrong with the secrets or files.
    fn prepare(self: Arc<Self>, secrets: &Secrets) -> Result<Commit, ConfigErrors>;

    /// The files that it and its static secrets name.
    fn files(&self, secrets: &Secrets) -> Vec<PathBuf>;

    /// Where it is in the config.
    fn path(&self) -> &FieldPath;

    /// What [`ContextCertificates`] are in use; none before the secrets have come.
    fn certificates(&self) -> Option<ContextCertificates>;

    /// Counts that a secret has come.
    fn count_secret(&self);

    /// Counts that files have changed, and were `accepted` or not.
    fn count_files(&self, accepted: bool);
}

/// The certificates of a context.
#[derive(Clone, Debug, Default)]
pub struct ContextCertificates {
    /// Those of `trusted_ca`.
    pub authorities: Vec<ShownCertificate>,
    /// Those of this side, without the rest of their chains.
    pub own: Vec<ShownCertificate>,
}

/// A certificate, and where it comes from.
#[derive(Clone, Debug)]
pub struct ShownCertificate {
    /// What it says.
    pub facts: Arc<crate::PeerCertificate>,
    /// Its file, or `<inline>`.
    pub source: String,
}

impl ContextCertificates {
    pub(crate) fn new(own: &[Certificate], validation: &Validation) -> ContextCertificates {
        let own = own.iter().map(|certificate| ShownCertificate {
            facts: certificate.facts.clone(),
            source: certificate.path.clone(),
        });
        let authorities = validation.authorities.iter().map(|ca| ShownCertificate {
            facts: Arc::new(ca.clone()),
            source: validation.ca_path.clone(),
        });
        ContextCertificates {
            authorities: authorities.collect(),
            own: own.collect(),
        }
    }
}

impl<C: TlsContext> SocketFactory<C> {
    /// Builds what is found at `path`. Its context is there once all of its secrets are.
    ///
    /// # Errors
    /// Everything about it that is wrong or not supported.
    pub fn build(
        config: &C::Message,
        path: &FieldPath,
        secrets: &Secrets,
    ) -> Result<Arc<SocketFactory<C>>, ConfigErrors> {
        let references = C::references(config, path);
        // Before the files are read: what changes meanwhile is noticed later.
        let fingerprint = files::fingerprint(&files::<C>(config, &references, secrets));
        let context = C::build(config, path, secrets)?;
        Ok(Arc::new(SocketFactory {
            references,
            fingerprint: AtomicU64::new(fingerprint),
            config: config.encode_to_vec(),
            path: path.clone(),
            context: ArcSwapOption::from_pointee(context),
            listed: OnceLock::new(),
        }))
    }

    /// The context for a new connection; none before the secrets have come.
    pub fn context(&self) -> Option<Arc<C>> {
        self.context.load_full()
    }

    /// Lists its stats, below `scope`.
    pub fn list(&self, store: &Arc<Store>, scope: &Scope) {
        let below = scope.clone().name(C::STATS);
        self.listed.get_or_init(|| ListedFactory {
            store: store.clone(),
            scope: scope.clone(),
            stats: store.register(below.clone()),
            files: store.register_unlisted(below),
            context: Mutex::default(),
        });
        self.list_context();
    }

    fn list_context(&self) {
        let (Some(listed), Some(context)) = (self.listed.get(), self.context()) else {
            return;
        };
        let stats = context.stats(&listed.store, &listed.scope);
        let mut place = listed
            .context
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *place = Some(stats);
    }

    /// Counts a connection that came before the secrets.
    pub fn count_not_ready(&self) {
        if let Some(listed) = self.listed.get() {
            C::not_ready(&listed.stats).inc();
        }
    }
}

impl<C: TlsContext> SecretUser for SocketFactory<C> {
    fn references(&self) -> &[(SecretReference, FieldPath)] {
        &self.references
    }

    fn prepare(self: Arc<Self>, secrets: &Secrets) -> Result<Commit, ConfigErrors> {
        // These bytes were encoded above, so they decode again.
        let config = C::Message::decode(self.config.as_slice()).unwrap_or_default();
        let fingerprint = files::fingerprint(&files::<C>(&config, &self.references, secrets));
        let built = C::build(&config, &self.path, secrets)?;
        Ok(Box::new(move || {
            self.fingerprint.store(fingerprint, Relaxed);
            self.context.store(built.map(Arc::new));
            self.list_context();
        }))
    }

    fn files(&self, secrets: &Secrets) -> Vec<PathBuf> {
        let config = C::Message::decode(self.config.as_slice()).unwrap_or_default();
        files::<C>(&config, &self.references, secrets)
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint.load(Relaxed)
    }

    fn path(&self) -> &FieldPath {
        &self.path
    }

    fn certificates(&self) -> Option<ContextCertificates> {
        Some(self.context()?.certificates())
    }

    fn count_secret(&self) {
        if let Some(listed) = self.listed.get() {
            listed.stats.ssl_context_update_by_sds.inc();
        }
    }

    fn count_files(&self, accepted: bool) {
        let Some(listed) = self.listed.get() else {
            return;
        };
        match accepted {
            true => listed.files.ssl_context_update_by_file.inc(),
            false => listed.files.ssl_context_file_update_rejected.inc(),
        }
    }
}

/// The files that a context and its static secrets name.
fn files<C: TlsContext>(
    config: &C::Message,
    references: &[(SecretReference, FieldPath)],
    secrets: &Secrets,
) -> Vec<PathBuf> {
    let mut found = C::common(config).map_or_else(Vec::new, files::of_context);
    found.extend(C::own_files(config));
    for (reference, path) in references.iter().filter(|(one, _)| one.is_static()) {
        if let Ok(Some((secret, _))) = secrets.find(reference, path) {
            found.extend(files::files_of(secret));
        }
    }
    found
}

/// The secrets that the part of a context at `path` refers to that both sides have.
pub(crate) fn common_references(
    common: Option<&CommonTlsContext>,
    path: &FieldPath,
) -> Vec<(SecretReference, FieldPath)> {
    let Some(common) = common else {
        return Vec::new();
    };
    let path = path.field("common_tls_context");
    let mut found = Vec::new();
    // Certificates in the context come before those of secrets, which then do not count.
    if common.tls_certificates.is_empty() {
        let path = path.field("tls_certificate_sds_secret_configs");
        let configs = common.tls_certificate_sds_secret_configs.iter();
        found.extend(configs.enumerate().map(|(index, config)| {
            let reference = SecretReference::new(SecretKind::Certificate, config);
            (reference, path.index(index))
        }));
    }
    let field = "validation_context_sds_secret_config";
    let validation = match &common.validation_context_type {
        Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) => {
            Some((config, path.field(field)))
        }
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            let path = path.field("combined_validation_context").field(field);
            let config = combined.validation_context_sds_secret_config.as_ref();
            config.map(|config| (config, path))
        }
        _ => None,
    };
    found.extend(
        validation
            .map(|(config, path)| (SecretReference::new(SecretKind::Validation, config), path)),
    );
    found
}

impl<C> fmt::Debug for SocketFactory<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketFactory")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
