//! Subsets: a request picks only among the hosts whose metadata is what its route asks for (`metadata_match`).
//!
//! For each selector, the hosts with the selector's keys are divided by the values of these keys. Each part is a cluster
//! of its own to the policy that picks in it: it has its own priorities, panic and rotation.

mod config;
mod tree;

use std::sync::Arc;

use super::BalancerConfig;
use super::BalancerCx;
use super::LoadBalancer;
use super::PickCx;
use super::balance;
use super::config::Policy;
use crate::Host;
use crate::PriorityHosts;
use crate::metadata_match::MetadataCriterion;
use crate::metadata_match::MetadataMatchCriteria;
use config::Fallback;
use config::Keys;
use config::SelectorFallback;
use config::SubsetSettings;
pub(crate) use config::check_cluster;
pub(crate) use config::of_cluster;
pub(crate) use config::of_extension;
use tree::SubsetHosts;
use tree::SubsetTree;

/// The policy as configured.
#[derive(Debug)]
pub(crate) struct SubsetPolicy {
    settings: SubsetSettings,
    /// The policy within a subset.
    child: Policy,
}

/// The balancer of a cluster with subsets.
#[derive(Debug)]
pub struct Subsets {
    policy: Arc<SubsetPolicy>,
    tree: SubsetTree,
    /// All hosts, if a fallback may need them.
    any: Option<Box<dyn LoadBalancer>>,
    /// The hosts of `default_subset`, if a fallback may need them.
    default: Option<Box<dyn LoadBalancer>>,
}

/// The criteria of a request, or those of them that have one of some keys.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    criteria: &'a [MetadataCriterion],
    only: Option<&'a Keys>,
}

impl SubsetPolicy {
    fn new(settings: SubsetSettings, child: Policy) -> Arc<SubsetPolicy> {
        Arc::new(SubsetPolicy { settings, child })
    }

    /// The policy within a subset.
    pub(super) fn child(&self) -> &Policy {
        &self.child
    }

    /// Whether some request may fall back to the hosts of `kind`.
    fn needs(&self, kind: Fallback) -> bool {
        let settings = &self.settings;
        let of_selector = settings.selectors.iter().any(|selector| {
            matches!(&selector.fallback, Some(SelectorFallback::Of(fallback)) if *fallback == kind)
        });
        settings.fallback == kind
            || of_selector
            || (kind == Fallback::Any && settings.panic_mode_any)
    }
}

impl Subsets {
    /// The balancer for these priorities.
    pub(super) fn new(
        priorities: &[PriorityHosts],
        config: &BalancerConfig,
        policy: &Arc<SubsetPolicy>,
        cx: &mut BalancerCx<'_>,
    ) -> Subsets {
        let settings = &policy.settings;
        let stats = cx.stats;
        let mut balancer_of = |hosts: &SubsetHosts| {
            let hosts = hosts.priorities(priorities, settings);
            balance(&hosts, config, &policy.child, cx)
        };
        let mut fallback = |kind: Fallback, includes: &dyn Fn(&Host) -> bool| {
            let hosts = || SubsetHosts::of(priorities, includes);
            policy.needs(kind).then(|| balancer_of(&hosts()))
        };
        let any = fallback(Fallback::Any, &|_| true);
        let default = fallback(Fallback::Default, &|host| {
            tree::has_labels(host, &settings.default_subset, settings.list_as_any)
        });
        let (tree, duplicates) = SubsetTree::new(priorities, settings, &mut balancer_of);
        let stats = stats.subsets.get();
        stats
            .lb_subsets_single_host_per_subset_duplicate
            .set(duplicates);
        Subsets {
            policy: policy.clone(),
            tree,
            any,
            default,
        }
    }

    /// How many subsets this balancer has that `before` had not, and the reverse.
    pub(crate) fn changes_since(&self, before: Option<&Subsets>) -> (u64, u64) {
        match before {
            Some(before) => (
                self.tree.count_missing_in(Some(&before.tree)),
                before.tree.count_missing_in(Some(&self.tree)),
            ),
            None => (self.count(), 0),
        }
    }

