//! Reload of the config file while the proxy serves.
//!
//! The whole new file is checked and built before anything that runs changes: if it has an error, nothing changes. Then
//! new and changed clusters resolve their first hosts. Routes, filter chains and listeners change only after that.
//! Removed clusters are kept until the connections that may use them have drained.

mod difference;
mod follow;
mod outcome;
mod prepare;

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use outrider_config::Diagnostics;
use outrider_stats::Counter;
use outrider_stats::Scope;
use outrider_stats::Store;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

pub(crate) use follow::WatchedConfig;
pub(crate) use follow::follow;
pub(crate) use outcome::ReloadOutcome;
pub(crate) use outcome::Trigger;

use crate::control::Control;
use crate::listener_manager::PreparedListeners;
use crate::listener_plan::ListenerChange;
use crate::listener_plan::ListenerPlan;
use crate::listener_plan::RouteChange;
use crate::listener_plan::shared_address;
use crate::reload::outcome::NameChanges;
use crate::reload::outcome::ReloadChanges;
use crate::reload::prepare::Prepared;

/// How many outcomes are kept for `GET /reload`.
const KEPT_OUTCOMES: usize = 20;

outrider_stats::group! {
    /// `reload.*`: listed from the first reload on, since Envoy has none.
    pub(crate) struct ReloadStats {
        update_attempt: Counter,
        update_rejected: Counter,
        update_success: Counter,
    }
}

/// Reloads the config when asked to, one reload after the other.
pub(crate) struct Reloader {
    requests: mpsc::UnboundedSender<ReloadRequest>,
    outcomes: RefCell<VecDeque<Rc<ReloadOutcome>>>,
    /// Clusters that are no longer in the config but that draining connections may still use, each with the number of the
    /// reload that removed it last.
    retiring: RefCell<HashMap<Arc<str>, u64>>,
    stats: Arc<ReloadStats>,
}

/// A request to reload the config.
pub(crate) struct ReloadRequest {
    trigger: Trigger,
    answer: Option<oneshot::Sender<Rc<ReloadOutcome>>>,
}

impl Reloader {
    /// A reloader, and the receiver of its requests, for [`run`].
    pub(crate) fn new(store: &Store) -> (Reloader, mpsc::UnboundedReceiver<ReloadRequest>) {
        let (requests, inbox) = mpsc::unbounded_channel();
        let reloader = Reloader {
            requests,
            outcomes: RefCell::default(),
            retiring: RefCell::default(),
            stats: store.register_unlisted(Scope::new("reload")),
        };
        (reloader, inbox)
    }

    /// Asks for a reload, which begins once the current one has finished.
    pub(crate) fn request(&self, trigger: Trigger) {
        self.send(ReloadRequest {
            trigger,
            answer: None,
        });
    }

    /// Asks for a reload and waits for its outcome. `None` if the process ends before.
    pub(crate) async fn request_and_wait(&self, trigger: Trigger) -> Option<Rc<ReloadOutcome>> {
        let (answer, outcome) = oneshot::channel();
        self.send(ReloadRequest {
            trigger,
            answer: Some(answer),
        });
        outcome.await.ok()
    }

    fn send(&self, request: ReloadRequest) {
        // The receiver is gone when the process ends.
        let _ = self.requests.send(request);
    }

    /// The last outcomes, the newest first.
    pub(crate) fn outcomes(&self) -> Vec<Rc<ReloadOutcome>> {
        self.outcomes.borrow().iter().cloned().collect()
    }

    fn keep(&self, outcome: Rc<ReloadOutcome>) {
        let mut outcomes = self.outcomes.borrow_mut();
        outcomes.truncate(KEPT_OUTCOMES - 1);
        outcomes.push_front(outcome);
    }
}

