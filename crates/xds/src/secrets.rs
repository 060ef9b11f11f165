//! The secret manager: follows the secrets of sources (SDS) and the files that certificates name, and has the contexts
//! that use them built again.
//!
//! A change is first tried: all contexts that use the secret or file are built. Only if none has an error are they put
//! into use, all at once. So a certificate whose key does not match, or a CA file without a certificate, changes nothing.

mod follow;
mod plain_files;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::Weak;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::Secret;
use outrider_stats::Counter;
use outrider_stats::Scope;
use outrider_stats::Store;
use outrider_tls::Commit;
use outrider_tls::ContextCertificates;
use outrider_tls::SecretReference;
use outrider_tls::SecretUser;
use outrider_tls::Secrets;
use outrider_tls::StaticSecrets;
use prost::Message as _;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::ConfigSource;
use crate::ResourceType;
use crate::Sources;
use crate::SubscriptionTarget;

outrider_stats::group! {
    /// `sds.<name>.*`, in addition to the stats of every subscription.
    pub(crate) struct SecretStats { key_rotation_failed: Counter }
}

/// Keeps the secrets and files of all TLS contexts up to date. Any thread may read its secrets; the rest is the main
/// thread's.
pub struct SecretManager {
    secrets: ArcSwap<Secrets>,
    sources: Sources,
    store: Arc<Store>,
    state: Mutex<SecretsState>,
    /// Taken by a task that builds contexts and then replaces them.
    changing: tokio::sync::Mutex<()>,
    /// Static secrets were replaced, so that other files may have to be watched.
    statics_replaced: watch::Sender<()>,
}

#[derive(Default)]
struct SecretsState {
    users: Vec<FollowedUser>,
    followed: Vec<FollowedSecret>,
}

/// A context whose secrets and files are kept up to date. Its files are no longer watched when this is dropped.
struct FollowedUser {
    user: Weak<dyn SecretUser>,
    files: AbortHandle,
}

impl Drop for FollowedUser {
    fn drop(&mut self) {
        self.files.abort();
    }
}

/// A secret of a source. No longer followed when dropped.
struct FollowedSecret {
    reference: SecretReference,
    /// The source was read once, whether or not it gave the secret.
    was_read: watch::Sender<bool>,
    version: String,
    updated: SystemTime,
    task: Option<AbortHandle>,
}

impl Drop for FollowedSecret {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// What `/config_dump` shows of secrets. The messages hold private keys.
#[derive(Debug, Default)]
pub struct SecretDump {
    /// `static_resources.secrets`, as protobuf bytes.
    pub statics: Vec<Vec<u8>>,
    /// Secrets that have come.
    pub active: Vec<DumpedSecret>,
    /// Secrets that have not come yet.
    pub warming: Vec<DumpedSecret>,
}

/// A secret of a source.
#[derive(Debug)]
pub struct DumpedSecret {
    /// The message, as protobuf bytes.
    pub wire: Vec<u8>,
    /// `version_info` of the update that brought it.
    pub version: String,
    /// When it came.
    pub updated: SystemTime,
}

/// Checks that the secrets of `user` come from sources that are supported and exist.
///
/// # Errors
/// All others.
pub fn check_secret_sources(user: &dyn SecretUser, sources: &Sources) -> Result<(), ConfigErrors> {
    let mut errors = ConfigErrors::new();
    for (reference, path) in user.references() {
        let Some(source) = reference.source() else {
            continue;
        };
        let path = path.field("sds_config");
        errors.collect(ConfigSource::build(&source, &path, sources));
    }
    errors.finish(())
}

impl SecretManager {
    /// A manager of the static secrets `statics`.
    #[must_use]
    pub fn new(statics: StaticSecrets, sources: Sources, store: Arc<Store>) -> Arc<Self> {
        Arc::new(SecretManager {
            secrets: ArcSwap::from_pointee(Secrets::of_bootstrap(statics)),
            sources,
            store,
            state: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            statics_replaced: watch::Sender::new(()),
        })
    }

    /// The secrets at this moment.
    #[must_use]
    pub fn secrets(&self) -> Arc<Secrets> {
        self.secrets.load_full()
    }

