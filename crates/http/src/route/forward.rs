//! `RouteAction`: forwards the request to a cluster.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::Metadata;
use outrider_config::api::envoy::config::core::v3::RoutingPriority as RoutingPriorityMessage;
use outrider_config::api::envoy::config::route::v3::RouteAction;
use outrider_config::api::envoy::config::route::v3::route_action;
use outrider_config::api::envoy::config::route::v3::route_action::ClusterNotFoundResponseCode;
use outrider_config::api::envoy::config::route::v3::route_action::HostRewriteSpecifier;
use outrider_config::duration;
use outrider_upstream::MetadataMatchCriteria;
use outrider_upstream::RoutingPriority;

use crate::RequestHead;
use crate::Stream;
use crate::filters::CorsPolicy;
use crate::format::Formatter;
use crate::rate_limits::RateLimits;
use crate::route::InternalRedirectPolicy;
use crate::route::RetryPolicy;
use crate::route::hash_policy::HashPolicy;
use crate::route::header_mutation::header_name;
use crate::route::mirror_policy::MirrorPolicy;
use crate::route::rewrite;
use crate::route::rewrite::HostRewrite;
use crate::route::rewrite::PathRewrite;
use crate::route::rewrite::Substitution;
use crate::route::route_match::PathMatch;
use crate::route::tunnel::TunnelEnd;

/// The default of `RouteAction.timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// Forwards the request to a cluster.
#[derive(Clone, Debug)]
pub struct ForwardAction {
    /// The cluster to forward to.
    pub cluster: ClusterSpecifier,
    /// The response's status if the cluster does not exist.
    pub cluster_not_found_status: StatusCode,
    /// How long the whole response may take; zero for no limit.
    pub timeout: Duration,
    /// How long the stream may be idle; zero for no limit. The default is the connection manager's
    /// `stream_idle_timeout`.
    pub idle_timeout: Option<Duration>,
    /// How long the rest of a response may wait for the client. The default is the stream's idle timeout.
    pub flush_timeout: Option<Duration>,
    /// `max_stream_duration`, which overrides the connection manager's.
    pub max_stream_duration: Option<MaxStreamDuration>,
    /// `max_grpc_timeout`: the deprecated form of [`MaxStreamDuration::grpc_timeout_header_max`].
    pub max_grpc_timeout: Option<Duration>,
    /// `grpc_timeout_offset`: subtracted from a `grpc-timeout` if [`Self::max_grpc_timeout`] is set.
    pub grpc_timeout_offset: Option<Duration>,
    /// Selects the circuit breakers.
    pub priority: RoutingPriority,
    /// The upgrades for which this route overrides the connection manager's list.
    pub upgrades: Box<[Upgrade]>,
    /// How tunnels end at this proxy (`connect_config`); `None` if a CONNECT is forwarded as it is.
    pub(crate) tunnels: Option<Arc<TunnelEnd>>,
    /// Whether `:authority` is rewritten to the name of the selected host.
    pub auto_host_rewrite: bool,
    /// Computes the hash of a request, for clusters that select hosts by hash.
    pub(crate) hash_policy: Option<Arc<HashPolicy>>,
    /// `metadata_match`: the metadata that the host must have, for clusters with subsets.
    pub(crate) metadata_match: Option<Arc<MetadataMatchCriteria>>,
    /// `internal_redirect_policy`, if redirects are followed.
    pub(crate) internal_redirects: Option<Arc<InternalRedirectPolicy>>,
    /// `retry_policy`; without it, the virtual host's applies.
    pub(crate) retry_policy: Option<Arc<RetryPolicy>>,
    path_rewrite: Option<PathRewrite>,
    host_rewrite: Option<HostRewrite>,
    /// Whether the rewrite belongs to a weighted cluster: as in Envoy, the original host is then not kept in a header.
    forgets_host: bool,
    append_x_forwarded_host: bool,
    /// The copies of requests that the route, its virtual host or its route table asks for.
    pub(crate) mirrors: Arc<[MirrorPolicy]>,
    /// `RouteAction.cors`.
    pub(crate) cors: Option<Arc<CorsPolicy>>,
    /// `rate_limits`
    pub(crate) rate_limits: RateLimits,
    /// `include_vh_rate_limits`
    pub(crate) includes_host_limits: bool,
}

