//! The types of resources, and the methods by which control planes serve them.

/// A type of resource.
#[derive(Debug)]
pub struct ResourceType {
    /// The name of its message.
    pub name: &'static str,
    /// The method that streams all resources of the type.
    pub(crate) whole: &'static str,
    /// The method that streams their changes.
    pub(crate) incremental: &'static str,
}

macro_rules! resource_type {
    ($name:literal, $service:literal, $noun:literal) => {
        ResourceType {
            name: $name,
            whole: concat!("/envoy.service.", $service, "/Stream", $noun),
            incremental: concat!("/envoy.service.", $service, "/Delta", $noun),
        }
    };
}

impl ResourceType {
    /// All types, on one stream.
    pub(crate) const AGGREGATED: ResourceType = resource_type!(
        "",
        "discovery.v3.AggregatedDiscoveryService",
        "AggregatedResources"
    );
    /// CDS
    pub const CLUSTER: ResourceType = resource_type!(
        "envoy.config.cluster.v3.Cluster",
        "cluster.v3.ClusterDiscoveryService",
        "Clusters"
    );
    /// EDS
    pub const ENDPOINTS: ResourceType = resource_type!(
        "envoy.config.endpoint.v3.ClusterLoadAssignment",
        "endpoint.v3.EndpointDiscoveryService",
        "Endpoints"
    );
    /// LDS
    pub const LISTENER: ResourceType = resource_type!(
        "envoy.config.listener.v3.Listener",
        "listener.v3.ListenerDiscoveryService",
        "Listeners"
    );
    /// RDS
    pub const ROUTES: ResourceType = resource_type!(
        "envoy.config.route.v3.RouteConfiguration",
        "route.v3.RouteDiscoveryService",
        "Routes"
    );
    /// RTDS
    pub const RUNTIME: ResourceType = resource_type!(
        "envoy.service.runtime.v3.Runtime",
        "runtime.v3.RuntimeDiscoveryService",
        "Runtime"
    );
    /// SDS
    pub const SECRET: ResourceType = resource_type!(
        "envoy.extensions.transport_sockets.tls.v3.Secret",
        "secret.v3.SecretDiscoveryService",
        "Secrets"
    );

    /// The URL of the type in an `Any`.
    pub(crate) fn url(&self) -> String {
        format!("type.googleapis.com/{}", self.name)
    }
}
