//! `ListenerFilter.filter_disabled`: for which connections a filter does nothing.

use std::ops::Range;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::listener::v3 as api;
use outrider_config::api::envoy::config::listener::v3::listener_filter_chain_match_predicate::MatchSet;
use outrider_config::api::envoy::config::listener::v3::listener_filter_chain_match_predicate::Rule;

use super::InspectedConnection;

/// A condition on a connection (`ListenerFilterChainMatchPredicate`).
#[derive(Debug)]
pub(super) enum DisablingMatch {
    /// `any_match`
    Any,
    /// `destination_port_range`
    DestinationPort(Range<i32>),
    /// `not_match`
    Not(Box<DisablingMatch>),
    /// `or_match`
    OneOf(Vec<DisablingMatch>),
    /// `and_match`
    All(Vec<DisablingMatch>),
}

impl DisablingMatch {
    /// Reads the condition found at `path`.
    pub(super) fn build(
        predicate: &api::ListenerFilterChainMatchPredicate,
        path: &FieldPath,
    ) -> Result<DisablingMatch, ConfigErrors> {
        match &predicate.rule {
            Some(Rule::AnyMatch(_)) => Ok(DisablingMatch::Any),
            Some(Rule::DestinationPortRange(ports)) => {
                Ok(DisablingMatch::DestinationPort(ports.start..ports.end))
            }
            Some(Rule::NotMatch(inner)) => {
                let inner = DisablingMatch::build(inner, &path.field("not_match"))?;
                Ok(DisablingMatch::Not(Box::new(inner)))
            }
            Some(Rule::OrMatch(set)) => Ok(DisablingMatch::OneOf(build_set(
                set,
                &path.field("or_match"),
            )?)),
            Some(Rule::AndMatch(set)) => Ok(DisablingMatch::All(build_set(
                set,
                &path.field("and_match"),
            )?)),
            None => {
                let text = "one of or_match, and_match, not_match, any_match or \
                            destination_port_range is required";
                Err(ConfigErrors::from(ConfigError::new(path, text)))
            }
        }
    }

    /// Whether the connection meets the condition.
    pub(super) fn matches(&self, connection: &InspectedConnection) -> bool {
        match self {
            DisablingMatch::Any => true,
            DisablingMatch::DestinationPort(ports) => {
                let address = connection.local.ip();
                address.is_some_and(|address| ports.contains(&address.port().into()))
            }
            DisablingMatch::Not(inner) => !inner.matches(connection),
            DisablingMatch::OneOf(set) => set.iter().any(|inner| inner.matches(connection)),
            DisablingMatch::All(set) => set.iter().all(|inner| inner.matches(connection)),
        }
    }
}

fn build_set(set: &MatchSet, path: &FieldPath) -> Result<Vec<DisablingMatch>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let path = path.field("rules");
    let rules = set.rules.iter().enumerate();
    let rules =
        rules.filter_map(|(at, rule)| errors.collect(DisablingMatch::build(rule, &path.index(at))));
    let rules = rules.collect();
    errors.finish(rules)
}
