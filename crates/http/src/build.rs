//! What the objects of this crate are built with, besides their messages.

use std::sync::Arc;

use outrider_stats::Scope;
use outrider_stats::Store;
use outrider_upstream::ClusterNames;

use crate::access_log::LogFiles;

/// The surroundings of a connection manager while it is built on the main thread.
#[derive(Clone, Copy, Debug)]
pub struct BuildCx<'a> {
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
    /// `--local-address-ip-version v6`: the machine's own address in `x-forwarded-for` is an IPv6 one.
    pub prefers_ipv6: bool,
    /// `node.cluster`, or `--service-cluster`; empty for none.
    pub node_cluster: &'a str,
    /// `node.id`, or `--service-node`; empty for none.
    pub node_id: &'a str,
}
