//! The configuration of a TCP proxy, built from Envoy's message and shared by all workers.

use std::time::Duration;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::BackoffStrategy;
use outrider_config::api::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use outrider_config::api::envoy::extensions::filters::network::tcp_proxy::v3::UpstreamConnectMode;
use outrider_config::api::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;
use outrider_config::api::envoy::r#type::v3::hash_policy::PolicySpecifier;
use outrider_config::duration;
use outrider_http::BuildCx;
use outrider_http::access_log::AccessLog;
use outrider_net::BackOff;
use outrider_stats::Scope;
use outrider_upstream::MetadataMatchCriteria;

use super::stats::TcpProxyStats;
use super::tunnel::Tunneling;

/// The default of `idle_timeout`.
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`
#[derive(Debug)]
pub(super) struct TcpProxyConfig {
    /// `tcp.<stat_prefix>`
    pub(super) scope: Scope,
    clusters: ClusterChoice,
    /// `idle_timeout`; `None` for no limit.
    pub(super) idle_timeout: Option<Duration>,
    /// `max_downstream_connection_duration`; `None` for no limit.
    max_duration: Option<Duration>,
    /// `max_downstream_connection_duration_jitter_percentage`, as a share of the duration.
    max_duration_jitter: f64,
    /// `max_connect_attempts`
    pub(super) max_connect_attempts: u32,
    /// `backoff_options`
    pub(super) back_off: Option<BackOff>,
    /// Whether `hash_policy` has `source_ip`.
    pub(super) hashes_source_ip: bool,
    /// `access_log`
    pub(super) access_logs: Vec<AccessLog>,
    pub(super) log_moments: LogMoments,
    /// `check_drain_close`
    pub(super) checks_drain: bool,
    /// The listener's `per_connection_buffer_limit_bytes`.
    pub(super) buffer_limit: usize,
    /// `upstream_connect_mode`
    pub(super) connect_moment: ConnectMoment,
    /// `tunneling_config`
    pub(super) tunneling: Option<Tunneling>,
}

/// `cluster_specifier`
#[derive(Debug)]
enum ClusterChoice {
    Cluster(ChosenCluster),
    Weighted(Vec<(ChosenCluster, u64)>),
}

/// A cluster, and what its hosts must have.
#[derive(Debug)]
pub(super) struct ChosenCluster {
    name: Box<str>,
    /// `metadata_match`
    metadata_match: Option<MetadataMatchCriteria>,
}

/// When the host is connected to (`upstream_connect_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectMoment {
    /// `IMMEDIATE`
    Accepted,
    /// `ON_DOWNSTREAM_DATA`
    FirstBytes,
    /// `ON_DOWNSTREAM_TLS_HANDSHAKE`
    Handshake,
}

/// When a connection is logged before its end (`access_log_options`).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LogMoments {
    /// `flush_access_log_on_start`
    pub(super) start: bool,
    /// `flush_access_log_on_connected`
    pub(super) connected: bool,
    /// `access_log_flush_interval`
    pub(super) interval: Option<Duration>,
}

impl TcpProxyConfig {
    /// The TCP proxy of `message`, found at `path`.
    pub(super) fn build(
        message: &TcpProxy,
        path: &FieldPath,
        cx: &BuildCx<'_>,
    ) -> Result<TcpProxyConfig, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut time = |field: &'static str, value: Option<&prost_types::Duration>| {
            errors
                .collect(duration::optional(value, &path.field(field)))
                .flatten()
        };
        let idle_timeout = time("idle_timeout", message.idle_timeout.as_ref());
        let max_duration = time(
            "max_downstream_connection_duration",
            message.max_downstream_connection_duration.as_ref(),
        );
        let jitter = message.max_downstream_connection_duration_jitter_percentage;
        let log_moments = errors.collect(LogMoments::build(message, path));
        let back_off = message
            .backoff_options
            .as_ref()
            .map(|options| back_off(options, &path.field("backoff_options")));
        let back_off = errors.collect(back_off.transpose()).flatten();
        let clusters = errors.collect(ClusterChoice::build(message, path));
        let logs_path = path.field("access_log");
        let logs = message.access_log.iter().enumerate();
        let access_logs = logs
            .filter_map(|(index, log)| {
                errors.collect(AccessLog::build(log, &logs_path.index(index), cx.log_files))
            })
            .collect();
        let connect_moment = errors.collect(ConnectMoment::build(message, path));
        let tunneling = message.tunneling_config.as_ref().and_then(|tunneling| {
            errors.collect(Tunneling::build(tunneling, &path.field("tunneling_config")))
        });
        let (Some(clusters), Some(log_moments), Some(connect_moment)) =
            (clusters, log_moments, connect_moment)
        else {
            return Err(errors);
        };
        let scope = Scope::new("tcp").name(&message.stat_prefix);
        // Listed before the first connection.
        cx.store.register::<TcpProxyStats>(scope.clone());
        let mut policies = message.hash_policy.iter();
        errors.finish(TcpProxyConfig {
            scope,
            clusters,
            idle_timeout: Some(idle_timeout.unwrap_or(DEFAULT_IDLE_TIMEOUT))
                .filter(|timeout| !timeout.is_zero()),
            max_duration,
            max_duration_jitter: jitter.map_or(0.0, |percent| percent.value / 100.0),
            max_connect_attempts: message.max_connect_attempts.unwrap_or(1),
            back_off,
            hashes_source_ip: policies.any(|policy| {
                matches!(policy.policy_specifier, Some(PolicySpecifier::SourceIp(_)))
            }),
            access_logs,
            log_moments,
            checks_drain: message.check_drain_close.unwrap_or(false),
            buffer_limit: usize::try_from(cx.buffer_limit).unwrap_or(usize::MAX),
            tunneling,
            connect_moment,
        })
    }

    /// The cluster for a connection, with the metadata that its hosts must have; `random` decides between several. One that
    /// another filter has `chosen` replaces a single one, and not several, as in Envoy.
    pub(super) fn cluster<'a>(
        &'a self,
        chosen: Option<&'a str>,
        random: u64,
    ) -> (&'a str, Option<&'a MetadataMatchCriteria>) {
        match &self.clusters {
            ClusterChoice::Cluster(cluster) => (
                chosen.unwrap_or(&cluster.name),
                cluster.metadata_match.as_ref(),
            ),
            ClusterChoice::Weighted(clusters) => {
                let total: u64 = clusters.iter().map(|(_, weight)| weight).sum();
                let mut rest = random.checked_rem(total).unwrap_or(0);
                for (cluster, weight) in clusters {
                    if rest < *weight {
                        return (&cluster.name, cluster.metadata_match.as_ref());
                    }
                    rest -= weight;
                }
                ("", None)
            }
        }
    }

    /// How long a connection may last, with its jitter.
    pub(super) fn max_duration(&self) -> Option<Duration> {
        let max = self.max_duration?;
        Some(max + max.mul_f64(self.max_duration_jitter * fastrand::f64()))
    }
}

