//! `layered_runtime`: loads the layers on the main thread and publishes their values to all threads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use outrider_admin::RuntimeView;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::LayeredRuntime;
use outrider_config::re2::SizeLimits;
use outrider_net::FileWatch;
use outrider_net::FileWatches;
use outrider_runtime::Layers;
use outrider_runtime::Loading;
use outrider_runtime::RefusedValues;
use outrider_runtime::Runtime;
use outrider_runtime::Snapshot;
use prost_types::Struct;

/// The layers, and the snapshot of their values that all threads read.
#[derive(Debug)]
pub(crate) struct RuntimeLoader {
    /// Used by the main thread only. Locked because the thread that builds a new config at a reload holds `self` too.
    layers: Mutex<Layers>,
    runtime: Arc<Runtime>,
    can_change: bool,
    last: Mutex<LoadOutcome>,
    /// Empty without a disk layer, and after [`take_watches`](Self::take_watches).
    watches: Mutex<Vec<FileWatch>>,
}

/// The outcome of loading the layers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadOutcome {
    /// Whether all disk layers could be read.
    pub(crate) is_complete: bool,
    /// How many directories of disk layers were read.
    pub(crate) disk_layers: usize,
}

/// The values of the `runtime.*` stats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) keys: usize,
    pub(crate) layers: usize,
    pub(crate) has_overrides: bool,
    pub(crate) last: LoadOutcome,
}

impl RuntimeLoader {
    /// Builds the layers found at `path`, and loads them.
    pub(crate) fn build(
        message: Option<&LayeredRuntime>,
        service_cluster: &str,
        path: &FieldPath,
        files: &FileWatches,
    ) -> Result<RuntimeLoader, ConfigErrors> {
        let mut layers = Layers::build(message, service_cluster, path)?;
        let watches = watch(&layers, path, files)?;
        let (snapshot, outcome) = finish(layers.load());
        Ok(RuntimeLoader {
            can_change: layers.can_change(),
            layers: Mutex::new(layers),
            runtime: Runtime::new(snapshot),
            last: Mutex::new(outcome),
            watches: Mutex::new(watches),
        })
    }

    /// The values that all threads read.
    pub(crate) fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    /// Applies the limits on regular expressions to those that this thread compiles from now on.
    pub(crate) fn limit_regular_expressions(&self) {
        let snapshot = self.runtime.snapshot();
        let limit = |key: &str, default: u32| {
            let set = snapshot.number(key);
            set.map_or(default, |value| u32::try_from(value).unwrap_or(u32::MAX))
        };
        let defaults = SizeLimits::default();
        let limits = SizeLimits {
            error: limit("re2.max_program_size.error_level", defaults.error),
            warn: limit("re2.max_program_size.warn_level", defaults.warn),
        };
        limits.apply();
    }

    /// Whether values can change while the proxy runs.
    pub(crate) fn can_change(&self) -> bool {
        self.can_change
    }

    /// Takes the watches of the disk layers' roots. A second call returns none.
    pub(crate) fn take_watches(&self) -> Vec<FileWatch> {
        std::mem::take(&mut *lock(&self.watches))
    }

    /// Loads the layers again and publishes their values to all threads.
    pub(crate) fn reload(&self) -> Arc<Snapshot> {
        let (snapshot, outcome) = finish(lock(&self.layers).load());
        *lock(&self.last) = outcome;
        let snapshot = Arc::new(snapshot);
        self.runtime.publish(snapshot.clone());
        snapshot
    }

    /// Sets values in the admin layer; an empty value removes an earlier one. They become visible with the next
    /// [`reload`](Self::reload).
    pub(crate) fn modify(&self, values: &[(String, String)]) -> Result<(), RefusedValues> {
        lock(&self.layers).modify(values)
    }

    /// Replaces all values of a layer that is discovered. They become visible with the next [`reload`](Self::reload).
    pub(crate) fn set_discovered(&self, layer: &str, values: &Struct) {
        lock(&self.layers).set_discovered(layer, values);
    }

    /// The values of the `runtime.*` stats.
    pub(crate) fn counts(&self) -> Counts {
        let layers = lock(&self.layers);
        Counts {
            keys: self.runtime.snapshot().len(),
            layers: layers.loaded().count(),
            has_overrides: layers.has_overrides(),
            last: *lock(&self.last),
        }
    }

    /// The content of `/runtime`.
    pub(crate) fn view(&self) -> RuntimeView {
        let layers = lock(&self.layers);
        let count = layers.loaded().count();
        let mut entries: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (index, layer) in layers.loaded().enumerate() {
            for (key, entry) in layer.values {
                let values = entries
                    .entry(key.clone())
                    .or_insert_with(|| vec![String::new(); count]);
                if let Some(value) = values.get_mut(index) {
                    entry.text().clone_into(value);
                }
            }
        }
        RuntimeView {
            layers: layers.loaded().map(|layer| layer.name.to_owned()).collect(),
            entries: entries.into_iter().collect(),
        }
    }
}

/// Locks `mutex`, also after a panic: a half-finished change leaves it usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Logs the disk layers that could not be read.
fn finish(loading: Loading) -> (Snapshot, LoadOutcome) {
    for error in &loading.errors {
        log::warn!(target: "runtime", "{error}; the layer stays as it was");
    }
    let outcome = LoadOutcome {
        is_complete: loading.errors.is_empty(),
        disk_layers: loading.disk_layers,
    };
    (loading.snapshot, outcome)
}

/// Watches of the roots of all disk layers.
fn watch(
    layers: &Layers,
    path: &FieldPath,
    files: &FileWatches,
) -> Result<Vec<FileWatch>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let mut watches = Vec::new();
    for (index, root) in layers.watched() {
        let path = path.field("layers").index(index);
        let path = path.field("disk_layer").field("symlink_root");
        match files.watch(root) {
            Ok(watch) => watches.push(watch),
            Err(error) => {
                let root = root.display();
                errors.push(
                    &path,
                    format!("unable to add filesystem watch for file {root}: {error}"),
                );
            }
        }
    }
    errors.finish(watches)
}