/// The cluster of a request.
#[derive(Clone, Debug)]
pub enum ClusterSpecifier {
    /// This cluster.
    Name(Arc<str>),
    /// The cluster that a header names.
    Header(ClusterHeader),
}

/// The header that names the cluster.
#[derive(Clone, Debug)]
pub struct ClusterHeader(Option<HeaderName>);

/// `RouteAction.max_stream_duration`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaxStreamDuration {
    /// How long a stream may take; zero for no limit.
    pub max_stream_duration: Option<Duration>,
    /// `grpc-timeout` is obeyed, up to this limit; zero for no limit.
    pub grpc_timeout_header_max: Option<Duration>,
    /// Subtracted from a `grpc-timeout`.
    pub grpc_timeout_header_offset: Option<Duration>,
}

/// `RouteAction.upgrade_configs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// The protocol, in lower case.
    pub protocol: Box<str>,
    /// Whether it is allowed.
    pub enabled: bool,
}

impl ForwardAction {
    /// `cluster`: the cluster of the action. With `weighted_clusters`, each of them gets a copy of the action.
    pub(crate) fn build(
        config: &RouteAction,
        (cluster, mirrors): (ClusterSpecifier, Arc<[MirrorPolicy]>),
        matched: &PathMatch,
        path: &FieldPath,
    ) -> Result<ForwardAction, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut optional = |value: &Option<prost_types::Duration>, field: &'static str| {
            let value = duration::optional(value.as_ref(), &path.field(field));
            errors.collect(value).flatten()
        };
        let timeout = optional(&config.timeout, "timeout").unwrap_or(DEFAULT_TIMEOUT);
        let idle_timeout = optional(&config.idle_timeout, "idle_timeout");
        let flush_timeout = optional(&config.flush_timeout, "flush_timeout");
        #[expect(deprecated, reason = "Envoy still obeys them")]
        let (max_grpc_timeout, grpc_timeout_offset) = (
            optional(&config.max_grpc_timeout, "max_grpc_timeout"),
            optional(&config.grpc_timeout_offset, "grpc_timeout_offset"),
        );
        let max_stream_duration = config.max_stream_duration.as_ref().and_then(|durations| {
            let path = path.field("max_stream_duration");
            errors.collect(MaxStreamDuration::build(durations, &path))
        });
        let upgrades = upgrades(&config.upgrade_configs, path, &mut errors);
        let tunnels = TunnelEnd::find(&config.upgrade_configs);
        #[expect(deprecated, reason = "Envoy still obeys it")]
        let cors = config
            .cors
            .as_ref()
            .and_then(|cors| errors.collect(CorsPolicy::of_route(cors, &path.field("cors"))));
        let path_rewrite = errors.collect(path_rewrite(config, matched, path));
        let host_rewrite = config
            .host_rewrite_specifier
            .as_ref()
            .and_then(|specifier| errors.collect(HostRewrite::build(specifier, path)));
        let retry_policy = config.retry_policy.as_ref().and_then(|policy| {
            errors.collect(RetryPolicy::build(policy, &path.field("retry_policy")))
        });
        let rate_limits = errors.collect(RateLimits::of_routes(&config.rate_limits, path));
        #[expect(deprecated, reason = "Envoy still obeys it")]
        let includes_host_limits = config.include_vh_rate_limits.unwrap_or(false);
        let hash_policy = errors.collect(HashPolicy::build(&config.hash_policy, path));
        let redirects = errors.collect(InternalRedirectPolicy::build(config, path));
        let action = ForwardAction {
            cluster,
            cluster_not_found_status: cluster_not_found_status(config),
            timeout,
            idle_timeout,
            flush_timeout,
            max_stream_duration,
            max_grpc_timeout,
            grpc_timeout_offset,
            priority: match config.priority() {
                RoutingPriorityMessage::Default => RoutingPriority::Default,
                RoutingPriorityMessage::High => RoutingPriority::High,
            },
            upgrades,
            tunnels: tunnels.map(Arc::new),
            auto_host_rewrite: matches!(
                config.host_rewrite_specifier,
                Some(HostRewriteSpecifier::AutoHostRewrite(true))
            ),
            hash_policy: hash_policy
                .filter(|_| !config.hash_policy.is_empty())
                .map(Arc::new),
            metadata_match: MetadataMatchCriteria::of(config.metadata_match.as_ref()).map(Arc::new),
            internal_redirects: redirects.flatten().map(Arc::new),
            retry_policy: retry_policy.map(Arc::new),
            path_rewrite: path_rewrite.flatten(),
            host_rewrite: host_rewrite.flatten(),
            forgets_host: false,
            append_x_forwarded_host: config.append_x_forwarded_host,
            mirrors,
            cors: cors.map(Arc::new),
            rate_limits: rate_limits.unwrap_or_default(),
            includes_host_limits,
        };
        errors.finish(action)
    }

    /// A copy of the action for one of several weighted clusters.
    pub(crate) fn with_cluster(
        &self,
        cluster: ClusterSpecifier,
        host_rewrite: Option<HostRewrite>,
        metadata: Option<&Metadata>,
    ) -> ForwardAction {
        let mut action = self.clone();
        action.cluster = cluster;
        if metadata.is_some() {
            let of_route = self.metadata_match.as_deref();
            let merged = MetadataMatchCriteria::merged(of_route, metadata);
            action.metadata_match = merged.map(Arc::new);
        }
        if host_rewrite.is_some() {
            action.host_rewrite = host_rewrite;
            action.forgets_host = true;
        }
        action
    }

    /// The name of the cluster for a request; `None` if the header that names it is missing.
    #[must_use]
    pub fn cluster_name<'a>(&'a self, head: &'a RequestHead) -> Option<&'a str> {
        self.cluster.name(head)
    }

    /// Rewrites `:authority` and `:path`. `keep_originals`: writes the original values into `x-envoy-original-host` and
    /// `x-envoy-original-path`; false with the router's `suppress_envoy_headers`.
    pub fn rewrite(&self, stream: &mut Stream, keep_originals: bool) {
        if let Some(host) = self
            .host_rewrite
            .as_ref()
            .and_then(|rewrite| rewrite.apply(stream))
        {
            if self.forgets_host {
                rewrite::set_host(&mut stream.request, host, false, false);
            } else {
                self.set_host(stream, host, keep_originals);
            }
        }
        if let Some(path) = self
            .path_rewrite
            .as_ref()
            .and_then(|rewrite| rewrite.apply(stream))
        {
            rewrite::set_path(&mut stream.request, path, keep_originals);
        }
    }

    /// Rewrites `:authority` to `host`, the name of the selected host, for `auto_host_rewrite`.
    pub fn set_host(&self, stream: &mut Stream, host: HeaderValue, keep_original: bool) {
        let forward_original = self.append_x_forwarded_host;
        rewrite::set_host(&mut stream.request, host, keep_original, forward_original);
    }
}

