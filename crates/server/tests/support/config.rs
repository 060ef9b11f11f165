//! Bootstraps, listeners and files of resources, for tests of reloads.

use serde_json::Value;

use super::Folder;
use super::Server;

/// A bootstrap whose listeners answer all requests with a direct response.
pub(crate) fn bootstrap(listeners: &[String], more: &str) -> String {
    format!(
        "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}\n{more}\n\
         static_resources:\n  listeners:\n{}",
        listeners.concat()
    )
}

/// A listener that answers with `body`; `manager` has additional fields of its connection manager.
pub(crate) fn listener(name: &str, body: &str, manager: &str) -> String {
    format!(
        "  - name: {name}\n    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}\n    filter_chains:\n    \
         - filters:\n      - name: hcm\n        typed_config:\n          \
         '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          \
         stat_prefix: {name}\n          {manager}\n          route_config: {{virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: \
         {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: {body}}}}}}}]}}]}}\n          \
         http_filters: [{{name: router, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]\n"
    )
}

pub(crate) fn address_of(server: &Server, name: &str) -> String {
    let (_, listeners) = server.get("/listeners");
    let mut lines = listeners.lines().filter_map(|line| line.split_once("::"));
    lines
        .find(|(found, _)| *found == name)
        .unwrap()
        .1
        .to_owned()
}

pub(crate) fn reload(server: &Server) -> (u16, Value) {
    let (status, text) = server.post("/reload");
    (status, serde_json::from_str(&text).unwrap())
}

/// A file of resources of this type, moved into its place by a rename, as a deployment does.
pub(crate) fn resources(folder: &Folder, name: &str, kind: &str, list: &[&str]) -> String {
    let list = list
        .iter()
        .map(|resource| format!("- '@type': type.googleapis.com/envoy.config.{kind}\n{resource}"));
    let list = list.collect::<String>();
    folder.file("new", &format!("resources:\n{list}"));
    std::fs::rename(folder.path("new"), folder.path(name)).unwrap();
    folder.path(name).to_str().unwrap().to_owned()
}

/// A bootstrap with a source of listeners and one of clusters.
pub(crate) fn dynamic(listeners: &str, clusters: &str) -> String {
    format!(
        "node: {{id: here, cluster: all}}\n\
         dynamic_resources: {{lds_config: {{path_config_source: {{path: {listeners}}}}}, cds_config: {{path_config_source: {{path: {clusters}}}}}}}"
    )
}
