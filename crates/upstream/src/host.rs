//! Hosts: the addresses of a cluster, and what is known and counted of each.

use std::sync::Arc;

use outrider_config::api::envoy::config::core::v3::Metadata;
use outrider_net::Address;
use outrider_net::clock;
use outrider_stats::SharedCounter;
use outrider_stats::SharedGauge;
use tokio::time::Instant;

/// One endpoint of a cluster.
///
/// A host outlives a DNS refresh that names its address again: its counts and connections stay.
#[derive(Debug)]
pub struct Host {
    addresses: Vec<Address>,
    description: Arc<HostDescription>,
    added: Instant,
    /// What all workers count of this host.
    pub stats: HostStats,
}

/// What the config says of a host, apart from its address: all hosts of one name share it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostDescription {
    /// `Endpoint.hostname`, or else the name that was resolved; empty for a STATIC host without one.
    pub hostname: Arc<str>,
    /// `LocalityLbEndpoints.locality`
    pub locality: Arc<Locality>,
    /// `LocalityLbEndpoints.priority`
    pub priority: u32,
    /// `LbEndpoint.load_balancing_weight`, at least 1.
    pub weight: u32,
    /// `LbEndpoint.health_status`
    pub health: HealthStatus,
    /// `LbEndpoint.metadata`
    pub metadata: Option<Box<Metadata>>,
}

/// Where a host is (`envoy.config.core.v3.Locality`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// `region`
    pub region: String,
    /// `zone`
    pub zone: String,
    /// `sub_zone`
    pub sub_zone: String,
}

/// What the config says of a host's health (`envoy.config.core.v3.HealthStatus`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HealthStatus {
    /// `UNKNOWN` and `HEALTHY`
    #[default]
    Healthy,
    /// `DEGRADED`: used when healthy hosts are too few.
    Degraded,
    /// `UNHEALTHY` and `TIMEOUT`: used in panic only.
    Unhealthy,
    /// `DRAINING`: used in panic only.
    Draining,
}

/// `cluster.<name>` counts that `/clusters` shows for each host.
#[derive(Debug, Default)]
pub struct HostStats {
    /// Connections open.
    pub cx_active: SharedGauge,
    /// Connections that could not be made.
    pub cx_connect_fail: SharedCounter,
    /// Connections opened.
    pub cx_total: SharedCounter,
    /// Requests under way.
    pub rq_active: SharedGauge,
    /// Answers with a 5xx status, and resets; counted by the router.
    pub rq_error: SharedCounter,
    /// Requests that wait for a connection.
    pub rq_pending_active: SharedGauge,
    /// Answers without a 5xx status; counted by the router.
    pub rq_success: SharedCounter,
    /// Timeouts; counted by the router.
    pub rq_timeout: SharedCounter,
    /// Requests.
    pub rq_total: SharedCounter,
}

impl Host {
    /// A host with one address, or several of which the first that answers is used. `addresses` must not be empty.
    pub(crate) fn new(addresses: Vec<Address>, description: Arc<HostDescription>) -> Arc<Host> {
        debug_assert!(!addresses.is_empty());
        Arc::new(Host {
            addresses,
            description,
            added: clock::now(),
            stats: HostStats::default(),
        })
    }

    /// The address that it goes by.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.addresses[0]
    }

    /// When it became a host of its cluster.
    pub(crate) fn added(&self) -> Instant {
        self.added
    }

    /// All its addresses, in the order in which they are tried.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// What the config says of it.
    pub(crate) fn description(&self) -> &Arc<HostDescription> {
        &self.description
    }

    /// `Endpoint.hostname`, or else the name that was resolved.
    #[must_use]
    pub fn hostname(&self) -> &Arc<str> {
        &self.description.hostname
    }

    /// Where it is.
    #[must_use]
    pub fn locality(&self) -> &Arc<Locality> {
        &self.description.locality
    }

    /// `LocalityLbEndpoints.priority`
    #[must_use]
    pub fn priority(&self) -> u32 {
        self.description.priority
    }

    /// Its share of the requests, relative to others; at least 1.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.description.weight
    }

    /// Whether it should get requests.
    #[must_use]
    pub fn health(&self) -> HealthStatus {
        self.description.health
    }

    /// `LbEndpoint.metadata`
    #[must_use]
    pub fn metadata(&self) -> Option<&Metadata> {
        self.description.metadata.as_deref()
    }

    /// Whether the config marks it as a canary (`envoy.lb` metadata `canary: true`).
    #[must_use]
    pub fn is_canary(&self) -> bool {
        use prost_types::value::Kind;
        self.metadata()
            .and_then(|metadata| metadata.filter_metadata.get("envoy.lb"))
            .and_then(|fields| fields.fields.get("canary"))
            .is_some_and(|value| matches!(value.kind, Some(Kind::BoolValue(true))))
    }
}
