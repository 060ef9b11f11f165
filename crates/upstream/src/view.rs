//! The admin server's view of clusters: plain data of one moment.

use std::sync::Arc;

use crate::Breakers;
use crate::ClusterInfo;
use crate::Host;
use crate::HostSet;
use crate::OutlierRates;
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
    /// The success rates of all hosts, of answers and of the local origin, if outliers are detected.
    pub outlier_rates: Option<[OutlierRates; 2]>,
}

impl ClusterView {
    pub(crate) fn of(cluster: &SharedCluster) -> ClusterView {
        ClusterView {
            info: cluster.info.clone(),
            hosts: cluster.hosts.load_full(),
            breakers: cluster.breakers.clone(),
            outlier_rates: (cluster.info.outlier_detection.as_ref())
                .map(|_| **cluster.outlier_rates.load()),
        }
    }

    /// All hosts, in the order in which `/clusters` lists them.
    pub fn hosts(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.hosts.iter()
    }
}