/// Reloads the config for each of `requests`. All requests that came during a reload make one more reload.
pub(crate) async fn run(
    control: Rc<Control>,
    mut requests: mpsc::UnboundedReceiver<ReloadRequest>,
) {
    while let Some(first) = requests.recv().await {
        let mut together = vec![first];
        while let Ok(more) = requests.try_recv() {
            together.push(more);
        }
        let trigger = together
            .first()
            .map_or(Trigger::Signal, |first| first.trigger);
        let outcome = Rc::new(reload(&control, trigger).await);
        outcome.log();
        control.reloader.keep(outcome.clone());
        for answer in together.into_iter().filter_map(|request| request.answer) {
            // The client that asked may have disconnected.
            let _ = answer.send(outcome.clone());
        }
    }
}

async fn reload(control: &Rc<Control>, trigger: Trigger) -> ReloadOutcome {
    let (at, started) = (SystemTime::now(), Instant::now());
    let stats = &control.reloader.stats;
    stats.update_attempt.inc();
    let prepared = match control.ending.get() {
        true => Err(prepare::failed("the process ends".to_owned())),
        false => prepare::prepare(control).await,
    };
    let result = match prepared {
        Ok(prepared) => put_in_place(control, prepared).await,
        Err(errors) => Err(errors),
    };
    match &result {
        Ok(_) => stats.update_success.inc(),
        Err(_) => stats.update_rejected.inc(),
    }
    ReloadOutcome {
        trigger,
        at,
        took: started.elapsed(),
        result,
    }
}

/// How long a reload waits for control planes.
const WARMING_LIMIT: Duration = Duration::from_secs(15);

/// Replaces the running config with the prepared one.
async fn put_in_place(
    control: &Rc<Control>,
    prepared: Prepared,
) -> Result<ReloadChanges, Diagnostics> {
    let _alone = control.listeners.changing.lock().await;
    let mut changes = ReloadChanges::default();
    let mut listeners = PreparedListeners::default();
    refuse_addresses(control, &prepared)?;
    let routes = compare_listeners(control, &prepared, &mut listeners, &mut changes);
    let unbound = |error: outrider_net::BindError| prepare::failed(error.to_string());
    control.listeners.bind(&mut listeners).map_err(unbound)?;
    changes.clusters = prepared.cluster_changes;

    let plans: Vec<_> = listeners.plans().cloned().collect();
    // Listeners of the control plane wait for this reload, and with them what it has for the listeners here.
    let warm = tokio::time::timeout(WARMING_LIMIT, control.warm_listeners(&plans));
    if warm.await.is_err() {
        log::warn!(target: "config", "reload: the control plane has not given the routes or secrets of all listeners in time");
    }
    let warming = control.clusters.warm(prepared.clusters);
    warming.warmed().await;

    refuse_stopped(control, &listeners)?;
    control.listeners.listen(&listeners).map_err(unbound)?;
    let replaced = control.clusters.secrets().replace_static(prepared.secrets);
    let replaced = replaced.await;
    changes.secrets = replaced.map_err(|errors| prepare::failed(errors.to_string()))?;
    let removed: Vec<Arc<str>> = (changes.clusters.removed.iter())
        .map(|name| Arc::from(name.as_str()))
        .collect();
    let reload = control.reloader.stats.update_attempt.value();
    {
        let mut retiring = control.reloader.retiring.borrow_mut();
        let NameChanges { added, changed, .. } = &changes.clusters;
        for name in added.iter().chain(changed) {
            retiring.remove(name.as_str());
        }
        retiring.extend(removed.iter().map(|name| (name.clone(), reload)));
    }
    let retired = &control.retired;
    retired.keep(control.clusters.replace([warming], &[]));
    control.listeners.activate(&mut listeners);
    (routes.into_iter()).for_each(|change| change.apply(retired));
    let draining = control.listeners.send(listeners);
    control.follow_drain();
    control
        .config
        .borrow_mut()
        .reload(prepared.wire, SystemTime::now());

    let discoveries = control.discoveries.borrow();
    if let Some(clusters) = &discoveries.clusters {
        clusters.follow_bootstrap(&changes.clusters.added, &[]);
    }
    if let Some(from_file) = &discoveries.listeners {
        from_file.follow_bootstrap(&changes.listeners.removed);
    }
    drop(discoveries);
    let control = control.clone();
    tokio::task::spawn_local(async move {
        draining.ended().await;
        control.retire_clusters(&removed, reload);
    });
    Ok(changes)
}