impl ClusterSpecifier {
    /// The name of the cluster for a request; `None` if the header that names it is missing.
    pub(crate) fn name<'a>(&'a self, head: &'a RequestHead) -> Option<&'a str> {
        match self {
            ClusterSpecifier::Name(name) => Some(name),
            ClusterSpecifier::Header(ClusterHeader(None)) => {
                Some(head.host()).filter(|host| !host.is_empty())
            }
            ClusterSpecifier::Header(ClusterHeader(Some(name))) => head
                .headers
                .get(name)
                .and_then(HeaderValue::as_str)
                .filter(|name| !name.is_empty()),
        }
    }

    /// The cluster that the header `name` names.
    pub(crate) fn header(
        name: &str,
        path: &FieldPath,
    ) -> Result<ClusterSpecifier, outrider_config::ConfigError> {
        let header = match name.to_ascii_lowercase().as_str() {
            ":authority" | "host" => None,
            name => Some(header_name(name, path)?),
        };
        Ok(ClusterSpecifier::Header(ClusterHeader(header)))
    }
}

impl MaxStreamDuration {
    fn build(
        config: &route_action::MaxStreamDuration,
        path: &FieldPath,
    ) -> Result<MaxStreamDuration, ConfigErrors> {
        let optional = |value: &Option<prost_types::Duration>, field: &'static str| {
            duration::optional(value.as_ref(), &path.field(field))
        };
        Ok(MaxStreamDuration {
            max_stream_duration: optional(&config.max_stream_duration, "max_stream_duration")?,
            grpc_timeout_header_max: optional(
                &config.grpc_timeout_header_max,
                "grpc_timeout_header_max",
            )?,
            grpc_timeout_header_offset: optional(
                &config.grpc_timeout_header_offset,
                "grpc_timeout_header_offset",
            )?,
        })
    }
}

