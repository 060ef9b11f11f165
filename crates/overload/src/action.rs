//! Overload actions: their names, configurations and levels.

use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::overload::v3 as api;
use outrider_config::api::envoy::config::overload::v3::ScaleTimersOverloadActionConfig;
use outrider_config::type_name;
use outrider_net::OverloadAction;
use outrider_net::OverloadLevel;
use outrider_net::percent;
use outrider_stats::Gauge;
use outrider_stats::Scope;
use outrider_stats::Store;

use crate::trigger::Triggers;

/// The prefix of the names of Envoy's actions.
const PREFIX: &str = "envoy.overload_actions.";
/// The message of an action that shortens timeouts. Such an action may have any name.
const SCALE_TIMERS: &str = "envoy.config.overload.v3.ScaleTimersOverloadActionConfig";

/// What an action does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ActionKind {
    /// Workers obey it.
    Workers(OverloadAction),
    /// `shrink_heap`
    ShrinkHeap,
    /// `reduce_timeouts`, or an action of another name with the same configuration.
    ReduceTimeouts,
    /// `reset_high_memory_stream`: refused.
    ResetHighMemoryStream,
    /// `close_idle_http_connections`: it concerns only HTTP/3.
    CloseIdleHttp3Connections,
}

impl ActionKind {
    /// Whether workers must be told of a new level at once. Other actions are read when a request or connection arrives.
    pub(crate) fn concerns_waiting(self) -> bool {
        match self {
            ActionKind::Workers(OverloadAction::StopAcceptingConnections)
            | ActionKind::ReduceTimeouts => true,
            ActionKind::Workers(_)
            | ActionKind::ShrinkHeap
            | ActionKind::ResetHighMemoryStream
            | ActionKind::CloseIdleHttp3Connections => false,
        }
    }
}

/// The actions by their names after [`PREFIX`].
const KINDS: &[(&str, ActionKind)] = &[
    (
        "close_idle_http_connections",
        ActionKind::CloseIdleHttp3Connections,
    ),
    (
        "disable_http_keepalive",
        ActionKind::Workers(OverloadAction::DisableHttpKeepalive),
    ),
    ("reduce_timeouts", ActionKind::ReduceTimeouts),
    (
        "reject_incoming_connections",
        ActionKind::Workers(OverloadAction::RejectIncomingConnections),
    ),
    (
        "reset_high_memory_stream",
        ActionKind::ResetHighMemoryStream,
    ),
    ("shrink_heap", ActionKind::ShrinkHeap),
    (
        "stop_accepting_connections",
        ActionKind::Workers(OverloadAction::StopAcceptingConnections),
    ),
    (
        "stop_accepting_requests",
        ActionKind::Workers(OverloadAction::StopAcceptingRequests),
    ),
];

outrider_stats::group! {
    /// `overload.<action>.*`
    pub struct ActionStats { active: Gauge, scale_percent: Gauge }
}

/// A configured action.
#[derive(Debug)]
pub(crate) struct Action {
    pub(crate) name: Box<str>,
    pub(crate) kind: ActionKind,
    pub(crate) level: Arc<OverloadLevel>,
    triggers: Triggers,
    stats: Arc<ActionStats>,
}

impl Action {
    /// The action of `message`, found at `path`, with triggers on `resources`.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub(crate) fn build(
        message: &api::OverloadAction,
        path: &FieldPath,
        (resources, store): (&[&str], &Store),
    ) -> Result<Action, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let kind = errors.collect(kind(message, path));
        let triggers = Triggers::build(&message.triggers, &path.field("triggers"), resources);
        let triggers = errors.collect(triggers);
        let (Some(kind), Some(triggers), true) = (kind, triggers, errors.is_empty()) else {
            return Err(errors);
        };
        let scope = Scope::new("overload").name(&message.name);
        let stats: Arc<ActionStats> = store.register(scope);
        stats.active.set(0);
        stats.scale_percent.set(0);
        Ok(Action {
            name: message.name.as_str().into(),
            kind,
            level: Arc::default(),
            triggers,
            stats,
        })
    }

    /// Notes the pressure on a resource. Returns whether the action's level has changed.
    pub(crate) fn update(&mut self, resource: &str, pressure: f64) -> bool {
        let Some(level) = self.triggers.update(resource, pressure) else {
            return false;
        };
        // As in Envoy, the stats show the trigger that has changed last, not the highest.
        self.stats.active.set(u64::from(level >= 1.0));
        self.stats.scale_percent.set(percent(level));
        let before = self.level.get();
        self.level.set(self.triggers.level());
        let now = self.level.get();
        if (before >= 1.0) != (now >= 1.0) {
            let state = if now >= 1.0 { "saturated" } else { "scaling" };
            log::debug!(target: "main", "overload action {} became {state}", self.name);
        }
        before != now
    }
}

