//! `Cluster.lb_subset_config`, and the policy `envoy.extensions.load_balancing_policies.subset.v3.Subset`, which has the
//! same fields.

use std::collections::BTreeSet;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_config::api::envoy::config::cluster::v3::cluster::LbPolicy;
use outrider_config::api::envoy::config::cluster::v3::cluster::LbSubsetConfig;
use outrider_config::api::envoy::extensions::load_balancing_policies::subset::v3::Subset;
use outrider_config::api::envoy::extensions::load_balancing_policies::subset::v3::subset::LbSubsetFallbackPolicy;
use outrider_config::api::envoy::extensions::load_balancing_policies::subset::v3::subset::LbSubsetMetadataFallbackPolicy;
use outrider_config::api::envoy::extensions::load_balancing_policies::subset::v3::subset::LbSubsetSelector;
use outrider_config::api::envoy::extensions::load_balancing_policies::subset::v3::subset::lb_subset_selector::LbSubsetSelectorFallbackPolicy;
use outrider_config::unpack;
use prost_types::Any;
use prost_types::Struct;

use super::SubsetPolicy;
use crate::balancer::config::LocalityBalancing;
use crate::balancer::config::Policy;
use crate::balancer::config::PolicyConfig;
use crate::balancer::config::of_list;

/// The settings, apart from the policy within a subset.
#[derive(Debug)]
pub(super) struct SubsetSettings {
    /// `fallback_policy`, for requests that no subset and no selector's own fallback serves.
    pub(super) fallback: Fallback,
    /// `default_subset`
    pub(super) default_subset: Struct,
    /// `subset_selectors`
    pub(super) selectors: Vec<SubsetSelector>,
    /// `locality_weight_aware`
    pub(super) locality_weight_aware: bool,
    /// `scale_locality_weight`
    pub(super) scale_locality_weight: bool,
    /// `panic_mode_any`
    pub(super) panic_mode_any: bool,
    /// `list_as_any`
    pub(super) list_as_any: bool,
    /// `allow_redundant_keys`
    pub(super) allow_redundant_keys: bool,
    /// `metadata_fallback_policy: FALLBACK_LIST`
    pub(super) obeys_fallback_list: bool,
}

/// Which hosts serve a request that selects no subset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fallback {
    /// `NO_FALLBACK`
    None,
    /// `ANY_ENDPOINT`
    Any,
    /// `DEFAULT_SUBSET`
    Default,
}

/// `LbSubsetSelector`
#[derive(Debug)]
pub(super) struct SubsetSelector {
    /// `keys`, sorted and without duplicates.
    pub(super) keys: Keys,
    /// `single_host_per_subset`
    pub(super) single_host: bool,
    /// `None` for `NOT_DEFINED`.
    pub(super) fallback: Option<SelectorFallback>,
}

/// Sorted names of metadata.
pub(super) type Keys = Box<[Box<str>]>;

/// `LbSubsetSelector.fallback_policy`
#[derive(Debug)]
pub(super) enum SelectorFallback {
    Of(Fallback),
    /// `KEYS_SUBSET`: selects again by these keys only, which are fewer than the selector's.
    Keys(Keys),
}

/// Wraps `child`, the policy of the other fields of `cluster`, if `lb_subset_config` asks for subsets.
pub(crate) fn of_cluster(
    cluster: &Cluster,
    child: PolicyConfig,
    path: &FieldPath,
) -> Result<PolicyConfig, ConfigErrors> {
    match &cluster.lb_subset_config {
        // As in Envoy, the field has no effect without selectors.
        Some(config) if !config.subset_selectors.is_empty() => {
            with_subsets(&as_policy(config), child, &path.field("lb_subset_config"))
        }
        _ => Ok(child),
    }
}

/// Refuses what `lb_subset_config` cannot be combined with.
pub(crate) fn check_cluster(cluster: &Cluster, path: &FieldPath) -> Result<(), ConfigError> {
    let Some(config) = &cluster.lb_subset_config else {
        return Ok(());
    };
    let path = path.field("lb_subset_config");
    if cluster.load_balancing_policy.is_some() {
        let message = "cluster: load_balancing_policy cannot be combined with lb_subset_config";
        return Err(ConfigError::new(&path, message));
    }
    if config.subset_selectors.is_empty() {
        return Ok(());
    }
    if cluster.lb_policy() == LbPolicy::ClusterProvided {
        let message =
            "cluster: LB policy CLUSTER_PROVIDED cannot be combined with lb_subset_config";
        return Err(ConfigError::new(&path, message));
    }
    if config.locality_weight_aware && !LocalityBalancing::of_cluster(cluster).weighted {
        let message = format!(
            "Locality weight aware subset LB requires that a locality_weighted_lb_config be set in {}",
            cluster.name
        );
        return Err(ConfigError::new(
            &path.field("locality_weight_aware"),
            message,
        ));
    }
    Ok(())
}

/// See [`LoadBalancerFactory::of_extension`](crate::balancer::LoadBalancerFactory::of_extension).
pub(crate) fn of_extension(
    config: &Any,
    cluster: &Cluster,
    path: &FieldPath,
) -> Result<PolicyConfig, ConfigErrors> {
    let message: Subset = unpack(config, path)?;
    let list_path = path.field("subset_lb_policy");
    let list = message.subset_lb_policy.clone().unwrap_or_default();
    let child = of_list(&list, cluster, &list_path)?;
    if matches!(child.policy, Policy::Subsets(_)) {
        let message = "subsets within subsets are not supported; expected another policy";
        return Err(ConfigError::new(&list_path, message).into());
    }
    with_subsets(&message, child, path)
}

