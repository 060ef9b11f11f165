//! `envoy.clusters.dynamic_forward_proxy`: the hosts are those that requests name, resolved by a DNS cache.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_config::api::envoy::config::cluster::v3::cluster::ClusterDiscoveryType;
use outrider_config::api::envoy::config::core::v3::UpstreamHttpProtocolOptions;
use outrider_config::api::envoy::extensions::clusters::dynamic_forward_proxy::v3::ClusterConfig;
use outrider_config::api::envoy::extensions::clusters::dynamic_forward_proxy::v3::cluster_config::ClusterImplementationSpecifier;
use outrider_config::type_name;
use outrider_net::Address;
use prost::Name;

use super::DYNAMIC_FORWARD_PROXY;
use super::Discovery;
use crate::DynamicHosts;
use crate::Host;
use crate::HostDescription;
use crate::HostsPublisher;
use crate::LocalityHosts;
use crate::PriorityHosts;
use crate::dns_cache::DnsCaches;

#[derive(Debug)]
struct DynamicForwardProxyDiscovery {
    hosts: DynamicHosts,
}

/// Whether the cluster is of this type. It selects hosts by the names that requests give.
pub(crate) fn is_dynamic_forward_proxy(cluster: &Cluster) -> bool {
    let Some(ClusterDiscoveryType::ClusterType(custom)) = &cluster.cluster_discovery_type else {
        return false;
    };
    let config = custom.typed_config.as_ref();
    custom.name == DYNAMIC_FORWARD_PROXY
        || config.is_some_and(|config| type_name(config) == ClusterConfig::full_name())
}

/// The cluster, with the names of its connections taken from the requests if it does not say otherwise.
pub(crate) fn with_defaults(cluster: &Cluster) -> Cow<'_, Cluster> {
    #[expect(deprecated, reason = "old but live field of Cluster")]
    let is_set = cluster.upstream_http_protocol_options.is_some();
    if is_set || !is_dynamic_forward_proxy(cluster) {
        return Cow::Borrowed(cluster);
    }
    let options = UpstreamHttpProtocolOptions {
        auto_sni: true,
        auto_san_validation: true,
        ..UpstreamHttpProtocolOptions::default()
    };
    #[expect(deprecated, reason = "old but live field of Cluster")]
    Cow::Owned(Cluster {
        upstream_http_protocol_options: Some(options),
        ..cluster.clone()
    })
}

pub(super) fn build(
    (config, path): (&ClusterConfig, &FieldPath),
    caches: &DnsCaches,
) -> Result<Box<dyn Discovery>, ConfigErrors> {
    let Some(ClusterImplementationSpecifier::DnsCacheConfig(cache)) =
        &config.cluster_implementation_specifier
    else {
        let message = "expected the DNS cache that resolves the names of this cluster";
        let error = ConfigError::new(&path.field("dns_cache_config"), message);
        return Err(ConfigErrors::from(error));
    };
    let cache = caches.get(cache, &path.field("dns_cache_config"))?;
    Ok(Box::new(DynamicForwardProxyDiscovery {
        hosts: DynamicHosts {
            cache,
            default_port: 80,
            allows_insecure: config.allow_insecure_cluster_options,
        },
    }))
}

impl Discovery for DynamicForwardProxyDiscovery {
    fn run(self: Box<Self>, publisher: HostsPublisher) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move {
            let mut changes = self.hosts.cache.observe();
            publisher.initialized();
            let mut hosts: BTreeMap<Arc<str>, Arc<Host>> = BTreeMap::new();
            while let Some(change) = changes.recv().await {
                let before = hosts.get(&change.name);
                // To Envoy, a host stays the same with other addresses.
                let changes = u64::from(before.is_none() || change.addresses.is_none());
                match change.addresses {
                    Some(addresses) => {
                        let host = host(&change.name, before, addresses, &publisher);
                        hosts.insert(change.name, host);
                    }
                    None => {
                        hosts.remove(&change.name);
                    }
                }
                let locality = LocalityHosts {
                    weight: 0,
                    hosts: hosts.values().cloned().collect(),
                };
                let priority = PriorityHosts {
                    localities: vec![locality],
                };
                publisher.publish(vec![priority], changes);
                drop(change.done);
            }
        })
    }

    fn dynamic_hosts(&self) -> Option<DynamicHosts> {
        Some(self.hosts.clone())
    }
}

/// The host of this name, whose health and counts go on if its addresses change.
fn host(
    name: &Arc<str>,
    before: Option<&Arc<Host>>,
    addresses: Vec<Address>,
    publisher: &HostsPublisher,
) -> Arc<Host> {
    match before {
        Some(before) => before.changed(addresses, before.description().clone()),
        None => {
            let description = HostDescription {
                hostname: name.clone(),
                weight: 1,
                ..HostDescription::default()
            };
            publisher.host(addresses, &Arc::new(description))
        }
    }
}
