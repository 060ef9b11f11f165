//! Follows the source of one secret, and the files that the secret names.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Weak;

use outrider_config::Positions;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::Secret;
use outrider_net::FileWatch;
use outrider_tls::SecretKind;
use outrider_tls::SecretReference;
use outrider_tls::files_of;
use outrider_tls::watched_directory;
use outrider_tls::with_contents;
use prost::Message as _;
use tokio::task::AbortHandle;

use super::SecretManager;
use super::SecretStats;
use crate::Removed;
use crate::Subscription;
use crate::Update;

/// The source of a secret.
pub(super) struct Source {
    pub(super) subscription: Subscription,
    pub(super) stats: Arc<SecretStats>,
}

/// A secret as its source gave it.
#[derive(Clone)]
struct Received {
    secret: Secret,
    positions: Positions,
    /// The same with the contents of its files, as it is used.
    used: Secret,
}

/// One secret, and its manager.
struct Follower {
    manager: Weak<SecretManager>,
    reference: SecretReference,
    received: RefCell<Option<Received>>,
    /// The watch of the files of a secret that was taken over just now.
    files: RefCell<Option<Option<FileWatch>>>,
}

/// Reads the source, and again whenever it is replaced.
pub(super) fn spawn(
    manager: &Arc<SecretManager>,
    reference: SecretReference,
    mut source: Source,
) -> AbortHandle {
    let follower = Follower {
        manager: Arc::downgrade(manager),
        reference,
        received: RefCell::default(),
        files: RefCell::default(),
    };
    let task = tokio::task::spawn_local(async move {
        let mut files = None;
        loop {
            source
                .subscription
                .update(async |update| follower.take(update).await)
                .await;
            let Some(manager) = follower.manager.upgrade() else {
                return;
            };
            manager.note_read(&follower.reference);
            drop(manager);
            if let Some(accepted) = follower.files.take() {
                files = accepted;
            }
            loop {
                tokio::select! {
                    () = source.subscription.changed() => break,
                    () = replaced(&mut files) => {}
                }
                if let Err(error) = follower.rotate().await {
                    source.stats.key_rotation_failed.inc();
                    let (name, files) = (&follower.reference.name, follower.files_text());
                    log::warn!(target: "misc", "secret '{name}': its files ({files}) have changed and are refused, what was there before stays: {error}");
                }
            }
        }
    });
    task.abort_handle()
}

async fn replaced(files: &mut Option<FileWatch>) {
    match files {
        Some(files) => files.replaced().await,
        None => std::future::pending().await,
    }
}

impl Follower {
    /// Takes over the secret in `update`, or tells why not, in Envoy's words.
    async fn take(&self, update: Update) -> Result<(), String> {
        let name = &self.reference.name;
        let count = update.resources.len();
        if let (0, Removed::Names(_)) = (count, &update.removed) {
            // As in Envoy, the secret stays.
            log::warn!(target: "secret", "the control plane has removed the secret '{name}': ignored");
            return Ok(());
        }
        let mut resources = update.resources.into_iter();
        let (Some(resource), 1) = (resources.next(), count) else {
            return Err(match count {
                0 => format!("Missing SDS resources for {name} in onConfigUpdate()"),
                _ => format!(
                    "Unexpected SDS secrets length for {name}, number of added resources {count}, number of removed resources 0. Expected sum is 1"
                ),
            });
        };
        if resource.name != *name {
            let found = &resource.name;
            return Err(format!("Unexpected SDS secret (expecting {name}): {found}"));
        }
        let secret = Secret::decode(resource.wire.as_slice()).map_err(|error| error.to_string())?;
        if SecretKind::of(&secret) != Some(self.reference.kind) {
            let kind = self.reference.kind.field();
            return Err(format!("secret {name}: expected a {kind}"));
        }
        let files = self.watch_files(&secret);
        let used = read(secret.clone()).await?;
        let same = |received: &Received| received.used == used;
        if !self.received.borrow().as_ref().is_some_and(same) {
            self.put(used.clone(), &resource.positions).await?;
        }
        self.files.replace(Some(files));
        self.received.replace(Some(Received {
            secret,
            positions: resource.positions,
            used,
        }));
        if let Some(manager) = self.manager.upgrade() {
            manager.note(&self.reference, &update.version);
        }
        Ok(())
    }

    /// Reads the files of the secret again.
    async fn rotate(&self) -> Result<(), String> {
        let before = self.received.borrow().clone();
        let Some(before) = before else {
            return Ok(());
        };
        let used = read(before.secret).await?;
        if used == before.used {
            return Ok(());
        }
        self.put(used.clone(), &before.positions).await?;
        if let Some(received) = &mut *self.received.borrow_mut() {
            received.used = used;
        }
        Ok(())
    }

    /// The names of the secret's files.
    fn files_text(&self) -> String {
        let received = self.received.borrow();
        let files = received.as_ref().map(|received| files_of(&received.secret));
        let files = files.unwrap_or_default();
        let names: Vec<String> = files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        names.join(", ")
    }

    async fn put(&self, secret: Secret, positions: &Positions) -> Result<(), String> {
        let Some(manager) = self.manager.upgrade() else {
            return Ok(());
        };
        let replaced = manager.replace(&self.reference, secret).await;
        replaced.map_err(|errors| positions.diagnose(errors).to_string())
    }

    /// As in Envoy, anything that is moved into the directories of the files counts, or into `watched_directory`.
    fn watch_files(&self, secret: &Secret) -> Option<FileWatch> {
        let manager = self.manager.upgrade()?;
        let files = files_of(secret);
        if files.is_empty() {
            return None;
        }
        let directories: Vec<PathBuf> = match watched_directory(secret) {
            Some(directory) => vec![directory],
            None => (files.iter())
                .filter_map(|file| file.parent().map(PathBuf::from))
                .collect(),
        };
        let watched = manager.sources.watches().watch_directories(&directories);
        let watched = watched.map_err(|error| {
            let name = &self.reference.name;
            log::error!(target: "file", "secret '{name}': its files cannot be watched, so their changes are not noticed: {error}");
        });
        watched.ok()
    }
}

/// The secret with the contents of its files.
async fn read(secret: Secret) -> Result<Secret, String> {
    let reading = tokio::task::spawn_blocking(move || with_contents(&secret));
    let failed = |_| Err("reading the files failed; see the log".to_owned());
    reading.await.unwrap_or_else(failed)
}
