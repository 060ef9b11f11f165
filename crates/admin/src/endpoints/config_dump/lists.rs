//! The repeated fields of the messages of `/config_dump`, with the types and fields of their elements.

/// A repeated field of a section.
pub(super) struct List {
    /// Its name.
    pub(super) name: &'static str,
    /// The message type of its elements.
    pub(super) element: &'static str,
    /// The fields of that message.
    pub(super) element_fields: &'static [&'static str],
}

const fn list(
    name: &'static str,
    element: &'static str,
    element_fields: &'static [&'static str],
) -> List {
    List {
        name,
        element,
        element_fields,
    }
}

pub(super) const CLUSTER_LISTS: &[List] = &[
    list(
        "static_clusters",
        "StaticCluster",
        &["cluster", "last_updated"],
    ),
    list("dynamic_active_clusters", "DynamicCluster", DYNAMIC_CLUSTER),
    list(
        "dynamic_warming_clusters",
        "DynamicCluster",
        DYNAMIC_CLUSTER,
    ),
];
const DYNAMIC_CLUSTER: &[&str] = &[
    "version_info",
    "cluster",
    "last_updated",
    "error_state",
    "client_status",
];
pub(super) const ENDPOINT_LISTS: &[List] = &[
    list(
        "static_endpoint_configs",
        "StaticEndpointConfig",
        &["endpoint_config", "last_updated"],
    ),
    list("dynamic_endpoint_configs", "DynamicEndpointConfig", &[]),
];
pub(super) const LISTENER_LISTS: &[List] = &[
    list(
        "static_listeners",
        "StaticListener",
        &["listener", "last_updated"],
    ),
    list(
        "dynamic_listeners",
        "DynamicListener",
        &[
            "name",
            "active_state",
            "warming_state",
            "draining_state",
            "error_state",
            "client_status",
        ],
    ),
];
pub(super) const SCOPED_ROUTE_LISTS: &[List] = &[
    list(
        "inline_scoped_route_configs",
        "InlineScopedRouteConfigs",
        &[],
    ),
    list(
        "dynamic_scoped_route_configs",
        "DynamicScopedRouteConfigs",
        &[],
    ),
];
pub(super) const ROUTE_LISTS: &[List] = &[
    list(
        "static_route_configs",
        "StaticRouteConfig",
        &["route_config", "last_updated"],
    ),
    list(
        "dynamic_route_configs",
        "DynamicRouteConfig",
        &[
            "version_info",
            "route_config",
            "last_updated",
            "error_state",
            "client_status",
        ],
    ),
];
pub(super) const SECRET_LISTS: &[List] = &[
    list(
        "static_secrets",
        "StaticSecret",
        &["name", "last_updated", "secret"],
    ),
    list("dynamic_active_secrets", "DynamicSecret", DYNAMIC_SECRET),
    list("dynamic_warming_secrets", "DynamicSecret", DYNAMIC_SECRET),
];

const DYNAMIC_SECRET: &[&str] = &[
    "name",
    "version_info",
    "last_updated",
    "secret",
    "error_state",
    "client_status",
];
