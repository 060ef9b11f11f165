//! `--watch-config`: reloads the config when the content of its file changes.

use std::fs::File;
use std::hash::DefaultHasher;
use std::hash::Hasher;
use std::io;
use std::io::Read as _;
use std::path::Path;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use outrider_net::FileWatch;
use outrider_net::FileWatches;

use crate::control::Control;
use crate::reload::Trigger;

/// Several writes within this time make one reload, so that no half-written file is read.
const SETTLING_TIME: Duration = Duration::from_millis(100);

/// The config file, watched since before it was read: nothing that happens during start-up is missed.
pub(crate) struct WatchedConfig {
    path: PathBuf,
    watch: FileWatch,
    seen: Option<u64>,
}

impl WatchedConfig {
    /// Watches the file at `path`.
    ///
    /// # Errors
    /// When the file can't be watched.
    pub(crate) fn new(path: &str, files: &FileWatches) -> io::Result<WatchedConfig> {
        let path = PathBuf::from(path);
        Ok(WatchedConfig {
            watch: files.watch_content(&path)?,
            seen: fingerprint(&path),
            path,
        })
    }
}

/// Reloads the config on each change of its file. A change that leaves the content the same does nothing: Kubernetes
/// replaces the links of a ConfigMap also when another key of it has changed.
pub(crate) async fn follow(control: Rc<Control>, mut config: WatchedConfig) {
    loop {
        config.watch.replaced().await;
        tokio::time::sleep(SETTLING_TIME).await;
        let path = config.path.clone();
        let now = tokio::task::spawn_blocking(move || fingerprint(&path)).await;
        let now = now.ok().flatten();
        if now.is_some() && now != config.seen {
            config.seen = now;
            control.reloader.request(Trigger::File);
        }
    }
}

/// A hash of the file's content. `None` while there is no file, as in the middle of a deployment.
///
/// What cannot be read has a fingerprint too: the reload that it causes reports the reason.
fn fingerprint(path: &Path) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    match content(path) {
        Ok(content) => hasher.write(&content),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => hasher.write(error.to_string().as_bytes()),
    }
    Some(hasher.finish())
}

fn content(path: &Path) -> io::Result<Vec<u8>> {
    // To open a pipe could take forever.
    std::fs::metadata(path)?;
    outrider_config::refuse_irregular(path).map_err(io::Error::other)?;
    let mut content = Vec::new();
    let longest = outrider_config::MAX_BYTES as u64 + 1;
    File::open(path)?.take(longest).read_to_end(&mut content)?;
    Ok(content)
}
