//! The HTTP protocol options of a cluster: `HttpProtocolOptions`, and the older fields of `Cluster` that it replaced.

use std::time::Duration;

use http::Version;
use outrider_codec::Http1Options;
use outrider_codec::Http2Options;
use outrider_config::ConfigError;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_config::api::envoy::config::cluster::v3::cluster::ClusterProtocolSelection;
use outrider_config::api::envoy::config::core::v3::Http1ProtocolOptions;
use outrider_config::api::envoy::config::core::v3::Http2ProtocolOptions;
use outrider_config::api::envoy::config::core::v3::HttpProtocolOptions as CommonOptions;
use outrider_config::api::envoy::config::core::v3::UpstreamHttpProtocolOptions;
use outrider_config::api::envoy::extensions::upstreams::http::v3::HttpProtocolOptions as TypedOptions;
use outrider_config::api::envoy::extensions::upstreams::http::v3::http_protocol_options::UpstreamProtocolOptions;
use outrider_config::api::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use outrider_config::duration;
use outrider_config::unpack;
use outrider_runtime::Snapshot;

use crate::connection_names::NamesFromRequest;
use crate::pool::PoolProtocol;

/// How HTTP is spoken on a cluster's connections.
#[derive(Clone, Debug)]
pub struct HttpProtocolOptions {
    /// The protocol.
    pub protocol: ProtocolSelection,
    /// `idle_timeout`: how long a connection may be without requests; `None` if switched off.
    pub idle_timeout: Option<Duration>,
    /// `max_connection_duration`
    pub max_connection_duration: Option<Duration>,
    /// `max_connection_duration_jitter`: the maximum that is added, in percent.
    pub max_connection_duration_jitter: f64,
    /// `max_requests_per_connection`; `None` for no limit.
    pub max_requests_per_connection: Option<u32>,
    /// The cluster's `max_stream_duration`; the router applies it.
    pub max_stream_duration: Option<Duration>,
    /// `max_headers_count` of a response.
    pub max_headers_count: u32,
    /// `max_response_headers_kb`, in KiB; `None` for the codec's own default.
    pub max_response_headers_kb: Option<u32>,
    /// `upstream_http_protocol_options`: the names that requests demand of connections; none if they demand none.
    pub names: Option<NamesFromRequest>,
    /// `http_protocol_options`
    pub http1: Http1Options,
    /// `http2_protocol_options`
    pub http2: Http2Options,
}

/// How the protocol of a cluster's connections is selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolSelection {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// The protocol of the downstream request.
    Downstream,
    /// The protocol that a host selects by ALPN.
    Negotiated,
}

/// The key of `typed_extension_protocol_options`.
const KEY: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// The default of `idle_timeout`.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

impl ProtocolSelection {
    /// The protocol of the pool for a request that arrived by `downstream`.
    pub(crate) fn of_pool(self, downstream: Version) -> PoolProtocol {
        match self {
            ProtocolSelection::Http2 => PoolProtocol::Http2,
            ProtocolSelection::Downstream if downstream == Version::HTTP_2 => PoolProtocol::Http2,
            ProtocolSelection::Http1 | ProtocolSelection::Downstream => PoolProtocol::Http1,
            ProtocolSelection::Negotiated => PoolProtocol::Negotiated,
        }
    }
}

/// The options, from either the new or the old fields.
struct Parts<'a> {
    protocol: ProtocolSelection,
    path: FieldPath,
    common: Option<&'a CommonOptions>,
    common_path: FieldPath,
    upstream: Option<&'a UpstreamHttpProtocolOptions>,
    upstream_path: FieldPath,
    http1: Option<&'a Http1ProtocolOptions>,
    http2: Option<&'a Http2ProtocolOptions>,
}

impl HttpProtocolOptions {
    /// The options of `cluster`, found at `path`.
    ///
    /// # Errors
    /// The first thing that is wrong with them.
    pub(crate) fn build(
        cluster: &Cluster,
        path: &FieldPath,
        runtime: &Snapshot,
    ) -> Result<Self, ConfigError> {
        let extensions = path.field("typed_extension_protocol_options");
        if let Some(unknown) = cluster
            .typed_extension_protocol_options
            .keys()
            .find(|key| *key != KEY)
        {
            return Err(ConfigError::new(
                &extensions.key(unknown),
                format!("not supported; expected {KEY:?}"),
            ));
        }
        match cluster.typed_extension_protocol_options.get(KEY) {
            Some(any) => {
                let path = extensions.key(KEY);
                let typed: TypedOptions = unpack(any, &path)?;
                build_parts(typed_parts(&typed, &path)?, cluster, runtime)
            }
            None => build_parts(legacy_parts(cluster, path)?, cluster, runtime),
        }
    }
}

