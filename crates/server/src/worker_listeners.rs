//! The listeners of one worker: which listener serves an address, and which filter chains drain.

use std::fmt;
use std::rc::Rc;
use std::rc::Weak;
use std::sync::Arc;
use std::time::Duration;

use outrider_net::Acceptor;
use outrider_net::DrainSignal;
use outrider_net::ListenAddress;
use outrider_net::Listener;
use outrider_net::OverloadAction;
use outrider_net::ServingChain;
use outrider_net::WorkerCx;
use outrider_net::WorkerSocket;
use outrider_upstream::Clusters;
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use crate::cli::DrainStrategy;
use crate::cli::Options;
use crate::listener_plan::ChainPlan;
use crate::listener_plan::ListenerPlan;

/// Connections of replaced listeners that are still open at the end of their drain get this long to finish.
const GRACE_AFTER_DRAIN: Duration = Duration::from_secs(5);

/// Listeners to add, replace and remove, all in one step.
pub(crate) struct ListenerUpdate {
    /// Listeners that are new or replace the one of the same name.
    pub(crate) listeners: Vec<Arc<ListenerPlan>>,
    /// Names of the listeners to remove.
    pub(crate) removed: Vec<Arc<str>>,
    /// This worker's sockets for the addresses that no listener had before.
    pub(crate) sockets: Vec<WorkerSocket>,
    /// How the connections of replaced and removed listeners are asked to end.
    pub(crate) drain: DrainPlan,
    /// Dropped once all connections of replaced and removed listeners have ended.
    pub(crate) drained: mpsc::Sender<()>,
}

/// How connections of a removed listener or filter chain are asked to end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DrainPlan {
    pub(crate) mode: DrainMode,
    /// `--drain-time-s`: connections that are open after that are closed.
    pub(crate) time: Duration,
}

impl DrainPlan {
    /// The plan that `--drain-time-s` and `--drain-strategy` give.
    pub(crate) fn of(options: &Options) -> DrainPlan {
        let time = options.drain_time();
        DrainPlan {
            mode: match options.drain_strategy {
                DrainStrategy::Gradual => DrainMode::Gradual(time),
                DrainStrategy::Immediate => DrainMode::Immediate,
            },
            time,
        }
    }
}

/// How connections are asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DrainMode {
    /// All of them, at their next response.
    Immediate,
    /// A growing share of them over this time.
    Gradual(Duration),
    /// Cancels the drain (`/healthcheck/ok`).
    Cancel,
}

/// Which listeners a command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListenerSelection {
    /// All of them.
    All,
    /// Those with `traffic_direction: INBOUND`.
    Inbound,
    /// Those whose `drain_type` lets `/healthcheck/fail` drain them.
    DefaultDrainType,
}

impl ListenerSelection {
    pub(crate) fn includes(self, plan: &ListenerPlan) -> bool {
        match self {
            ListenerSelection::All => true,
            ListenerSelection::Inbound => plan.config.is_inbound(),
            ListenerSelection::DefaultDrainType => plan.config.drains_on_failing_health_checks,
        }
    }
}

/// The listeners of one worker.
pub(crate) struct WorkerListeners {
    cx: Rc<WorkerCx>,
    clusters: Rc<Clusters>,
    active: Vec<ActiveListener>,
    acceptors: Vec<Acceptor>,
    /// Filter chains of replaced and removed listeners that have connections.
    draining: Vec<Weak<DrainingChain>>,
}

/// A filter chain that no listener uses now.
struct DrainingChain {
    chain: ActiveChain,
    /// The listener that it belonged to.
    listener: Arc<ListenerPlan>,
}

struct ActiveListener {
    plan: Arc<ListenerPlan>,
    chains: Vec<ActiveChain>,
    /// Kept here for connections within the process.
    internal: Option<Rc<Listener>>,
}

#[derive(Clone)]
struct ActiveChain {
    plan: Arc<ChainPlan>,
    serving: Rc<ServingChain>,
    drain: DrainSignal,
}

