//! LDS: listeners from a file of resources.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::HashSet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use outrider_config::FieldPath;
use outrider_config::Resource;
use outrider_config::ResourceFile;
use outrider_config::api::envoy::config::listener::v3::Listener;
use outrider_stats::Scope;
use outrider_xds::FileSource;
use outrider_xds::FileSubscription;
use prost::Message as _;
use tokio::sync::Mutex;
use tokio::sync::Notify;

use crate::control::Control;
use crate::dump::DynamicResource;
use crate::listener_manager::PreparedListeners;
use crate::listener_plan::ListenerChange;
use crate::listener_plan::RouteChange;

const TYPE: &str = "envoy.config.listener.v3.Listener";

/// Keeps listeners in step with a file. It never changes listeners of the bootstrap.
pub(crate) struct ListenerDiscovery {
    subscription: Mutex<FileSubscription>,
    control: Rc<Control>,
    /// The listeners that the file has, by name.
    named: RefCell<BTreeMap<String, DynamicResource>>,
    /// What the file has under a name of the bootstrap's.
    overridden: RefCell<HashSet<String>>,
    /// Notified when the file must be read again although it was not replaced.
    again: Notify,
    version: RefCell<String>,
}

impl ListenerDiscovery {
    pub(super) fn new(source: FileSource, control: &Rc<Control>) -> io::Result<Rc<Self>> {
        let scope = Scope::new("listener_manager").name("lds");
        let stats = control.store.register(scope);
        let sources = control.clusters.sources();
        Ok(Rc::new(ListenerDiscovery {
            subscription: Mutex::new(FileSubscription::new(source, TYPE, sources, stats)?),
            control: control.clone(),
            named: RefCell::default(),
            overridden: RefCell::default(),
            again: Notify::new(),
            version: RefCell::default(),
        }))
    }

    /// Reads the file again whenever it is replaced, for as long as the process serves.
    pub(super) async fn follow(self: Rc<Self>) {
        loop {
            let mut subscription = self.subscription.lock().await;
            tokio::select! {
                () = subscription.changed() => {}
                () = self.again.notified() => {}
            }
            drop(subscription);
            self.update().await;
        }
    }

    /// Reads the file and applies it.
    pub(super) async fn update(self: &Rc<Self>) {
        let this = self.clone();
        let subscription = self.subscription.lock().await;
        subscription
            .update(async move |file| this.take(file).await)
            .await;
    }

    /// Adds and changes the valid listeners and removes those that the file no longer has. As in Envoy, an invalid listener
    /// does not prevent the update of the others.
    async fn take(&self, file: ResourceFile) -> Result<(), String> {
        // Sockets are about to be closed, or are closed already.
        if self.control.ending.get() {
            return Err("the process ends".to_owned());
        }
        let _alone = self.control.listeners.changing.lock().await;
        let mut errors = Vec::new();
        let mut listed = HashSet::new();
        let mut changed = Vec::new();
        self.overridden.borrow_mut().clear();
        for resource in file.resources {
            let name = resource.name.clone();
            if !listed.insert(name.clone()) {
                errors.push(format!("{name}: duplicate listener {name} found"));
                continue;
            }
            let same = |known: &DynamicResource| known.wire == resource.wire;
            let running = self.control.listeners.find(&name);
            let is_static = running.is_some_and(|plan| !plan.added_via_api);
            if is_static {
                self.overridden.borrow_mut().insert(name);
                continue;
            }
            if self.named.borrow().get(&name).is_some_and(same) {
                continue;
            }
            changed.push(resource);
        }
        self.remove_all_but(&listed);
        for resource in changed {
            let name = resource.name.clone();
            match self.set(&resource).await {
                Ok(()) => {
                    let known = DynamicResource::new(resource.wire, &file.version);
                    self.named.borrow_mut().insert(name, known);
                }
                Err(error) => errors.push(format!("{name}: {error}")),
            }
        }
        if errors.is_empty() {
            self.version.replace(file.version);
            return Ok(());
        }
        Err(format!(
            "Error adding/updating listener(s) {}",
            errors.join(", ")
        ))
    }

    fn remove_all_but(&self, listed: &HashSet<String>) {
        let mut named = self.named.borrow_mut();
        let mut prepared = PreparedListeners::default();
        named.retain(|name, _| {
            let is_listed = listed.contains(name);
            if !is_listed {
                prepared.remove(&Arc::from(name.as_str()));
            }
            is_listed
        });
        // Removing listeners binds no address, so nothing can fail.
        let _draining = self.control.listeners.put(prepared);
    }

    /// Applies one listener.
    async fn set(&self, resource: &Resource) -> Result<(), String> {
        let control = &self.control;
        let message =
            Listener::decode(resource.wire.as_slice()).map_err(|error| error.to_string())?;
        let names = control.clusters.names();
        let built = (control.listener_factory).build(&message, &FieldPath::root(), &names);
        let mut plan = built.map_err(|errors| resource.positions.diagnose(errors).to_string())?;
        plan.added_via_api = true;
        let name = plan.config.name.clone();
        if let Some(address) = control.listeners.shared_address(&plan, |_| true) {
            return Err(format!(
                "error adding listener: '{name}' has duplicate address '{address}' as existing listener"
            ));
        }
        if control.listeners.has_stopped(&plan) {
            // As in Envoy, this is no error.
            log::warn!(target: "config", "listener {name} can not be added because listeners of its kind are stopped");
            return Ok(());
        }
        let mut routes = Vec::new();
        let (plan, change) = match control.listeners.find(&plan.config.name) {
            Some(running) => plan.taking_over(&running, &mut routes),
            None => (plan, ListenerChange::Whole),
        };
        let plan = Arc::new(plan);
        control
            .routes
            .connect_all(std::slice::from_ref(&plan))
            .await;
        let mut prepared = PreparedListeners::default();
        prepared.set(plan, change);
        let put = control.listeners.put(prepared);
        let draining = put.map_err(|error| {
            (control.stats.listener_manager.listener_create_failure).inc();
            error.to_string()
        })?;
        drop(draining);
        routes.into_iter().for_each(RouteChange::apply);
        control.follow_drain();
        Ok(())
    }

    /// The bootstrap's listeners have changed. It now owns those named in `own`, and the file may again use the names in
    /// `removed`.
    pub(crate) fn follow_bootstrap<'a>(
        &self,
        own: impl Iterator<Item = &'a str>,
        removed: &[String],
    ) {
        let mut overridden = self.overridden.borrow_mut();
        let mut named = self.named.borrow_mut();
        for name in own.filter(|name| named.remove(*name).is_some()) {
            overridden.insert(name.to_owned());
        }
        if removed.iter().any(|name| overridden.contains(name)) {
            self.again.notify_one();
        }
    }

    /// The version of the last update that was accepted.
    pub(crate) fn version(&self) -> String {
        self.version.borrow().clone()
    }

    /// The entries of `/config_dump`, by name.
    pub(crate) fn dump(&self) -> Vec<DynamicResource> {
        self.named.borrow().values().cloned().collect()
    }
}
