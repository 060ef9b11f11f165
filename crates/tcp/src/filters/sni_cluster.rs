//! `envoy.filters.network.sni_cluster`: the TCP proxy uses the cluster that the client names in TLS (SNI).

use std::rc::Rc;
use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::network::sni_cluster::v3::SniCluster;
use outrider_config::unpack;
use outrider_http::BuildCx;
use prost_types::Any;

use super::FilteredConnection;
use super::NetworkFilter;
use super::NetworkFilterConfig;
use super::NetworkFilterFactory;
use super::NetworkFilterStatus;
use super::NetworkFilterWorkerCx;

pub(super) const FACTORY: Factory<NetworkFilterFactory> = Factory {
    message: "envoy.extensions.filters.network.sni_cluster.v3.SniCluster",
    build: NetworkFilterFactory::Before(build),
};

fn build(
    any: &Any,
    path: &FieldPath,
    _: &BuildCx<'_>,
) -> Result<Arc<dyn NetworkFilterConfig>, ConfigErrors> {
    unpack::<SniCluster>(any, path)?;
    Ok(Arc::new(SniClusterFilter))
}

#[derive(Debug)]
struct SniClusterFilter;

impl NetworkFilterConfig for SniClusterFilter {
    fn worker(self: Arc<Self>, _: &NetworkFilterWorkerCx<'_>) -> Rc<dyn NetworkFilter> {
        Rc::new(SniClusterFilter)
    }
}

impl NetworkFilter for SniClusterFilter {
    fn on_new_connection(&self, connection: &mut FilteredConnection) -> NetworkFilterStatus {
        let name = &connection.accepted.info.server_name;
        if !name.is_empty() {
            connection.cluster = Some(Rc::from(&**name));
        }
        NetworkFilterStatus::Continue
    }
}