    /// How many subsets there are.
    pub(crate) fn count(&self) -> u64 {
        self.tree.count_missing_in(None)
    }

    /// The host for a request with these criteria.
    fn choose(&self, wanted: Wanted<'_>, cx: &mut PickCx<'_>) -> Option<&Arc<Host>> {
        let wanted = self.without_redundant_keys(wanted);
        if let Some(subset) = self.tree.find(wanted.iter()) {
            cx.stats.lb_subsets_selected.inc();
            return subset.pick(cx);
        }
        match self.fallback_of_selector(wanted) {
            None => self.fall_back(cx),
            Some(SelectorFallback::Of(Fallback::None)) => None,
            Some(SelectorFallback::Of(Fallback::Any)) => self.any.as_ref()?.pick(cx),
            Some(SelectorFallback::Of(Fallback::Default)) => self.default.as_ref()?.pick(cx),
            // This ends, because the keys become fewer.
            Some(SelectorFallback::Keys(keys)) => {
                let only = Some(keys);
                self.choose(Wanted { only, ..wanted }, cx)
            }
        }
    }

    /// `allow_redundant_keys`: only the criteria of the first selector that finds all its keys.
    fn without_redundant_keys<'a>(&'a self, wanted: Wanted<'a>) -> Wanted<'a> {
        if !self.policy.settings.allow_redundant_keys {
            return wanted;
        }
        let mut selectors = self.policy.settings.selectors.iter();
        let has_all = |keys: &Keys| {
            let has = |key: &str| wanted.iter().any(|criterion| &*criterion.name == key);
            keys.iter().all(|key| has(key))
        };
        match selectors.find(|selector| has_all(&selector.keys)) {
            Some(selector) => Wanted {
                only: Some(&selector.keys),
                ..wanted
            },
            None => wanted,
        }
    }

    /// What the selector with exactly the keys of these criteria falls back to.
    fn fallback_of_selector(&self, wanted: Wanted<'_>) -> Option<&SelectorFallback> {
        let mut selectors = self.policy.settings.selectors.iter();
        let selector = selectors.find(|selector| {
            let names = wanted.iter().map(|criterion| &criterion.name);
            selector.fallback.is_some() && names.eq(selector.keys.iter())
        });
        selector?.fallback.as_ref()
    }

    /// The host for a request that selects no subset.
    fn fall_back(&self, cx: &mut PickCx<'_>) -> Option<&Arc<Host>> {
        let settings = &self.policy.settings;
        let fallback = match settings.fallback {
            Fallback::None => return None,
            Fallback::Any => &self.any,
            Fallback::Default => &self.default,
        };
        if let Some(host) = fallback.as_ref()?.pick(cx) {
            cx.stats.lb_subsets_fallback.inc();
            return Some(host);
        }
        if settings.panic_mode_any
            && let Some(host) = self.any.as_ref()?.pick(cx)
        {
            cx.stats.lb_subsets_fallback_panic.inc();
            return Some(host);
        }
        None
    }
}

impl LoadBalancer for Subsets {
    fn pick(&self, cx: &mut PickCx<'_>) -> Option<&Arc<Host>> {
        let Some(criteria) = cx.request.metadata_match else {
            return self.fall_back(cx);
        };
        match criteria.fallbacks() {
            Some(fallbacks) if self.policy.settings.obeys_fallback_list => {
                let mut fallbacks = fallbacks.iter();
                fallbacks.find_map(|criteria| self.choose(Wanted::all_of(criteria), cx))
            }
            _ => self.choose(Wanted::all_of(criteria), cx),
        }
    }

    fn subsets(&self) -> Option<&Subsets> {
        Some(self)
    }
}

impl<'a> Wanted<'a> {
    fn all_of(criteria: &'a MetadataMatchCriteria) -> Wanted<'a> {
        Wanted {
            criteria: criteria.criteria(),
            only: None,
        }
    }

    fn iter(self) -> impl Iterator<Item = &'a MetadataCriterion> {
        let wanted = move |criterion: &&MetadataCriterion| {
            (self.only).is_none_or(|keys| keys.contains(&criterion.name))
        };
        self.criteria.iter().filter(wanted)
    }
}

#[cfg(test)]
mod tests;