    fn lock(&self) -> MutexGuard<'_, SecretsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the secrets and files of `user` up to date from now on, for as long as it is used, and waits until each of its
    /// sources was read once. On the main thread, inside a `LocalSet`.
    pub async fn follow(self: &Arc<Self>, user: Arc<dyn SecretUser>) {
        self.forget_unused();
        let is_new = !self.lock().users().any(|known| Arc::ptr_eq(&known, &user));
        if is_new {
            let files = self.watch_files(&user);
            self.lock().users.push(FollowedUser {
                user: Arc::downgrade(&user),
                files,
            });
        }
        let mut has_some = false;
        let mut reading = Vec::new();
        let mut seen = HashSet::new();
        for (reference, _) in user.references() {
            if reference.is_static() || !seen.insert(reference) {
                continue;
            }
            if is_new && self.secrets.load().of_source(reference).is_some() {
                user.count_secret();
                has_some = true;
            }
            reading.extend(self.clone().subscribe(reference));
        }
        if has_some {
            let _alone = self.changing.lock().await;
            match user.clone().prepare(&self.secrets.load()) {
                Ok(commit) => commit(),
                Err(errors) => {
                    log::warn!(target: "config", "{}: its secrets are refused: {errors}", user.path());
                }
            }
        }
        for mut was_read in reading {
            // The sender is dropped if the secret is no longer followed.
            let _read = was_read.wait_for(|was_read| *was_read).await;
        }
    }

    /// Follows the source of `reference`, unless it is followed already. Tells when the source was read.
    fn subscribe(self: Arc<Self>, reference: &SecretReference) -> Option<watch::Receiver<bool>> {
        let mut state = self.lock();
        let mut followed = state.followed.iter();
        if let Some(known) = followed.find(|known| known.reference == *reference) {
            return Some(known.was_read.subscribe());
        }
        let was_read = watch::Sender::new(false);
        let reading = was_read.subscribe();
        let task = match self.subscription(reference) {
            Ok(subscription) => Some(follow::spawn(&self, reference.clone(), subscription)),
            Err(error) => {
                log::error!(target: "config", "secret '{}' cannot be followed: {error}", reference.name);
                was_read.send_replace(true);
                None
            }
        };
        state.followed.push(FollowedSecret {
            reference: reference.clone(),
            was_read,
            version: "uninitialized".to_owned(),
            updated: SystemTime::now(),
            task,
        });
        Some(reading)
    }

    fn subscription(&self, reference: &SecretReference) -> io::Result<follow::Source> {
        let source = reference.source().unwrap_or_default();
        let path = outrider_config::FieldPath::root();
        let source = ConfigSource::build(&source, &path, &self.sources);
        let source = source.map_err(|errors| io::Error::other(errors.to_string()))?;
        let scope = Scope::new("sds").name(&reference.name);
        let subject = SubscriptionTarget {
            kind: &ResourceType::SECRET,
            name: Some(&reference.name),
            scope: scope.clone(),
        };
        Ok(follow::Source {
            subscription: self.sources.subscribe(&source, subject, &self.store)?,
            stats: self.store.register(scope),
        })
    }

    /// Drops the secrets that no context uses now.
    fn forget_unused(&self) {
        let mut state = self.lock();
        (state.users).retain(|followed| followed.user.strong_count() > 0);
        let users: Vec<_> = state.users().collect();
        let unused = state.followed.extract_if(.., |followed| {
            let mut users = users.iter();
            !users.any(|user| user.needs(&followed.reference))
        });
        let unused: Vec<FollowedSecret> = unused.collect();
        drop(state);
        for followed in unused {
            let without = |secrets: &Arc<Secrets>| secrets.without(&followed.reference);
            self.secrets.rcu(without);
        }
    }

    /// Builds all contexts that use `reference`, and replaces its secret if none has an error.
    async fn replace(
        &self,
        reference: &SecretReference,
        secret: Secret,
    ) -> Result<(), ConfigErrors> {
        let _alone = self.changing.lock().await;
        let next = self.secrets.load().with(reference, Arc::new(secret));
        let users: Vec<_> = (self.lock().users())
            .filter(|user| user.needs(reference))
            .collect();
        let commits = prepare(users.clone(), next.clone()).await?;
        self.secrets.store(Arc::new(next));
        commits.into_iter().for_each(|commit| commit());
        users.iter().for_each(|user| user.count_secret());
        Ok(())
    }

