//! Discovery: the sources of a cluster's hosts.
//!
//! To add a cluster type, add a file here that implements [`Discovery`], and a line in [`build`].

mod dns;
mod dynamic_forward_proxy;
mod eds;
mod fixed;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_config::api::envoy::config::cluster::v3::cluster::ClusterDiscoveryType;
use outrider_config::api::envoy::config::cluster::v3::cluster::CustomClusterType;
use outrider_config::api::envoy::config::cluster::v3::cluster::DiscoveryType;
use outrider_config::api::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use outrider_config::api::envoy::extensions::clusters::dns::v3::DnsCluster;
use outrider_config::api::envoy::extensions::clusters::dynamic_forward_proxy::v3::ClusterConfig as DynamicForwardProxy;
use outrider_config::type_name;
use outrider_config::unpack;
use outrider_stats::Store;
use outrider_xds::Sources;
use prost::Name;

use crate::DynamicHosts;
use crate::HostsPublisher;
use crate::dns_cache::DnsCaches;

pub(crate) use dns::FailureRefresh;
pub(crate) use dynamic_forward_proxy::is_dynamic_forward_proxy;
pub(crate) use dynamic_forward_proxy::with_defaults;

/// Finds and updates a cluster's hosts. Runs on the main thread until its cluster is removed.
pub trait Discovery: fmt::Debug + Send {
    /// Publishes hosts as long as it runs. It returns at once if the hosts never change.
    fn run(self: Box<Self>, hosts: HostsPublisher) -> Pin<Box<dyn Future<Output = ()>>>;

    /// Whether a control plane has the hosts. The clusters of control planes have to be there first.
    fn is_remote(&self) -> bool {
        false
    }

    /// Where the hosts come from, if requests name them.
    fn dynamic_hosts(&self) -> Option<DynamicHosts> {
        None
    }
}

/// The names that `cluster_type` accepts in addition to the type of its config.
const STATIC: &str = "envoy.cluster.static";
const STRICT_DNS: &str = "envoy.cluster.strict_dns";
const LOGICAL_DNS: &str = "envoy.cluster.logical_dns";
const DNS: &str = "envoy.cluster.dns";
const EDS: &str = "envoy.cluster.eds";
const DYNAMIC_FORWARD_PROXY: &str = "envoy.clusters.dynamic_forward_proxy";

/// How a cluster's hosts are discovered.
enum ClusterKind {
    Static,
    /// From the fields of `Cluster` itself.
    LegacyDns {
        logical: bool,
    },
    Dns(Box<DnsCluster>, FieldPath),
    Eds,
    DynamicForwardProxy(Box<DynamicForwardProxy>, FieldPath),
}

/// The dependencies of discoveries.
#[derive(Debug)]
pub(crate) struct DiscoveryCx {
    pub(crate) dns_caches: Arc<DnsCaches>,
    pub(crate) sources: Sources,
    pub(crate) store: Arc<Store>,
}

/// Builds the discovery of `cluster`, found at `path`.
pub(crate) fn build(
    cluster: &Cluster,
    path: &FieldPath,
    cx: &DiscoveryCx,
) -> Result<Box<dyn Discovery>, ConfigErrors> {
    let resolvers = cx.dns_caches.resolvers();
    hashing_has_hostnames(cluster, path)?;
    match kind(cluster, path)? {
        ClusterKind::Static => fixed::build(cluster, path),
        ClusterKind::Eds => eds::build(cluster, path, cx),
        ClusterKind::LegacyDns { logical } => dns::build_legacy(cluster, path, logical, resolvers),
        ClusterKind::Dns(config, config_path) => {
            dns::build((cluster, path), (&config, &config_path), resolvers)
        }
        ClusterKind::DynamicForwardProxy(config, config_path) => {
            dynamic_forward_proxy::build((&config, &config_path), &cx.dns_caches)
        }
    }
}

