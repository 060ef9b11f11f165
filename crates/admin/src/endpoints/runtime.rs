//! `/runtime` and `/runtime_modify`.

use std::rc::Rc;

use serde_json::Map;
use serde_json::json;

use super::ResponseFuture;
use crate::Admin;
use crate::request::Request;
use crate::request_body::RequestBody;
use crate::response::AdminResponse;

/// The maximum size of a form.
const MAX_FORM: usize = 1024 * 1024;

pub(super) fn runtime(_: &Request, admin: &Admin) -> AdminResponse {
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
    AdminResponse::json(&json!({ "entries": entries, "layers": runtime.layers }))
}

pub(super) fn modify(request: Request, mut body: RequestBody, admin: Rc<Admin>) -> ResponseFuture {
    Box::pin(async move {
        let body = body.collect(MAX_FORM).await?;
        let mut values = request.parameters();
        values.extend(request.form(&body));
        Ok(change(&values, &admin))
    })
}

fn change(values: &[(String, String)], admin: &Admin) -> AdminResponse {
    if values.is_empty() {
        return AdminResponse::error(
            400,
            "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n       \
             or send the parameters as form values\n\
             use an empty value to remove a previously added override",
        );
    }
    match admin.control.modify_runtime(values) {
        Ok(()) => AdminResponse::done(),
        Err(error) => AdminResponse::error(503, error),
    }
}
