//! LDS: listeners from a file of resources or a control plane.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::HashSet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use outrider_admin::DynamicListener;
use outrider_admin::FailedUpdate;
use outrider_admin::VersionedMessage;
use outrider_config::FieldPath;
use outrider_config::Resource;
use outrider_config::api::envoy::config::listener::v3::Listener;
use outrider_stats::Scope;
use outrider_xds::ConfigSource;
use outrider_xds::Removed;
use outrider_xds::ResourceType;
use outrider_xds::SubscriptionTarget;
use outrider_xds::Update;
use prost::Message as _;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::background;
use crate::control::Control;
use crate::discovery::followed_source::FollowedSource;
use crate::dump::DynamicResource;
use crate::listener_manager::PreparedListeners;
use crate::listener_plan::ListenerChange;
use crate::listener_plan::ListenerPlan;
use crate::listener_plan::RouteChange;
use crate::listener_plan::shared_address;

/// Keeps listeners in step with a source. It never changes listeners of the bootstrap.
pub(crate) struct ListenerDiscovery {
    source: FollowedSource,
    control: Rc<Control>,
    /// What the last update could not apply.
    failed: RefCell<Vec<FailedListener>>,
    /// Listeners whose routes or secrets a control plane has not given yet.
    warming: RefCell<HashMap<String, WarmingListener>>,
    /// How many of them there are.
    warming_count: watch::Sender<usize>,
}

struct WarmingListener {
    resource: Arc<DynamicResource>,
    task: AbortHandle,
}

/// A listener that can take the place of the running one of its name.
struct NextListener {
    plan: Arc<ListenerPlan>,
    change: ListenerChange,
    routes: Vec<RouteChange>,
}

/// A listener that could not be added or changed.
#[derive(Clone)]
pub(crate) struct FailedListener {
    /// The second of two with one name.
    is_duplicate: bool,
    name: String,
    error: String,
    resource: DynamicResource,
}

impl ListenerDiscovery {
    pub(super) fn new(source: &ConfigSource, control: &Rc<Control>) -> io::Result<Rc<Self>> {
        let subject = SubscriptionTarget {
            kind: &ResourceType::LISTENER,
            name: None,
            scope: Scope::new("listener_manager").name("lds"),
        };
        let (sources, store) = (control.clusters.sources(), &control.store);
        Ok(Rc::new(ListenerDiscovery {
            source: FollowedSource::new(source, subject, sources, store)?,
            control: control.clone(),
            failed: RefCell::default(),
            warming: RefCell::default(),
            warming_count: watch::Sender::new(0),
        }))
    }

    /// Applies each update, for as long as the process serves.
    pub(super) async fn follow(self: Rc<Self>) {
        loop {
            self.source.changed().await;
            self.update().await;
        }
    }

    /// Waits until no listener is warming.
    pub(super) async fn warmed(&self) {
        let mut count = self.warming_count.subscribe();
        // `self` owns the sender, so the channel cannot be closed.
        let _sent = count.wait_for(|count| *count == 0).await;
    }

    /// Applies the newest resources.
    pub(super) async fn update(self: &Rc<Self>) {
        let this = self.clone();
        let apply = async move |update| this.take(update).await;
        self.source.update(apply).await;
    }

