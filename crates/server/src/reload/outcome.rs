//! The outcome of a reload, for the log and for `GET /reload`.

use std::time::Duration;
use std::time::SystemTime;

use outrider_config::Diagnostics;
use serde_json::Value;
use serde_json::json;

/// How many names of each kind are listed; the others are only counted.
const LISTED_NAMES: usize = 100;

/// Why the config was reloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// SIGHUP
    Signal,
    /// `POST /reload`
    Admin,
    /// `--watch-config`: the file has changed
    File,
}

/// The outcome of a reload.
#[derive(Debug)]
pub(crate) struct ReloadOutcome {
    pub(crate) trigger: Trigger,
    pub(crate) at: SystemTime,
    pub(crate) took: Duration,
    /// The changes, or why there are none.
    pub(crate) result: Result<ReloadChanges, Diagnostics>,
}

/// The names of everything that a reload has changed.
#[derive(Debug, Default)]
pub(crate) struct ReloadChanges {
    pub(crate) clusters: NameChanges,
    pub(crate) listeners: NameChanges,
    /// Secrets that changed.
    pub(crate) secrets: Vec<String>,
    /// Listeners in which only filter chains changed.
    pub(crate) filter_chains: Vec<String>,
    /// Listeners with a filter chain whose routes changed.
    pub(crate) routes: Vec<String>,
}

/// Names of added, changed and removed resources.
#[derive(Debug, Default)]
pub(crate) struct NameChanges {
    pub(crate) added: Vec<String>,
    pub(crate) changed: Vec<String>,
    pub(crate) removed: Vec<String>,
}

impl Trigger {
    fn name(self) -> &'static str {
        match self {
            Trigger::Signal => "SIGHUP",
            Trigger::Admin => "POST /reload",
            Trigger::File => "--watch-config",
        }
    }
}

impl ReloadChanges {
    fn is_empty(&self) -> bool {
        self.clusters.is_empty()
            && self.listeners.is_empty()
            && self.secrets.is_empty()
            && self.filter_chains.is_empty()
            && self.routes.is_empty()
    }
}

impl NameChanges {
    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }

    fn summary(&self) -> String {
        let (added, changed) = (self.added.len(), self.changed.len());
        format!(
            "{added} added, {changed} changed, {} removed",
            self.removed.len()
        )
    }

    fn json(&self) -> Value {
        json!({
            "added": names(&self.added),
            "changed": names(&self.changed),
            "removed": names(&self.removed),
        })
    }
}

/// Some of the names, and how many more there are.
fn names(all: &[String]) -> Value {
    let mut listed: Vec<String> = all.iter().take(LISTED_NAMES).cloned().collect();
    if let Some(more @ 1..) = all.len().checked_sub(LISTED_NAMES) {
        listed.push(format!("and {more} more"));
    }
    listed.into()
}

impl ReloadOutcome {
    fn word(&self) -> &'static str {
        match &self.result {
            Ok(changes) if changes.is_empty() => "unchanged",
            Ok(_) => "applied",
            Err(_) => "rejected",
        }
    }

    /// Whether the new config is in place.
    pub(crate) fn is_success(&self) -> bool {
        self.result.is_ok()
    }

    /// Writes it to the log.
    pub(crate) fn log(&self) {
        let (trigger, took) = (self.trigger.name(), self.took.as_millis());
        match &self.result {
            Ok(changes) if changes.is_empty() => {
                log::info!(target: "config", "reload ({trigger}): the config has not changed");
            }
            Ok(changes) => {
                let (clusters, listeners) =
                    (changes.clusters.summary(), changes.listeners.summary());
                let (chains, routes) = (changes.filter_chains.len(), changes.routes.len());
                let secrets = changes.secrets.len();
                log::info!(target: "config", "reload ({trigger}): applied in {took} ms: clusters: {clusters}; listeners: {listeners}, {chains} with other filter chains, {routes} with other routes; {secrets} secrets");
            }
            Err(errors) => {
                log::error!(target: "config", "reload ({trigger}): rejected, the running config stays:");
                for error in &errors.0 {
                    log::error!(target: "config", "{error}");
                }
            }
        }
    }

    /// Its entry in `GET /reload`.
    pub(crate) fn json(&self) -> Value {
        let mut value = json!({
            "trigger": self.trigger.name(),
            "started_at": dump_time(self.at),
            "duration_ms": u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
            "outcome": self.word(),
        });
        match &self.result {
            Ok(changes) => {
                value["clusters"] = changes.clusters.json();
                value["listeners"] = changes.listeners.json();
                value["secrets_changed"] = names(&changes.secrets);
                value["filter_chains_changed"] = names(&changes.filter_chains);
                value["routes_changed"] = names(&changes.routes);
            }
            Err(errors) => {
                let errors = errors.0.iter().map(|error| Value::from(error.to_string()));
                value["errors"] = errors.collect();
            }
        }
        value
    }
}

/// Seconds since the epoch, to the millisecond.
fn dump_time(time: SystemTime) -> f64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    (since.as_secs_f64() * 1000.0).round() / 1000.0
}
