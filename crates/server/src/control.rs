//! The state of the process that the admin server shows, and the actions that it can ask for.

use std::cell::Cell;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Instant;

use outrider_admin::ConfigDump;
use outrider_admin::DrainListeners;
use outrider_admin::DynamicDump;
use outrider_admin::ListenerView;
use outrider_admin::ProcessStats;
use outrider_admin::ReloadResponse;
use outrider_admin::RuntimeView;
use outrider_admin::ServerControl;
use outrider_admin::ServerInfo;
use outrider_admin::ServerState;
use outrider_admin::UnreadyTargets;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_config::api::envoy::config::core::v3::Node;
use outrider_config::api::envoy::config::route::v3::RouteConfiguration;
use outrider_http::access_log::LogFiles;
use outrider_net::ActivityCounts;
use outrider_runtime::RefusedValues;
use outrider_stats::Store;
use outrider_tls::ContextCertificates;
use outrider_upstream::ClusterManager;
use outrider_upstream::ClusterView;
use serde_json::Value;
use tokio::sync::Notify;

use crate::cli::Options;
use crate::cli::VERSION;
use crate::discovery::Discoveries;
use crate::discovery::RouteDiscovery;
use crate::dump;
use crate::listener_manager::ListenerManager;
use crate::listener_plan::ListenerFactory;
use crate::listener_plan::ListenerPlan;
use crate::logging::Level;
use crate::logging::Logging;
use crate::reload::Reloader;
use crate::reload::Trigger;
use crate::retired::Retired;
use crate::runtime::RuntimeLoader;
use crate::worker_listeners::DrainMode;
use crate::worker_listeners::DrainPlan;
use crate::worker_listeners::ListenerSelection;

/// The state of the process. Lives on the main thread.
pub(crate) struct Control {
    pub(crate) options: Options,
    pub(crate) logging: Arc<Logging>,
    pub(crate) started: Instant,
    pub(crate) config: RefCell<dump::LoadedBootstrap>,
    pub(crate) node: Value,
    /// The same, as control planes get it.
    pub(crate) xds_node: Node,
    pub(crate) clusters: Arc<ClusterManager>,
    pub(crate) runtime: Arc<RuntimeLoader>,
    pub(crate) log_files: Arc<LogFiles>,
    pub(crate) stats: ProcessStats,
    pub(crate) listeners: ListenerManager,
    pub(crate) listener_factory: Arc<ListenerFactory>,
    pub(crate) reloader: Reloader,
    pub(crate) store: Arc<Store>,
    pub(crate) routes: RouteDiscovery,
    pub(crate) retired: Retired,
    pub(crate) discoveries: RefCell<Discoveries>,
    pub(crate) phase: Cell<Phase>,
    /// Whether `/healthcheck/fail` was called. Shared with the workers.
    pub(crate) health_checks_fail: Arc<AtomicBool>,
    pub(crate) draining: Cell<bool>,
    /// A signal has asked the process to end. It finishes open requests, and still serves new ones meanwhile.
    pub(crate) ending: Cell<bool>,
    pub(crate) quit: Notify,
    /// How many requests each worker serves.
    pub(crate) activity: Vec<Arc<ActivityCounts>>,
}

/// How far start-up has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Some cluster waits for its first hosts.
    Clusters,
    /// Workers start.
    Listeners,
    /// Serving.
    Running,
}

impl Control {
    /// Gets the routes and secrets that these listeners need from their sources, now and on each update.
    pub(crate) async fn warm_listeners(&self, plans: &[Arc<ListenerPlan>]) {
        self.routes.connect_all(plans).await;
        for tls in plans.iter().flat_map(|plan| plan.tls()) {
            self.clusters.secrets().follow(tls.clone()).await;
        }
    }

