//! Selects the filter chain of a listener that serves a connection (`FilterChainMatch`).
//!
//! Envoy compares one criterion after the other. For each, it keeps only the chains whose value matches most
//! specifically, and it never goes back: if a chain names the destination port, all chains that name none are out, even
//! if that chain then fails to match the source.

mod overlap;

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::address_prefix;
use outrider_config::address_prefix::AddressPrefix;
use outrider_config::api::envoy::config::listener::v3 as api;
use outrider_config::api::envoy::config::listener::v3::filter_chain_match::ConnectionSourceType;

use crate::Address;

/// The properties of a connection that select its filter chain.
#[derive(Clone, Copy, Debug)]
pub struct FilterChainInput<'a> {
    /// The address the client connected to.
    pub destination: &'a Address,
    /// The client's address, possibly replaced by a listener filter.
    pub source: &'a Address,
    /// The address of the socket's peer.
    pub direct_source: &'a Address,
    /// The server name (SNI) that the client asked for; empty without TLS.
    pub server_name: &'a str,
    /// `raw_buffer` or `tls` (`FilterChainMatch.transport_protocol`).
    pub transport_protocol: &'a str,
    /// The application protocols that the client offers (ALPN), preferred first.
    pub application_protocols: &'a [&'a str],
}

/// The filter chains of one listener, by index: `filter_chains` in order, then `default_filter_chain`.
#[derive(Debug)]
pub struct FilterChains {
    rules: Vec<ChainCriteria>,
    default: Option<usize>,
}

/// One chain's criteria. An empty list matches everything.
#[derive(Debug)]
struct ChainCriteria {
    destination_port: Option<u16>,
    destinations: Vec<AddressPrefix>,
    /// In lower case. A leading `*.` matches any number of labels.
    server_names: Vec<String>,
    transport_protocol: String,
    application_protocols: Vec<String>,
    direct_sources: Vec<AddressPrefix>,
    source_type: ConnectionSourceType,
    sources: Vec<AddressPrefix>,
    source_ports: Vec<u16>,
}

impl FilterChains {
    /// Reads the matches of a listener's filter chains. `path` is the listener's.
    ///
    /// # Errors
    /// The listener has no chains, or Envoy refuses some of the matches; all such places are listed.
    pub fn build(listener: &api::Listener, path: &FieldPath) -> Result<FilterChains, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        if listener.filter_chains.is_empty() && listener.default_filter_chain.is_none() {
            errors.push(path, "no filter chains specified");
        }
        let chains_path = path.field("filter_chains");
        let mut rules = Vec::new();
        for (index, chain) in listener.filter_chains.iter().enumerate() {
            let path = chains_path.index(index).field("filter_chain_match");
            let criteria = chain.filter_chain_match.clone().unwrap_or_default();
            if let Some(rule) = errors.collect(ChainCriteria::build(&criteria, &path)) {
                rules.push(rule);
            }
        }
        if errors.is_empty() {
            overlap::check(&listener.filter_chains, &rules, &chains_path, &mut errors);
        }
        let default = listener.default_filter_chain.as_ref().map(|_| rules.len());
        errors.finish(FilterChains { rules, default })
    }

    /// The index of the chain that serves a connection with these properties.
    #[must_use]
    pub fn find(&self, input: &FilterChainInput<'_>) -> Option<usize> {
        if let [only] = self.rules.as_slice()
            && only.matches_everything()
        {
            return Some(0);
        }
        let mut left: Vec<usize> = (0..self.rules.len()).collect();
        for criterion in CRITERIA {
            let ranks: Vec<Option<u32>> = left
                .iter()
                .map(|&rule| criterion(&self.rules[rule], input))
                .collect();
            let Some(best) = ranks.iter().flatten().max() else {
                return self.default;
            };
            let mut ranks = ranks.iter();
            left.retain(|_| ranks.next().is_some_and(|rank| rank.as_ref() == Some(best)));
        }
        left.first().copied().or(self.default)
    }
}