impl WorkerListeners {
    pub(crate) fn new(cx: Rc<WorkerCx>, clusters: Rc<Clusters>) -> WorkerListeners {
        WorkerListeners {
            cx,
            clusters,
            active: Vec::new(),
            acceptors: Vec::new(),
            draining: Vec::new(),
        }
    }

    /// Applies an update. An address that a listener still has never stops accepting.
    pub(crate) fn update(&mut self, update: ListenerUpdate) {
        let mut sockets = update.sockets;
        let mut gone = Vec::new();
        for plan in update.listeners {
            let at = self.position(&plan.config.name);
            let running = at.map(|at| self.active.swap_remove(at));
            let running_chains = running
                .as_ref()
                .map_or(&[][..], |running| running.chains.as_slice());
            let chains = self.chains(&plan, running_chains);
            let is_used = |old: &ActiveChain| {
                (chains.iter()).any(|new| Rc::ptr_eq(&new.serving, &old.serving))
            };
            let replaced = running.into_iter().flat_map(ActiveListener::into_draining);
            gone.extend(replaced.filter(|old| !is_used(&old.chain)));
            let serving = chains.iter().map(|chain| chain.serving.clone()).collect();
            let listener =
                Listener::new(plan.config.clone(), serving, plan.limits.clone(), &self.cx);
            for address in plan.config.listen_addresses() {
                self.accept(address, &listener, &mut sockets);
            }
            let internal = plan.config.is_internal().then_some(listener);
            if let Some(listener) = &internal {
                self.cx.internal_listeners.add(listener);
            }
            self.active.push(ActiveListener {
                plan,
                chains,
                internal,
            });
        }
        for name in update.removed {
            if let Some(at) = self.position(&name) {
                gone.extend(self.active.swap_remove(at).into_draining());
            }
        }
        let active = &self.active;
        self.acceptors.retain(|acceptor| {
            let mut addresses =
                (active.iter()).flat_map(|active| active.plan.config.listen_addresses());
            addresses.any(|address| address == acceptor.settings())
        });
        self.draining.retain(|chain| chain.strong_count() > 0);
        for chain in gone {
            let chain = Rc::new(chain);
            self.draining.push(Rc::downgrade(&chain));
            spawn_local(end(chain, update.drain, update.drained.clone()));
        }
    }

    fn position(&self, name: &str) -> Option<usize> {
        (self.active.iter()).position(|active| *active.plan.config.name == *name)
    }

    /// The filter chains of `plan`. Unchanged ones are taken from `running`, with their connections.
    fn chains(&self, plan: &ListenerPlan, running: &[ActiveChain]) -> Vec<ActiveChain> {
        let scope = plan.config.scope();
        let chain = |plan: &Arc<ChainPlan>| {
            let same = (running.iter()).find(|running| running.plan.is_served_like(plan));
            if let Some(running) = same {
                return ActiveChain {
                    plan: plan.clone(),
                    ..running.clone()
                };
            }
            let drain = DrainSignal::new();
            let handler = plan.worker(&self.cx, &self.clusters, &drain);
            let tls = plan.tls(scope.clone(), &self.cx);
            ActiveChain {
                plan: plan.clone(),
                serving: ServingChain::new(handler, tls),
                drain,
            }
        };
        plan.chains.iter().map(chain).collect()
    }

    /// Serves new connections to `address` with `listener`.
    fn accept(
        &mut self,
        address: &Arc<ListenAddress>,
        listener: &Rc<Listener>,
        sockets: &mut Vec<WorkerSocket>,
    ) {
        let mut acceptors = self.acceptors.iter();
        if let Some(acceptor) = acceptors.find(|acceptor| acceptor.settings() == address) {
            return acceptor.hand_to(listener.clone());
        }
        let Some(at) = sockets
            .iter()
            .position(|socket| socket.settings() == address)
        else {
            return;
        };
        match Acceptor::start(sockets.swap_remove(at), listener.clone()) {
            Ok(acceptor) => {
                acceptor.pause(self.stops_accepting());
                self.acceptors.push(acceptor);
            }
            Err(error) => {
                log::error!(target: "main", "cannot accept on '{}': {error}", address.address);
            }
        }
    }

