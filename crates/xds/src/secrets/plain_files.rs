//! Files that a context or a static secret names: its context is built again when they change.

use std::sync::Arc;
use std::sync::Weak;
use std::time::Duration;

use outrider_net::FileWatch;
use outrider_tls::SecretUser;
use outrider_tls::fingerprint;
use tokio::task::AbortHandle;

use super::SecretManager;
use super::prepare;

/// Changes within this time count as one, so that a certificate and its key, replaced one after the other, belong together.
const SETTLING_TIME: Duration = Duration::from_millis(100);

impl SecretManager {
    /// Watches the files of `user` for as long as it is used.
    pub(super) fn watch_files(self: &Arc<Self>, user: &Arc<dyn SecretUser>) -> AbortHandle {
        let (manager, user) = (Arc::downgrade(self), Arc::downgrade(user));
        let mut statics = self.statics_replaced.subscribe();
        let task = tokio::task::spawn_local(async move {
            // The content that was refused last.
            let mut refused = None;
            loop {
                let Some((mut watch, changed)) = watch(&manager, &user).await else {
                    return;
                };
                if changed.is_some() && changed != refused {
                    let accepted = update(&manager, &user).await;
                    refused = changed.filter(|_| !accepted);
                }
                tokio::select! {
                    () = watch.replaced() => tokio::time::sleep(SETTLING_TIME).await,
                    // What has to be watched may have changed.
                    changed = statics.changed() => {
                        if changed.is_err() {
                            return;
                        }
                    }
                }
            }
        });
        task.abort_handle()
    }
}

/// Watches the files, then reads them: what changes afterwards is noticed. With their fingerprint if they are not those that
/// the context was built from. None if the user is gone or can have no files.
async fn watch(
    manager: &Weak<SecretManager>,
    user: &Weak<dyn SecretUser>,
) -> Option<(FileWatch, Option<u64>)> {
    let (manager, user) = (manager.upgrade()?, user.upgrade()?);
    let files = user.files(&manager.secrets());
    if files.is_empty() && user.references().is_empty() {
        return None;
    }
    let watch = match manager.sources.watches().watch_contents(&files) {
        Ok(watch) => watch,
        Err(error) => {
            log::error!(target: "file", "{}: its files cannot be watched, so their changes are not noticed: {error}", user.path());
            return None;
        }
    };
    let content = tokio::task::spawn_blocking(move || fingerprint(&files));
    let content = content.await.ok()?;
    Some((
        watch,
        Some(content).filter(|now| *now != user.fingerprint()),
    ))
}

/// Builds the context again with the content that the files have now. Whether it has no error.
async fn update(manager: &Weak<SecretManager>, user: &Weak<dyn SecretUser>) -> bool {
    let (Some(manager), Some(user)) = (manager.upgrade(), user.upgrade()) else {
        return false;
    };
    let _alone = manager.changing.lock().await;
    let secrets = outrider_tls::Secrets::clone(&manager.secrets());
    match prepare(vec![user.clone()], secrets).await {
        Ok(commits) => {
            commits.into_iter().for_each(|commit| commit());
            user.count_files(true);
            log::info!(target: "config", "{}: its files have changed, new connections use them", user.path());
            true
        }
        Err(errors) => {
            user.count_files(false);
            log::warn!(target: "config", "{}: its files have changed and are refused, what was there before stays: {errors}", user.path());
            false
        }
    }
}