fn cluster_not_found_status(config: &RouteAction) -> StatusCode {
    match config.cluster_not_found_response_code() {
        ClusterNotFoundResponseCode::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        ClusterNotFoundResponseCode::NotFound => StatusCode::NOT_FOUND,
        ClusterNotFoundResponseCode::InternalServerError => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn upgrades(
    config: &[route_action::UpgradeConfig],
    path: &FieldPath,
    errors: &mut ConfigErrors,
) -> Box<[Upgrade]> {
    let mut upgrades: Vec<Upgrade> = Vec::with_capacity(config.len());
    for (at, upgrade) in config.iter().enumerate() {
        let path = path.field("upgrade_configs").index(at);
        let protocol = upgrade.upgrade_type.to_ascii_lowercase();
        if upgrades.iter().any(|other| *other.protocol == protocol) {
            errors.push(&path, format!("Duplicate upgrade {}", upgrade.upgrade_type));
        }
        if upgrade.connect_config.is_some() {
            let message = match protocol.as_str() {
                "connect" => None,
                "connect-udp" => Some("not supported: tunnels for UDP".to_owned()),
                _ => Some(format!(
                    "Non-CONNECT upgrade type {} has ConnectConfig",
                    upgrade.upgrade_type
                )),
            };
            if let Some(message) = message {
                errors.push(&path.field("connect_config"), message);
            }
        }
        upgrades.push(Upgrade {
            protocol: protocol.into(),
            enabled: upgrade.enabled.unwrap_or(true),
        });
    }
    upgrades.into()
}

fn path_rewrite(
    config: &RouteAction,
    matched: &PathMatch,
    path: &FieldPath,
) -> Result<Option<PathRewrite>, ConfigErrors> {
    let set = [
        !config.prefix_rewrite.is_empty(),
        config.regex_rewrite.is_some(),
        !config.path_rewrite.is_empty(),
    ];
    if set.iter().filter(|set| **set).count() > 1 {
        let mut errors = ConfigErrors::new();
        errors.push(
            path,
            "Specify only one of prefix_rewrite, regex_rewrite or path_rewrite_policy",
        );
        return Err(errors);
    }
    Ok(if let Some(regex) = &config.regex_rewrite {
        let substitution = Substitution::build(regex, &path.field("regex_rewrite"))?;
        Some(PathRewrite::Regex(substitution))
    } else if !config.path_rewrite.is_empty() {
        let path = path.field("path_rewrite");
        let formatter = Formatter::compile_omitting(&config.path_rewrite, &path)?;
        Some(PathRewrite::Format(formatter))
    } else if !config.prefix_rewrite.is_empty() {
        Some(PathRewrite::Prefix {
            matched: matched.clone(),
            with: config.prefix_rewrite.as_str().into(),
        })
    } else {
        None
    })
}
