//! The listener manager: adds, replaces, drains and removes listeners, on the main thread.
//!
//! Sockets belong to addresses, not to listeners: an address that the new listener still has keeps accepting. The manager
//! sends commands to the workers. The connections of a removed listener drain within `--drain-time-s`.

mod draining;

use std::cell::Cell;
use std::cell::RefCell;
use std::sync::Arc;

use outrider_admin::ListenerManagerStats;
use outrider_admin::ListenerView;
use outrider_net::Address;
use outrider_net::BindError;
use outrider_net::BoundAddress;
use outrider_net::ListenAddress;
use outrider_net::WorkerSocket;
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use crate::listener_manager::draining::DrainingListeners;
use crate::listener_manager::draining::Replaced;
use crate::listener_plan::ListenerChange;
use crate::listener_plan::ListenerPlan;
use crate::retired::Retired;
use crate::worker::WorkerCommand;
use crate::worker_listeners::DrainMode;
use crate::worker_listeners::DrainPlan;
use crate::worker_listeners::ListenerSelection;
use crate::worker_listeners::ListenerUpdate;

/// All listeners of the process.
pub(crate) struct ListenerManager {
    active: RefCell<Vec<Arc<ListenerPlan>>>,
    /// The addresses that workers accept on, with the ports that the kernel chose.
    listening: RefCell<Vec<(Arc<ListenAddress>, Address)>>,
    /// Listeners that were activated before there were workers.
    waiting: RefCell<PreparedListeners>,
    workers: RefCell<Vec<mpsc::UnboundedSender<WorkerCommand>>>,
    /// Listeners that were stopped for good. Later listeners of the same kind are not served either.
    stopped: Cell<Option<ListenerSelection>>,
    /// Taken by a task that reads the running listeners, waits, and then changes them.
    pub(crate) changing: tokio::sync::Mutex<()>,
    concurrency: u32,
    drain: DrainPlan,
    draining: DrainingListeners,
    retired: Retired,
    stats: Arc<ListenerManagerStats>,
}

/// Listeners that are built and can be activated.
#[derive(Default)]
pub(crate) struct PreparedListeners {
    changes: Vec<(Arc<ListenerPlan>, ListenerChange)>,
    removed: Vec<Arc<str>>,
    /// Bound sockets of the addresses that no running listener has.
    bound: Vec<BoundAddress>,
    /// What it replaced when it was activated.
    replaced: Replaced,
}

/// Waits for a drain: until all connections of replaced and removed listeners have ended, or until all sockets of stopped
/// listeners are closed.
pub(crate) struct Draining(mpsc::Receiver<()>);

impl Draining {
    /// Waits until they have ended or are closed.
    pub(crate) async fn ended(mut self) {
        // Nothing is ever sent: this returns when the last worker has dropped its sender.
        let _none = self.0.recv().await;
    }
}

impl PreparedListeners {
    /// Adds a listener, which differs by `change` from the one that runs.
    pub(crate) fn set(&mut self, plan: Arc<ListenerPlan>, change: ListenerChange) {
        self.changes.push((plan, change));
    }

    /// The listeners that are added or changed.
    pub(crate) fn plans(&self) -> impl Iterator<Item = &Arc<ListenerPlan>> {
        self.changes.iter().map(|(plan, _)| plan)
    }

    /// Those that change in more than their routes.
    pub(crate) fn plans_for_workers(&self) -> impl Iterator<Item = &Arc<ListenerPlan>> {
        let changes = self.changes.iter();
        let changes = changes.filter(|(_, change)| *change != ListenerChange::Routes);
        changes.map(|(plan, _)| plan)
    }

    /// Adds another update, to be activated together with this one.
    fn add(&mut self, later: PreparedListeners) {
        self.changes
            .retain(|(plan, _)| !later.removed.contains(&plan.config.name));
        self.changes.extend(later.changes);
        self.bound.extend(later.bound);
    }

    /// Removes the listener of this name.
    pub(crate) fn remove(&mut self, name: &Arc<str>) {
        self.removed.push(name.clone());
    }
}

