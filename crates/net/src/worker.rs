//! The context that objects on a worker share: the worker's index, its timers, its stats store.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use fastrand::Rng;
use outrider_runtime::LocalSnapshot;
use outrider_runtime::Runtime;
use outrider_runtime::RuntimeReader;
use outrider_stats::Store;
use outrider_stats::WorkerStore;

use crate::Activity;
use crate::ActivityCounts;
use crate::InternalListeners;
use crate::OverloadState;
use crate::Shutdown;
use crate::Timers;

/// One worker's context, shared by `Rc` with all objects on the worker.
#[derive(Debug)]
pub struct WorkerCx {
    /// 0 to `--concurrency` − 1.
    pub index: u32,
    /// The worker's timer wheel.
    pub timers: Timers,
    /// Where the worker registers its own copy of each stats group.
    pub store: WorkerStore,
    /// Counts connections with requests under way.
    pub activity: Activity,
    /// The stage of the shutdown of the process.
    pub shutdown: Shutdown,
    /// Whether health checks of the process fail (`/healthcheck/fail`).
    health_checks_fail: Arc<AtomicBool>,
    /// The state of the random number generator.
    random: Cell<u64>,
    runtime: RuntimeReader,
    overload: Arc<OverloadState>,
    /// The internal listeners of this worker.
    pub internal_listeners: InternalListeners,
}

impl WorkerCx {
    /// A context for worker `index`. `seed` makes its random numbers differ from other workers'.
    #[must_use]
    pub fn new(index: u32, store: &Arc<Store>, seed: u64) -> WorkerCx {
        WorkerCx {
            index,
            timers: Timers::new(),
            store: store.of_worker(index),
            activity: Activity::default(),
            shutdown: Shutdown::default(),
            health_checks_fail: Arc::default(),
            random: Cell::new(seed),
            runtime: Runtime::default().reader(),
            overload: Arc::default(),
            internal_listeners: InternalListeners::default(),
        }
    }

    /// Adds the runtime values that this worker reads.
    #[must_use]
    pub fn with_runtime(self, runtime: &Runtime) -> WorkerCx {
        WorkerCx {
            runtime: runtime.reader(),
            ..self
        }
    }

    /// Adds what the overload manager tells workers.
    #[must_use]
    pub fn with_overload(self, overload: Arc<OverloadState>) -> WorkerCx {
        WorkerCx { overload, ..self }
    }

    /// What the overload manager tells workers; empty if there is none.
    #[must_use]
    pub fn overload(&self) -> &OverloadState {
        &self.overload
    }

    /// Adds the counts through which other threads see the worker's activity.
    #[must_use]
    pub fn with_activity(self, counts: Arc<ActivityCounts>) -> WorkerCx {
        WorkerCx {
            activity: Activity::new(counts),
            ..self
        }
    }

    /// Adds the flag by which the main thread makes health checks of the process fail.
    #[must_use]
    pub fn with_health(self, health_checks_fail: Arc<AtomicBool>) -> WorkerCx {
        WorkerCx {
            health_checks_fail,
            ..self
        }
    }

    /// Whether health checks of the process fail (`/healthcheck/fail`).
    #[must_use]
    pub fn health_checks_fail(&self) -> bool {
        self.health_checks_fail.load(Ordering::Relaxed)
    }

    /// The newest runtime values; `None` if no value is set.
    pub fn runtime(&self) -> Option<LocalSnapshot> {
        self.runtime.current()
    }

    /// A random number: fast and without a lock, but not for secrets.
    pub fn random(&self) -> u64 {
        let mut generator = Rng::with_seed(self.random.get());
        let number = generator.u64(..);
        self.random.set(generator.get_seed());
        number
    }
}
