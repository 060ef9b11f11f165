//! The admin server's view of clusters: plain data of one moment.

use std::sync::Arc;

use crate::Breakers;
use crate::ClusterInfo;
use crate::Host;
use crate::HostSet;
use crate::SharedCluster;

/// One cluster, for `/clusters` and `/config_dump?include_eds`.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// The settings.
    pub info: Arc<ClusterInfo>,
    /// The hosts, by priority.
    pub hosts: Arc<HostSet>,
    /// The circuit breakers.
    pub breakers: Arc<Breakers>,
}

impl ClusterView {
    pub(crate) fn of(cluster: &SharedCluster) -> ClusterView {
        ClusterView {
            info: cluster.info.clone(),
            hosts: cluster.hosts.load_full(),
            breakers: cluster.breakers.clone(),
        }
    }

    /// All hosts, in the order in which `/clusters` lists them.
    pub fn hosts(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.hosts.iter()
    }
}
