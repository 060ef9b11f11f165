//! `CLUSTER_PROVIDED`: the policy that the cluster's type provides. Only that of dynamic forward proxies provides one.

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use prost_types::Any;

use super::config::LocalityBalancing;
use super::config::Policy;
use super::config::PolicyConfig;
use crate::discovery::is_dynamic_forward_proxy;

/// See [`LoadBalancerFactory::of_cluster`](super::LoadBalancerFactory::of_cluster).
pub(super) fn of_cluster(
    cluster: &Cluster,
    path: &FieldPath,
) -> Result<PolicyConfig, ConfigErrors> {
    build(cluster, &path.field("lb_policy"))
}

/// See [`LoadBalancerFactory::of_extension`](super::LoadBalancerFactory::of_extension).
pub(super) fn of_extension(
    _config: &Any,
    cluster: &Cluster,
    path: &FieldPath,
) -> Result<PolicyConfig, ConfigErrors> {
    build(cluster, path)
}

fn build(cluster: &Cluster, path: &FieldPath) -> Result<PolicyConfig, ConfigErrors> {
    if is_dynamic_forward_proxy(cluster) {
        return Ok(PolicyConfig {
            policy: Policy::ByName,
            localities: LocalityBalancing::default(),
        });
    }
    let message = format!(
        "cluster provided LB specified but cluster '{}' did not provide one. Check cluster documentation.",
        cluster.name
    );
    Err(ConfigErrors::from(ConfigError::new(path, message)))
}