    /// The resources that came from dynamic sources.
    fn dynamic_dump(&self) -> DynamicDump {
        let mut dump = DynamicDump {
            routes: dump::versioned::<RouteConfiguration>(&self.routes.dump()),
            secrets: dump::secrets(self.clusters.secrets().dump()),
            ..DynamicDump::default()
        };
        let discoveries = self.discoveries.borrow();
        if let Some(clusters) = &discoveries.clusters {
            let (active, warming) = clusters.dump();
            dump.clusters_version = clusters.version();
            dump.active_clusters = dump::versioned::<Cluster>(&active);
            dump.warming_clusters = dump::versioned::<Cluster>(&warming);
        }
        if let Some(listeners) = &discoveries.listeners {
            dump.listeners_version = listeners.version();
            dump.listeners = listeners.dump();
        }
        dump
    }

    /// Updates the stats that no event updates, such as the uptime. Called before each flush.
    pub(crate) fn refresh_stats(&self) {
        let unknown_fields = self.clusters.sources().take_unknown_fields();
        if unknown_fields > 0 {
            (self.stats.server.dynamic_unknown_fields).add(unknown_fields);
        }
        self.stats
            .server
            .total_connections
            .set(self.listener_factory.connections.active());
        (self.stats.server).count_days_until_expiry(&self.clusters.secrets().certificates());
        self.stats.refresh(self.started.elapsed(), self.state());
    }

    /// Updates the `runtime.*` gauges.
    pub(crate) fn count_runtime(&self) {
        let counts = self.runtime.counts();
        let stats = &self.stats.runtime;
        stats.num_keys.set(counts.keys as u64);
        if counts.has_overrides || stats.admin_overrides_active.value() > 0 {
            let active = u64::from(counts.has_overrides);
            stats.admin_overrides_active.set(active);
        }
        stats.num_layers.set(counts.layers as u64);
        match counts.last.is_complete {
            true => stats.load_success.inc(),
            false => stats.load_error.inc(),
        }
        // As in Envoy, a single disk layer does not count as an override directory.
        match counts.last.disk_layers {
            0 | 1 => stats.override_dir_not_exists.inc(),
            _ => stats.override_dir_exists.inc(),
        }
    }

    /// Loads the runtime's layers again and makes the new values effective everywhere.
    pub(crate) fn reload_runtime(&self) {
        self.runtime.reload();
        self.runtime.limit_regular_expressions();
        self.clusters.apply_runtime();
        self.count_runtime();
    }
}

/// The control that the admin server holds.
pub(crate) struct AdminControl(pub(crate) Rc<Control>);

impl ServerControl for AdminControl {
    fn state(&self) -> ServerState {
        self.0.state()
    }

    fn info(&self) -> ServerInfo {
        ServerInfo {
            version: VERSION.to_owned(),
            uptime: self.0.started.elapsed(),
            command_line_options: dump::command_line_options(&self.0.options),
            node: self.0.node.clone(),
        }
    }

    fn listeners(&self) -> Vec<ListenerView> {
        self.0.listeners.view()
    }

    fn clusters(&self) -> Vec<ClusterView> {
        self.0.clusters.view()
    }

    fn certificates(&self) -> Vec<ContextCertificates> {
        self.0.clusters.secrets().certificates()
    }

    fn config_dump(&self) -> ConfigDump {
        self.0.config.borrow().dump(self.0.dynamic_dump())
    }

    fn normalize_path(&self, path: &str) -> Option<String> {
        outrider_http::normalize_and_merge(path)
    }

    fn unready_targets(&self) -> Vec<UnreadyTargets> {
        // After start-up, no listener waits for anything: its routes are read from files at once.
        match self.0.phase.get() {
            Phase::Running => Vec::new(),
            Phase::Clusters | Phase::Listeners => {
                let listeners = self.0.listeners.all();
                listeners
                    .iter()
                    .map(|plan| plan.unready_targets())
                    .collect()
            }
        }
    }

    fn loggers(&self) -> Vec<(&'static str, &'static str)> {
        self.0
            .logging
            .levels()
            .into_iter()
            .map(|(logger, level)| (logger, level.name()))
            .collect()
    }

