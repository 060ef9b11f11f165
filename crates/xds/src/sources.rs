//! The state that all subscriptions share.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use outrider_config::DisabledExtensions;
use outrider_net::FileWatches;

/// The file watches, and the treatment of unknown fields. Clones share both.
#[derive(Clone, Debug, Default)]
pub struct FileSources(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    watches: FileWatches,
    reject_unknown_fields: AtomicBool,
    log_no_unknown_fields: AtomicBool,
    with_unknown_fields: AtomicU64,
    disabled_extensions: OnceLock<DisabledExtensions>,
}

impl FileSources {
    /// The file watches.
    #[must_use]
    pub fn watches(&self) -> &FileWatches {
        &self.0.watches
    }

    /// Applies `--reject-unknown-dynamic-fields` and `--ignore-unknown-dynamic-fields`.
    pub fn treat_unknown_fields(&self, reject: bool, ignore: bool) {
        self.0.reject_unknown_fields.store(reject, Relaxed);
        self.0.log_no_unknown_fields.store(ignore, Relaxed);
    }

    /// Applies `--disable-extensions`. Only the first call has an effect.
    pub fn disable_extensions(&self, disabled: DisabledExtensions) {
        self.0.disabled_extensions.get_or_init(|| disabled);
    }

    pub(crate) fn disabled_extensions(&self) -> DisabledExtensions {
        self.0
            .disabled_extensions
            .get()
            .cloned()
            .unwrap_or_default()
    }

    pub(crate) fn allows_unknown_fields(&self) -> bool {
        !self.0.reject_unknown_fields.load(Relaxed)
    }

    /// Counts an update with unknown fields. Returns whether to log them.
    pub(crate) fn count_unknown_fields(&self) -> bool {
        let ignored = self.0.log_no_unknown_fields.load(Relaxed);
        if !ignored {
            self.0.with_unknown_fields.fetch_add(1, Relaxed);
        }
        !ignored
    }

    /// The number of updates with unknown fields since the last call (`server.dynamic_unknown_fields`).
    #[must_use]
    pub fn take_unknown_fields(&self) -> u64 {
        self.0.with_unknown_fields.swap(0, Relaxed)
    }
}
