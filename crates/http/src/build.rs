//! The context that the objects of this crate are built in.

use std::sync::Arc;

use outrider_runtime::Snapshot;
use outrider_stats::Scope;
use outrider_stats::Store;
use outrider_upstream::ClusterNames;
use outrider_upstream::DnsCaches;
use outrider_xds::Sources;

use crate::access_log::LogFiles;
use crate::tracing::Tracers;

/// What building a connection manager needs from the rest of the process, on the main thread.
#[derive(Clone, Copy, Debug)]
pub struct BuildCx<'a> {
    /// The runtime values when the listener is built: some fields default to them.
    pub runtime: &'a Snapshot,
    /// Where stats are registered.
    pub store: &'a Arc<Store>,
    /// The clusters that routes may name.
    pub clusters: &'a ClusterNames,
    /// The files of access logs.
    pub log_files: &'a LogFiles,
    /// `listener.<address>`, the scope of the listener's stats.
    pub listener: &'a Scope,
    /// `per_connection_buffer_limit_bytes` of the listener.
    pub buffer_limit: u32,
    /// `bypass_overload_manager` of the listener.
    pub bypasses_overload_manager: bool,
    /// `--local-address-ip-version v6`: `x-forwarded-for` gets the machine's IPv6 address for loopback clients.
    pub prefers_ipv6: bool,
    /// The DNS caches of clusters and filters.
    pub dns_caches: &'a DnsCaches,
    /// What files and control planes give.
    pub sources: &'a Sources,
    /// `node.cluster`, or `--service-cluster`; empty if neither is set.
    pub node_cluster: &'a str,
    /// `node.id`, or `--service-node`; empty if neither is set.
    pub node_id: &'a str,
    /// `node.locality.zone`, or `--service-zone`; empty if neither is set.
    pub zone: &'a str,
    /// Whether the listener is for outbound traffic (`traffic_direction`).
    pub is_outbound: bool,
    /// The tracers of the process.
    pub tracers: &'a Tracers,
}