    fn set_log_level(&self, logger: Option<&str>, level: &str) {
        let Some(level) = Level::parse(level) else {
            return;
        };
        match logger {
            Some(logger) => {
                self.0.logging.set_level(logger, level);
            }
            None => self.0.logging.set_all(level),
        }
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = ReloadResponse>>> {
        let control = self.0.clone();
        Box::pin(async move {
            match control.reloader.request_and_wait(Trigger::Admin).await {
                Some(outcome) => ReloadResponse {
                    is_applied: outcome.is_success(),
                    report: outcome.json(),
                },
                None => ReloadResponse {
                    is_applied: false,
                    report: Value::from("the process ends"),
                },
            }
        })
    }

    fn reloads(&self) -> Value {
        let outcomes = self.0.reloader.outcomes();
        let outcomes: Vec<Value> = outcomes.iter().map(|outcome| outcome.json()).collect();
        serde_json::json!({ "reloads": outcomes })
    }

    fn reopen_logs(&self) {
        self.0.reopen_logs();
    }

    fn runtime(&self) -> RuntimeView {
        self.0.runtime.view()
    }

    fn modify_runtime(&self, values: &[(String, String)]) -> Result<(), String> {
        self.0
            .runtime
            .modify(values)
            .map_err(|refused| match refused {
                RefusedValues::NoAdminLayer => "No admin layer specified".to_owned(),
                RefusedValues::Malformed { key, error } => format!("{key}: {error}"),
            })?;
        self.0.reload_runtime();
        Ok(())
    }

    fn fail_health_checks(&self, fail: bool) {
        self.0.health_checks_fail.store(fail, Ordering::Relaxed);
        if self.0.ending.get() {
            return;
        }
        let mode = match fail {
            true => DrainMode::Immediate,
            false => DrainMode::Cancel,
        };
        let selection = ListenerSelection::DefaultDrainType;
        self.0.listeners.drain(selection, mode);
    }

    fn drain_listeners(&self, drain: DrainListeners) {
        let selection = if drain.inbound_only {
            ListenerSelection::Inbound
        } else {
            ListenerSelection::All
        };
        if !drain.graceful && !drain.skip_exit {
            drop(self.0.listeners.stop(selection));
            return;
        }
        if self.0.draining.replace(true) || self.0.ending.get() {
            return;
        }
        let mode = DrainPlan::of(&self.0.options).mode;
        self.0.listeners.drain(selection, mode);
        if !drain.skip_exit {
            let control = self.0.clone();
            tokio::task::spawn_local(async move {
                tokio::time::sleep(control.options.drain_time()).await;
                drop(control.listeners.stop(selection));
            });
        }
    }

    fn quit(&self) {
        self.0.quit.notify_one();
    }
}

impl Control {
    /// Drains the listeners that were added while the whole process drains.
    pub(crate) fn follow_drain(&self) {
        if self.ending.get() {
            let selection = ListenerSelection::All;
            self.listeners.drain(selection, DrainMode::Immediate);
        } else if self.health_checks_fail.load(Ordering::Relaxed) {
            let selection = ListenerSelection::DefaultDrainType;
            self.listeners.drain(selection, DrainMode::Immediate);
        }
    }

    /// The state that `/ready` reports.
    pub(crate) fn state(&self) -> ServerState {
        match self.phase.get() {
            Phase::Clusters => ServerState::PreInitializing,
            Phase::Listeners => ServerState::Initializing,
            Phase::Running
                if self.health_checks_fail.load(Ordering::Relaxed) || self.ending.get() =>
            {
                ServerState::Draining
            }
            Phase::Running => ServerState::Live,
        }
    }

    /// Opens the log file and the access logs again.
    pub(crate) fn reopen_logs(&self) {
        if let Err(error) = self.logging.reopen() {
            log::error!(target: "main", "cannot reopen the log: {error}");
        }
        self.log_files.reopen();
    }
}