/// How specifically a rule matches by one criterion: `None` if it does not match, 0 if it does not have the criterion.
type Criterion = fn(&ChainCriteria, &FilterChainInput<'_>) -> Option<u32>;

/// In Envoy's order.
const CRITERIA: [Criterion; 9] = [
    |rule, input| match (rule.destination_port, input.destination.ip()) {
        (None, _) => Some(0),
        (Some(port), Some(ip)) if ip.port() == port => Some(1),
        (Some(_), _) => None,
    },
    |rule, input| longest(&rule.destinations, input.destination),
    |rule, input| rule.rank_server_name(input.server_name),
    |rule, input| match rule.transport_protocol.as_str() {
        "" => Some(0),
        protocol => (protocol == input.transport_protocol).then_some(1),
    },
    |rule, input| rule.rank_application_protocol(input.application_protocols),
    |rule, input| longest(&rule.direct_sources, input.direct_source),
    |rule, input| match rule.source_type {
        ConnectionSourceType::Any => Some(0),
        ConnectionSourceType::SameIpOrLoopback => is_local(input).then_some(1),
        ConnectionSourceType::External => (!is_local(input)).then_some(1),
    },
    |rule, input| longest(&rule.sources, input.source),
    |rule, input| match (rule.source_ports.as_slice(), input.source.ip()) {
        ([], _) => Some(0),
        (ports, Some(ip)) => ports.contains(&ip.port()).then_some(1),
        (_, None) => None,
    },
];

/// The length plus one of the longest prefix that contains the address.
fn longest(prefixes: &[AddressPrefix], address: &Address) -> Option<u32> {
    if prefixes.is_empty() {
        return Some(0);
    }
    let ip = address.ip()?.ip();
    let lengths = prefixes
        .iter()
        .filter(|prefix| prefix.contains(ip))
        .map(AddressPrefix::length);
    lengths.max().map(|length| u32::from(length) + 1)
}

/// Whether the connection comes from this machine: over a UNIX socket, from loopback, or from the address that it
/// connected to.
fn is_local(input: &FilterChainInput<'_>) -> bool {
    match (input.source, input.destination) {
        (Address::Pipe(_), _) | (_, Address::Pipe(_)) => true,
        (Address::Ip(source), Address::Ip(destination)) => {
            is_loopback(source.ip()) || source.ip() == destination.ip()
        }
        (Address::Internal(_), _) | (_, Address::Internal(_)) => false,
    }
}

/// Envoy's definition of loopback: 127.0.0.1, not all of 127.0.0.0/8, and ::1.
fn is_loopback(ip: IpAddr) -> bool {
    ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST
}

impl ChainCriteria {
    fn build(
        criteria: &api::FilterChainMatch,
        path: &FieldPath,
    ) -> Result<ChainCriteria, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut prefixes = |ranges, field: &'static str| {
            errors
                .collect(address_prefix::build_all(ranges, &path.field(field)))
                .unwrap_or_default()
        };
        let destinations = prefixes(&criteria.prefix_ranges, "prefix_ranges");
        let direct_sources = prefixes(
            &criteria.direct_source_prefix_ranges,
            "direct_source_prefix_ranges",
        );
        let sources = prefixes(&criteria.source_prefix_ranges, "source_prefix_ranges");
        let server_names = errors.collect(build_server_names(
            &criteria.server_names,
            &path.field("server_names"),
        ));
        let port = |port: u32, path: &FieldPath| {
            u16::try_from(port)
                .map_err(|_| ConfigError::new(path, format!("expected 1 to 65535, got {port}")))
        };
        let destination_port = criteria
            .destination_port
            .map(|number| port(number, &path.field("destination_port")))
            .transpose();
        let destination_port = errors.collect(destination_port).flatten();
        let source_ports_path = path.field("source_ports");
        let mut source_ports = Vec::new();
        for (index, number) in criteria.source_ports.iter().enumerate() {
            source_ports.extend(errors.collect(port(*number, &source_ports_path.index(index))));
        }
        errors.finish(ChainCriteria {
            destination_port,
            destinations,
            server_names: server_names.unwrap_or_default(),
            transport_protocol: criteria.transport_protocol.clone(),
            application_protocols: criteria.application_protocols.clone(),
            direct_sources,
            source_type: criteria.source_type(),
            sources,
            source_ports,
        })
    }

    fn matches_everything(&self) -> bool {
        self.destination_port.is_none()
            && self.destinations.is_empty()
            && self.server_names.is_empty()
            && self.transport_protocol.is_empty()
            && self.application_protocols.is_empty()
            && self.direct_sources.is_empty()
            && self.source_type == ConnectionSourceType::Any
            && self.sources.is_empty()
            && self.source_ports.is_empty()
    }

    /// An exact name beats every wildcard. Among wildcards, the longest wins.
    fn rank_server_name(&self, name: &str) -> Option<u32> {
        if self.server_names.is_empty() {
            return Some(0);
        }
        let rank = |pattern: &String| match pattern.strip_prefix('*') {
            Some(suffix) => (name.len() > suffix.len() && name.ends_with(suffix))
                .then(|| u32::try_from(suffix.len()).unwrap_or(u32::MAX - 1)),
            None => (name == pattern).then_some(u32::MAX),
        };
        self.server_names.iter().filter_map(rank).max()
    }

    /// The first protocol in the client's list that any chain names decides.
    fn rank_application_protocol(&self, offered: &[&str]) -> Option<u32> {
        if self.application_protocols.is_empty() {
            return Some(0);
        }
        let first = offered
            .iter()
            .position(|offered| self.application_protocols.iter().any(|p| p == offered))?;
        Some(u32::MAX - u32::try_from(first).unwrap_or(u32::MAX))
    }
}

fn build_server_names(names: &[String], path: &FieldPath) -> Result<Vec<String>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    for (index, name) in names.iter().enumerate() {
        if name.contains('*') && !name.starts_with("*.") {
            errors.push(
                &path.index(index),
                "partial wildcards are not supported in \"server_names\"",
            );
        }
    }
    errors.finish(names.iter().map(|name| name.to_ascii_lowercase()).collect())
}

#[cfg(test)]
mod tests;
