//! `--watch-config`: reloads the config when the content of its file changes.

use std::hash::DefaultHasher;
use std::hash::Hasher;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use outrider_net::FileWatches;

use crate::control::Control;
use crate::reload::Trigger;

/// Several writes within this time make one reload, so that no half-written file is read.
const SETTLING_TIME: Duration = Duration::from_millis(100);

/// Follows the config file for as long as the process serves. A change that leaves the content as it was does nothing:
/// Kubernetes replaces the links of a ConfigMap also when another key of it has changed.
///
/// # Errors
/// When the file can't be watched.
pub(crate) async fn follow(control: Rc<Control>, files: FileWatches) -> io::Result<()> {
    let path = control.options.config_path.clone();
    let path = Path::new(&path);
    let mut watch = files.watch_content(path)?;
    let mut seen = fingerprint(path).await;
    loop {
        watch.replaced().await;
        tokio::time::sleep(SETTLING_TIME).await;
        let now = fingerprint(path).await;
        if now.is_some() && now != seen {
            seen = now;
            control.reloader.request(Trigger::File);
        }
    }
}

/// Tells contents apart; nothing while the file can't be read.
async fn fingerprint(path: &Path) -> Option<u64> {
    let content = tokio::fs::read(path).await.ok()?;
    let mut hasher = DefaultHasher::new();
    hasher.write(&content);
    Some(hasher.finish())
}
