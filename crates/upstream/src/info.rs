//! The settings of a cluster, apart from the source of its hosts. They never change once built.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::cluster::v3::CircuitBreakers;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_config::api::envoy::config::cluster::v3::circuit_breakers::thresholds::RetryBudget as RetryBudgetMessage;
use outrider_config::api::envoy::config::cluster::v3::cluster::CommonLbConfig;
use outrider_config::api::envoy::config::core::v3::BindConfig;
use outrider_config::api::envoy::config::core::v3::Metadata;
use outrider_config::api::envoy::config::core::v3::RoutingPriority as RoutingPriorityMessage;
use outrider_config::api::envoy::config::core::v3::socket_address::PortSpecifier;
use outrider_config::duration;
use outrider_net::ConnectOptions;
use outrider_net::KeepAlive;
use outrider_net::SocketOptions;
use outrider_net::parse_ip;
use outrider_runtime::Snapshot;
use outrider_tls::Secrets;

use crate::DynamicHosts;
use crate::EventFile;
use crate::EventFiles;
use crate::RetryBudget;
use crate::RoutingPriority;
use crate::Thresholds;
use crate::balancer::BalancerConfig;
use crate::health_check::HealthCheckConfig;
use crate::outlier::OutlierConfig;
use crate::protocol_options::HttpProtocolOptions;
use crate::protocol_options::ProtocolSelection;
use crate::transport::TransportSockets;

/// A cluster's settings.
#[derive(Debug)]
pub struct ClusterInfo {
    /// `name`
    pub name: Arc<str>,
    /// The name in stats and logs: `alt_stat_name`, or else the name.
    pub observability_name: Arc<str>,
    /// The runtime key of the percentage of requests that are dropped.
    pub maintenance_key: Box<str>,
    /// `connect_timeout`
    pub connect_timeout: Duration,
    /// `per_connection_buffer_limit_bytes`
    pub per_connection_buffer_limit_bytes: u32,
    /// How HTTP is spoken to the hosts.
    pub http: HttpProtocolOptions,
    /// How connections are opened.
    pub connect: ConnectOptions,
    /// TLS or plaintext, for each host.
    pub transport_sockets: TransportSockets,
    /// How a host is selected.
    pub balancer: BalancerConfig,
    /// How hosts are checked, if they are.
    pub(crate) health_check: Option<Arc<HealthCheckConfig>>,
    /// How outliers among the hosts are detected, if they are.
    pub(crate) outlier_detection: Option<OutlierConfig>,
    /// The log of ejections (`cluster_manager.outlier_detection.event_log_path`).
    pub(crate) outlier_log: Option<Arc<dyn EventFile>>,
    /// `common_lb_config.update_merge_window`
    pub update_merge_window: Duration,
    /// `common_lb_config.ignore_new_hosts_until_first_hc`
    pub ignore_new_hosts_until_first_hc: bool,
    /// `ignore_health_on_host_removal`
    pub ignore_health_on_host_removal: bool,
    /// `common_lb_config.close_connections_on_host_set_change`
    pub close_connections_on_host_set_change: bool,
    /// Where the config of the cluster came from.
    pub origin: ClusterOrigin,
    /// Where the hosts come from, if requests name them.
    pub dynamic_hosts: Option<DynamicHosts>,
    /// `metadata`
    pub metadata: Option<Box<Metadata>>,
    /// Circuit breakers of the default priority and of the high priority.
    pub thresholds: [Thresholds; 2],
}

/// Where the config of a cluster came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClusterOrigin {
    /// The bootstrap.
    #[default]
    Static,
    /// A dynamic source of clusters (`added_via_api`).
    Api,
}

/// The context in which a cluster's settings are built.
pub(crate) struct ClusterCx<'a> {
    /// `upstream_bind_config` of the cluster manager.
    pub(crate) bind: Option<&'a BindConfig>,
    pub(crate) origin: ClusterOrigin,
    pub(crate) secrets: &'a Secrets,
    pub(crate) runtime: &'a Snapshot,
    /// Opens event logs.
    pub(crate) event_files: &'a dyn EventFiles,
    /// `cluster_manager.outlier_detection.event_log_path`
    pub(crate) outlier_log: Option<&'a Arc<dyn EventFile>>,
}

/// `common_lb_config.update_merge_window` when it is not set.
const UPDATE_MERGE_WINDOW: Duration = Duration::from_secs(1);

/// `health_checks`, `outlier_detection` and `update_merge_window`.
type Watching = (
    Option<Arc<HealthCheckConfig>>,
    Option<OutlierConfig>,
    Duration,
);

