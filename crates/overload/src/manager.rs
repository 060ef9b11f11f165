//! The overload manager itself: measures resources at an interval, and sets the levels of actions and load shed points.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::overload::v3 as api;
use outrider_config::api::envoy::config::overload::v3::resource_monitor::ConfigType;
use outrider_config::api::envoy::extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig;
use outrider_config::duration;
use outrider_config::type_name;
use outrider_config::unpack;
use outrider_net::ConnectionLimit;
use outrider_net::FileWatches;
use outrider_net::LoadShedPoint;
use outrider_net::LoadShedPointKind;
use outrider_net::OverloadState;
use outrider_net::TimeoutScale;
use outrider_runtime::Runtime;
use outrider_stats::Counter;
use outrider_stats::Gauge;
use outrider_stats::Histogram;
use outrider_stats::Scope;
use outrider_stats::Store;
use tokio::time::Instant;

use crate::action;
use crate::action::Action;
use crate::action::ActionKind;
use crate::monitor;
use crate::monitor::ResourceMonitor;
use crate::shrink_heap::ShrinkHeap;
use crate::timers;
use crate::timers::TimerMinimum;
use crate::trigger::Triggers;

/// `OverloadManager.refresh_interval` when it is not set.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// The monitor that does not measure at an interval: connections count when they open and close.
const CONNECTIONS: &str = "envoy.resource_monitors.global_downstream_max_connections";
/// The message that configures it.
const CONNECTIONS_CONFIG: &str =
    "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig";

/// What building an overload manager needs from the rest of the process.
#[derive(Clone, Copy, Debug)]
pub struct OverloadCx<'a> {
    /// Where stats are registered.
    pub store: &'a Store,
    /// Some limits come from the runtime.
    pub runtime: &'a Arc<Runtime>,
    /// Watches the files of injected resources.
    pub files: &'a FileWatches,
    /// Returns the memory of the process, in bytes.
    pub allocated_memory: fn() -> u64,
}

/// What the manager asks of the rest of the process while it runs.
pub trait OverloadWork {
    /// The level of an action has changed that concerns what already waits on workers: connections in the queues of
    /// listeners, running timeouts, buffered bytes.
    fn tell_workers(&self);

    /// Return freed memory to the system.
    fn return_memory(&self);
}

outrider_stats::group! {
    /// `overload.<resource>.*`
    pub struct ResourceStats { failed_updates: Counter, pressure: Gauge, skipped_updates: Counter }
}

outrider_stats::group! {
    /// `overload.envoy.resource_monitors.global_downstream_max_connections.*`. The limit itself counts what it refuses.
    pub struct ConnectionsStats { pressure: Gauge }
}

outrider_stats::group! {
    /// `overload.*`
    pub struct OverloadStats { refresh_interval_delay: Histogram }
}

/// A resource that is measured at each refresh.
#[derive(Debug)]
struct Resource {
    name: Box<str>,
    monitor: Box<dyn ResourceMonitor>,
    stats: Arc<ResourceStats>,
}

/// The connections of all listeners, as a resource.
#[derive(Debug)]
struct Connections {
    limit: Arc<ConnectionLimit>,
    stats: Arc<ConnectionsStats>,
}

#[derive(Debug)]
struct ShedPoint {
    triggers: Triggers,
    point: Arc<LoadShedPoint>,
}

/// The overload manager, on the main thread.
pub struct OverloadManager {
    refresh_interval: Duration,
    resources: Vec<Resource>,
    connections: Option<Connections>,
    actions: Vec<Action>,
    points: Vec<ShedPoint>,
    shrink_heap: Option<ShrinkHeap>,
    state: Arc<OverloadState>,
    stats: Arc<OverloadStats>,
}

