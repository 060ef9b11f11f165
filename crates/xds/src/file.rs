//! Follows a file of resources.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use outrider_config::ResourceFileError;
use outrider_config::load_resources;
use outrider_net::FileWatch;

use crate::FileSource;
use crate::Removed;
use crate::Sources;
use crate::Update;
use crate::UpdateStats;

/// A file of resources of one type that is read again whenever it is replaced.
///
/// As in Envoy, a file that cannot be read counts as a failed update, and a file with an error as a rejected one. In
/// both cases the previous resources stay. Also as in Envoy, only a rename triggers an update: a file that is written
/// in place could be read half-written.
#[derive(Debug)]
pub(crate) struct FileSubscription {
    source: FileSource,
    /// Such as `envoy.config.cluster.v3.Cluster`.
    type_name: &'static str,
    watch: FileWatch,
    sources: Sources,
    stats: Arc<UpdateStats>,
    was_read: bool,
}

impl FileSubscription {
    /// Watches the file of `source` for resources of type `type_name`. Nothing is read yet.
    ///
    /// # Errors
    /// The file, or the directory to watch, does not exist; as in Envoy.
    pub(crate) fn new(
        source: FileSource,
        type_name: &'static str,
        sources: &Sources,
        stats: Arc<UpdateStats>,
    ) -> io::Result<FileSubscription> {
        source.check()?;
        let files = sources.watches();
        let watch = match &source.watched_directory {
            Some(directory) => {
                // The trailing slash makes it a directory in which any replaced file counts.
                let mut directory = directory.clone().into_os_string();
                directory.push("/");
                files.watch(&PathBuf::from(directory))?
            }
            None => files.watch(&source.path)?,
        };
        Ok(FileSubscription {
            source,
            type_name,
            watch,
            sources: sources.clone(),
            stats,
            was_read: false,
        })
    }

    /// Reads the file and passes its resources to `apply`, which returns an error if it refuses the update. Counts the
    /// outcome.
    pub(crate) async fn update(&mut self, apply: impl AsyncFnOnce(Update) -> Result<(), String>) {
        self.was_read = true;
        self.stats.update_attempt.inc();
        let (path, type_name) = (self.source.path.clone(), self.type_name);
        let allow_unknown = self.sources.allows_unknown_fields();
        let disabled = self.sources.disabled_extensions();
        let read = move || load_resources(&path, type_name, allow_unknown, &disabled);
        let read = tokio::task::spawn_blocking(read).await;
        let file = match read {
            Ok(Ok(file)) => file,
            Ok(Err(error)) => {
                match &error {
                    ResourceFileError::Unreadable(_) => self.stats.update_failure.inc(),
                    ResourceFileError::Rejected(_) => self.stats.update_rejected.inc(),
                }
                let diagnostics = error.diagnostics();
                log::warn!(target: "config", "{}: refused, what was there before stays: {diagnostics}", self.name());
                return;
            }
            // The thread that reads the file panicked and has logged its message.
            Err(_) => return self.stats.update_failure.inc(),
        };
        if file.has_unknown_fields && self.sources.count_unknown_fields() {
            for warning in &file.warnings {
                log::warn!(target: "misc", "{warning}");
            }
        }
        let version = file.version.clone();
        let update = Update {
            version: file.version,
            resources: file.resources,
            removed: Removed::AllOthers,
        };
        match apply(update).await {
            Ok(()) => self.stats.accept(&version),
            Err(reason) => {
                self.stats.update_rejected.inc();
                log::warn!(target: "config", "{}: refused: {reason}", self.name());
            }
        }
    }

    /// Waits until the file is replaced; it is new to who has not read it yet.
    pub(crate) async fn changed(&mut self) {
        if self.was_read {
            self.watch.replaced().await;
        }
    }

    fn name(&self) -> std::path::Display<'_> {
        self.source.path.display()
    }
}
