//! `/runtime` and `/runtime_modify`.

use serde_json::Map;
use serde_json::json;

use crate::Admin;
use crate::NoAdminLayer;
use crate::request::Request;
use crate::response::Response;

pub(super) fn runtime(_: &Request, admin: &Admin) -> Response {
    let runtime = admin.control.runtime();
    let entries: Map<_, _> = runtime
        .entries
        .into_iter()
        .map(|(key, values)| {
            let last = values.iter().rfind(|value| !value.is_empty());
            let last = last.cloned().unwrap_or_default();
            (key, json!({ "final_value": last, "layer_values": values }))
        })
        .collect();
    Response::json(&json!({ "entries": entries, "layers": runtime.layers }))
}

pub(super) fn modify(request: &Request, admin: &Admin) -> Response {
    let mut values = request.parameters();
    values.extend(request.form());
    if values.is_empty() {
        return Response::error(
            400,
            "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n       \
             or send the parameters as form values\n\
             use an empty value to remove a previously added override",
        );
    }
    match admin.control.modify_runtime(&values) {
        Ok(()) => Response::done(),
        Err(NoAdminLayer) => Response::error(503, "No admin layer specified"),
    }
}
