//! `CLUSTER_PROVIDED`: the policy that the cluster's type provides. No supported type provides one.

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use prost_types::Any;

use super::config::PolicyConfig;

/// See [`LoadBalancerFactory::of_cluster`](super::LoadBalancerFactory::of_cluster).
pub(super) fn of_cluster(
    cluster: &Cluster,
    path: &FieldPath,
) -> Result<PolicyConfig, ConfigErrors> {
    Err(refusal(cluster, &path.field("lb_policy")).into())
}

/// See [`LoadBalancerFactory::of_extension`](super::LoadBalancerFactory::of_extension).
pub(super) fn of_extension(
    _config: &Any,
    cluster: &Cluster,
    path: &FieldPath,
) -> Result<PolicyConfig, ConfigErrors> {
    Err(refusal(cluster, path).into())
}

fn refusal(cluster: &Cluster, path: &FieldPath) -> ConfigError {
    let message = format!(
        "cluster provided LB specified but cluster '{}' did not provide one. Check cluster documentation.",
        cluster.name
    );
    ConfigError::new(path, message)
}