/// Whether a control plane has the hosts of this cluster.
pub(crate) fn is_remote(cluster: &Cluster) -> bool {
    let source = cluster.eds_cluster_config.as_ref();
    let source =
        source.and_then(|config| config.eds_config.as_ref()?.config_source_specifier.as_ref());
    matches!(
        source,
        Some(ConfigSourceSpecifier::ApiConfigSource(_) | ConfigSourceSpecifier::Ads(_))
    )
}

/// Envoy checks this for any load balancer.
fn hashing_has_hostnames(cluster: &Cluster, path: &FieldPath) -> Result<(), ConfigError> {
    let strict_dns = ClusterDiscoveryType::Type(DiscoveryType::StrictDns.into());
    let common = cluster.common_lb_config.as_ref();
    let hashing = common.and_then(|common| common.consistent_hashing_lb_config.as_ref());
    let by_hostname = hashing.is_some_and(|hashing| hashing.use_hostname_for_hashing);
    if by_hostname && cluster.cluster_discovery_type.as_ref() != Some(&strict_dns) {
        let path = path.field("common_lb_config");
        let path = path.field("consistent_hashing_lb_config");
        return Err(ConfigError::new(
            &path.field("use_hostname_for_hashing"),
            "is for clusters of type STRICT_DNS only",
        ));
    }
    Ok(())
}

fn kind(cluster: &Cluster, path: &FieldPath) -> Result<ClusterKind, ConfigError> {
    let kind = match &cluster.cluster_discovery_type {
        None => return Ok(ClusterKind::Static),
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            return custom_kind(custom, &path.field("cluster_type"));
        }
        Some(ClusterDiscoveryType::Type(number)) => {
            DiscoveryType::try_from(*number).unwrap_or_default()
        }
    };
    match kind {
        DiscoveryType::Static => Ok(ClusterKind::Static),
        DiscoveryType::StrictDns => Ok(ClusterKind::LegacyDns { logical: false }),
        DiscoveryType::LogicalDns => Ok(ClusterKind::LegacyDns { logical: true }),
        DiscoveryType::Eds => Ok(ClusterKind::Eds),
        DiscoveryType::OriginalDst => Err(ConfigError::new(
            &path.field("type"),
            format!(
                "{} is not supported; expected one of: STATIC, STRICT_DNS, LOGICAL_DNS, EDS",
                kind.as_str_name()
            ),
        )),
    }
}

/// As in Envoy, the type of the config takes precedence over the name.
fn custom_kind(custom: &CustomClusterType, path: &FieldPath) -> Result<ClusterKind, ConfigError> {
    let config = path.field("typed_config");
    if let Some(any) = &custom.typed_config
        && type_name(any) == DnsCluster::full_name()
    {
        return Ok(ClusterKind::Dns(Box::new(unpack(any, &config)?), config));
    }
    if let Some(any) = &custom.typed_config
        && type_name(any) == DynamicForwardProxy::full_name()
    {
        let message = Box::new(unpack(any, &config)?);
        return Ok(ClusterKind::DynamicForwardProxy(message, config));
    }
    match custom.name.as_str() {
        STATIC => Ok(ClusterKind::Static),
        STRICT_DNS => Ok(ClusterKind::LegacyDns { logical: false }),
        LOGICAL_DNS => Ok(ClusterKind::LegacyDns { logical: true }),
        DNS => Ok(ClusterKind::Dns(Box::default(), config)),
        EDS => Ok(ClusterKind::Eds),
        DYNAMIC_FORWARD_PROXY => Ok(ClusterKind::DynamicForwardProxy(Box::default(), config)),
        name => {
            let known = [
                STATIC,
                STRICT_DNS,
                LOGICAL_DNS,
                DNS,
                EDS,
                DYNAMIC_FORWARD_PROXY,
            ];
            let known = known.join(", ");
            let message = format!("{name:?} is not supported; expected one of: {known}");
            Err(ConfigError::new(&path.field("name"), message))
        }
    }
}