/// What the action of `message` does, by its name and the type of its configuration.
fn kind(message: &api::OverloadAction, path: &FieldPath) -> Result<ActionKind, ConfigErrors> {
    let name = message.name.as_str();
    let config = message.typed_config.as_ref().map(type_name);
    let scales = config == Some(SCALE_TIMERS);
    let short = name.strip_prefix(PREFIX);
    let known = short.and_then(|short| KINDS.iter().find(|(known, _)| *known == short));
    let mut errors = ConfigErrors::new();
    let config_path = path.field("typed_config");
    match known.map(|(_, kind)| *kind) {
        Some(ActionKind::ReduceTimeouts) if scales => return Ok(ActionKind::ReduceTimeouts),
        Some(ActionKind::ReduceTimeouts) => errors.push(
            &config_path,
            format!("is required for action '{name}': expected a {SCALE_TIMERS}"),
        ),
        Some(ActionKind::ShrinkHeap) if !scales => return Ok(ActionKind::ShrinkHeap),
        Some(kind) if config.is_none() => return Ok(kind),
        Some(_) => errors.push(
            &config_path,
            format!("action '{name}' has no configuration of this type"),
        ),
        None if scales && short.is_none() => return Ok(ActionKind::ReduceTimeouts),
        None if scales => errors.push(
            &path.field("name"),
            format!("'{name}' has the reserved prefix {PREFIX}: expected {PREFIX}reduce_timeouts or a name of your own"),
        ),
        None => errors.push(&path.field("name"), unknown(name)),
    }
    Err(errors)
}

fn unknown(name: &str) -> String {
    let names: Vec<String> = KINDS
        .iter()
        .map(|(name, _)| format!("{PREFIX}{name}"))
        .collect();
    format!(
        "unknown overload action '{name}': expected one of {}",
        names.join(", ")
    )
}

/// The configuration of an action that shortens timeouts, and where it is.
pub(crate) fn scale_timers(
    message: &api::OverloadAction,
    path: &FieldPath,
) -> Result<ScaleTimersOverloadActionConfig, ConfigErrors> {
    let any = message.typed_config.clone().unwrap_or_default();
    Ok(outrider_config::unpack(&any, path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: &str, config: Option<&str>) -> api::OverloadAction {
        api::OverloadAction {
            name: name.to_owned(),
            triggers: Vec::new(),
            typed_config: config.map(|name| prost_types::Any {
                type_url: format!("type.googleapis.com/{name}"),
                value: Vec::new(),
            }),
        }
    }

    #[test]
    fn an_action_is_known_by_its_name_and_configuration() {
        let shrink = "envoy.config.overload.v3.ShrinkHeapConfig";
        let stop = ActionKind::Workers(OverloadAction::StopAcceptingRequests);
        for (name, config, want) in [
            (
                "envoy.overload_actions.stop_accepting_requests",
                None,
                Some(stop),
            ),
            (
                "envoy.overload_actions.stop_accepting_requests",
                Some(shrink),
                None,
            ),
            (
                "envoy.overload_actions.shrink_heap",
                None,
                Some(ActionKind::ShrinkHeap),
            ),
            (
                "envoy.overload_actions.shrink_heap",
                Some(shrink),
                Some(ActionKind::ShrinkHeap),
            ),
            (
                "envoy.overload_actions.shrink_heap",
                Some(SCALE_TIMERS),
                None,
            ),
            (
                "envoy.overload_actions.reduce_timeouts",
                Some(SCALE_TIMERS),
                Some(ActionKind::ReduceTimeouts),
            ),
            ("envoy.overload_actions.reduce_timeouts", None, None),
            ("mine", Some(SCALE_TIMERS), Some(ActionKind::ReduceTimeouts)),
            ("mine", None, None),
            ("envoy.overload_actions.mine", Some(SCALE_TIMERS), None),
        ] {
            let kind = kind(&message(name, config), &FieldPath::root());
            assert_eq!(kind.ok(), want, "{name} {config:?}");
        }
    }
}