impl ClusterChoice {
    fn build(message: &TcpProxy, path: &FieldPath) -> Result<ClusterChoice, ConfigError> {
        let of_proxy = MetadataMatchCriteria::of(message.metadata_match.as_ref());
        match &message.cluster_specifier {
            Some(ClusterSpecifier::Cluster(name)) => Ok(ClusterChoice::Cluster(ChosenCluster {
                name: name.as_str().into(),
                metadata_match: of_proxy,
            })),
            Some(ClusterSpecifier::WeightedClusters(weighted)) => {
                let clusters = weighted.clusters.iter();
                let clusters = clusters.map(|cluster| {
                    let own = cluster.metadata_match.as_ref();
                    let chosen = ChosenCluster {
                        name: cluster.name.as_str().into(),
                        metadata_match: MetadataMatchCriteria::merged(of_proxy.as_ref(), own),
                    };
                    (chosen, cluster.weight.into())
                });
                Ok(ClusterChoice::Weighted(clusters.collect()))
            }
            None => Err(ConfigError::new(
                path,
                "cluster or weighted_clusters is required",
            )),
        }
    }
}

impl ConnectMoment {
    fn build(message: &TcpProxy, path: &FieldPath) -> Result<ConnectMoment, ConfigError> {
        let moment = match message.upstream_connect_mode() {
            UpstreamConnectMode::Immediate => return Ok(ConnectMoment::Accepted),
            UpstreamConnectMode::OnDownstreamData => ConnectMoment::FirstBytes,
            UpstreamConnectMode::OnDownstreamTlsHandshake => ConnectMoment::Handshake,
        };
        if message.max_early_data_bytes.is_none() {
            return Err(ConfigError::new(
                &path.field("max_early_data_bytes"),
                "must be set when upstream_connect_mode is not IMMEDIATE",
            ));
        }
        Ok(moment)
    }
}

/// The waits before further attempts to connect.
fn back_off(options: &BackoffStrategy, path: &FieldPath) -> Result<BackOff, ConfigErrors> {
    let base = duration::optional(options.base_interval.as_ref(), &path.field("base_interval"))?;
    let max = duration::optional(options.max_interval.as_ref(), &path.field("max_interval"))?;
    let base = base.unwrap_or_default();
    let max = max.unwrap_or(base * 10);
    if max < base {
        let message = "max_interval must be greater than or equal to base_interval";
        return Err(ConfigError::new(&path.field("max_interval"), message).into());
    }
    Ok(BackOff::new(base, max))
}

impl LogMoments {
    #[expect(deprecated, reason = "Envoy still obeys the older fields")]
    fn build(message: &TcpProxy, path: &FieldPath) -> Result<LogMoments, ConfigErrors> {
        let old_interval = message.access_log_flush_interval.as_ref();
        let Some(options) = &message.access_log_options else {
            let path = path.field("access_log_flush_interval");
            return Ok(LogMoments {
                start: false,
                connected: message.flush_access_log_on_connected,
                interval: duration::optional(old_interval, &path)?,
            });
        };
        let both = [
            (
                "flush_access_log_on_connected",
                message.flush_access_log_on_connected,
            ),
            ("access_log_flush_interval", old_interval.is_some()),
        ];
        if let Some((field, _)) = both.into_iter().find(|(_, is_set)| *is_set) {
            let message = "cannot be set together with access_log_options";
            return Err(ConfigError::new(&path.field(field), message).into());
        }
        let path = path.field("access_log_options");
        Ok(LogMoments {
            start: options.flush_access_log_on_start,
            connected: options.flush_access_log_on_connected,
            interval: duration::optional(
                options.access_log_flush_interval.as_ref(),
                &path.field("access_log_flush_interval"),
            )?,
        })
    }
}