/// The settings of the cluster's field in the form of the policy. The enums have the same numbers.
fn as_policy(message: &LbSubsetConfig) -> Subset {
    let selectors = message.subset_selectors.iter();
    Subset {
        fallback_policy: message.fallback_policy,
        default_subset: message.default_subset.clone(),
        subset_selectors: selectors
            .map(|selector| LbSubsetSelector {
                keys: selector.keys.clone(),
                single_host_per_subset: selector.single_host_per_subset,
                fallback_policy: selector.fallback_policy,
                fallback_keys_subset: selector.fallback_keys_subset.clone(),
            })
            .collect(),
        locality_weight_aware: message.locality_weight_aware,
        scale_locality_weight: message.scale_locality_weight,
        panic_mode_any: message.panic_mode_any,
        list_as_any: message.list_as_any,
        metadata_fallback_policy: message.metadata_fallback_policy,
        ..Subset::default()
    }
}

fn with_subsets(
    config: &Subset,
    child: PolicyConfig,
    path: &FieldPath,
) -> Result<PolicyConfig, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let list = path.field("subset_selectors");
    let mut selectors: Vec<SubsetSelector> = Vec::with_capacity(config.subset_selectors.len());
    let mut seen: Vec<Keys> = Vec::new();
    for (index, message) in config.subset_selectors.iter().enumerate() {
        let selector = SubsetSelector::build(message, &seen, &list.index(index));
        let Some(selector) = errors.collect(selector) else {
            continue;
        };
        if !selector.keys.is_empty() {
            seen.push(selector.keys.clone());
            selectors.push(selector);
        }
    }
    errors.finish(())?;
    let settings = SubsetSettings {
        fallback: match config.fallback_policy() {
            LbSubsetFallbackPolicy::NoFallback => Fallback::None,
            LbSubsetFallbackPolicy::AnyEndpoint => Fallback::Any,
            LbSubsetFallbackPolicy::DefaultSubset => Fallback::Default,
        },
        default_subset: config.default_subset.clone().unwrap_or_default(),
        selectors,
        locality_weight_aware: config.locality_weight_aware,
        scale_locality_weight: config.scale_locality_weight,
        panic_mode_any: config.panic_mode_any,
        list_as_any: config.list_as_any,
        allow_redundant_keys: config.allow_redundant_keys,
        obeys_fallback_list: config.metadata_fallback_policy()
            == LbSubsetMetadataFallbackPolicy::FallbackList,
    };
    Ok(PolicyConfig {
        localities: child.localities,
        policy: Policy::Subsets(SubsetPolicy::new(settings, child.policy)),
    })
}

impl SubsetSelector {
    /// The selector of `message`, found at `path`. `earlier`: the keys of the selectors before it.
    fn build(
        message: &LbSubsetSelector,
        earlier: &[Keys],
        path: &FieldPath,
    ) -> Result<SubsetSelector, ConfigError> {
        let keys = sorted(&message.keys);
        let fallback = selector_fallback(message, &keys, path)?;
        // As in Envoy, a selector has no fallback of its own if an earlier one begins with the same keys.
        let is_hidden = (earlier.iter()).any(|other| other.starts_with(&keys));
        Ok(SubsetSelector {
            single_host: message.single_host_per_subset,
            fallback: fallback.filter(|_| !is_hidden),
            keys,
        })
    }
}

fn selector_fallback(
    message: &LbSubsetSelector,
    keys: &Keys,
    path: &FieldPath,
) -> Result<Option<SelectorFallback>, ConfigError> {
    let fallback_keys = sorted(&message.fallback_keys_subset);
    let path = path.field("fallback_keys_subset");
    let fallback = match message.fallback_policy() {
        LbSubsetSelectorFallbackPolicy::KeysSubset => {
            let error = if fallback_keys.is_empty() {
                "fallback_keys_subset cannot be empty"
            } else if !fallback_keys.iter().all(|key| keys.contains(key)) {
                "fallback_keys_subset must be a subset of selector keys"
            } else if fallback_keys.len() == keys.len() {
                "fallback_keys_subset cannot be equal to keys"
            } else {
                return Ok(Some(SelectorFallback::Keys(fallback_keys)));
            };
            return Err(ConfigError::new(&path, error));
        }
        LbSubsetSelectorFallbackPolicy::NotDefined => None,
        LbSubsetSelectorFallbackPolicy::NoFallback => Some(Fallback::None),
        LbSubsetSelectorFallbackPolicy::AnyEndpoint => Some(Fallback::Any),
        LbSubsetSelectorFallbackPolicy::DefaultSubset => Some(Fallback::Default),
    };
    if !fallback_keys.is_empty() {
        let error = "fallback_keys_subset can be set only for KEYS_SUBSET fallback_policy";
        return Err(ConfigError::new(&path, error));
    }
    Ok(fallback.map(SelectorFallback::Of))
}

fn sorted(keys: &[String]) -> Keys {
    let keys: BTreeSet<&str> = keys.iter().map(String::as_str).collect();
    keys.into_iter().map(Box::from).collect()
}