    /// Replaces the static secrets. Contexts in use that refer to changed ones are built again. Returns the names of the
    /// secrets that were added, changed or removed.
    ///
    /// # Errors
    /// What is wrong with a context; then nothing has changed.
    pub async fn replace_static(
        &self,
        statics: Arc<StaticSecrets>,
    ) -> Result<Vec<String>, ConfigErrors> {
        let _alone = self.changing.lock().await;
        let before = self.secrets();
        let changed = before.statics().changed(&statics);
        if changed.is_empty() {
            return Ok(changed);
        }
        let next = before.with_static(statics.clone());
        let has_changed = |user: &Arc<dyn SecretUser>| {
            let needed = user.references().iter().map(|(reference, _)| reference);
            let needed: Vec<_> = needed.filter(|reference| reference.is_static()).collect();
            // A context whose secret is no longer there is about to be removed with its listener or cluster.
            needed.iter().all(|reference| statics.has(reference))
                && (needed.iter()).any(|reference| !before.statics().has_same(&statics, reference))
        };
        let users: Vec<_> = self.lock().users().filter(has_changed).collect();
        let commits = prepare(users, next.clone()).await?;
        self.secrets.store(Arc::new(next));
        commits.into_iter().for_each(|commit| commit());
        self.statics_replaced.send_replace(());
        Ok(changed)
    }

    /// Notes what the source of `reference` has given.
    fn note(&self, reference: &SecretReference, version: &str) {
        let mut state = self.lock();
        let mut followed = state.followed.iter_mut();
        if let Some(followed) = followed.find(|known| known.reference == *reference) {
            followed.version = version.to_owned();
            followed.updated = SystemTime::now();
        }
    }

    fn note_read(&self, reference: &SecretReference) {
        let state = self.lock();
        let mut followed = state.followed.iter();
        if let Some(followed) = followed.find(|known| known.reference == *reference) {
            followed.was_read.send_replace(true);
        }
    }

    /// What `/config_dump` shows.
    #[must_use]
    pub fn dump(&self) -> SecretDump {
        self.forget_unused();
        let secrets = self.secrets();
        let mut dump = SecretDump {
            statics: secrets
                .statics()
                .iter()
                .map(Secret::encode_to_vec)
                .collect(),
            ..SecretDump::default()
        };
        let state = self.lock();
        for followed in &state.followed {
            let known = secrets.of_source(&followed.reference);
            let waiting = || Secret {
                name: followed.reference.name.clone(),
                ..Secret::default()
            };
            let list = match known {
                Some(_) => &mut dump.active,
                None => &mut dump.warming,
            };
            list.push(DumpedSecret {
                wire: known.map_or_else(|| waiting().encode_to_vec(), |one| one.encode_to_vec()),
                version: followed.version.clone(),
                updated: followed.updated,
            });
        }
        dump
    }

    /// The certificates of all contexts in use.
    #[must_use]
    pub fn certificates(&self) -> Vec<ContextCertificates> {
        let state = self.lock();
        state
            .users()
            .filter_map(|user| user.certificates())
            .collect()
    }
}

impl SecretsState {
    fn users(&self) -> impl Iterator<Item = Arc<dyn SecretUser>> {
        (self.users.iter()).filter_map(|followed| followed.user.upgrade())
    }
}

/// Builds the contexts of `users` with `secrets`, on a thread that may block.
async fn prepare(
    users: Vec<Arc<dyn SecretUser>>,
    secrets: Secrets,
) -> Result<Vec<Commit>, ConfigErrors> {
    let building = tokio::task::spawn_blocking(move || {
        let built = users.into_iter().map(|user| user.prepare(&secrets));
        built.collect::<Result<Vec<Commit>, ConfigErrors>>()
    });
    building.await.unwrap_or_else(|_| {
        let root = outrider_config::FieldPath::root();
        Err(ConfigError::new(&root, "building the context failed; see the log").into())
    })
}

impl fmt::Debug for SecretManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretManager").finish_non_exhaustive()
    }
}