impl ClusterInfo {
    /// Builds the settings of `message`, found at `path`.
    pub(crate) fn build(
        message: &Cluster,
        path: &FieldPath,
        cx: &ClusterCx<'_>,
    ) -> Result<ClusterInfo, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let http = errors.collect(HttpProtocolOptions::build(message, path, cx.runtime));
        let connect = errors.collect(connect_options(message, path, cx.bind));
        let sockets = errors.collect(TransportSockets::build(message, path, cx.secrets));
        if let (Some(http), Some(sockets)) = (&http, &sockets) {
            errors.collect(check_alpn(message, http, sockets, path));
        }
        let balancer = errors.collect(BalancerConfig::build(message, path));
        let breakers = message.circuit_breakers.as_ref();
        let thresholds = errors.collect(thresholds(breakers, &path.field("circuit_breakers")));
        let timeout = duration::optional(
            message.connect_timeout.as_ref(),
            &path.field("connect_timeout"),
        );
        let timeout = errors.collect(timeout);
        let speaks_http2 = (http.as_ref()).is_some_and(|h| h.protocol != ProtocolSelection::Http1);
        let watching = errors.collect(watching(message, path, speaks_http2, cx));
        let common = message.common_lb_config.as_ref();
        let Some((health_check, outliers, window)) = watching else {
            return Err(errors);
        };
        let (
            Some(http),
            Some(connect),
            Some(sockets),
            Some(balancer),
            Some(thresholds),
            Some(timeout),
        ) = (http, connect, sockets, balancer, thresholds, timeout)
        else {
            return Err(errors);
        };
        if !errors.is_empty() {
            return Err(errors);
        }
        let name: Arc<str> = message.name.as_str().into();
        Ok(ClusterInfo {
            origin: cx.origin,
            maintenance_key: format!("upstream.maintenance_mode.{name}").into(),
            observability_name: match message.alt_stat_name.as_str() {
                "" => name.clone(),
                alternative => alternative.into(),
            },
            name,
            connect_timeout: timeout.unwrap_or(Duration::from_secs(5)),
            per_connection_buffer_limit_bytes: message
                .per_connection_buffer_limit_bytes
                .filter(|limit| *limit > 0)
                .unwrap_or(1 << 20),
            http,
            connect,
            transport_sockets: sockets,
            balancer,
            health_check,
            outlier_log: outliers.as_ref().and(cx.outlier_log.cloned()),
            outlier_detection: outliers,
            update_merge_window: window,
            ignore_new_hosts_until_first_hc: common
                .is_some_and(|common| common.ignore_new_hosts_until_first_hc),
            ignore_health_on_host_removal: message.ignore_health_on_host_removal,
            close_connections_on_host_set_change: common
                .is_some_and(|common| common.close_connections_on_host_set_change),
            dynamic_hosts: None,
            metadata: message.metadata.clone().map(Box::new),
            thresholds,
        })
    }

    /// The limits of the breakers of a priority.
    #[must_use]
    pub fn thresholds(&self, priority: RoutingPriority) -> &Thresholds {
        match priority {
            RoutingPriority::Default => &self.thresholds[0],
            RoutingPriority::High => &self.thresholds[1],
        }
    }
}

/// Refuses hosts without TLS if ALPN has to select the protocol.
fn check_alpn(
    message: &Cluster,
    http: &HttpProtocolOptions,
    sockets: &TransportSockets,
    path: &FieldPath,
) -> Result<(), ConfigError> {
    let needs_tls = http.protocol == ProtocolSelection::Negotiated;
    if needs_tls && sockets.contexts().any(|tls| tls.is_none()) {
        let name = &message.name;
        let path = path.field("typed_extension_protocol_options");
        let text =
            format!("ALPN configured for cluster {name} which has a non-ALPN transport socket");
        return Err(ConfigError::new(&path, text));
    }
    Ok(())
}

/// How the health of the hosts of `message`, found at `path`, is watched, and how long its changes are merged.
fn watching(
    message: &Cluster,
    path: &FieldPath,
    speaks_http2: bool,
    cx: &ClusterCx<'_>,
) -> Result<Watching, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let health_check = errors.collect(HealthCheckConfig::build(
        &message.health_checks,
        &path.field("health_checks"),
        &message.name,
        speaks_http2,
        cx.event_files,
    ));
    let outliers = errors.collect(OutlierConfig::build(
        message.outlier_detection.as_ref(),
        &path.field("outlier_detection"),
    ));
    let window = update_merge_window(message.common_lb_config.as_ref(), path);
    let window = errors.collect(window);
    match (health_check, outliers, window) {
        (Some(health_check), Some(outliers), Some(window)) => Ok((health_check, outliers, window)),
        _ => Err(errors),
    }
}