    /// Whether the overload manager lets connections wait in the kernel's queues.
    fn stops_accepting(&self) -> bool {
        let action = OverloadAction::StopAcceptingConnections;
        let level = self.cx.overload().action(action);
        level.is_some_and(|level| level.is_saturated())
    }

    /// Applies what the overload manager has changed to the acceptors and to running timeouts.
    pub(crate) fn apply_overload(&self) {
        let stops = self.stops_accepting();
        for acceptor in &self.acceptors {
            acceptor.pause(stops);
        }
        self.cx.timers.recheck();
    }

    /// Asks the connections of these listeners to end. Connections of replaced and removed listeners were asked already,
    /// but perhaps gradually; [`DrainMode::Immediate`] asks all of them at once.
    pub(crate) fn drain(&self, selection: ListenerSelection, mode: DrainMode) {
        for active in self
            .active
            .iter()
            .filter(|active| selection.includes(&active.plan))
        {
            for chain in &active.chains {
                chain.drain(mode);
            }
        }
        let hurry = match mode {
            DrainMode::Immediate => true,
            DrainMode::Cancel => false,
            DrainMode::Gradual(_) => return,
        };
        let draining = self.draining.iter().filter_map(Weak::upgrade);
        for draining in draining.filter(|draining| selection.includes(&draining.listener)) {
            draining.chain.drain.hurry(hurry);
        }
    }

    /// Closes the sockets of these listeners, then drops `closed`. Open connections continue.
    pub(crate) fn stop(&mut self, selection: ListenerSelection, closed: mpsc::Sender<()>) {
        for active in &mut self.active {
            if selection.includes(&active.plan) {
                active.internal = None;
            }
        }
        let active = &self.active;
        let stopped = || {
            active
                .iter()
                .filter(|active| selection.includes(&active.plan))
        };
        let stops = |acceptor: &mut Acceptor| {
            let mut addresses = stopped().flat_map(|active| active.plan.config.listen_addresses());
            addresses.any(|address| address == acceptor.settings())
        };
        for acceptor in self.acceptors.extract_if(.., stops) {
            let closed = closed.clone();
            spawn_local(async move {
                acceptor.close().await;
                drop(closed);
            });
        }
    }
}

impl ActiveListener {
    fn into_draining(self) -> impl Iterator<Item = DrainingChain> {
        let listener = self.plan;
        let chains = self.chains.into_iter();
        chains.map(move |chain| DrainingChain {
            chain,
            listener: listener.clone(),
        })
    }
}

impl ActiveChain {
    fn drain(&self, mode: DrainMode) {
        match mode {
            DrainMode::Immediate => self.drain.begin(),
            DrainMode::Gradual(lasts) => self.drain.begin_gradually(lasts),
            DrainMode::Cancel => self.drain.cancel(),
        }
    }
}

/// Drains the connections of a filter chain that no listener uses now.
async fn end(draining: Rc<DrainingChain>, plan: DrainPlan, drained: mpsc::Sender<()>) {
    let chain = &draining.chain;
    chain.drain(plan.mode);
    let ended = async {
        if tokio::time::timeout(plan.time, chain.serving.all_ended())
            .await
            .is_err()
        {
            chain.drain(DrainMode::Immediate);
            let grace = tokio::time::timeout(GRACE_AFTER_DRAIN, chain.serving.all_ended());
            if grace.await.is_err() {
                chain.serving.close_all();
                chain.serving.all_ended().await;
            }
        }
    };
    ended.await;
    drop((draining, drained));
}

impl fmt::Debug for ListenerUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.listeners.iter().map(|plan| &plan.config.name);
        f.debug_struct("ListenerUpdate")
            .field("listeners", &names.collect::<Vec<_>>())
            .field("removed", &self.removed)
            .finish_non_exhaustive()
    }
}
