//! The settings of a DNS cache.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::address_prefix::AddressPrefix;
use outrider_config::address_prefix::build_all;
use outrider_config::api::envoy::config::cluster::v3::cluster::DnsLookupFamily;
use outrider_config::api::envoy::config::core::v3::CidrRange;
use outrider_config::api::envoy::config::core::v3::socket_address::PortSpecifier;
use outrider_config::api::envoy::extensions::clusters::dns::v3::dns_cluster::RefreshRate;
use outrider_config::api::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;
use outrider_config::api::envoy::r#type::matcher::v3::AddressMatcher;
use outrider_config::duration;

use super::HostName;
use crate::discovery::FailureRefresh;
use crate::dns::Family;
use crate::dns::Resolver;
use crate::dns::Resolvers;

/// How names are resolved and how long they are kept.
#[derive(Debug)]
pub(super) struct CacheSettings {
    pub(super) resolver: Arc<Resolver>,
    /// `dns_lookup_family`
    pub(super) family: Family,
    /// `dns_refresh_rate`: used after an answer without addresses.
    refresh: Duration,
    /// `dns_min_refresh_rate`: smaller TTLs are raised to this.
    min_refresh: Duration,
    /// `dns_query_timeout`; `None` leaves it to the resolver.
    pub(super) query_timeout: Option<Duration>,
    /// `host_ttl`: names that were not used for so long are removed when they would be resolved again.
    pub(super) host_ttl: Duration,
    /// `max_hosts`
    pub(super) max_hosts: usize,
    /// `disable_dns_refresh_on_failure`: a failure is not tried again on its own, but by the next request.
    pub(super) keeps_no_failures: bool,
    /// `dns_failure_refresh_rate`
    pub(super) failure_refresh: FailureRefresh,
    /// `dns_cache_circuit_breaker.max_pending_requests`
    pub(super) max_pending: u64,
    /// `preresolve_hostnames`
    pub(super) preresolved: Vec<HostName>,
    /// `resolved_address_filter`
    removed_addresses: Option<AddressFilter>,
}

/// Addresses that no request may go to.
#[derive(Debug)]
struct AddressFilter {
    ranges: Vec<AddressPrefix>,
    invert: bool,
}

impl CacheSettings {
    pub(super) fn build(
        config: &DnsCacheConfig,
        path: &FieldPath,
        resolvers: &Resolvers,
    ) -> Result<CacheSettings, ConfigErrors> {
        let read = |value: Option<&_>, name| duration::optional(value, &path.field(name));
        let refresh = read(config.dns_refresh_rate.as_ref(), "dns_refresh_rate")?;
        let refresh = refresh.unwrap_or(Duration::from_secs(60));
        let min_refresh = read(config.dns_min_refresh_rate.as_ref(), "dns_min_refresh_rate")?;
        let timeout = read(config.dns_query_timeout.as_ref(), "dns_query_timeout")?;
        let host_ttl = read(config.host_ttl.as_ref(), "host_ttl")?;
        let failure = config.dns_failure_refresh_rate.as_ref();
        let failure = failure.map(|rate| RefreshRate {
            base_interval: rate.base_interval,
            max_interval: rate.max_interval,
        });
        let failure_path = path.field("dns_failure_refresh_rate");
        let max_hosts = config.max_hosts.unwrap_or(1024) as usize;
        let preresolved = preresolved(config, path, max_hosts)?;
        let breaker = config.dns_cache_circuit_breaker.as_ref();
        let max_pending = breaker.and_then(|breaker| breaker.max_pending_requests);
        Ok(CacheSettings {
            resolver: resolvers.of_dns_cache(config, path)?,
            family: match config.dns_lookup_family() {
                DnsLookupFamily::Auto => Family::Auto,
                DnsLookupFamily::V4Only => Family::V4Only,
                DnsLookupFamily::V6Only => Family::V6Only,
                DnsLookupFamily::V4Preferred => Family::V4Preferred,
                DnsLookupFamily::All => Family::All,
            },
            refresh,
            min_refresh: min_refresh.unwrap_or(Duration::from_secs(5)),
            query_timeout: Some(timeout.unwrap_or(Duration::from_secs(5)))
                .filter(|timeout| !timeout.is_zero()),
            host_ttl: host_ttl.unwrap_or(Duration::from_secs(300)),
            max_hosts,
            keeps_no_failures: config.disable_dns_refresh_on_failure,
            failure_refresh: FailureRefresh::build(failure.as_ref(), refresh, &failure_path)?,
            max_pending: max_pending.map_or(1024, u64::from),
            preresolved,
            removed_addresses: (config.resolved_address_filter.as_ref())
                .map(|filter| AddressFilter::build(filter, &path.field("resolved_address_filter")))
                .transpose()?,
        })
    }

    /// When a name with these many addresses, valid for `ttl`, is resolved again. Envoy counts in whole seconds.
    pub(super) fn after(&self, has_addresses: bool, ttl: Duration) -> Duration {
        let wait = match has_addresses {
            true => ttl.max(self.min_refresh),
            false => self.refresh,
        };
        Duration::from_secs(wait.as_secs())
    }

    /// Whether requests may go to this address.
    pub(super) fn admits(&self, address: IpAddr) -> bool {
        let removed = self.removed_addresses.as_ref();
        !removed.is_some_and(|filter| filter.matches(address))
    }
}

impl AddressFilter {
    fn build(message: &AddressMatcher, path: &FieldPath) -> Result<AddressFilter, ConfigErrors> {
        let ranges = message.ranges.iter().map(|range| CidrRange {
            address_prefix: range.address_prefix.clone(),
            prefix_len: range.prefix_len,
        });
        let ranges: Vec<_> = ranges.collect();
        Ok(AddressFilter {
            ranges: build_all(&ranges, &path.field("ranges"))?,
            invert: message.invert_match,
        })
    }

    fn matches(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address)) != self.invert
    }
}

fn preresolved(
    config: &DnsCacheConfig,
    path: &FieldPath,
    max_hosts: usize,
) -> Result<Vec<HostName>, ConfigError> {
    let path = path.field("preresolve_hostnames");
    let names = &config.preresolve_hostnames;
    if names.len() > max_hosts {
        let (name, count) = (&config.name, names.len());
        let message = format!(
            "DNS Cache [{name}] configured with preresolve_hostnames={count} larger than max_hosts={max_hosts}"
        );
        return Err(ConfigError::new(&path, message));
    }
    let names = names.iter().map(|name| {
        let port = match name.port_specifier {
            Some(PortSpecifier::PortValue(port)) => u16::try_from(port).unwrap_or(0),
            _ => 0,
        };
        HostName::new(&name.address, port)
    });
    Ok(names.collect())
}
