//! The connection manager's configuration, built from Envoy's message and shared by all workers.

use std::any::Any;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;
use outrider_codec::CodecType;
use outrider_codec::HeaderValue;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::scheme_header_transformation::Transformation;
use outrider_config::api::envoy::config::route::v3::RouteConfiguration;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager as Message;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::CodecType as CodecTypeMessage;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::InternalAddressConfig;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::PathWithEscapedSlashesAction;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::StripPortMode;
use outrider_config::duration;
use outrider_runtime::Snapshot;
use outrider_stats::Scope;
use outrider_xds::ConfigSource;
use outrider_xds::Sources;

use crate::BuildCx;
use crate::Captures;
use crate::access_log::AccessLog;
use crate::filters::HeaderMutation;
use crate::filters::HttpFilterChainConfig;
use crate::local_reply_config::LocalReplyConfig;
use crate::manager::codec_options::CodecOptions;
use crate::manager::routes::SharedRoutes;
use crate::request::ClientCert;
use crate::request::DetectOriginalIp;
use crate::request::EscapedSlashes;
use crate::request::Forwarding;
use crate::request::HostOptions;
use crate::request::InternalAddresses;
use crate::request::PathOptions;
use crate::request::StripPort;
use crate::request::UserAgent;
use crate::request::early_header_mutation;
use crate::request::original_ip;
use crate::response::ResponseOptions;
use crate::route::RouteCx;
use crate::route::RouteTable;
use crate::tracing;
use crate::tracing::TracingConfig;
use crate::upgrade::UpgradeTypes;

/// A connection manager as configured, shared by all workers
/// (`envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`).
#[derive(Debug)]
pub struct ConnectionManagerConfig {
    /// `http.<stat_prefix>`
    pub(super) scope: Scope,
    /// `listener.<address>.http.<stat_prefix>`
    pub(super) listener_scope: Scope,
    pub(super) codec: CodecOptions,
    pub(super) bypasses_overload_manager: bool,
    /// `append_local_overload`
    pub(super) appends_local_overload: bool,
    pub(super) timeouts: StreamTimeouts,
    pub(super) paths: PathOptions,
    pub(super) hosts: HostOptions,
    pub(super) forwarding: Forwarding,
    pub(super) response: ResponseOptions,
    pub(super) upgrades: UpgradeTypes,
    /// `proxy_100_continue`
    pub(super) proxy_100_continue: bool,
    pub(super) routes: SharedRoutes,
    rds: Option<RdsConfig>,
    pub(super) filters: HttpFilterChainConfig,
    pub(super) access_logs: Vec<AccessLog>,
    /// `scheme_header_transformation.match_upstream`
    pub(super) matches_upstream_scheme: bool,
    /// `early_header_mutation_extensions`
    pub(super) early_mutations: Box<[HeaderMutation]>,
    /// `local_reply_config`
    pub(super) local_replies: Option<LocalReplyConfig>,
    pub(super) tracing: Option<Arc<TracingConfig>>,
}

/// The timeouts of streams; `None` for no limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamTimeouts {
    /// `stream_idle_timeout`, 5 minutes by default.
    pub(super) idle: Option<Duration>,
    /// `stream_flush_timeout`; the idle timeout by default.
    pub(super) flush: Option<Duration>,
    /// `request_timeout`
    pub(super) request: Option<Duration>,
    /// `common_http_protocol_options.max_stream_duration`
    pub(super) max_duration: Option<Duration>,
}