impl OverloadManager {
    /// The manager of `message`, found at `path`.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn build(
        message: &api::OverloadManager,
        path: &FieldPath,
        cx: &OverloadCx<'_>,
    ) -> Result<OverloadManager, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let interval = message.refresh_interval.as_ref();
        let interval = duration::optional(interval, &path.field("refresh_interval"));
        let interval = errors.collect(interval).flatten();
        let mut manager = OverloadManager {
            refresh_interval: interval.unwrap_or(REFRESH_INTERVAL),
            resources: Vec::new(),
            connections: None,
            actions: Vec::new(),
            points: Vec::new(),
            shrink_heap: None,
            state: Arc::default(),
            stats: cx.store.register(Scope::new("overload")),
        };
        let mut state = OverloadState::default();
        manager.add_monitors(message, path, (cx, &mut errors));
        if let Some(connections) = &manager.connections {
            state.set_connections(connections.limit.clone());
        }
        let timers = manager.add_actions(message, path, (cx, &mut errors));
        for action in &manager.actions {
            if let ActionKind::Workers(kind) = action.kind {
                state.set_action(kind, action.level.clone());
            }
        }
        for (at, (timer, minimum)) in timers {
            if let Some(action) = manager.actions.get(at) {
                state.set_timer(timer, TimeoutScale::new(action.level.clone(), minimum));
            }
        }
        manager.add_points(message, path, (cx, &mut errors));
        for shed in &manager.points {
            state.add_point(shed.point.clone());
        }
        manager.state = Arc::new(state);
        errors.finish(manager)
    }

    /// What workers see of it.
    #[must_use]
    pub fn state(&self) -> &Arc<OverloadState> {
        &self.state
    }

    fn add_monitors(
        &mut self,
        message: &api::OverloadManager,
        path: &FieldPath,
        (cx, errors): (&OverloadCx<'_>, &mut ConfigErrors),
    ) {
        let path = path.field("resource_monitors");
        let mut names: Vec<&str> = Vec::new();
        for (index, resource) in message.resource_monitors.iter().enumerate() {
            let path = path.index(index);
            let name = resource.name.as_str();
            if names.contains(&name) {
                let text = format!("a second resource monitor '{name}': expected another name");
                errors.push(&path.field("name"), text);
                continue;
            }
            names.push(name);
            let config_path = path.field("typed_config");
            let Some(ConfigType::TypedConfig(config)) = &resource.config_type else {
                errors.push(
                    &config_path,
                    format!("is required for resource monitor '{name}'"),
                );
                continue;
            };
            // As in Envoy, this monitor alone is known by its name, and the others by their messages.
            if (name == CONNECTIONS) != (type_name(config) == CONNECTIONS_CONFIG) {
                let text = format!(
                    "expected a {CONNECTIONS_CONFIG} in a monitor named {CONNECTIONS}, and only there"
                );
                errors.push(&config_path, text);
                continue;
            }
            if name == CONNECTIONS {
                let built = Connections::build(config, &config_path, cx);
                self.connections = errors.collect(built);
                continue;
            }
            let build = Factory::find(monitor::FACTORIES, "resource monitor", config, &config_path);
            let monitor = build
                .map_err(ConfigErrors::from)
                .and_then(|build| build(config, &config_path, cx));
            if let Some(monitor) = errors.collect(monitor) {
                let stats: Arc<ResourceStats> =
                    cx.store.register(Scope::new("overload").name(name));
                stats.pressure.mark_used();
                self.resources.push(Resource {
                    name: name.into(),
                    monitor,
                    stats,
                });
            }
        }
    }

    /// Adds the actions. Returns the timeouts that they shorten, each with the index of its action.
    fn add_actions(
        &mut self,
        message: &api::OverloadManager,
        path: &FieldPath,
        (cx, errors): (&OverloadCx<'_>, &mut ConfigErrors),
    ) -> Vec<(usize, TimerMinimum)> {
        let mut resources = named_resources(message);
        if !resources.contains(&CONNECTIONS) {
            // As in Envoy, triggers may name this monitor even if there is none; they never fire then.
            resources.push(CONNECTIONS);
        }
        let mut timers: Vec<(usize, TimerMinimum)> = Vec::new();
        let path = path.field("actions");
        for (index, message_of_action) in message.actions.iter().enumerate() {
            let path = path.index(index);
            let name = message_of_action.name.as_str();
            if self.actions.iter().any(|action| *action.name == *name) {
                let text = format!("a second overload action '{name}': expected at most one");
                errors.push(&path.field("name"), text);
                continue;
            }
            let built = Action::build(message_of_action, &path, (&resources, cx.store));
            let Some(action) = errors.collect(built) else {
                continue;
            };
            let config_path = path.field("typed_config");
            match action.kind {
                ActionKind::ReduceTimeouts => {
                    let config = action::scale_timers(message_of_action, &config_path);
                    let own = config.and_then(|config| timers::build(&config, &config_path));
                    for timer in errors.collect(own).unwrap_or_default() {
                        let other = timers.iter().find(|(_, (earlier, _))| *earlier == timer.0);
                        if let Some(other) = other.and_then(|(at, _)| self.actions.get(*at)) {
                            let text = format!(
                                "a timer type is configured by both overload actions '{}' and '{name}'",
                                other.name
                            );
                            errors.push(&config_path, text);
                        }
                        timers.push((self.actions.len(), timer));
                    }
                }
                ActionKind::ShrinkHeap => {
                    let level = (action.level.clone(), cx.store);
                    let built = ShrinkHeap::build(message_of_action, &path, level);
                    self.shrink_heap = errors.collect(built);
                }
                ActionKind::ResetHighMemoryStream => {
                    let text = format!(
                        "not supported: action '{name}'; the memory of streams is not counted"
                    );
                    errors.push(&path.field("name"), text);
                }
                ActionKind::Workers(_) | ActionKind::CloseIdleHttp3Connections => {}
            }
            self.actions.push(action);
        }
        timers
    }

    fn add_points(
        &mut self,
        message: &api::OverloadManager,
        path: &FieldPath,
        (cx, errors): (&OverloadCx<'_>, &mut ConfigErrors),
    ) {
        let mut resources = named_resources(message);
        resources.retain(|name| *name != CONNECTIONS);
        let path = path.field("loadshed_points");
        let mut names: Vec<&str> = Vec::new();
        for (index, message) in message.loadshed_points.iter().enumerate() {
            let path = path.index(index);
            let name = message.name.as_str();
            if names.contains(&name) {
                let text = format!("a second load shed point '{name}': expected at most one");
                errors.push(&path.field("name"), text);
            }
            if self.actions.iter().any(|action| *action.name == *name) {
                let text = format!("load shed point '{name}' has the name of an overload action");
                errors.push(&path.field("name"), text);
            }
            names.push(name);
            errors.collect(check_point(name, &path.field("name")));
            let triggers = Triggers::build(&message.triggers, &path.field("triggers"), &resources);
            let Some(triggers) = errors.collect(triggers) else {
                continue;
            };
            let stats = cx.store.register(Scope::new("overload").name(name));
            let point = Arc::new(LoadShedPoint::new(name, stats));
            point.set(0.0);
            self.points.push(ShedPoint { triggers, point });
        }
    }
}

/// The names of the monitors.
fn named_resources(message: &api::OverloadManager) -> Vec<&str> {
    let monitors = message.resource_monitors.iter();
    monitors.map(|monitor| monitor.name.as_str()).collect()
}

impl Connections {
    fn build(
        config: &prost_types::Any,
        path: &FieldPath,
        cx: &OverloadCx<'_>,
    ) -> Result<Connections, ConfigErrors> {
        let config: DownstreamConnectionsConfig = unpack(config, path)?;
        let max = u64::try_from(config.max_active_downstream_connections);
        let max = max.ok().filter(|max| *max > 0).ok_or_else(|| {
            let mut errors = ConfigErrors::new();
            let path = path.field("max_active_downstream_connections");
            errors.push(&path, "value must be greater than 0");
            errors
        })?;
        let scope = Scope::new("overload").name(CONNECTIONS);
        let stats: Arc<ConnectionsStats> = cx.store.register(scope.clone());
        stats.pressure.mark_used();
        Ok(Connections {
            limit: ConnectionLimit::counting_refused(max, cx.store.register(scope)),
            stats,
        })
    }
}

/// The load shed points of Envoy.
const ENVOY_POINTS: &str = "envoy.load_shed_points.";
/// Those of HTTP/3, which is not served: there is nothing to shed.
const HTTP3_POINTS: &str = "envoy.load_shed_points.http3_";

/// Refuses a load shed point of Envoy that nothing would obey. As in Envoy, other names may be anything.
fn check_point(name: &str, path: &FieldPath) -> Result<(), ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let is_envoys = name.starts_with(ENVOY_POINTS) && !name.starts_with(HTTP3_POINTS);
    let obeyed = LoadShedPointKind::ALL.map(LoadShedPointKind::name);
    if is_envoys && !obeyed.contains(&name) {
        let known = obeyed.join(", ");
        errors.push(
            path,
            format!("not supported: load shed point {name}; supported: {known}"),
        );
    } else if !is_envoys {
        log::warn!(target: "main", "{path}: nothing here sheds load at the load shed point '{name}'");
    }
    errors.finish(())
}

impl OverloadManager {
    /// Measures and acts. Never returns.
    pub async fn run(mut self, work: impl OverloadWork) {
        let shrink_heap = self.shrink_heap.take();
        let work = &work;
        let shrink = async {
            match shrink_heap {
                Some(shrink) => shrink.run(|| work.return_memory()).await,
                None => std::future::pending().await,
            }
        };
        let refresh = async {
            // As in Envoy, connections alone are no reason to refresh: they are limited in any case.
            if self.resources.is_empty() {
                return std::future::pending().await;
            }
            let mut last = Instant::now();
            loop {
                tokio::time::sleep(self.refresh_interval).await;
                self.refresh(work);
                let now = Instant::now();
                let delay = now.duration_since(last).as_millis();
                let delay = u64::try_from(delay).unwrap_or(u64::MAX);
                self.stats.refresh_interval_delay.record(delay);
                last = now;
            }
        };
        tokio::join!(shrink, refresh);
    }

    /// Measures all resources once.
    fn refresh(&mut self, work: &impl OverloadWork) {
        let mut pressures: Vec<(Box<str>, f64)> = Vec::with_capacity(self.resources.len() + 1);
        for resource in &mut self.resources {
            match resource.monitor.pressure() {
                Ok(pressure) => {
                    resource.stats.pressure.set(whole_percent(pressure));
                    pressures.push((resource.name.clone(), pressure));
                }
                Err(error) => {
                    log::info!(target: "main", "failed to update resource {}: {error}", resource.name);
                    resource.stats.failed_updates.inc();
                }
            }
        }
        if let Some(connections) = &self.connections {
            let pressure = connections.limit.pressure();
            connections.stats.pressure.set(whole_percent(pressure));
            pressures.push((CONNECTIONS.into(), pressure));
        }
        let mut concerns_waiting = false;
        for (resource, pressure) in pressures {
            for action in &mut self.actions {
                let changed = action.update(&resource, pressure);
                concerns_waiting |= changed && action.kind.concerns_waiting();
            }
            for shed in &mut self.points {
                if shed.triggers.update(&resource, pressure).is_some() {
                    shed.point.set(shed.triggers.level());
                }
            }
        }
        if concerns_waiting {
            work.tell_workers();
        }
    }
}

/// A pressure as the whole percentage that the stats show.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, and a pressure is not negative"
)]
fn whole_percent(pressure: f64) -> u64 {
    (pressure * 100.0) as u64
}

impl fmt::Debug for OverloadManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OverloadManager")
            .field("resources", &self.resources)
            .field("actions", &self.actions)
            .finish_non_exhaustive()
    }
}