/// `update_merge_window` of the `common_lb_config` of the cluster at `path`.
fn update_merge_window(
    common: Option<&CommonLbConfig>,
    path: &FieldPath,
) -> Result<Duration, ConfigError> {
    let path = path.field("common_lb_config").field("update_merge_window");
    let window = common.and_then(|common| common.update_merge_window.as_ref());
    Ok(duration::optional(window, &path)?.unwrap_or(UPDATE_MERGE_WINDOW))
}

fn connect_options(
    message: &Cluster,
    path: &FieldPath,
    bind: Option<&BindConfig>,
) -> Result<ConnectOptions, ConfigErrors> {
    let options = message.upstream_connection_options.as_ref();
    let keepalive = options.and_then(|options| options.tcp_keepalive.as_ref());
    let seconds = |value: Option<u32>| value.map(|s| Duration::from_secs(u64::from(s)));
    let mut connect = ConnectOptions {
        keepalive: keepalive.map(|message| KeepAlive {
            probes: message.keepalive_probes,
            time: seconds(message.keepalive_time),
            interval: seconds(message.keepalive_interval),
        }),
        ..ConnectOptions::default()
    };
    let (bind, path) = match (&message.upstream_bind_config, bind) {
        (Some(own), _) => (own, path.clone()),
        (None, Some(of_all)) => (of_all, FieldPath::root().field("cluster_manager")),
        (None, None) => return Ok(connect),
    };
    let path = path.field("upstream_bind_config");
    connect.source = source(bind, &path)?;
    connect.freebind = bind.freebind.unwrap_or(false);
    let options = path.field("socket_options");
    connect.options = SocketOptions::build(&bind.socket_options, &options)?;
    Ok(connect)
}

/// `BindConfig.source_address`
fn source(bind: &BindConfig, path: &FieldPath) -> Result<Option<SocketAddr>, ConfigError> {
    let Some(address) = &bind.source_address else {
        return Ok(None);
    };
    let path = path.field("source_address");
    let port = match address.port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(port).unwrap_or(0),
        _ => 0,
    };
    let source = parse_ip(&address.address, port).ok_or_else(|| {
        ConfigError::new(
            &path.field("address"),
            format!("malformed IP address: {}", address.address),
        )
    })?;
    Ok(Some(source))
}

fn thresholds(
    message: Option<&CircuitBreakers>,
    path: &FieldPath,
) -> Result<[Thresholds; 2], ConfigError> {
    let mut both = [Thresholds::default(), Thresholds::default()];
    let Some(message) = message else {
        return Ok(both);
    };
    for (limits, priority) in both.iter_mut().zip([
        RoutingPriorityMessage::Default,
        RoutingPriorityMessage::High,
    ]) {
        // If there are several for one priority, the first applies.
        let list = &message.thresholds;
        if let Some(given) = list.iter().find(|t| t.priority() == priority) {
            let or = |given: Option<u32>, default: u64| given.map_or(default, u64::from);
            *limits = Thresholds {
                max_connections: or(given.max_connections, limits.max_connections),
                max_pending_requests: or(given.max_pending_requests, limits.max_pending_requests),
                max_requests: or(given.max_requests, limits.max_requests),
                max_retries: or(given.max_retries, limits.max_retries),
                retry_budget: given.retry_budget.as_ref().map(retry_budget),
                max_connection_pools: or(given.max_connection_pools, limits.max_connection_pools),
                track_remaining: given.track_remaining,
                ..*limits
            };
        }
        let list = &message.per_host_thresholds;
        if let Some(index) = list.iter().position(|t| t.priority() == priority) {
            let given = &list[index];
            let others = given.max_pending_requests.is_some()
                || given.max_requests.is_some()
                || given.max_retries.is_some()
                || given.max_connection_pools.is_some()
                || given.retry_budget.is_some()
                || given.track_remaining;
            if others {
                return Err(ConfigError::new(
                    &path.field("per_host_thresholds").index(index),
                    "Unsupported field in per_host_thresholds: only max_connections may be set",
                ));
            }
            if let Some(max) = given.max_connections {
                limits.max_connections_per_host = u64::from(max);
            }
        }
    }
    Ok(both)
}

fn retry_budget(message: &RetryBudgetMessage) -> RetryBudget {
    let default = RetryBudget::default();
    let percent = message.budget_percent.map(|percent| percent.value);
    RetryBudget {
        percent: percent.unwrap_or(default.percent),
        min_concurrency: (message.min_retry_concurrency).map_or(default.min_concurrency, u64::from),
    }
}