impl ConnectionManagerConfig {
    /// The connection manager of `message`, found at `path`.
    ///
    /// # Errors
    /// Everything in `message` that is wrong or not supported.
    pub fn build(
        message: &Message,
        path: &FieldPath,
        cx: &BuildCx<'_>,
    ) -> Result<Arc<Self>, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        check_combinations(message, path, &mut errors);
        let access_logs = access_logs(message, path, cx, &mut errors);
        let codec = errors.collect(CodecOptions::build(message, path, cx));
        let timeouts = errors.collect(StreamTimeouts::build(message, path));
        let scope = Scope::new("http").name(&message.stat_prefix);
        let filters = errors.collect(HttpFilterChainConfig::build(
            &message.http_filters,
            &path.field("http_filters"),
            &scope,
            cx,
        ));
        let upgrades = errors.collect(UpgradeTypes::build(
            &message.upgrade_configs,
            &path.field("upgrade_configs"),
        ));
        let routes = errors.collect(routes(message, path, cx));
        let rds = errors
            .collect(RdsConfig::build(message, path, cx.sources))
            .flatten();
        let via = errors
            .collect(optional_value(&message.via, &path.field("via")))
            .flatten();
        let response = errors.collect(ResponseOptions::build(message, path, via.clone()));
        let forwarding = errors.collect(forwarding(message, path, via, cx));
        let early_mutations = errors.collect(early_header_mutation::build_all(
            &message.early_header_mutation_extensions,
            &path.field("early_header_mutation_extensions"),
        ));
        let local_replies = errors
            .collect(LocalReplyConfig::build(message, path))
            .flatten();
        let (Some(codec), Some(timeouts), Some(filters), Some(upgrades)) =
            (codec, timeouts, filters, upgrades)
        else {
            return Err(errors);
        };
        let tracing = errors.collect(tracing(message, path, cx));
        let tracing = tracing.flatten();
        let (Some(routes), Some(response), Some(forwarding)) = (routes, response, forwarding)
        else {
            return Err(errors);
        };
        errors.finish(Arc::new(ConnectionManagerConfig {
            scope,
            listener_scope: cx.listener.clone().name("http").name(&message.stat_prefix),
            codec,
            bypasses_overload_manager: cx.bypasses_overload_manager,
            appends_local_overload: message.append_local_overload,
            timeouts,
            paths: paths(message, cx.runtime),
            hosts: hosts(message),
            forwarding,
            response,
            upgrades,
            proxy_100_continue: message.proxy_100_continue,
            rds,
            routes: SharedRoutes::new(
                routes,
                captures(&access_logs, local_replies.as_ref(), tracing.as_deref()),
            ),
            filters,
            access_logs,
            matches_upstream_scheme: message
                .scheme_header_transformation
                .as_ref()
                .is_some_and(|scheme| scheme.match_upstream),
            early_mutations: early_mutations.unwrap_or_default(),
            local_replies,
            tracing,
        }))
    }

    /// Where its routes come from, if they are not in its own config.
    #[must_use]
    pub fn rds(&self) -> Option<&RdsConfig> {
        self.rds.as_ref()
    }

    /// The current routes.
    #[must_use]
    pub fn route_table(&self) -> Arc<RouteTable> {
        self.routes.table()
    }

    /// Replaces the routes for requests that begin from now on. Requests that have begun keep theirs.
    ///
    /// Returns the previous routes. Whoever drops the last reference to them pays for it, which must not be a worker:
    /// hold the returned one until no other is left.
    #[must_use = "dropped at once, the previous routes are freed by the worker that uses them last"]
    pub fn set_routes(&self, routes: Arc<RouteTable>) -> Arc<dyn Any + Send + Sync> {
        self.routes.replace(routes)
    }
}

/// `HttpConnectionManager.rds`: a source of routes.
#[derive(Debug)]
pub struct RdsConfig {
    /// `config_source`
    pub source: ConfigSource,
    /// `route_config_name`
    pub route_config_name: String,
    /// `http.<stat_prefix>`, below which its updates are counted.
    pub scope: Scope,
}

impl RdsConfig {
    fn build(
        message: &Message,
        path: &FieldPath,
        sources: &Sources,
    ) -> Result<Option<RdsConfig>, ConfigErrors> {
        let Some(RouteSpecifier::Rds(rds)) = &message.route_specifier else {
            return Ok(None);
        };
        let path = path.field("rds").field("config_source");
        let source = rds.config_source.as_ref();
        let source = source.ok_or_else(|| ConfigError::new(&path, "value is required"))?;
        let source = ConfigSource::build(source, &path, sources)?;
        Ok(Some(RdsConfig {
            source,
            route_config_name: rds.route_config_name.clone(),
            scope: Scope::new("http").name(&message.stat_prefix),
        }))
    }
}

