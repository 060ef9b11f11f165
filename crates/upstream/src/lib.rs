//! Clusters: discovery, hosts, load balancing, pools and circuit breakers.

mod balancer;
mod breakers;
mod host;
mod host_set;
mod stats;

pub use balancer::BalancerConfig;
pub use balancer::Cursors;
pub use balancer::LoadBalancer;
pub use balancer::PickCx;
pub use breakers::Breakers;
pub use breakers::Permit;
pub use breakers::Priority;
pub use breakers::Resource;
pub use breakers::Thresholds;
pub use host::HealthStatus;
pub use host::Host;
pub use host::HostDescription;
pub use host::HostStats;
pub use host::Locality;
pub use host_set::HostSet;
pub use host_set::LocalityHosts;
pub use host_set::PriorityHosts;
pub use stats::BreakerStats;
pub use stats::ClusterManagerStats;
pub use stats::ClusterStats;
pub use stats::DnsStats;
pub use stats::MembershipStats;
pub use stats::OriginStats;
pub use stats::PriorityBreakerStats;
pub use stats::RemainingStats;
