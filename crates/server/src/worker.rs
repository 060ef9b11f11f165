//! A worker: one thread, one runtime, its own sockets, connections and view of every cluster.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::thread::JoinHandle;

use outrider_net::ActivityCounts;
use outrider_net::OverloadState;
use outrider_net::ShutdownStage;
use outrider_net::WorkerCx;
use outrider_net::clock;
use outrider_runtime::Runtime;
use outrider_stats::Store;
use outrider_upstream::ClusterManager;
use tokio::runtime;
use tokio::runtime::LocalOptions;
use tokio::sync::mpsc;
use tokio::task::yield_now;

use crate::allocator;
use crate::background::SCRIPT_STACK;
use crate::worker_listeners::DrainMode;
use crate::worker_listeners::ListenerSelection;
use crate::worker_listeners::ListenerUpdate;
use crate::worker_listeners::WorkerListeners;

/// How often connection tasks are polled to send their last frames. Each needs one poll, and one more if its write was
/// delayed.
const LAST_POLLS: u32 = 4;

/// What the main thread tells a worker to do.
#[derive(Debug)]
pub(crate) enum WorkerCommand {
    /// Add, replace and remove listeners.
    UpdateListeners(ListenerUpdate),
    /// Ask the connections of these listeners to end.
    Drain(ListenerSelection, DrainMode),
    /// Close the sockets of these listeners; the sender is dropped once they are closed.
    StopListening(ListenerSelection, mpsc::Sender<()>),
    /// The overload manager has changed something that concerns what waits: connections in the kernel's queues, and
    /// timeouts that run.
    OverloadChanged,
    /// Return freed memory to the system.
    ReturnMemory,
    /// Ask all connections to end, because the process will.
    BeginShutdown,
    /// Let connections send their last frames (GOAWAY), then end the thread.
    Finish,
    /// End the thread; open connections are reset.
    Quit,
}

/// A worker that has not started.
pub(crate) struct Worker {
    pub(crate) index: u32,
    pub(crate) store: Arc<Store>,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) clusters: Arc<ClusterManager>,
    pub(crate) activity: Arc<ActivityCounts>,
    pub(crate) health_checks_fail: Arc<AtomicBool>,
    pub(crate) overload: Arc<OverloadState>,
    pub(crate) commands: mpsc::UnboundedReceiver<WorkerCommand>,
}

impl Worker {
    /// Starts the worker on a thread of its own.
    pub(crate) fn start(self) -> io::Result<JoinHandle<()>> {
        thread::Builder::new()
            .name(format!("wrk:worker_{}", self.index))
            .stack_size(SCRIPT_STACK)
            .spawn(move || self.run_thread())
    }

    fn run_thread(self) {
        let index = self.index;
        clock::share_readings();
        match runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .on_thread_unpark(clock::expire)
            .build_local(LocalOptions::default())
        {
            Ok(runtime) => runtime.block_on(self.run()),
            Err(error) => log::error!(target: "main", "worker {index} cannot start: {error}"),
        }
    }

    /// Serves until it is told to quit.
    async fn run(mut self) {
        let cx = WorkerCx::new(self.index, &self.store, fastrand::u64(..));
        let cx = cx.with_runtime(&self.runtime);
        let cx = cx.with_health(self.health_checks_fail);
        let cx = cx.with_overload(self.overload);
        let cx = Rc::new(cx.with_activity(self.activity));
        let shutdown = cx.shutdown.clone();
        tokio::task::spawn_local(cx.timers.clone().run_exactly());
        let clusters = self.clusters.worker(&cx);
        let mut listeners = WorkerListeners::new(cx, clusters);
        while let Some(command) = self.commands.recv().await {
            match command {
                WorkerCommand::UpdateListeners(update) => listeners.update(update),
                WorkerCommand::Drain(selection, mode) => listeners.drain(selection, mode),
                WorkerCommand::StopListening(selection, closed) => {
                    listeners.stop(selection, closed)
                }
                WorkerCommand::OverloadChanged => listeners.apply_overload(),
                WorkerCommand::ReturnMemory => allocator::return_freed_memory(),
                WorkerCommand::BeginShutdown => {
                    listeners.drain(ListenerSelection::All, DrainMode::Immediate);
                    shutdown.enter(ShutdownStage::Begun);
                }
                WorkerCommand::Finish => {
                    shutdown.enter(ShutdownStage::Ended);
                    // Connections send their last frames.
                    for _ in 0..LAST_POLLS {
                        yield_now().await;
                    }
                    return;
                }
                WorkerCommand::Quit => return,
            }
        }
    }
}