/// Refuses addresses that listeners from a file have and keep, and sockets that cannot replace running ones.
fn refuse_addresses(control: &Control, prepared: &Prepared) -> Result<(), Diagnostics> {
    let names: HashSet<&str> = (prepared.listeners.iter())
        .map(|plan| &*plan.config.name)
        .collect();
    for plan in &prepared.listeners {
        let stays =
            |other: &ListenerPlan| other.resource.is_some() && !names.contains(&*other.config.name);
        if let Some(address) = control.listeners.shared_address(plan, stays) {
            let name = &plan.config.name;
            return Err(prepare::failed(shared_address(name, &address)));
        }
        if let Some(running) = control.listeners.find(&plan.config.name)
            && let Err(refused) = plan.refuse_to_replace(&running)
        {
            let advice = "remove the listener in one reload, and add it in the next";
            return Err(prepare::failed(format!("{refused}: {advice}")));
        }
    }
    Ok(())
}

/// Refuses to serve listeners that were told to stop, also while clusters warmed.
fn refuse_stopped(control: &Control, listeners: &PreparedListeners) -> Result<(), Diagnostics> {
    if control.ending.get() {
        return Err(prepare::failed("the process ends".to_owned()));
    }
    let mut plans = listeners.plans_for_workers();
    match plans.find(|plan| control.listeners.has_stopped(plan)) {
        None => Ok(()),
        Some(plan) => Err(prepare::failed(format!(
            "listener '{}' cannot change: listeners of its kind are stopped (/drain_listeners)",
            plan.config.name
        ))),
    }
}

/// Sorts the listeners of the new config into added, changed, removed and unchanged ones, and collects route changes.
fn compare_listeners(
    control: &Control,
    prepared: &Prepared,
    listeners: &mut PreparedListeners,
    changes: &mut ReloadChanges,
) -> Vec<RouteChange> {
    let mut routes = Vec::new();
    let mut kept = HashSet::new();
    for plan in &prepared.listeners {
        let name = plan.config.name.clone();
        kept.insert(name.clone());
        let Some(running) = control.listeners.find(&name) else {
            changes.listeners.added.push(name.to_string());
            listeners.set(plan.clone(), ListenerChange::Whole);
            continue;
        };
        let routes_before = routes.len();
        let (plan, change) = plan.taking_over(&running, &mut routes);
        let same_routes = routes.len() == routes_before;
        if !same_routes {
            changes.routes.push(name.to_string());
        }
        match change {
            ListenerChange::Routes if same_routes && running.resource.is_none() => continue,
            ListenerChange::Routes => {}
            ListenerChange::FilterChains => changes.filter_chains.push(name.to_string()),
            ListenerChange::Whole => changes.listeners.changed.push(name.to_string()),
        }
        listeners.set(Arc::new(plan), change);
    }
    for name in control.listeners.static_names() {
        if !kept.contains(&name) {
            changes.listeners.removed.push(name.to_string());
            listeners.remove(&name);
        }
    }
    routes
}

impl Control {
    /// Takes away the clusters that the config of this reload no longer had, unless a later one had them again.
    fn retire_clusters(&self, names: &[Arc<str>], reload: u64) {
        let mut retiring = self.reloader.retiring.borrow_mut();
        let gone: Vec<Arc<str>> = names
            .iter()
            .filter(|name| retiring.get(*name) == Some(&reload))
            .cloned()
            .collect();
        retiring.retain(|name, _| !gone.contains(name));
        if gone.is_empty() {
            return;
        }
        self.retired.keep(self.clusters.replace([], &gone));
        if let Some(clusters) = &self.discoveries.borrow().clusters {
            clusters.follow_bootstrap(&[], &gone);
        }
    }
}
