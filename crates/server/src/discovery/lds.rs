//! LDS: listeners from a file of resources.

use std::cell::RefCell;
use std::collections::BTreeMap;
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

use crate::control::Control;
use crate::dump::Dynamic;
use crate::listener_manager::PreparedListeners;
use crate::listener_plan::ListenerChange;
use crate::listener_plan::ListenerPlan;
use crate::listener_plan::RouteChange;

const TYPE: &str = "envoy.config.listener.v3.Listener";

/// Keeps listeners as a file has them. A listener of the bootstrap is never touched by it.
pub(crate) struct ListenerDiscovery {
    subscription: Mutex<FileSubscription>,
    control: Rc<Control>,
    /// What the file has, by name.
    named: RefCell<BTreeMap<String, Dynamic>>,
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
            version: RefCell::default(),
        }))
    }

    /// Follows the file for as long as the process serves.
    pub(super) async fn follow(self: Rc<Self>) {
        loop {
            self.subscription.lock().await.changed().await;
            self.update().await;
        }
    }

    /// Reads the file, and takes over what it has.
    pub(super) async fn update(self: &Rc<Self>) {
        let this = self.clone();
        let subscription = self.subscription.lock().await;
        subscription
            .update(async move |file| this.take(file).await)
            .await;
    }

    /// Adds and changes the listeners that are right, and removes those that the file no longer has. As in Envoy, one that is
    /// wrong does not keep the others from it.
    async fn take(&self, file: ResourceFile) -> Result<(), String> {
        // Sockets are about to be closed, or are closed already.
        if self.control.ending.get() {
            return Err("the process ends".to_owned());
        }
        let mut errors = Vec::new();
        let mut listed = Vec::new();
        let mut changed = Vec::new();
        for resource in file.resources {
            let name = resource.name.clone();
            if listed.contains(&name) {
                errors.push(format!("{name}: duplicate listener {name} found"));
                continue;
            }
            listed.push(name.clone());
            let same = |known: &Dynamic| known.wire == resource.wire;
            let running = self.control.listeners.find(&name);
            let is_static = running.is_some_and(|plan| !plan.added_via_api);
            if self.named.borrow().get(&name).is_some_and(same) || is_static {
                continue;
            }
            changed.push(resource);
        }
        self.remove_all_but(&listed);
        for resource in changed {
            let name = resource.name.clone();
            match self.set(&resource).await {
                Ok(()) => {
                    let known = Dynamic::new(resource.wire, &file.version);
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

    fn remove_all_but(&self, listed: &[String]) {
        let mut named = self.named.borrow_mut();
        let mut prepared = PreparedListeners::default();
        named.retain(|name, _| {
            let is_listed = listed.contains(name);
            if !is_listed {
                prepared.remove(&Arc::from(name.as_str()));
            }
            is_listed
        });
        // Nothing is bound for those that go, so nothing can fail.
        let _draining = self.control.listeners.put(prepared);
    }

    /// Puts one listener in place.
    async fn set(&self, resource: &Resource) -> Result<(), String> {
        let control = &self.control;
        let message =
            Listener::decode(resource.wire.as_slice()).map_err(|error| error.to_string())?;
        let names = control.clusters.names();
        let built = (control.listener_factory).build(&message, &FieldPath::root(), &names);
        let mut plan = built.map_err(|errors| resource.positions.diagnose(errors).to_string())?;
        plan.added_via_api = true;
        self.refuse_shared_address(&plan)?;
        let mut routes = Vec::new();
        let (plan, change) = match control.listeners.find(&plan.config.name) {
            Some(running) => plan.taking_over(&running, &mut routes),
            None => (plan, ListenerChange::Whole),
        };
        let plan = Arc::new(plan);
        control.routes.connect_all(&[plan.clone()]).await;
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

    fn refuse_shared_address(&self, plan: &ListenerPlan) -> Result<(), String> {
        let others = self.control.listeners.all();
        let mut others = others
            .iter()
            .filter(|other| other.config.name != plan.config.name);
        let fixed = |address: &&outrider_net::Address| address.ip().is_none_or(|ip| ip.port() != 0);
        let mut own = plan.config.addresses().filter(fixed);
        let shared = own.find(|own| {
            others.any(|other| other.config.addresses().any(|address| address == *own))
        });
        match shared {
            None => Ok(()),
            Some(address) => Err(format!(
                "error adding listener: '{}' has duplicate address '{address}' as existing listener",
                plan.config.name
            )),
        }
    }

    /// The version of the last update that was accepted.
    pub(crate) fn version(&self) -> String {
        self.version.borrow().clone()
    }

    /// What `/config_dump` shows, by name.
    pub(crate) fn dump(&self) -> Vec<Dynamic> {
        self.named.borrow().values().cloned().collect()
    }
}
