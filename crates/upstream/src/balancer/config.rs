//! The load balancing settings of a cluster, from its own fields or from a policy of `load_balancing_policy`.

use std::sync::Arc;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_config::api::envoy::config::cluster::v3::LoadBalancingPolicy;
use outrider_config::api::envoy::config::cluster::v3::cluster::LbPolicy;
use outrider_config::api::envoy::config::cluster::v3::cluster::common_lb_config::LocalityConfigSpecifier;
use outrider_config::api::envoy::extensions::load_balancing_policies::common::v3::LocalityLbConfig;
use outrider_config::api::envoy::extensions::load_balancing_policies::common::v3::locality_lb_config;
use outrider_config::type_name;

use super::FACTORIES;
use super::HostPolicy;
use super::hashing::HashingConfig;
use super::subset;
use super::subset::SubsetPolicy;
use super::zones::ZoneAware;
use crate::discovery::is_dynamic_forward_proxy;

/// How a host is selected.
#[derive(Clone, Debug)]
pub struct BalancerConfig {
    pub(crate) policy: Policy,
    /// `CommonLbConfig.healthy_panic_threshold`, percent.
    pub panic_threshold: u32,
    /// How localities are used.
    pub(crate) localities: LocalityBalancing,
    /// `ClusterLoadAssignment.Policy.overprovisioning_factor`, percent.
    pub overprovisioning_factor: u32,
    /// `ClusterLoadAssignment.Policy.weighted_priority_health`
    pub weighted_priority_health: bool,
}

/// How a host is selected within a priority.
#[derive(Clone, Debug)]
pub(crate) enum Policy {
    /// By a policy that treats the hosts of a locality, or of a priority, alike.
    Hosts(Arc<dyn HostPolicy>),
    /// By the hash of the request.
    Hashing(HashingConfig),
    /// Among the hosts with the request's metadata.
    Subsets(Arc<SubsetPolicy>),
    /// By the name that the request gives.
    ByName,
}

/// `LocalityLbConfig`. `CommonLbConfig` has the same settings in another form.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LocalityBalancing {
    /// `locality_weighted_lb_config`
    pub(crate) weighted: bool,
    /// `ZoneAwareLbConfig.fail_traffic_on_panic`: in panic, no host is used instead of all.
    pub(crate) fail_traffic_on_panic: bool,
    /// The rest of `ZoneAwareLbConfig`.
    pub(super) zones: ZoneAware,
}

/// The result of reading a policy's own settings.
#[derive(Debug)]
pub(crate) struct PolicyConfig {
    pub(crate) policy: Policy,
    pub(crate) localities: LocalityBalancing,
}

impl BalancerConfig {
    /// Reads the settings of `cluster`, found at `path`.
    pub(crate) fn build(
        cluster: &Cluster,
        path: &FieldPath,
    ) -> Result<BalancerConfig, ConfigErrors> {
        let assignment = cluster.load_assignment.as_ref();
        let policy = assignment.and_then(|assignment| assignment.policy.as_ref());
        let common = cluster.common_lb_config.as_ref();
        let chosen = select_policy(cluster, path)?;
        if is_dynamic_forward_proxy(cluster) && !matches!(chosen.policy, Policy::ByName) {
            let message = format!(
                "cluster provided LB not specified but cluster '{}' provided one: use CLUSTER_PROVIDED",
                cluster.name
            );
            return Err(ConfigError::new(&path.field("lb_policy"), message).into());
        }
        Ok(BalancerConfig {
            policy: chosen.policy,
            localities: chosen.localities,
            panic_threshold: common
                .and_then(|common| common.healthy_panic_threshold.as_ref())
                .map_or(50, |percent| whole_percent(percent.value)),
            overprovisioning_factor: policy
                .and_then(|policy| policy.overprovisioning_factor)
                .unwrap_or(140),
            weighted_priority_health: policy.is_some_and(|policy| policy.weighted_priority_health),
        })
    }
}

impl BalancerConfig {
    /// Whether the balancer uses the hash of the request.
    #[must_use]
    pub fn uses_hash(&self) -> bool {
        match &self.policy {
            Policy::Hosts(_) | Policy::ByName => false,
            Policy::Hashing(_) => true,
            Policy::Subsets(subsets) => matches!(subsets.child(), Policy::Hashing(_)),
        }
    }

    /// Whether the balancer may route by zone.
    pub(crate) fn is_zone_aware(&self) -> bool {
        !self.uses_hash() && !self.localities.weighted
    }

    /// Whether the balancer uses the metadata that the request asks of its host.
    #[must_use]
    pub fn uses_metadata(&self) -> bool {
        matches!(self.policy, Policy::Subsets(_))
    }
}

