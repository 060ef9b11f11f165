//! The subsets of a cluster's hosts, by keys and values.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;
use prost_types::Struct;
use prost_types::Value;
use prost_types::value::Kind;

use super::config::SubsetSelector;
use super::config::SubsetSettings;
use crate::Host;
use crate::LocalityHosts;
use crate::PriorityHosts;
use crate::balancer::LoadBalancer;
use crate::balancer::PickCx;
use crate::metadata_match::MetadataCriterion;
use crate::metadata_match::MetadataValue;

/// Subsets by their keys in alphabetical order, each with a value. `T` is [`Subset`], or its hosts while the tree is built.
#[derive(Debug)]
pub(super) struct SubsetTree<T = Subset> {
    subset: Option<T>,
    children: BTreeMap<Box<str>, HashMap<MetadataValue, SubsetTree<T>, FixedState>>,
}

/// The hosts of one subset.
#[derive(Debug)]
pub(super) enum Subset {
    Hosts(Box<dyn LoadBalancer>),
    /// With `single_host_per_subset`: this one, whatever its health.
    Single(Arc<Host>),
}

/// The hosts of one subset while they are collected.
#[derive(Debug, Default)]
pub(super) struct SubsetHosts {
    single: bool,
    /// Each host with the positions of its priority and its locality, in ascending order.
    hosts: Vec<(usize, usize, Arc<Host>)>,
}

impl Subset {
    pub(super) fn pick(&self, cx: &mut PickCx<'_>) -> Option<&Arc<Host>> {
        match self {
            Subset::Hosts(balancer) => balancer.pick(cx),
            Subset::Single(host) => Some(host),
        }
    }
}

impl<T> Default for SubsetTree<T> {
    fn default() -> SubsetTree<T> {
        SubsetTree {
            subset: None,
            children: BTreeMap::new(),
        }
    }
}

impl SubsetTree {
    /// The subsets of these hosts, and how many hosts are left out because their subset has a host already and may have one
    /// only.
    pub(super) fn new(
        priorities: &[PriorityHosts],
        settings: &SubsetSettings,
        balancer_of: &mut impl FnMut(&SubsetHosts) -> Box<dyn LoadBalancer>,
    ) -> (SubsetTree, u64) {
        let mut tree: SubsetTree<SubsetHosts> = SubsetTree::default();
        let mut duplicates = 0;
        for (priority, locality, host) in places(priorities) {
            for selector in &settings.selectors {
                for labels in labels_of(host, selector, settings.list_as_any) {
                    let subset = tree.insert(labels);
                    let subset = subset.get_or_insert_with(|| SubsetHosts {
                        single: selector.single_host,
                        hosts: Vec::new(),
                    });
                    duplicates += u64::from(!subset.add(priority, locality, host));
                }
            }
        }
        (tree.finish(balancer_of), duplicates)
    }

    /// The subset with exactly these keys and values.
    pub(super) fn find<'a>(
        &self,
        mut criteria: impl Iterator<Item = &'a MetadataCriterion>,
    ) -> Option<&Subset> {
        let tree = criteria.try_fold(self, |tree, criterion| {
            let values = tree.children.get(&criterion.name)?;
            values.get(&criterion.value)
        });
        tree?.subset.as_ref()
    }

    /// How many subsets `other` has not.
    pub(super) fn count_missing_in(&self, other: Option<&SubsetTree>) -> u64 {
        let there = other.and_then(|other| other.subset.as_ref());
        let own = u64::from(self.subset.is_some() && there.is_none());
        let values = (self.children.iter()).flat_map(|(key, values)| {
            values.iter().map(move |(value, tree)| {
                let there = other.and_then(|other| other.children.get(key)?.get(value));
                tree.count_missing_in(there)
            })
        });
        own + values.sum::<u64>()
    }
}

impl SubsetTree<SubsetHosts> {
    /// The place of the subset with these labels.
    fn insert(&mut self, labels: Vec<(&str, MetadataValue)>) -> &mut Option<SubsetHosts> {
        let tree = labels.into_iter().fold(self, |tree, (key, value)| {
            let values = tree.children.entry(key.into()).or_default();
            values.entry(value).or_default()
        });
        &mut tree.subset
    }

    fn finish(
        self,
        balancer_of: &mut impl FnMut(&SubsetHosts) -> Box<dyn LoadBalancer>,
    ) -> SubsetTree {
        let subset = self.subset.map(|hosts| match hosts.hosts.first() {
            Some((_, _, host)) if hosts.single => Subset::Single(host.clone()),
            _ => Subset::Hosts(balancer_of(&hosts)),
        });
        let children = self.children.into_iter().map(|(key, values)| {
            let values = values.into_iter();
            let values = values.map(|(value, tree)| (value, tree.finish(&mut *balancer_of)));
            (key, values.collect())
        });
        SubsetTree {
            subset,
            children: children.collect(),
        }
    }
}

