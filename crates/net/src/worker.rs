//! What every object on a worker may need: the worker's number, its timers, its stats store.

use std::cell::Cell;
use std::sync::Arc;

use fastrand::Rng;
use outrider_runtime::LocalSnapshot;
use outrider_runtime::Runtime;
use outrider_runtime::RuntimeReader;
use outrider_stats::Store;
use outrider_stats::WorkerStore;

use crate::Activity;
use crate::ActivityCounts;
use crate::Shutdown;
use crate::Timers;

/// One worker's surroundings, shared by `Rc` with all that lives there.
#[derive(Debug)]
pub struct WorkerCx {
    /// 0 to `--concurrency` − 1.
    pub index: u32,
    /// The worker's timer wheel.
    pub timers: Timers,
    /// Where the worker registers its own copy of each stats group.
    pub store: WorkerStore,
    /// Which connections have requests under way.
    pub activity: Activity,
    /// How near the end of the process is.
    pub shutdown: Shutdown,
    /// The state of the random number generator.
    random: Cell<u64>,
    runtime: RuntimeReader,
}

impl WorkerCx {
    /// Surroundings for worker `index`; `seed` makes its random numbers its own.
    #[must_use]
    pub fn new(index: u32, store: &Arc<Store>, seed: u64) -> WorkerCx {
        WorkerCx {
            index,
            timers: Timers::new(),
            store: store.of_worker(index),
            activity: Activity::default(),
            shutdown: Shutdown::default(),
            random: Cell::new(seed),
            runtime: Runtime::default().reader(),
        }
    }

    /// The same with the runtime values that these surroundings are to see.
    #[must_use]
    pub fn with_runtime(self, runtime: &Runtime) -> WorkerCx {
        WorkerCx {
            runtime: runtime.reader(),
            ..self
        }
    }

    /// The same, whose activity other threads see in `counts`.
    #[must_use]
    pub fn with_activity(self, counts: Arc<ActivityCounts>) -> WorkerCx {
        WorkerCx {
            activity: Activity::new(counts),
            ..self
        }
    }

    /// The newest runtime values, or nothing when none is set.
    pub fn runtime(&self) -> Option<LocalSnapshot> {
        self.runtime.current()
    }

    /// A random number: fast, without a lock, not for secrets.
    pub fn random(&self) -> u64 {
        let mut generator = Rng::with_seed(self.random.get());
        let number = generator.u64(..);
        self.random.set(generator.get_seed());
        number
    }
}