impl StreamTimeouts {
    fn build(message: &Message, path: &FieldPath) -> Result<StreamTimeouts, ConfigErrors> {
        const IDLE: Duration = Duration::from_secs(300);
        let common = message.common_http_protocol_options.unwrap_or_default();
        let common_path = path.field("common_http_protocol_options");
        let mut errors = ConfigErrors::new();
        let mut optional = |field: Option<&prost_types::Duration>, path: FieldPath| {
            errors.collect(duration::optional(field, &path)).flatten()
        };
        let idle = optional(
            message.stream_idle_timeout.as_ref(),
            path.field("stream_idle_timeout"),
        );
        let flush = optional(
            message.stream_flush_timeout.as_ref(),
            path.field("stream_flush_timeout"),
        );
        let request = optional(
            message.request_timeout.as_ref(),
            path.field("request_timeout"),
        );
        let max_duration = optional(
            common.max_stream_duration.as_ref(),
            common_path.field("max_stream_duration"),
        );
        errors.finish(StreamTimeouts {
            idle: Some(idle.unwrap_or(IDLE)).filter(|idle| !idle.is_zero()),
            flush,
            request: request.filter(|timeout| !timeout.is_zero()),
            max_duration: max_duration.filter(|timeout| !timeout.is_zero()),
        })
    }
}

fn routes(
    message: &Message,
    path: &FieldPath,
    cx: &BuildCx<'_>,
) -> Result<Arc<RouteTable>, ConfigErrors> {
    let refused = |field: &'static str, feature: &str| {
        Err(ConfigErrors::from(ConfigError::new(
            &path.field(field),
            format!("not supported: {feature}"),
        )))
    };
    match &message.route_specifier {
        Some(RouteSpecifier::RouteConfig(config)) => {
            build_routes(config, &path.field("route_config"), cx)
        }
        // An empty table until RDS delivers the routes.
        Some(RouteSpecifier::Rds(_)) => build_routes(&RouteConfiguration::default(), path, cx),
        Some(RouteSpecifier::ScopedRoutes(_)) => refused("scoped_routes", "scoped routes"),
        None => Err(ConfigErrors::from(ConfigError::new(
            path,
            "expected route_config",
        ))),
    }
}

/// The routes of `config`, found at `path`, for a connection manager that is built with `cx`.
///
/// # Errors
/// Everything that is wrong with them.
fn build_routes(
    config: &RouteConfiguration,
    path: &FieldPath,
    cx: &BuildCx<'_>,
) -> Result<Arc<RouteTable>, ConfigErrors> {
    let has_cluster = |name: &str| cx.clusters.has(name);
    let cx = RouteCx {
        has_cluster: &has_cluster,
        nearest_cluster: &|name| cx.clusters.nearest(name).map(str::to_owned),
        validates_clusters: true,
        store: cx.store,
    };
    RouteTable::build(config, path, &cx)
}

/// Refuses fields that Envoy refuses here, or beside one another.
fn check_combinations(message: &Message, path: &FieldPath, errors: &mut ConfigErrors) {
    let strips_any = matches!(
        message.strip_port_mode,
        Some(StripPortMode::StripAnyHostPort(true))
    );
    if strips_any && message.strip_matching_host_port {
        errors.push(
            &path.field("strip_any_host_port"),
            "only one of strip_matching_host_port and strip_any_host_port can be set",
        );
    }
    let common = message.common_http_protocol_options.as_ref();
    if common.is_some_and(|common| common.max_response_headers_kb.is_some()) {
        let path = path.field("common_http_protocol_options");
        errors.push(
            &path.field("max_response_headers_kb"),
            "cannot be set on a connection manager: it is for clusters",
        );
    }
}

fn access_logs(
    message: &Message,
    path: &FieldPath,
    cx: &BuildCx<'_>,
    errors: &mut ConfigErrors,
) -> Vec<AccessLog> {
    let path = path.field("access_log");
    let logs = message.access_log.iter().enumerate();
    logs.filter_map(|(index, log)| {
        errors.collect(AccessLog::build(log, &path.index(index), cx.log_files))
    })
    .collect()
}

