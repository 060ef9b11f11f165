//! A source of resources that CDS or LDS reads, and what they remember of it.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use outrider_stats::Store;
use outrider_xds::Acknowledgements;
use outrider_xds::ConfigSource;
use outrider_xds::Removed;
use outrider_xds::Sources;
use outrider_xds::Subscription;
use outrider_xds::SubscriptionTarget;
use outrider_xds::Update;
use tokio::sync::Mutex;
use tokio::sync::Notify;

/// A subscription to all resources of a type, their names, and the version that is in use.
pub(super) struct FollowedSource {
    subscription: Mutex<Subscription>,
    pub(super) acknowledgements: Acknowledgements,
    /// Notified to read the source although it has not changed.
    read_again: Notify,
    /// The names that the source had when it was last read.
    listed: RefCell<HashSet<String>>,
    version: RefCell<String>,
}

impl FollowedSource {
    /// Subscribes to `subject` at `source`. Nothing is read yet.
    ///
    /// # Errors
    /// The file, or the directory to watch, does not exist.
    pub(super) fn new(
        source: &ConfigSource,
        subject: SubscriptionTarget<'_>,
        sources: &Sources,
        store: &Arc<Store>,
    ) -> io::Result<FollowedSource> {
        let acknowledgements = Acknowledgements::new(source, subject.kind, sources);
        let subscription = sources.subscribe(source, subject, store)?;
        Ok(FollowedSource {
            subscription: Mutex::new(subscription),
            acknowledgements,
            read_again: Notify::new(),
            listed: RefCell::default(),
            version: RefCell::default(),
        })
    }

    /// Waits until the source changes, or must be read again.
    pub(super) async fn changed(&self) {
        let mut subscription = self.subscription.lock().await;
        tokio::select! {
            () = subscription.changed() => {}
            () = self.read_again.notified() => {}
        }
    }

    /// Passes the newest resources to `apply`, which returns an error if it refuses any.
    pub(super) async fn update(&self, apply: impl AsyncFnOnce(Update) -> Result<(), String>) {
        self.subscription.lock().await.update(apply).await;
    }

    /// Sets the names that the source has, of which an update lists some.
    pub(super) fn set_listed(&self, names: HashSet<String>, removed: &Removed) {
        match removed {
            Removed::AllOthers => {
                self.listed.replace(names);
            }
            Removed::Names(removed) => {
                let mut listed = self.listed.borrow_mut();
                listed.retain(|name| !removed.contains(name));
                listed.extend(names);
            }
        }
    }

    /// The names in `freed` no longer belong to the bootstrap. If the source has one of them, it is read again.
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