impl LocalityBalancing {
    /// Reads `common_lb_config`.
    pub(crate) fn of_cluster(cluster: &Cluster) -> LocalityBalancing {
        let common = cluster.common_lb_config.as_ref();
        match common.and_then(|common| common.locality_config_specifier.as_ref()) {
            None => LocalityBalancing::default(),
            Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => LocalityBalancing {
                weighted: true,
                ..LocalityBalancing::default()
            },
            Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zones)) => LocalityBalancing {
                fail_traffic_on_panic: zones.fail_traffic_on_panic,
                zones: ZoneAware::of_cluster(zones),
                ..LocalityBalancing::default()
            },
        }
    }

    /// Reads the `locality_lb_config` of a policy. If it is set, `common_lb_config` is ignored.
    pub(crate) fn of_policy(config: Option<&LocalityLbConfig>) -> LocalityBalancing {
        use locality_lb_config::LocalityConfigSpecifier;
        match config.and_then(|config| config.locality_config_specifier.as_ref()) {
            None => LocalityBalancing::default(),
            Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => LocalityBalancing {
                weighted: true,
                ..LocalityBalancing::default()
            },
            Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zones)) => LocalityBalancing {
                fail_traffic_on_panic: zones.fail_traffic_on_panic,
                zones: ZoneAware::of_policy(zones),
                ..LocalityBalancing::default()
            },
        }
    }
}

/// The policy that applies: that of `load_balancing_policy`, or else `lb_policy`.
fn select_policy(cluster: &Cluster, path: &FieldPath) -> Result<PolicyConfig, ConfigErrors> {
    subset::check_cluster(cluster, path)?;
    let list_path = path.field("load_balancing_policy");
    let Some(list) = &cluster.load_balancing_policy else {
        return of_lb_policy(cluster, path);
    };
    let common = cluster.common_lb_config.as_ref();
    let is_partial = common.is_some_and(|common| {
        common.locality_config_specifier.is_some() || common.consistent_hashing_lb_config.is_some()
    });
    if is_partial {
        return Err(ConfigError::new(
            &list_path,
            "cannot be combined with partial fields (zone_aware_lb_config, \
             locality_weighted_lb_config, consistent_hashing_lb_config) of common_lb_config",
        )
        .into());
    }
    of_list(list, cluster, &list_path)
}

/// The first load balancing policy in `list`. Entries that are not load balancing policies are skipped. Policies that
/// are not supported were refused before.
pub(super) fn of_list(
    list: &LoadBalancingPolicy,
    cluster: &Cluster,
    path: &FieldPath,
) -> Result<PolicyConfig, ConfigErrors> {
    let path = path.field("policies");
    for (index, policy) in list.policies.iter().enumerate() {
        let extension = policy.typed_extension_config.as_ref();
        let Some(any) = extension.and_then(|extension| extension.typed_config.as_ref()) else {
            continue;
        };
        let named = |factory: &&super::LoadBalancerFactory| (factory.type_name)() == type_name(any);
        if let Some(factory) = FACTORIES.iter().find(named) {
            let path = path.index(index).field("typed_extension_config");
            return (factory.of_extension)(any, cluster, &path.field("typed_config"));
        }
    }
    Err(ConfigError::new(
        &path,
        "none of these is a load balancing policy: expected one",
    )
    .into())
}

fn of_lb_policy(cluster: &Cluster, path: &FieldPath) -> Result<PolicyConfig, ConfigErrors> {
    let policy = cluster.lb_policy();
    if policy == LbPolicy::LoadBalancingPolicyConfig {
        let path = path.field("load_balancing_policy");
        return Err(ConfigError::new(&path, "field load_balancing_policy need to be set").into());
    }
    let mut factories = FACTORIES.iter().filter_map(|factory| factory.lb_policy);
    match factories.find(|(of, _)| *of == policy) {
        Some((_, of_cluster)) => subset::of_cluster(cluster, of_cluster(cluster, path)?, path),
        None => {
            let known: Vec<_> = FACTORIES
                .iter()
                .filter_map(|factory| Some(factory.lb_policy?.0.as_str_name()))
                .collect();
            let message = format!(
                "{} is not supported; expected one of: {}",
                policy.as_str_name(),
                known.join(", ")
            );
            Err(ConfigError::new(&path.field("lb_policy"), message).into())
        }
    }
}

/// A percentage as Envoy computes it: the whole part after the same two steps, whose rounding turns 29 into 28.
pub(super) fn whole_percent(value: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=100"
    )]
    let whole = (100.0 * (value / 100.0)).clamp(0.0, 100.0) as u32;
    whole
}