/// The tracing, and the options of request ids, which serve it.
fn tracing(
    message: &Message,
    path: &FieldPath,
    cx: &BuildCx<'_>,
) -> Result<Option<Arc<TracingConfig>>, ConfigErrors> {
    let ids = tracing::request_id_options(
        message.request_id_extension.as_ref(),
        &path.field("request_id_extension"),
    )?;
    TracingConfig::build(message, path, ids, cx)
}

fn captures(
    access_logs: &[AccessLog],
    local_replies: Option<&LocalReplyConfig>,
    tracing: Option<&TracingConfig>,
) -> Captures {
    let mut captures = Captures::default();
    if let Some(tracing) = tracing {
        tracing.capture(&mut captures);
    }
    for log in access_logs {
        log.capture(&mut captures);
    }
    if let Some(local_replies) = local_replies {
        local_replies.capture(&mut captures);
    }
    captures
}

fn paths(message: &Message, runtime: &Snapshot) -> PathOptions {
    let by_runtime = || {
        let percent = runtime.number("http_connection_manager.normalize_path");
        fastrand::u64(..100) < percent.unwrap_or(0)
    };
    // Drawn once for all requests, as in Envoy.
    let enabled =
        runtime.fraction("http_connection_manager.path_with_escaped_slashes_action_enabled");
    let is_enabled = enabled.is_none_or(|share| share.holds(fastrand::u64(..)));
    PathOptions {
        normalize: message.normalize_path.unwrap_or_else(by_runtime),
        merge_slashes: message.merge_slashes,
        escaped_slashes: match message.path_with_escaped_slashes_action() {
            _ if !is_enabled => EscapedSlashes::Keep,
            PathWithEscapedSlashesAction::ImplementationSpecificDefault => {
                match runtime.number("http_connection_manager.path_with_escaped_slashes_action") {
                    Some(2) => EscapedSlashes::Reject,
                    Some(3) => EscapedSlashes::Redirect,
                    Some(4) => EscapedSlashes::Forward,
                    _ => EscapedSlashes::Keep,
                }
            }
            PathWithEscapedSlashesAction::KeepUnchanged => EscapedSlashes::Keep,
            PathWithEscapedSlashesAction::RejectRequest => EscapedSlashes::Reject,
            PathWithEscapedSlashesAction::UnescapeAndRedirect => EscapedSlashes::Redirect,
            PathWithEscapedSlashesAction::UnescapeAndForward => EscapedSlashes::Forward,
        },
    }
}

fn hosts(message: &Message) -> HostOptions {
    HostOptions {
        strip_port: match message.strip_port_mode {
            Some(StripPortMode::StripAnyHostPort(true)) => StripPort::Any,
            _ if message.strip_matching_host_port => StripPort::Matching,
            _ => StripPort::Never,
        },
        strip_trailing_dot: message.strip_trailing_host_dot,
    }
}

fn forwarding(
    message: &Message,
    path: &FieldPath,
    via: Option<HeaderValue>,
    cx: &BuildCx<'_>,
) -> Result<Forwarding, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let internal = message.internal_address_config.as_ref();
    let internal =
        internal.map(|config| internal_addresses(config, &path.field("internal_address_config")));
    let internal = internal
        .and_then(|internal| errors.collect(internal))
        .unwrap_or_default();
    let user_agent = message.add_user_agent.unwrap_or(false).then(|| {
        let cluster = errors.collect(value(cx.node_cluster, path))?;
        let node = errors.collect(optional_value(cx.node_id, path))?;
        Some(UserAgent { cluster, node })
    });
    let detectors = errors.collect(detectors(message, path));
    let scheme = message.scheme_header_transformation.as_ref();
    let scheme = scheme.and_then(|scheme| scheme.transformation.as_ref());
    errors.finish(Forwarding {
        use_remote_address: message.use_remote_address.unwrap_or(false),
        xff_num_trusted_hops: message.xff_num_trusted_hops,
        detectors: detectors.unwrap_or_default(),
        skip_xff_append: message.skip_xff_append,
        append_port: message.append_x_forwarded_port,
        internal,
        via,
        generate_request_id: message.generate_request_id.unwrap_or(true),
        preserve_external_request_id: message.preserve_external_request_id,
        user_agent: user_agent.flatten(),
        client_cert: ClientCert::build(message),
        scheme: scheme.map(
            |Transformation::SchemeToOverwrite(scheme)| match scheme.as_str() {
                "https" => Scheme::HTTPS,
                _ => Scheme::HTTP,
            },
        ),
        local_address: outrider_net::local_address(cx.prefers_ipv6),
    })
}