impl SubsetHosts {
    /// The hosts that `includes` says.
    pub(super) fn of(
        priorities: &[PriorityHosts],
        includes: &dyn Fn(&Host) -> bool,
    ) -> SubsetHosts {
        let hosts = places(priorities).filter(|(_, _, host)| includes(host));
        let hosts = hosts.map(|(priority, locality, host)| (priority, locality, host.clone()));
        SubsetHosts {
            single: false,
            hosts: hosts.collect(),
        }
    }

    /// Adds a host. Returns whether the subset could take it.
    fn add(&mut self, priority: usize, locality: usize, host: &Arc<Host>) -> bool {
        let last = self.hosts.last();
        if self.single && last.is_some_and(|(of, _, _)| *of == priority) {
            return false;
        }
        // Two selectors with the same keys, or a list with the same value twice, name the same subset.
        if last.is_none_or(|(_, _, last)| !Arc::ptr_eq(last, host)) {
            self.hosts.push((priority, locality, host.clone()));
        }
        true
    }

    /// The hosts in the priorities and localities of `all`.
    pub(super) fn priorities(
        &self,
        all: &[PriorityHosts],
        settings: &SubsetSettings,
    ) -> Vec<PriorityHosts> {
        let empty = |priority: &PriorityHosts| PriorityHosts {
            localities: vec![LocalityHosts::default(); priority.localities.len()],
        };
        let mut priorities: Vec<PriorityHosts> = all.iter().map(empty).collect();
        for (priority, locality, host) in &self.hosts {
            let of_priority = priorities.get_mut(*priority);
            if let Some(locality) = of_priority.and_then(|one| one.localities.get_mut(*locality)) {
                locality.hosts.push(host.clone());
            }
        }
        if settings.locality_weight_aware {
            let whole = all.iter().flat_map(|priority| &priority.localities);
            let parts = priorities.iter_mut().flat_map(|one| &mut one.localities);
            for (part, whole) in parts.zip(whole) {
                part.weight = weight_of(part, whole, settings.scale_locality_weight);
            }
        }
        priorities
    }
}

/// The weight of `part` of the hosts of a locality.
fn weight_of(part: &LocalityHosts, whole: &LocalityHosts, scales: bool) -> u32 {
    if !scales || whole.hosts.is_empty() {
        return whole.weight;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "as in Envoy; the result is at most the weight"
    )]
    let weight = {
        let hosts = u64::from(whole.weight) * part.hosts.len() as u64;
        (hosts as f32 / whole.hosts.len() as f32).round() as u32
    };
    weight
}

/// All hosts, with the positions of their priority and their locality.
fn places(priorities: &[PriorityHosts]) -> impl Iterator<Item = (usize, usize, &Arc<Host>)> {
    priorities.iter().enumerate().flat_map(|(at, priority)| {
        let localities = priority.localities.iter().enumerate();
        localities.flat_map(move |(locality, hosts)| {
            let hosts = hosts.hosts.iter();
            hosts.map(move |host| (at, locality, host))
        })
    })
}

/// What can be compared of a host for the keys of `selector`: nothing if it lacks one of them; with `list_as_any`, each
/// combination of the values in its lists.
fn labels_of<'a>(
    host: &Host,
    selector: &'a SubsetSelector,
    list_as_any: bool,
) -> Vec<Vec<(&'a str, MetadataValue)>> {
    let metadata = host.metadata();
    let fields = metadata.and_then(|metadata| metadata.filter_metadata.get("envoy.lb"));
    let Some(fields) = fields else {
        return Vec::new();
    };
    let mut labels = vec![Vec::new()];
    for key in &selector.keys {
        let Some(value) = fields.fields.get(&**key) else {
            return Vec::new();
        };
        let values = match &value.kind {
            Some(Kind::ListValue(list)) if list_as_any => &*list.values,
            _ => std::slice::from_ref(value),
        };
        let extended = labels.iter().flat_map(|labels| {
            values.iter().map(move |value| {
                let mut labels: Vec<(&str, MetadataValue)> = labels.clone();
                labels.push((&**key, MetadataValue::of(value)));
                labels
            })
        });
        labels = extended.collect();
    }
    labels
}

/// Whether a host has all these labels.
pub(super) fn has_labels(host: &Host, labels: &Struct, list_as_any: bool) -> bool {
    let metadata = host.metadata();
    let fields = metadata.and_then(|metadata| metadata.filter_metadata.get("envoy.lb"));
    let has = |(name, wanted): (&String, &Value)| {
        let value = fields.and_then(|fields| fields.fields.get(name));
        value.is_some_and(|value| match &value.kind {
            Some(Kind::ListValue(list)) if list_as_any => list.values.contains(wanted),
            _ => value == wanted,
        })
    };
    labels.fields.iter().all(has)
}
