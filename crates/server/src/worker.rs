//! A worker: one thread, one runtime, its own sockets, connections and half of every cluster.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use outrider_net::Drain;
use outrider_net::Listener;
use outrider_net::WorkerCx;
use outrider_net::WorkerSockets;
use outrider_net::clock;
use outrider_stats::Store;
use outrider_upstream::ClusterManager;
use tokio::runtime;
use tokio::runtime::LocalOptions;
use tokio::sync::mpsc;

use crate::build::ListenerPlan;

/// What the main thread tells its workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Ask connections of these listeners to end.
    Drain(Which, How),
    /// Close the sockets of these listeners.
    StopListening(Which),
    /// End the thread; what is open is cut.
    Quit,
}

/// How connections are asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// All of them, at their next response.
    AtOnce,
    /// Ever more of them, over this time.
    Gradually(Duration),
    /// No longer at all.
    NoLonger,
}

/// Which listeners an order is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    All,
    /// Those with `traffic_direction: INBOUND`.
    Inbound,
    /// Those whose `drain_type` lets failing health checks drain them.
    Default,
}

/// What a worker is made of.
pub(crate) struct Worker {
    pub(crate) index: u32,
    pub(crate) store: Arc<Store>,
    pub(crate) clusters: Arc<ClusterManager>,
    pub(crate) listeners: Vec<(Arc<ListenerPlan>, WorkerSockets)>,
    pub(crate) orders: mpsc::UnboundedReceiver<Order>,
}

impl Worker {
    /// Starts the worker on a thread of its own.
    pub(crate) fn start(self) -> io::Result<JoinHandle<()>> {
        thread::Builder::new()
            .name(format!("wrk:worker_{}", self.index))
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
        let cx = Rc::new(WorkerCx::new(self.index, &self.store, fastrand::u64(..)));
        tokio::task::spawn_local(cx.timers.clone().run_exactly());
        let clusters = self.clusters.worker(&cx);
        let mut running = Vec::new();
        for (plan, sockets) in self.listeners {
            let (drain, stop) = (Drain::new(), Drain::new());
            let handlers = plan.worker(&cx, &clusters, &drain);
            let listener = Listener::new(plan.config.clone(), handlers, plan.limits.clone(), &cx);
            let (name, accepting) = (
                plan.config.name.clone(),
                listener.accept(sockets, stop.clone()),
            );
            tokio::task::spawn_local(async move {
                if let Err(error) = accepting.await {
                    log::error!(target: "main", "listener '{name}' cannot accept: {error}");
                }
            });
            running.push((plan, drain, stop));
        }
        while let Some(order) = self.orders.recv().await {
            for (plan, drain, stop) in &running {
                match order {
                    Order::Drain(which, how) if which.includes(plan) => match how {
                        How::AtOnce => drain.begin(),
                        How::Gradually(lasts) => drain.begin_gradually(lasts),
                        How::NoLonger => drain.call_off(),
                    },
                    Order::StopListening(which) if which.includes(plan) => stop.begin(),
                    Order::Drain(..) | Order::StopListening(_) => {}
                    Order::Quit => return,
                }
            }
            if order == Order::Quit {
                return;
            }
        }
    }
}

impl Which {
    pub(crate) fn includes(self, plan: &ListenerPlan) -> bool {
        match self {
            Which::All => true,
            Which::Inbound => plan.config.is_inbound(),
            Which::Default => plan.config.drains_on_failing_health_checks,
        }
    }
}