    /// Adds and changes the valid listeners and removes those that are gone. As in Envoy, an invalid listener
    /// does not prevent the update of the others.
    async fn take(self: Rc<Self>, update: Update) -> Result<(), String> {
        // Sockets are about to be closed, or are closed already.
        if self.control.ending.get() {
            return Err("the process ends".to_owned());
        }
        let _alone = self.control.listeners.changing.lock().await;
        let mut failed = Vec::new();
        let mut listed = HashSet::new();
        let mut changed = Vec::new();
        for resource in update.resources {
            let name = resource.name.clone();
            if !listed.insert(name.clone()) {
                failed.push(FailedListener {
                    is_duplicate: true,
                    error: format!("duplicate listener {name} found"),
                    resource: DynamicResource::new(resource.wire, &resource.version),
                    name,
                });
                continue;
            }
            if !self.is_known(&resource) {
                changed.push(resource);
            }
        }
        let mut is_applied = self.remove(&update.removed, &listed);
        self.source.set_listed(listed, &update.removed);
        for (resource, built) in self.build(changed).await? {
            let name = resource.name;
            let resource = Arc::new(DynamicResource::new(resource.wire, &resource.version));
            let set = match built {
                Ok(plan) => self.clone().set(plan, &resource).await,
                Err(error) => Err(error),
            };
            match set {
                Ok(()) => is_applied = true,
                Err(error) => failed.push(FailedListener {
                    is_duplicate: false,
                    name,
                    error,
                    resource: (*resource).clone(),
                }),
            }
        }
        if is_applied {
            self.source.set_version(update.version);
        }
        let errors = failed
            .iter()
            .map(|failed| format!("{}: {}", failed.name, failed.error));
        let errors: Vec<String> = errors.collect();
        self.failed.replace(failed);
        match errors.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "Error adding/updating listener(s) {}",
                errors.join(", ")
            )),
        }
    }

    /// Whether the listener of this name is, or soon will be, the one of `resource`, or one of the bootstrap.
    fn is_known(&self, resource: &Resource) -> bool {
        if let Some(warming) = self.warming.borrow().get(&resource.name) {
            return warming.resource.wire == resource.wire;
        }
        let running = self.control.listeners.find(&resource.name);
        running.is_some_and(|running| {
            let known = running.resource.as_ref();
            known.is_none_or(|known| known.wire == resource.wire)
        })
    }

    /// Builds the listeners that are new or have changed.
    async fn build(&self, changed: Vec<Resource>) -> Result<Vec<BuiltListener>, String> {
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        let factory = self.control.listener_factory.clone();
        let names = self.control.clusters.names();
        let secrets = self.control.clusters.secrets().secrets();
        let build = move |resource: Resource| {
            let message = Listener::decode(resource.wire.as_slice()).unwrap_or_default();
            let built = factory.build(&message, &FieldPath::root(), (&names, &secrets));
            let built = built.map_err(|errors| resource.positions.diagnose(errors).to_string());
            (resource, built)
        };
        let built = background::run("lds", move || changed.into_iter().map(build).collect());
        built.await.map_err(|error| error.to_string())
    }

    /// Removes the listeners that the source has no longer. Returns whether there were any.
    fn remove(&self, removed: &Removed, listed: &HashSet<String>) -> bool {
        let is_gone = |name: &str| !listed.contains(name) && removed.has(name);
        let unwarmed: Vec<String> = {
            let warming = self.warming.borrow();
            warming
                .keys()
                .filter(|name| is_gone(name))
                .cloned()
                .collect()
        };
        unwarmed.iter().for_each(|name| self.stop_warming(name));
        let mut prepared = PreparedListeners::default();
        let mut is_changed = !unwarmed.is_empty();
        for plan in self.control.listeners.all() {
            if plan.resource.is_some() && is_gone(&plan.config.name) {
                prepared.remove(&plan.config.name);
                is_changed = true;
            }
        }
        // Removing listeners binds no address, so nothing can fail.
        let _draining = self.control.listeners.put(prepared);
        is_changed
    }

    /// Applies one listener. If it needs routes or secrets of a control plane, it takes the place of the running one later,
    /// when these are there.
    async fn set(
        self: Rc<Self>,
        mut plan: ListenerPlan,
        resource: &Arc<DynamicResource>,
    ) -> Result<(), String> {
        let control = &self.control;
        plan.resource = Some(resource.clone());
        let name = plan.config.name.clone();
        self.stop_warming(&name);
        let running = control.listeners.find(&name);
        if let Some(running) = &running {
            plan.refuse_to_replace(running)?;
        }
        if let Some(address) = control.listeners.shared_address(&plan, |_| true) {
            return Err(shared_address(&name, &address));
        }
        if control.listeners.has_stopped(&plan) {
            // As in Envoy, this is no error.
            log::warn!(target: "config", "listener {name} can not be added because listeners of its kind are stopped");
            return Ok(());
        }
        let mut routes = Vec::new();
        let (plan, change) = match running {
            Some(running) => plan.taking_over(&running, &mut routes),
            None => (plan, ListenerChange::Whole),
        };
        let next = NextListener {
            plan: Arc::new(plan),
            change,
            routes,
        };
        if next.plan.waits_for_control_plane() {
            self.clone().warm(name.to_string(), next, resource);
            return Ok(());
        }
        control
            .warm_listeners(std::slice::from_ref(&next.plan))
            .await;
        self.put(next)
    }

    /// Makes a listener active.
    fn put(&self, next: NextListener) -> Result<(), String> {
        let control = &self.control;
        let mut prepared = PreparedListeners::default();
        prepared.set(next.plan, next.change);
        let put = control.listeners.put(prepared);
        let draining = put.map_err(|error| {
            (control.stats.listener_manager.listener_create_failure).inc();
            error.to_string()
        })?;
        drop(draining);
        (next.routes.into_iter()).for_each(|change| change.apply(&control.retired));
        control.follow_drain();
        Ok(())
    }

    /// Makes a listener active once it has its routes and secrets.
    fn warm(self: Rc<Self>, name: String, next: NextListener, resource: &Arc<DynamicResource>) {
        self.count_warming(|count| count + 1);
        let (this, of) = (self.clone(), name.clone());
        let task = tokio::task::spawn_local(async move {
            let control = &this.control;
            control
                .warm_listeners(std::slice::from_ref(&next.plan))
                .await;
            let _alone = control.listeners.changing.lock().await;
            let known = this.warming.borrow_mut().remove(&of);
            if let (Err(error), Some(known)) = (this.put(next), known) {
                log::warn!(target: "config", "listener {of}: {error}");
                this.failed.borrow_mut().push(FailedListener {
                    is_duplicate: false,
                    name: of,
                    error,
                    resource: (*known.resource).clone(),
                });
            }
            this.count_warming(|count| count - 1);
        });
        let warming = WarmingListener {
            resource: resource.clone(),
            task: task.abort_handle(),
        };
        self.warming.borrow_mut().insert(name, warming);
    }

    fn stop_warming(&self, name: &str) {
        if let Some(warming) = self.warming.borrow_mut().remove(name) {
            warming.task.abort();
            self.count_warming(|count| count - 1);
        }
    }

    fn count_warming(&self, count: impl Fn(usize) -> usize) {
        let now = count(*self.warming_count.borrow());
        let stats = &self.control.stats.listener_manager;
        stats.total_listeners_warming.set(now as u64);
        self.warming_count.send_replace(now);
    }

    /// Listeners of the bootstrap were removed: those of these names may be the source's again.
    pub(crate) fn follow_bootstrap(&self, removed: &[String]) {
        self.source.names_freed(removed);
    }

    /// The version of the last update of which something was applied.
    pub(crate) fn version(&self) -> String {
        self.source.version()
    }

    /// The entries of `/config_dump`.
    pub(crate) fn dump(&self) -> Vec<DynamicListener> {
        let listeners = &self.control.listeners;
        let states = |plans: Vec<Arc<ListenerPlan>>| {
            let dynamic = plans.into_iter().filter_map(|plan| {
                let state = plan.resource.as_ref()?.dump::<Listener>();
                Some((plan.config.name.to_string(), state))
            });
            dynamic.collect::<Vec<_>>()
        };
        let mut dumped: Vec<DynamicListener> = Vec::new();
        for (name, state) in states(listeners.all()) {
            dumped.push(DynamicListener {
                active: Some(state),
                ..DynamicListener::new(name)
            });
        }
        for (name, state) in states(listeners.draining()) {
            // Of several draining listeners of one name, Envoy shows the oldest.
            (entry(&mut dumped, name).draining).get_or_insert(state);
        }
        let failed = self.failed.borrow();
        for failed in failed.iter().filter(|failed| !failed.is_duplicate) {
            entry(&mut dumped, failed.name.clone()).failed = Some(failed.dump());
        }
        // As in Envoy, each failure is listed a second time, without a name.
        for failed in failed.iter() {
            let mut state = failed.dump();
            state.at = None;
            dumped.push(DynamicListener {
                failed: Some(state),
                ..DynamicListener::new(String::new())
            });
        }
        dumped
    }
}

/// A resource, and the listener that was built from it, or why it could not be.
type BuiltListener = (Resource, Result<ListenerPlan, String>);

/// The entry of `name`, which is added if there is none.
fn entry(dumped: &mut Vec<DynamicListener>, name: String) -> &mut DynamicListener {
    let known = dumped.iter().position(|entry| entry.name == name);
    let at = known.unwrap_or_else(|| {
        dumped.push(DynamicListener::new(name));
        dumped.len() - 1
    });
    &mut dumped[at]
}

impl FailedListener {
    fn dump(&self) -> FailedUpdate {
        let VersionedMessage { dumped, .. } = self.resource.dump::<Listener>();
        FailedUpdate {
            message: dumped.message,
            at: Some(dumped.last_updated),
            details: self.error.clone(),
        }
    }
}
