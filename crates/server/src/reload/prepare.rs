//! Reads, checks and builds a new config on a thread of its own, so that DNS, the admin port and signals are not delayed.

use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use outrider_config::BootstrapSources;
use outrider_config::Diagnostic;
use outrider_config::Diagnostics;
use outrider_config::DisabledExtensions;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::Bootstrap;
use outrider_config::api::envoy::config::bootstrap::v3::bootstrap::StaticResources;
use outrider_tls::StaticSecrets;
use outrider_upstream::BuiltCluster;
use outrider_upstream::ClusterManager;
use outrider_upstream::ClusterNames;
use prost::Message as _;

use crate::background;
use crate::control::Control;
use crate::listener_plan::ListenerFactory;
use crate::listener_plan::ListenerPlan;
use crate::reload::difference::refuse_unchangeable;
use crate::reload::outcome::NameChanges;

/// A new config without errors, built but not yet running.
pub(super) struct Prepared {
    /// The new bootstrap as protobuf bytes.
    pub(super) wire: Vec<u8>,
    /// `static_resources.secrets`
    pub(super) secrets: Arc<StaticSecrets>,
    /// Clusters that are new or changed.
    pub(super) clusters: Vec<BuiltCluster>,
    pub(super) cluster_changes: NameChanges,
    /// All listeners.
    pub(super) listeners: Vec<Arc<ListenerPlan>>,
}

/// Everything that is needed to build a config, apart from the config.
struct Builder {
    sources: BootstrapSources,
    running: Vec<u8>,
    clusters: Arc<ClusterManager>,
    listeners: Arc<ListenerFactory>,
    /// Running listeners whose config has no name, with their generated names.
    nameless: Vec<Arc<ListenerPlan>>,
}

/// Reads and builds the new config, while the old one runs.
///
/// # Errors
/// Everything that is wrong with the new config.
pub(super) async fn prepare(control: &Rc<Control>) -> Result<Prepared, Diagnostics> {
    let builder = Builder {
        sources: control.options.sources(),
        running: control.config.borrow().wire().to_vec(),
        clusters: control.clusters.clone(),
        listeners: control.listener_factory.clone(),
        nameless: control.listeners.nameless(),
    };
    let built = background::run("reload", move || builder.build());
    built.await.map_err(|error| failed(error.to_string()))?
}

/// An error that does not belong to a place in the config.
pub(super) fn failed(message: String) -> Diagnostics {
    Diagnostics(vec![Diagnostic {
        position: None,
        path: FieldPath::root(),
        message,
    }])
}

impl Builder {
    fn build(mut self) -> Result<Prepared, Diagnostics> {
        let mut loaded = outrider_config::load_again(&self.sources)?;
        let diagnose = |errors| loaded.positions.diagnose(errors);
        // The running bootstrap was decoded from these bytes, so they decode again.
        let running = Bootstrap::decode(self.running.as_slice()).unwrap_or_default();
        refuse_unchangeable(&running, &loaded.bootstrap).map_err(diagnose)?;
        let statics = StaticSecrets::build(&loaded.bootstrap).map_err(diagnose)?;
        let statics = Arc::new(statics);
        let running = running.static_resources.unwrap_or_default();
        let mut new = loaded.bootstrap.static_resources.take().unwrap_or_default();
        self.name_listeners(&mut new);

        self.clusters.set_control_planes(&new.clusters);
        let secrets = self.clusters.secrets().secrets();
        let secrets = secrets.with_static(statics.clone());
        let root = FieldPath::root().field("static_resources");
        let mut errors = outrider_config::ConfigErrors::new();
        let clusters = errors.collect(self.clusters.build_clusters(
            &new.clusters,
            &root.field("clusters"),
            &secrets,
        ));
        let mut names = ClusterNames::default();
        new.clusters
            .iter()
            .for_each(|cluster| names.add(&cluster.name));
        let listeners = errors.collect(self.listeners.build_all(
            &new.listeners,
            &root.field("listeners"),
            (&names, &secrets),
        ));
        let (Some(clusters), Some(listeners)) = (clusters, listeners) else {
            return Err(loaded.positions.diagnose(errors));
        };
        let (clusters, cluster_changes) = changed_clusters(clusters, &running, &new);
        Ok(Prepared {
            wire: loaded.wire,
            secrets: statics,
            clusters,
            cluster_changes,
            listeners,
        })
    }

    /// Gives listeners without a name the generated name of the running listener with the same address.
    fn name_listeners(&mut self, new: &mut StaticResources) {
        for listener in new
            .listeners
            .iter_mut()
            .filter(|listener| listener.name.is_empty())
        {
            // Each is taken once: several may have port 0.
            let running = (self.nameless.iter()).position(|plan| plan.has_address_of(listener));
            if let Some(plan) = running.map(|at| self.nameless.remove(at)) {
                listener.name = plan.config.name.to_string();
            }
        }
    }
}

/// The built clusters that differ from the running ones, and the names of added, changed and removed clusters.
fn changed_clusters(
    built: Vec<BuiltCluster>,
    running: &StaticResources,
    new: &StaticResources,
) -> (Vec<BuiltCluster>, NameChanges) {
    let mut before: HashMap<&str, _> = (running.clusters.iter())
        .map(|cluster| (cluster.name.as_str(), cluster))
        .collect();
    let mut changes = NameChanges::default();
    let mut changed = Vec::new();
    for (built, message) in built.into_iter().zip(&new.clusters) {
        match before.remove(message.name.as_str()) {
            Some(running) if running == message => continue,
            Some(_) => changes.changed.push(message.name.clone()),
            None => changes.added.push(message.name.clone()),
        }
        changed.push(built);
    }
    changes.removed = before.into_keys().map(str::to_owned).collect();
    changes.removed.sort();
    (changed, changes)
}

impl crate::cli::Options {
    /// The files and options that the config comes from.
    pub(crate) fn sources(&self) -> BootstrapSources {
        BootstrapSources {
            config_path: (!self.config_path.is_empty()).then(|| PathBuf::from(&self.config_path)),
            config_yaml: (!self.config_yaml.is_empty()).then(|| self.config_yaml.clone()),
            allow_unknown_static_fields: self.allow_unknown_static_fields,
            disabled_extensions: DisabledExtensions::parse(&self.disabled_extensions).0,
        }
    }
}
