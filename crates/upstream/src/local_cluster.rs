//! The local cluster: the proxies that this one is one of, for routing by zone.

use std::sync::Arc;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::Bootstrap;
use tokio::sync::watch;

use crate::Locality;
use crate::PriorityHosts;

/// The proxy's place among its peers, for routing by zone.
#[derive(Debug)]
pub(crate) struct LocalCluster {
    /// `cluster_manager.local_cluster_name`
    pub(crate) name: Arc<str>,
    /// The locality of the proxy, if it is known.
    pub(crate) locality: Option<Locality>,
    /// The hosts of that cluster.
    pub(crate) hosts: watch::Sender<Arc<[PriorityHosts]>>,
}

impl LocalCluster {
    /// The cluster that `local_cluster_name` names, for a proxy in `zone`; `None` without the field.
    pub(crate) fn build(
        bootstrap: &Bootstrap,
        zone: &str,
    ) -> Result<Option<Arc<LocalCluster>>, ConfigErrors> {
        let settings = bootstrap.cluster_manager.as_ref();
        let name = settings.map_or("", |settings| settings.local_cluster_name.as_str());
        if name.is_empty() {
            return Ok(None);
        }
        let list = bootstrap.static_resources.as_ref();
        let mut clusters = list.iter().flat_map(|list| &list.clusters).enumerate();
        let Some((index, cluster)) = clusters.find(|(_, cluster)| cluster.name == name) else {
            let path = FieldPath::root().field("cluster_manager");
            let message = format!("local cluster '{name}' must be defined");
            return Err(ConfigError::new(&path.field("local_cluster_name"), message).into());
        };
        let endpoints = cluster
            .load_assignment
            .iter()
            .flat_map(|list| &list.endpoints);
        if let Some(at) = endpoints.into_iter().position(|one| one.priority > 0) {
            let path = FieldPath::root()
                .field("static_resources")
                .field("clusters");
            let path = path
                .index(index)
                .field("load_assignment")
                .field("endpoints");
            let message = format!("Unexpected non-zero priority for local cluster '{name}'.");
            return Err(ConfigError::new(&path.index(at).field("priority"), message).into());
        }
        let node = bootstrap.node.as_ref();
        let locality = node.and_then(|node| node.locality.as_ref());
        let is_known = locality.is_some() || !zone.is_empty();
        Ok(Some(Arc::new(LocalCluster {
            name: name.into(),
            locality: is_known.then(|| Locality {
                zone: zone.to_owned(),
                ..locality.map(Locality::from).unwrap_or_default()
            }),
            hosts: watch::Sender::new(Arc::default()),
        })))
    }
}