/// The ways to find the client's address. They cannot be combined with the fields that say how to find it.
fn detectors(
    message: &Message,
    path: &FieldPath,
) -> Result<Box<[Box<dyn DetectOriginalIp>]>, ConfigErrors> {
    let list = path.field("original_ip_detection_extensions");
    let mut errors = ConfigErrors::new();
    if !message.original_ip_detection_extensions.is_empty() {
        if message.use_remote_address.unwrap_or(false) {
            errors.push(
                &path.field("use_remote_address"),
                "cannot be set together with original_ip_detection_extensions",
            );
        }
        if message.xff_num_trusted_hops > 0 {
            errors.push(
                &path.field("xff_num_trusted_hops"),
                "cannot be set together with original_ip_detection_extensions",
            );
        }
    }
    let detectors = original_ip::build_all(&message.original_ip_detection_extensions, &list);
    let detectors = errors.collect(detectors);
    errors.finish(detectors.unwrap_or_default())
}

/// The internal addresses if `internal_address_config` has no ranges: private networks and the loopback address.
const PRIVATE_RANGES: [(IpAddr, u32); 6] = [
    (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), 8),
    (IpAddr::V4(Ipv4Addr::new(172, 16, 0, 0)), 12),
    (IpAddr::V4(Ipv4Addr::new(192, 168, 0, 0)), 16),
    (IpAddr::V4(Ipv4Addr::LOCALHOST), 32),
    (IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
    (IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0)), 8),
];

fn internal_addresses(
    config: &InternalAddressConfig,
    path: &FieldPath,
) -> Result<InternalAddresses, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let path = path.field("cidr_ranges");
    let mut ranges = Vec::new();
    for (index, range) in config.cidr_ranges.iter().enumerate() {
        let path = path.index(index);
        let length = range.prefix_len.unwrap_or(0);
        match range.address_prefix.parse::<IpAddr>() {
            Ok(address) if length <= if address.is_ipv4() { 32 } else { 128 } => {
                ranges.push((address, length))
            }
            _ => errors.push(
                &path,
                format!(
                    "expected an address and a prefix length, got {}/{length}",
                    range.address_prefix
                ),
            ),
        }
    }
    if config.cidr_ranges.is_empty() {
        ranges.extend(PRIVATE_RANGES);
    }
    errors.finish(InternalAddresses {
        unix_sockets: config.unix_sockets,
        ranges,
    })
}

fn value(text: &str, path: &FieldPath) -> Result<HeaderValue, ConfigError> {
    HeaderValue::try_from(text)
        .map_err(|_| ConfigError::new(path, format!("{text:?} is no header value")))
}

/// `text` as a header value; `None` if it is empty.
fn optional_value(text: &str, path: &FieldPath) -> Result<Option<HeaderValue>, ConfigError> {
    if text.is_empty() {
        Ok(None)
    } else {
        value(text, path).map(Some)
    }
}

/// The codec that serves the connections.
pub(super) fn codec_type(message: &Message, path: &FieldPath) -> Result<CodecType, ConfigError> {
    match message.codec_type() {
        CodecTypeMessage::Auto => Ok(CodecType::Auto),
        CodecTypeMessage::Http1 => Ok(CodecType::Http1),
        CodecTypeMessage::Http2 => Ok(CodecType::Http2),
        CodecTypeMessage::Http3 => Err(ConfigError::new(
            &path.field("codec_type"),
            "not supported: HTTP/3",
        )),
    }
}
