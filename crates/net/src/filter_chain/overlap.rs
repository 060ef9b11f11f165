//! Refuses filter chains that match the same connections equally specifically, with Envoy's messages.

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::listener::v3::FilterChain;

use crate::filter_chain::ChainCriteria;

/// Compares each chain with those before it.
pub(super) fn check(
    chains: &[FilterChain],
    rules: &[ChainCriteria],
    path: &FieldPath,
    errors: &mut ConfigErrors,
) {
    for (index, rule) in rules.iter().enumerate() {
        let Some(earlier) = rules[..index]
            .iter()
            .position(|earlier| rule.overlaps(earlier))
        else {
            continue;
        };
        let same = chains[index].filter_chain_match.clone().unwrap_or_default()
            == chains[earlier]
                .filter_chain_match
                .clone()
                .unwrap_or_default();
        let message = if same {
            let (name, other) = (&chains[index].name, &chains[earlier].name);
            format!(
                "filter chain '{name}' has the same matching rules defined as '{other}' (filter_chains[{earlier}])"
            )
        } else {
            format!(
                "multiple filter chains with overlapping matching rules are defined: see filter_chains[{earlier}]"
            )
        };
        errors.push(&path.index(index).field("filter_chain_match"), message);
    }
}

impl ChainCriteria {
    /// Whether some connection matches both rules, equally specifically by every criterion.
    fn overlaps(&self, other: &ChainCriteria) -> bool {
        self.destination_port == other.destination_port
            && share(&self.destinations, &other.destinations)
            && share(&self.server_names, &other.server_names)
            && self.transport_protocol == other.transport_protocol
            && share(&self.application_protocols, &other.application_protocols)
            && share(&self.direct_sources, &other.direct_sources)
            && self.source_type == other.source_type
            && share(&self.sources, &other.sources)
            && share(&self.source_ports, &other.source_ports)
    }
}

/// Whether both lists are empty or have an element in common.
fn share<T: PartialEq>(these: &[T], those: &[T]) -> bool {
    these.is_empty() && those.is_empty() || these.iter().any(|this| those.contains(this))
}