impl ListenerManager {
    /// A manager without listeners. `drain` sets how connections of replaced and removed listeners end.
    pub(crate) fn new(
        concurrency: u32,
        drain: DrainPlan,
        retired: Retired,
        stats: Arc<ListenerManagerStats>,
    ) -> ListenerManager {
        ListenerManager {
            active: RefCell::default(),
            listening: RefCell::default(),
            waiting: RefCell::default(),
            workers: RefCell::default(),
            stopped: Cell::new(None),
            changing: tokio::sync::Mutex::default(),
            concurrency,
            drain,
            draining: DrainingListeners::new(stats.clone()),
            retired,
            stats,
        }
    }

    /// The listener of this name.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<ListenerPlan>> {
        let active = self.active.borrow();
        active
            .iter()
            .find(|plan| *plan.config.name == *name)
            .cloned()
    }

    /// The listeners that the config gives no name.
    pub(crate) fn nameless(&self) -> Vec<Arc<ListenerPlan>> {
        let active = self.active.borrow();
        active
            .iter()
            .filter(|plan| plan.is_nameless)
            .cloned()
            .collect()
    }

    /// All listeners.
    pub(crate) fn all(&self) -> Vec<Arc<ListenerPlan>> {
        self.active.borrow().clone()
    }

    /// The names of the bootstrap's listeners.
    pub(crate) fn static_names(&self) -> Vec<Arc<str>> {
        let active = self.active.borrow();
        let of_bootstrap = active.iter().filter(|plan| plan.resource.is_none());
        of_bootstrap.map(|plan| plan.config.name.clone()).collect()
    }

    /// Binds, activates and sends an update, as one step.
    ///
    /// # Errors
    /// The first address that can't be bound or listened on; then nothing has changed.
    pub(crate) fn put(&self, mut prepared: PreparedListeners) -> Result<Draining, BindError> {
        self.bind(&mut prepared)?;
        if self.is_started() {
            self.listen(&prepared)?;
        }
        self.activate(&mut prepared);
        Ok(self.send(prepared))
    }

    /// Starts serving the listeners that were [activated](Self::activate) before all workers were
    /// [added](Self::add_worker).
    ///
    /// # Errors
    /// The first address that can't be listened on.
    pub(crate) fn start(&self) -> Result<(), BindError> {
        let waiting = self.waiting.take();
        self.listen(&waiting)?;
        // Nothing ran before, so nothing drains.
        drop(self.send(waiting));
        Ok(())
    }

    fn is_started(&self) -> bool {
        !self.workers.borrow().is_empty()
    }

    /// Binds the addresses of `prepared` that are not bound yet. Nothing that runs changes.
    ///
    /// # Errors
    /// The first address that can't be bound.
    pub(crate) fn bind(&self, prepared: &mut PreparedListeners) -> Result<(), BindError> {
        let listening = self.listening.borrow();
        for (plan, _) in &prepared.changes {
            for address in plan.config.listen_addresses() {
                let mut known = listening.iter().map(|(address, _)| address);
                let is_known = known.any(|known| known == address)
                    || (prepared.bound.iter()).any(|bound| bound.settings() == address);
                if !is_known {
                    let bound = address.bind(&plan.config.name, self.concurrency);
                    let is_ours =
                        |known: &&(Arc<ListenAddress>, Address)| known.0.address == address.address;
                    let bound = bound.map_err(|error| match listening.iter().find(is_ours) {
                        Some(_) => error.with_advice(
                            "a running listener has this address with other socket settings, and the system does not \
                             let two sockets share it: remove that listener in one update, and add this one in the next",
                        ),
                        None => error,
                    });
                    prepared.bound.push(bound?);
                }
            }
        }
        Ok(())
    }

    /// Starts listening on the addresses that were bound for `prepared`. The kernel queues connections for the workers.
    ///
    /// # Errors
    /// The first address that can't be listened on.
    pub(crate) fn listen(&self, prepared: &PreparedListeners) -> Result<(), BindError> {
        for bound in &prepared.bound {
            let mut plans = prepared.changes.iter().map(|(plan, _)| plan);
            let plan = plans.find(|plan| {
                (plan.config.listen_addresses().iter()).any(|address| address == bound.settings())
            });
            if let Some(plan) = plan {
                bound.listen(&plan.config.name)?;
            }
        }
        Ok(())
    }

    /// Sends each worker a command.
    pub(crate) fn tell_workers(&self, command: impl Fn() -> WorkerCommand) {
        for worker in self.workers.borrow().iter() {
            // A worker that has ended needs no command.
            let _ = worker.send(command());
        }
    }

    /// Makes bound listeners the active ones. Workers serve them once they are [sent](Self::send).
    pub(crate) fn activate(&self, prepared: &mut PreparedListeners) {
        let mut active = self.active.borrow_mut();
        let mut replaced = Replaced::default();
        for (plan, change) in &prepared.changes {
            let name = &plan.config.name;
            let running = active
                .iter_mut()
                .find(|running| running.config.name == *name);
            match (running, change) {
                (Some(running), ListenerChange::Routes) => {
                    // To Envoy, this changes a filter chain in place.
                    self.stats.listener_modified.inc();
                    self.stats.listener_in_place_updated.inc();
                    *running = plan.clone();
                }
                (Some(running), change) => {
                    self.retired.keep_listener(running, Some(plan));
                    self.stats.listener_modified.inc();
                    if *change == ListenerChange::FilterChains {
                        self.stats.listener_in_place_updated.inc();
                        replaced.filter_chains += running.chains_without(plan);
                    } else {
                        replaced.listeners.push(running.clone());
                    }
                    *running = plan.clone();
                }
                (None, _) => {
                    active.push(plan.clone());
                    self.stats.listener_added.inc();
                }
            }
        }
        let is_removed =
            |plan: &mut Arc<ListenerPlan>| prepared.removed.contains(&plan.config.name);
        for plan in active.extract_if(.., is_removed) {
            self.retired.keep_listener(&plan, None);
            replaced.listeners.push(plan);
        }
        prepared.replaced = replaced;
        self.stats
            .listener_removed
            .add(prepared.removed.len() as u64);
        let mut listening = self.listening.borrow_mut();
        let bound = prepared.bound.iter();
        listening.extend(bound.map(|bound| (bound.settings().clone(), bound.address().clone())));
        listening.retain(|(address, _)| {
            let mut addresses = active
                .iter()
                .flat_map(|plan| plan.config.listen_addresses());
            addresses.any(|named| named == address)
        });
    }

    /// Sends the [activated](Self::activate) update to all workers; replaced listeners drain. Before there are workers, the
    /// update is kept until [`start`](Self::start).
    pub(crate) fn send(&self, mut prepared: PreparedListeners) -> Draining {
        if !self.is_started() {
            self.waiting.borrow_mut().add(prepared);
            return Draining(mpsc::channel(1).1);
        }
        let workers = self.workers.borrow();
        let mut sockets: Vec<Vec<WorkerSocket>> = workers.iter().map(|_| Vec::new()).collect();
        for bound in std::mem::take(&mut prepared.bound) {
            for (worker, socket) in sockets.iter_mut().zip(bound.into_workers()) {
                worker.push(socket);
            }
        }
        let listeners: Vec<_> = prepared.plans_for_workers().cloned().collect();
        let (drained, mut ended) = mpsc::channel(1);
        for (worker, sockets) in workers.iter().zip(sockets) {
            (self.stats.listener_create_success).add(listeners.len() as u64);
            // A worker that has ended needs no command.
            let _ = worker.send(WorkerCommand::UpdateListeners(ListenerUpdate {
                listeners: listeners.clone(),
                removed: prepared.removed.clone(),
                sockets,
                drain: self.drain,
                drained: drained.clone(),
            }));
        }
        let active = self.active.borrow().len() as u64;
        self.stats.total_listeners_active.set(active);
        drop(drained);
        let listed = self.draining.list(prepared.replaced);
        let (told, draining) = mpsc::channel(1);
        spawn_local(async move {
            let _none = ended.recv().await;
            drop((listed, told));
        });
        Draining(draining)
    }

    /// The replaced and removed listeners that have connections, the oldest first.
    pub(crate) fn draining(&self) -> Vec<Arc<ListenerPlan>> {
        self.draining.all()
    }

    /// Sends all commands from now on also to the worker that receives from `commands`.
    pub(crate) fn add_worker(&self, commands: mpsc::UnboundedSender<WorkerCommand>) {
        self.workers.borrow_mut().push(commands);
    }

    /// Asks the connections of these listeners to end, or cancels that.
    pub(crate) fn drain(&self, selection: ListenerSelection, mode: DrainMode) {
        self.tell_all(|| WorkerCommand::Drain(selection, mode));
    }

    /// Stops accepting connections; open ones continue.
    pub(crate) fn stop(&self, selection: ListenerSelection) -> Draining {
        let (closed, closing) = mpsc::channel(1);
        self.tell_all(|| WorkerCommand::StopListening(selection, closed.clone()));
        if self.stopped.get() != Some(ListenerSelection::All) {
            self.stopped.set(Some(selection));
        }
        let active = self.active.borrow();
        let stopped = active
            .iter()
            .filter(|plan| selection.includes(plan))
            .count();
        self.stats.listener_stopped.add(stopped as u64);
        Draining(closing)
    }

    /// Whether listeners of this kind were told to [stop](Self::stop).
    pub(crate) fn has_stopped(&self, plan: &ListenerPlan) -> bool {
        self.stopped
            .get()
            .is_some_and(|stopped| stopped.includes(plan))
    }

    /// An address that `plan` would share with another listener that runs and that `counts`, where it could not be told
    /// apart. Port 0 is another port each time.
    pub(crate) fn shared_address(
        &self,
        plan: &ListenerPlan,
        counts: impl Fn(&ListenerPlan) -> bool,
    ) -> Option<Address> {
        let active = self.active.borrow();
        let others: Vec<_> = active
            .iter()
            .filter(|other| other.config.name != plan.config.name && counts(other))
            .collect();
        let fixed = |address: &&Address| address.ip().is_none_or(|ip| ip.port() != 0);
        let mut own = plan.config.addresses().filter(fixed);
        let shared = own.find(|own| {
            (others.iter()).any(|other| other.config.addresses().any(|address| address == *own))
        });
        shared.cloned()
    }

    /// Asks all connections to end, because the process will. New connections and requests are still served.
    pub(crate) fn begin_shutdown(&self) {
        self.tell_all(|| WorkerCommand::BeginShutdown);
    }

    /// Ends all workers after they have sent GOAWAY or closed their idle connections.
    pub(crate) fn finish(&self) {
        self.tell_all(|| WorkerCommand::Finish);
    }

    /// Ends all workers; open connections are reset.
    pub(crate) fn quit(&self) {
        self.tell_all(|| WorkerCommand::Quit);
    }

    fn tell_all(&self, command: impl Fn() -> WorkerCommand) {
        for worker in self.workers.borrow().iter() {
            // A worker that has ended needs no command.
            let _ = worker.send(command());
        }
    }

    /// The content of `/listeners`.
    pub(crate) fn view(&self) -> Vec<ListenerView> {
        let (active, listening) = (self.active.borrow(), self.listening.borrow());
        let view = |plan: &Arc<ListenerPlan>| {
            let chosen = |address: &Arc<ListenAddress>| {
                let found = listening.iter().find(|(known, _)| known == address);
                found.map_or(&address.address, |(_, chosen)| chosen).clone()
            };
            let addresses = plan.config.listen_addresses();
            ListenerView {
                name: plan.config.name.to_string(),
                addresses: match addresses {
                    [] => plan.config.addresses().cloned().collect(),
                    bound => bound.iter().map(chosen).collect(),
                },
            }
        };
        active.iter().map(view).collect()
    }
}