fn typed_parts<'a>(typed: &'a TypedOptions, path: &FieldPath) -> Result<Parts<'a>, ConfigError> {
    let (protocol, http1, http2, name) = match &typed.upstream_protocol_options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => {
            let name = "explicit_http_config";
            match &explicit.protocol_config {
                Some(ProtocolConfig::HttpProtocolOptions(http1)) => {
                    (ProtocolSelection::Http1, Some(http1), None, name)
                }
                Some(ProtocolConfig::Http2ProtocolOptions(http2)) => {
                    (ProtocolSelection::Http2, None, Some(http2), name)
                }
                Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                    let path = path.field(name).field("http3_protocol_options");
                    return Err(ConfigError::new(&path, "HTTP/3 is not supported"));
                }
                None => {
                    return Err(ConfigError::new(
                        &path.field(name),
                        "expected http_protocol_options or http2_protocol_options",
                    ));
                }
            }
        }
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(both)) => {
            let name = "use_downstream_protocol_config";
            if both.http3_protocol_options.is_some() {
                let path = path.field(name).field("http3_protocol_options");
                return Err(ConfigError::new(&path, "HTTP/3 is not supported"));
            }
            (
                ProtocolSelection::Downstream,
                both.http_protocol_options.as_ref(),
                both.http2_protocol_options.as_ref(),
                name,
            )
        }
        Some(UpstreamProtocolOptions::AutoConfig(both)) => {
            let name = "auto_config";
            if both.http3_protocol_options.is_some() {
                let path = path.field(name).field("http3_protocol_options");
                return Err(ConfigError::new(&path, "HTTP/3 is not supported"));
            }
            (
                ProtocolSelection::Negotiated,
                both.http_protocol_options.as_ref(),
                both.http2_protocol_options.as_ref(),
                name,
            )
        }
        None => {
            return Err(ConfigError::new(
                path,
                "expected explicit_http_config or use_downstream_protocol_config",
            ));
        }
    };
    Ok(Parts {
        protocol,
        path: path.field(name),
        common: typed.common_http_protocol_options.as_ref(),
        common_path: path.field("common_http_protocol_options"),
        upstream: typed.upstream_http_protocol_options.as_ref(),
        upstream_path: path.field("upstream_http_protocol_options"),
        http1,
        http2,
    })
}

#[expect(deprecated, reason = "old but live fields of Cluster")]
fn legacy_parts<'a>(cluster: &'a Cluster, path: &FieldPath) -> Result<Parts<'a>, ConfigError> {
    let http1 = cluster.http_protocol_options.as_ref();
    let http2 = cluster.http2_protocol_options.as_ref();
    let protocol = match cluster.protocol_selection() {
        ClusterProtocolSelection::UseDownstreamProtocol => ProtocolSelection::Downstream,
        ClusterProtocolSelection::UseConfiguredProtocol => match (http1, http2) {
            (Some(_), Some(_)) => {
                return Err(ConfigError::new(
                    &path.field("http2_protocol_options"),
                    "Both HTTP1 and HTTP2 options may only be configured with non-default 'protocol_selection' values",
                ));
            }
            (None, Some(_)) => ProtocolSelection::Http2,
            (_, None) => ProtocolSelection::Http1,
        },
    };
    Ok(Parts {
        protocol,
        path: path.clone(),
        common: cluster.common_http_protocol_options.as_ref(),
        common_path: path.field("common_http_protocol_options"),
        upstream: cluster.upstream_http_protocol_options.as_ref(),
        upstream_path: path.field("upstream_http_protocol_options"),
        http1,
        http2,
    })
}

fn build_parts(
    parts: Parts<'_>,
    cluster: &Cluster,
    runtime: &Snapshot,
) -> Result<HttpProtocolOptions, ConfigError> {
    let default = CommonOptions::default();
    let common = parts.common.unwrap_or(&default);
    let path = &parts.common_path;
    #[expect(deprecated, reason = "an old but live field of Cluster")]
    let of_cluster = cluster.max_requests_per_connection;
    if of_cluster.is_some() && common.max_requests_per_connection.is_some() {
        return Err(ConfigError::new(
            &path.field("max_requests_per_connection"),
            "Only one of max_requests_per_connection from Cluster or HttpProtocolOptions can be specified",
        ));
    }
    let idle = duration::optional(common.idle_timeout.as_ref(), &path.field("idle_timeout"))?;
    let http2_default = Http2ProtocolOptions::default();
    let http2_path = parts.path.field("http2_protocol_options");
    let by_runtime = |key: &str| {
        runtime
            .number(key)
            .and_then(|value| u32::try_from(value).ok())
    };
    Ok(HttpProtocolOptions {
        protocol: parts.protocol,
        idle_timeout: Some(idle.unwrap_or(IDLE_TIMEOUT)).filter(|timeout| !timeout.is_zero()),
        max_connection_duration: duration::optional(
            common.max_connection_duration.as_ref(),
            &path.field("max_connection_duration"),
        )?,
        max_connection_duration_jitter: common
            .max_connection_duration_jitter
            .as_ref()
            .map_or(0.0, |percent| percent.value),
        max_requests_per_connection: common
            .max_requests_per_connection
            .or(of_cluster)
            .filter(|max| *max > 0),
        max_stream_duration: duration::optional(
            common.max_stream_duration.as_ref(),
            &path.field("max_stream_duration"),
        )?,
        names: NamesFromRequest::build(parts.upstream, &parts.upstream_path)?,
        max_headers_count: common.max_headers_count.unwrap_or_else(|| {
            by_runtime("envoy.reloadable_features.max_response_headers_count").unwrap_or(100)
        }),
        max_response_headers_kb: common
            .max_response_headers_kb
            .or_else(|| by_runtime("envoy.reloadable_features.max_response_headers_size_kb")),
        http1: Http1Options::build(
            parts.http1.unwrap_or(&Http1ProtocolOptions::default()),
            false,
        ),
        http2: Http2Options::build(parts.http2.unwrap_or(&http2_default), &http2_path, false)?,
    })
}
