//! Hosts: the addresses of a cluster, with their settings and stats.

use std::sync::Arc;

use outrider_config::api::envoy::config::core::v3::Metadata;
use outrider_net::Address;
use outrider_net::clock;
use outrider_stats::SharedCounter;
use outrider_stats::SharedGauge;
use tokio::time::Instant;

use crate::Health;
use crate::HealthFlag;
use crate::HostHealth;
use crate::OutlierResult;
use crate::health::HealthReport;

/// One endpoint of a cluster.
///
/// When a DNS refresh returns its address again, the host stays, with its stats and connections.
#[derive(Debug)]
pub struct Host {
    addresses: Vec<Address>,
    description: Arc<HostDescription>,
    added: Instant,
    state: Arc<HostHealth>,
    /// The stats of this host, which all workers share.
    pub stats: Arc<HostStats>,
}

/// The config of a host apart from its address. All hosts of one name share it.
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
    /// `LocalityLbEndpoints.metadata`
    pub locality_metadata: Option<Arc<Metadata>>,
    /// `Endpoint.health_check_config`
    pub health_check: Option<Box<EndpointHealthCheck>>,
}

/// How a host is checked, where it differs from others (`Endpoint.HealthCheckConfig`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointHealthCheck {
    /// `address`, `port_value`: where the checks go instead of the host's own address or port.
    pub address: Option<Address>,
    /// `port_value`, if it is not 0.
    pub port: Option<u16>,
    /// `hostname`: the authority of the checks; empty without one.
    pub hostname: Box<str>,
    /// `disable_active_health_check`
    pub disabled: bool,
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

/// The health that the config sets for a host (`envoy.config.core.v3.HealthStatus`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HealthStatus {
    /// `UNKNOWN` and `HEALTHY`
    #[default]
    Healthy,
    /// `DEGRADED`: used when there are too few healthy hosts.
    Degraded,
    /// `UNHEALTHY` and `TIMEOUT`: used in panic only.
    Unhealthy,
    /// `DRAINING`: used in panic only.
    Draining,
}

/// The counts that `/clusters` shows for each host.
#[derive(Debug, Default)]
pub struct HostStats {
    /// Open connections.
    pub cx_active: SharedGauge,
    /// Connections that failed to be established.
    pub cx_connect_fail: SharedCounter,
    /// Connections that were opened.
    pub cx_total: SharedCounter,
    /// Requests under way.
    pub rq_active: SharedGauge,
    /// Responses with a 5xx status, and resets; counted by the router.
    pub rq_error: SharedCounter,
    /// Requests that are waiting for a connection.
    pub rq_pending_active: SharedGauge,
    /// Responses without a 5xx status; counted by the router.
    pub rq_success: SharedCounter,
    /// Timeouts; counted by the router.
    pub rq_timeout: SharedCounter,
    /// All requests.
    pub rq_total: SharedCounter,
}

impl Host {
    /// A host with one address, or with several, of which the first that accepts a connection is used. `addresses` must
    /// not be empty.
    pub(crate) fn new(
        addresses: Vec<Address>,
        description: Arc<HostDescription>,
        state: Arc<HostHealth>,
    ) -> Arc<Host> {
        debug_assert!(!addresses.is_empty());
        Arc::new(Host {
            addresses,
            description,
            added: clock::now(),
            state,
            stats: Arc::default(),
        })
    }

    /// The host that this one becomes when discovery gives it other addresses or says other things of it: its health and
    /// its counts go on.
    pub(crate) fn changed(
        &self,
        addresses: Vec<Address>,
        description: Arc<HostDescription>,
    ) -> Arc<Host> {
        debug_assert!(!addresses.is_empty());
        Arc::new(Host {
            addresses,
            description,
            added: self.added,
            state: self.state.clone(),
            stats: self.stats.clone(),
        })
    }

    /// Its primary address.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.addresses[0]
    }

    /// When it was added to its cluster.
    pub(crate) fn added(&self) -> Instant {
        self.added
    }

    /// When it became a host of its cluster, or when a check last made it healthy again.
    pub(crate) fn healthy_since(&self) -> Instant {
        self.added + self.state.passed_after()
    }

    /// All its addresses, in the order in which they are tried.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Its config.
    pub(crate) fn description(&self) -> &Arc<HostDescription> {
        &self.description
    }

    /// `Endpoint.hostname`, or else the resolved name.
    #[must_use]
    pub fn hostname(&self) -> &Arc<str> {
        &self.description.hostname
    }

    /// Its locality.
    #[must_use]
    pub fn locality(&self) -> &Arc<Locality> {
        &self.description.locality
    }

    /// `LocalityLbEndpoints.priority`
    #[must_use]
    pub fn priority(&self) -> u32 {
        self.description.priority
    }

    /// Its share of the requests relative to other hosts; at least 1.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.description.weight
    }

    /// What the config says of its health.
    #[must_use]
    pub fn eds_health(&self) -> HealthStatus {
        self.description.health
    }

    /// What else is known of its health.
    #[must_use]
    pub fn state(&self) -> &Arc<HostHealth> {
        &self.state
    }

    /// Whether it should get requests, by all that is known.
    #[must_use]
    pub fn health(&self) -> Health {
        let state = &self.state;
        let eds = self.eds_health();
        if state.has(HealthFlag::FailedActiveHc)
            || state.has(HealthFlag::FailedOutlierCheck)
            || matches!(eds, HealthStatus::Unhealthy | HealthStatus::Draining)
        {
            Health::Unhealthy
        } else if state.has(HealthFlag::DegradedActiveHc) || eds == HealthStatus::Degraded {
            Health::Degraded
        } else {
            Health::Healthy
        }
    }

    /// Whether it does not count as a host when the share of healthy hosts is computed.
    #[must_use]
    pub fn is_excluded(&self) -> bool {
        self.state.has(HealthFlag::PendingActiveHc)
            || self.state.has(HealthFlag::ExcludedViaImmediateHcFail)
            || self.eds_health() == HealthStatus::Draining
    }

    /// A response asked that the host be excluded (`x-envoy-immediate-health-check-fail`): if its cluster has health checks,
    /// it fails at once.
    pub fn fail_immediately(&self) {
        if self.state.has(HealthFlag::IsChecked) {
            self.state.set(HealthFlag::ExcludedViaImmediateHcFail, true);
            self.state.report(HealthReport::ImmediateFailure);
        }
    }

    /// Counts the result of a request to this host, for outlier detection.
    pub fn put_result(&self, result: OutlierResult) {
        if let Some(monitor) = self.state.monitor() {
            monitor.count(result, |report| self.state.report(report));
        }
    }

    /// Whether health checks are to leave it alone.
    pub(crate) fn is_unchecked(&self) -> bool {
        let check = self.description.health_check.as_ref();
        check.is_some_and(|check| check.disabled)
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
