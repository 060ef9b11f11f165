//! What the admin server needs of the process it runs in; the server crate provides it.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use std::time::SystemTime;

use outrider_net::Address;
use outrider_upstream::ClusterView;
use serde_json::Value;

/// The process, as the admin server sees and steers it. Called on the main thread; nothing here may block.
pub trait ServerControl {
    /// What `/ready` and `/server_info` report.
    fn state(&self) -> ServerState;

    /// Version, start and options, for `/server_info`.
    fn info(&self) -> ServerInfo;

    /// The listeners that are bound, in the order of the config.
    fn listeners(&self) -> Vec<ListenerView>;

    /// The clusters and their hosts, in the order of the config.
    fn clusters(&self) -> Vec<ClusterView>;

    /// What `/config_dump` shows.
    fn config_dump(&self) -> ConfigDump;

    /// `path` as the data path normalizes it, with slashes merged; `None` if no path may be like this.
    fn normalize_path(&self, path: &str) -> Option<String>;

    /// What start-up still waits for; empty once initialized.
    fn unready_targets(&self) -> Vec<UnreadyTargets>;

    /// Each logger and its level, in the order in which `/logging` lists them.
    fn loggers(&self) -> Vec<(&'static str, &'static str)>;

    /// Sets the level of one logger, or with `None` of all. Both are names that [`loggers`](Self::loggers) and Envoy
    /// know.
    fn set_log_level(&self, logger: Option<&str>, level: &str);

    /// Reads the config again, and puts what changed in place.
    fn reload(&self) -> Pin<Box<dyn Future<Output = ReloadOutcome>>>;

    /// What came of the last reloads, the newest first, for `GET /reload`.
    fn reloads(&self) -> Value;

    /// Opens log files anew.
    fn reopen_logs(&self);

    /// The runtime's layers and values.
    fn runtime(&self) -> RuntimeView;

    /// Sets values in the runtime's admin layer; an empty value takes an earlier one back.
    ///
    /// # Errors
    /// Why none was set: the config has no admin layer, or a value is malformed.
    fn modify_runtime(&self, values: &[(String, String)]) -> Result<(), String>;

    /// Makes `/ready` fail, or work again.
    fn fail_health_checks(&self, fail: bool);

    /// Stops listeners, or lets their connections drain.
    fn drain_listeners(&self, drain: DrainListeners);

    /// Ends the process; the answer to `/quitquitquit` has been sent.
    fn quit(&self);
}

/// `envoy.admin.v3.ServerInfo.State`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// Serving.
    Live,
    /// `/healthcheck/fail` was called, or the process is about to end.
    Draining,
    /// Clusters are not ready.
    PreInitializing,
    /// Clusters are ready, listeners are not.
    Initializing,
}

impl ServerState {
    /// The state's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "LIVE",
            Self::Draining => "DRAINING",
            Self::PreInitializing => "PRE_INITIALIZING",
            Self::Initializing => "INITIALIZING",
        }
    }

    /// The value of the gauge `server.state`.
    pub fn number(self) -> u64 {
        match self {
            Self::Live => 0,
            Self::Draining => 1,
            Self::PreInitializing => 2,
            Self::Initializing => 3,
        }
    }
}

/// `envoy.admin.v3.ServerInfo`, but for the state.
#[derive(Clone, Debug)]
pub struct ServerInfo {
    /// The version line, as `--version` prints it.
    pub version: String,
    /// Since the process started.
    pub uptime: Duration,
    /// `command_line_options`, with the fields that Envoy prints.
    pub command_line_options: Value,
    /// `node`
    pub node: Value,
}

/// A listener that is bound.
#[derive(Clone, Debug)]
pub struct ListenerView {
    /// Its name, or the one that was made up for it.
    pub name: String,
    /// The addresses it is bound to: `address`, then `additional_addresses`.
    pub addresses: Vec<Address>,
}

/// What `/config_dump` shows: messages as JSON in the order of their fields.
#[derive(Clone, Debug)]
pub struct ConfigDump {
    /// The bootstrap.
    pub bootstrap: DumpedMessage,
    /// `static_resources.clusters`
    pub clusters: Vec<DumpedMessage>,
    /// `static_resources.listeners`
    pub listeners: Vec<DumpedMessage>,
    /// The route configurations inside the listeners.
    pub routes: Vec<DumpedMessage>,
    /// What came from elsewhere.
    pub dynamic: DynamicDump,
}

/// The part of the config that sources of resources gave.
#[derive(Clone, Debug, Default)]
pub struct DynamicDump {
    /// The version of the source of clusters; empty without one.
    pub clusters_version: String,
    /// Clusters that requests may use.
    pub active_clusters: Vec<VersionedMessage>,
    /// Clusters that look for their first hosts.
    pub warming_clusters: Vec<VersionedMessage>,
    /// The version of the source of listeners; empty without one.
    pub listeners_version: String,
    /// Listeners.
    pub listeners: Vec<VersionedMessage>,
    /// Route configurations.
    pub routes: Vec<VersionedMessage>,
}

/// A message of a source of resources.
#[derive(Clone, Debug)]
pub struct VersionedMessage {
    /// `version_info` of the update that brought it.
    pub version: String,
    /// The message, and when it came.
    pub dumped: DumpedMessage,
}

/// A message of the config.
#[derive(Clone, Debug)]
pub struct DumpedMessage {
    /// The message, without `@type`.
    pub message: Value,
    /// When it was loaded.
    pub last_updated: SystemTime,
}

/// `envoy.admin.v3.UnreadyTargetsDump`
#[derive(Clone, Debug)]
pub struct UnreadyTargets {
    /// Who waits, such as `Server`.
    pub name: String,
    /// For what.
    pub target_names: Vec<String>,
}

/// The runtime's layers, and each key with its value in each layer (empty: none).
#[derive(Clone, Debug, Default)]
pub struct RuntimeView {
    /// The layers' names, lowest first.
    pub layers: Vec<String>,
    /// Key and values, one for each layer.
    pub entries: Vec<(String, Vec<String>)>,
}

/// How `/drain_listeners` was called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainListeners {
    /// Let connections drain before the listeners stop.
    pub graceful: bool,
    /// Let connections drain and never stop the listeners.
    pub skip_exit: bool,
    /// Only listeners with `traffic_direction: INBOUND`.
    pub inbound_only: bool,
}

/// What came of a reload.
#[derive(Clone, Debug)]
pub struct ReloadOutcome {
    /// Whether the new config is in place. If not, the one before is.
    pub is_applied: bool,
    /// What changed, or why nothing did.
    pub report: Value,
}
