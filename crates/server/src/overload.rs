//! Connects the overload manager with the rest of the process.

use std::rc::Rc;
use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::Bootstrap;
use outrider_net::FileWatches;
use outrider_overload::OverloadCx;
use outrider_overload::OverloadManager;
use outrider_overload::OverloadWork;
use outrider_runtime::Runtime;
use outrider_stats::Store;

use crate::allocator;
use crate::control::Control;
use crate::worker::WorkerCommand;

/// The overload manager of `bootstrap`, if it has one.
///
/// # Errors
/// All that is wrong with its configuration.
pub(crate) fn build(
    bootstrap: &Bootstrap,
    store: &Store,
    runtime: &Arc<Runtime>,
    files: &FileWatches,
) -> Result<Option<OverloadManager>, ConfigErrors> {
    let Some(message) = &bootstrap.overload_manager else {
        return Ok(None);
    };
    let path = FieldPath::root().field("overload_manager");
    let cx = OverloadCx {
        store,
        runtime,
        files,
        allocated_memory: outrider_admin::allocated_memory,
    };
    OverloadManager::build(message, &path, &cx).map(Some)
}

/// Runs `manager`, if there is one, on the main thread. The workers must have started.
pub(crate) fn start(manager: Option<OverloadManager>, control: &Rc<Control>) {
    if let Some(manager) = manager {
        tokio::task::spawn_local(manager.run(Work(control.clone())));
    }
}

/// What the overload manager asks of the process.
struct Work(Rc<Control>);

impl OverloadWork for Work {
    fn tell_workers(&self) {
        self.0
            .listeners
            .tell_workers(|| WorkerCommand::OverloadChanged);
    }

    fn return_memory(&self) {
        allocator::return_freed_memory();
        self.0
            .listeners
            .tell_workers(|| WorkerCommand::ReturnMemory);
    }
}
