//! A file of resources that CDS or LDS reads, and what they remember of it.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use outrider_config::ResourceFile;
use outrider_xds::FileSource;
use outrider_xds::FileSources;
use outrider_xds::FileSubscription;
use outrider_xds::UpdateStats;
use tokio::sync::Mutex;
use tokio::sync::Notify;

/// A subscription to a file, the names that the file has, and the version that is in use.
pub(super) struct FollowedFile {
    subscription: Mutex<FileSubscription>,
    /// Notified to read the file although it was not replaced.
    read_again: Notify,
    /// The names that the file had when it was last read.
    listed: RefCell<HashSet<String>>,
    version: RefCell<String>,
}

impl FollowedFile {
    /// Watches the file of `source` for resources of type `type_name`. Nothing is read yet.
    ///
    /// # Errors
    /// The file, or the directory to watch, does not exist.
    pub(super) fn new(
        source: FileSource,
        type_name: &'static str,
        sources: &FileSources,
        stats: Arc<UpdateStats>,
    ) -> io::Result<FollowedFile> {
        let subscription = FileSubscription::new(source, type_name, sources, stats)?;
        Ok(FollowedFile {
            subscription: Mutex::new(subscription),
            read_again: Notify::new(),
            listed: RefCell::default(),
            version: RefCell::default(),
        })
    }

    /// Waits until the file is replaced, or must be read again.
    pub(super) async fn changed(&self) {
        let mut subscription = self.subscription.lock().await;
        tokio::select! {
            () = subscription.changed() => {}
            () = self.read_again.notified() => {}
        }
    }

    /// Reads the file and passes its resources to `apply`, which returns an error if it refuses any.
    pub(super) async fn update(&self, apply: impl AsyncFnOnce(ResourceFile) -> Result<(), String>) {
        self.subscription.lock().await.update(apply).await;
    }

    /// Sets the names that the file has.
    pub(super) fn set_listed(&self, names: HashSet<String>) {
        self.listed.replace(names);
    }

    /// The names in `freed` no longer belong to the bootstrap. If the file has one of them, it is read again.
    pub(super) fn names_freed(&self, freed: &[impl AsRef<str>]) {
        let listed = self.listed.borrow();
        if freed.iter().any(|name| listed.contains(name.as_ref())) {
            self.read_again.notify_one();
        }
    }

    /// Sets the version of the last update of which something was applied.
    pub(super) fn set_version(&self, version: String) {
        self.version.replace(version);
    }

    /// The version of the last update of which something was applied.
    pub(super) fn version(&self) -> String {
        self.version.borrow().clone()
    }
}
