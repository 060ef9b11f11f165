//! The interface of the process that the admin server shows and controls; the server crate implements it.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use std::time::SystemTime;

use outrider_net::Address;
use outrider_tls::ContextCertificates;
use outrider_upstream::ClusterView;
use serde_json::Value;

/// Shows and controls the process. Called on the main thread; no method may block.
pub trait ServerControl {
    /// The state that `/ready` and `/server_info` report.
    fn state(&self) -> ServerState;

    /// Version, uptime and options, for `/server_info`.
    fn info(&self) -> ServerInfo;

    /// The bound listeners, in the order of the config.
    fn listeners(&self) -> Vec<ListenerView>;

    /// The clusters and their hosts, in the order of the config.
    fn clusters(&self) -> Vec<ClusterView>;

    /// The certificates of each TLS context.
    fn certificates(&self) -> Vec<ContextCertificates>;

    /// The messages that `/config_dump` shows.
    fn config_dump(&self) -> ConfigDump;

    /// Normalises `path` as the data path does, and merges slashes; `None` if the path is invalid.
    fn normalize_path(&self, path: &str) -> Option<String>;

    /// The targets that start-up still waits for; empty once initialized.
    fn unready_targets(&self) -> Vec<UnreadyTargets>;

    /// Each logger and its level, in the order in which `/logging` lists them.
    fn loggers(&self) -> Vec<(&'static str, &'static str)>;

    /// Sets the level of one logger, or with `None` of all loggers. Both names are valid: the logger is one of
    /// [`loggers`](Self::loggers), and the level is one of Envoy's.
    fn set_log_level(&self, logger: Option<&str>, level: &str);

    /// Reads the config again, and applies the changes.
    fn reload(&self) -> Pin<Box<dyn Future<Output = ReloadResponse>>>;

    /// The outcomes of the last reloads, the newest first, for `GET /reload`.
    fn reloads(&self) -> Value;

    /// Reopens the log files.
    fn reopen_logs(&self);

    /// The layers and values of the runtime.
    fn runtime(&self) -> RuntimeView;

    /// Sets values in the runtime's admin layer; an empty value removes an earlier one.
    ///
    /// # Errors
    /// If the config has no admin layer, or a value is malformed. Then no value is set.
    fn modify_runtime(&self, values: &[(String, String)]) -> Result<(), String>;

    /// Makes `/ready` fail, or succeed again.
    fn fail_health_checks(&self, fail: bool);

    /// Stops listeners, or drains their connections.
    fn drain_listeners(&self, drain: DrainListeners);

    /// Ends the process; called after the response to `/quitquitquit` has been sent.
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

/// `envoy.admin.v3.ServerInfo`, without the state.
#[derive(Clone, Debug)]
pub struct ServerInfo {
    /// The version line, as `--version` prints it.
    pub version: String,
    /// The time since the process started.
    pub uptime: Duration,
    /// `command_line_options`, with the fields that Envoy prints.
    pub command_line_options: Value,
    /// `node`
    pub node: Value,
}

/// A bound listener.
#[derive(Clone, Debug)]
pub struct ListenerView {
    /// Its name, or a generated one if the config has none.
    pub name: String,
    /// The addresses it is bound to: `address`, then `additional_addresses`.
    pub addresses: Vec<Address>,
}

/// The messages that `/config_dump` shows, as JSON in the order of their fields.
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
    /// The resources of dynamic sources.
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
    pub listeners: Vec<DynamicListener>,
    /// Route configurations.
    pub routes: Vec<VersionedMessage>,
    /// Secrets, also those of the bootstrap.
    pub secrets: SecretsDump,
}

/// The secrets, with their keys redacted.
#[derive(Clone, Debug, Default)]
pub struct SecretsDump {
    /// `static_resources.secrets`
    pub statics: Vec<Value>,
    /// Those that a source has given.
    pub active: Vec<VersionedMessage>,
    /// Those that a source has not given yet.
    pub warming: Vec<VersionedMessage>,
}

/// The states of the listeners of one name that came from a source of resources
/// (`envoy.admin.v3.ListenersConfigDump.DynamicListener`).
#[derive(Clone, Debug)]
pub struct DynamicListener {
    /// Its name; empty for a failure that is listed by itself.
    pub name: String,
    /// The one that serves.
    pub active: Option<VersionedMessage>,
    /// One that was replaced or removed, and whose connections have not ended.
    pub draining: Option<VersionedMessage>,
    /// The one that the last update could not apply.
    pub failed: Option<FailedUpdate>,
}

impl DynamicListener {
    /// No listener of this name.
    #[must_use]
    pub fn new(name: String) -> DynamicListener {
        DynamicListener {
            name,
            active: None,
            draining: None,
            failed: None,
        }
    }
}

/// A resource that was refused (`envoy.admin.v3.UpdateFailureState`).
#[derive(Clone, Debug)]
pub struct FailedUpdate {
    /// The message, without `@type`.
    pub message: Value,
    /// When it was tried, if that is shown.
    pub at: Option<SystemTime>,
    /// What is wrong with it.
    pub details: String,
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
    /// The name of the waiting part, such as `Server`.
    pub name: String,
    /// The targets that it waits for.
    pub target_names: Vec<String>,
}

/// The runtime's layers, and each key with its value in each layer; empty if the layer does not set it.
#[derive(Clone, Debug, Default)]
pub struct RuntimeView {
    /// The layers' names, lowest first.
    pub layers: Vec<String>,
    /// Each key, with one value for each layer.
    pub entries: Vec<(String, Vec<String>)>,
}

/// The parameters of `/drain_listeners`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainListeners {
    /// Drain connections before the listeners stop.
    pub graceful: bool,
    /// Drain connections, and do not stop the listeners.
    pub skip_exit: bool,
    /// Only listeners with `traffic_direction: INBOUND`.
    pub inbound_only: bool,
}

/// The response of `POST /reload`.
#[derive(Clone, Debug)]
pub struct ReloadResponse {
    /// Whether the new config was applied. If not, the previous one stays.
    pub is_applied: bool,
    /// What changed, or why the config was rejected.
    pub report: Value,
}
