//! LDS: listeners from a file of resources.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use outrider_admin::DynamicListener;
use outrider_admin::FailedUpdate;
use outrider_admin::VersionedMessage;
use outrider_config::FieldPath;
use outrider_config::Resource;
use outrider_config::ResourceFile;
use outrider_config::api::envoy::config::listener::v3::Listener;
use outrider_stats::Scope;
use outrider_xds::FileSource;
use prost::Message as _;

use crate::background;
use crate::control::Control;
use crate::discovery::followed_file::FollowedFile;
use crate::dump::DynamicResource;
use crate::listener_manager::PreparedListeners;
use crate::listener_plan::ListenerChange;
use crate::listener_plan::ListenerPlan;
use crate::listener_plan::shared_address;

const TYPE: &str = "envoy.config.listener.v3.Listener";

/// Keeps listeners in step with a file. It never changes listeners of the bootstrap.
pub(crate) struct ListenerDiscovery {
    file: FollowedFile,
    control: Rc<Control>,
    /// What the last update could not apply.
    failed: RefCell<Vec<FailedListener>>,
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
    pub(super) fn new(source: FileSource, control: &Rc<Control>) -> io::Result<Rc<Self>> {
        let scope = Scope::new("listener_manager").name("lds");
        let stats = control.store.register(scope);
        let sources = control.clusters.sources();
        Ok(Rc::new(ListenerDiscovery {
            file: FollowedFile::new(source, TYPE, sources, stats)?,
            control: control.clone(),
            failed: RefCell::default(),
        }))
    }

    /// Reads the file again whenever it is replaced, for as long as the process serves.
    pub(super) async fn follow(self: Rc<Self>) {
        loop {
            self.file.changed().await;
            self.update().await;
        }
    }

    /// Reads the file and applies it.
    pub(super) async fn update(self: &Rc<Self>) {
        let this = self.clone();
        let apply = async move |file| this.take(file).await;
        self.file.update(apply).await;
    }

    /// Adds and changes the valid listeners and removes those that the file no longer has. As in Envoy, an invalid listener
    /// does not prevent the update of the others.
    async fn take(&self, file: ResourceFile) -> Result<(), String> {
        // Sockets are about to be closed, or are closed already.
        if self.control.ending.get() {
            return Err("the process ends".to_owned());
        }
        let _alone = self.control.listeners.changing.lock().await;
        let mut failed = Vec::new();
        let mut listed = HashSet::new();
        let mut changed = Vec::new();
        for resource in file.resources {
            let name = resource.name.clone();
            if !listed.insert(name.clone()) {
                failed.push(FailedListener {
                    is_duplicate: true,
                    error: format!("duplicate listener {name} found"),
                    resource: DynamicResource::new(resource.wire, &file.version),
                    name,
                });
                continue;
            }
            let is_unchanged = self.control.listeners.find(&name).is_some_and(|running| {
                let known = running.resource.as_ref();
                known.is_none_or(|known| known.wire == resource.wire)
            });
            if !is_unchanged {
                changed.push(resource);
            }
        }
        let mut is_applied = self.remove_all_but(&listed);
        self.file.set_listed(listed);
        for (resource, built) in self.build(changed).await? {
            let name = resource.name;
            let resource = Arc::new(DynamicResource::new(resource.wire, &file.version));
            let set = match built {
                Ok(plan) => self.set(plan, &resource).await,
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
            self.file.set_version(file.version);
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

    /// Removes the listeners that the file has no longer. Returns whether there were any.
    fn remove_all_but(&self, listed: &HashSet<String>) -> bool {
        let mut prepared = PreparedListeners::default();
        let mut is_changed = false;
        for plan in self.control.listeners.all() {
            if plan.resource.is_some() && !listed.contains(&*plan.config.name) {
                prepared.remove(&plan.config.name);
                is_changed = true;
            }
        }
        // Removing listeners binds no address, so nothing can fail.
        let _draining = self.control.listeners.put(prepared);
        is_changed
    }

    /// Applies one listener.
    async fn set(
        &self,
        mut plan: ListenerPlan,
        resource: &Arc<DynamicResource>,
    ) -> Result<(), String> {
        let control = &self.control;
        plan.resource = Some(resource.clone());
        let name = plan.config.name.clone();
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
        let plan = Arc::new(plan);
        control.warm_listeners(std::slice::from_ref(&plan)).await;
        let mut prepared = PreparedListeners::default();
        prepared.set(plan, change);
        let put = control.listeners.put(prepared);
        let draining = put.map_err(|error| {
            (control.stats.listener_manager.listener_create_failure).inc();
            error.to_string()
        })?;
        drop(draining);
        (routes.into_iter()).for_each(|change| change.apply(&control.retired));
        control.follow_drain();
        Ok(())
    }

    /// Listeners of the bootstrap were removed: those of these names may be the file's again.
    pub(crate) fn follow_bootstrap(&self, removed: &[String]) {
        self.file.names_freed(removed);
    }

    /// The version of the last update of which something was applied.
    pub(crate) fn version(&self) -> String {
        self.file.version()
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
            // Of several, Envoy shows the oldest.
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
