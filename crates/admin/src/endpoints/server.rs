//! Endpoints about the process: version, memory, start-up.

use serde_json::Value;
use serde_json::json;

use super::Parameter;
use super::ParameterKind::Text;
use crate::Admin;
use crate::process::Memory;
use crate::request::Request;
use crate::response::AdminResponse;

pub(super) fn server_info(_: &Request, admin: &Admin) -> AdminResponse {
    let info = admin.control.info();
    // As in Envoy, in whole seconds.
    let uptime = format!("{}s", info.uptime.as_secs());
    AdminResponse::json(&json!({
        "version": info.version,
        "state": admin.control.state().name(),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": HOT_RESTART_VERSION,
        "command_line_options": info.command_line_options,
        "node": info.node,
        "hot_restart_initializing": false,
    }))
}

/// The answer of Envoy with `--disable-hot-restart`: hot restart is not supported.
const HOT_RESTART_VERSION: &str = "disabled";

pub(super) fn hot_restart_version(_: &Request, _: &Admin) -> AdminResponse {
    AdminResponse::text(HOT_RESTART_VERSION)
}

pub(super) fn memory(_: &Request, _: &Admin) -> AdminResponse {
    let memory = Memory::read();
    AdminResponse::json(&json!({
        "allocated": memory.allocated.to_string(),
        "heap_size": memory.heap.to_string(),
        "pageheap_unmapped": "0",
        "pageheap_free": "0",
        "total_thread_cache": "0",
        "total_physical_bytes": memory.physical.to_string(),
    }))
}

pub(super) const INIT_PARAMETERS: &[Parameter] = &[Parameter {
    name: "mask",
    help: "The desired component to dump unready targets. The mask is parsed as a Protobuf::FieldMask. For example, get the unready targets of all listeners with /init_dump?mask=listener`",
    kind: Text,
}];

pub(super) fn init_dump(request: &Request, admin: &Admin) -> AdminResponse {
    let mask = request.parameter("mask").filter(|mask| !mask.is_empty());
    let unready = admin.control.unready_targets();
    // Envoy knows the targets of listeners only.
    if unready.is_empty() || mask.is_some_and(|mask| mask != "listener") {
        return AdminResponse::json(&json!({}));
    }
    let dumps: Vec<Value> = unready
        .into_iter()
        .map(|unready| match unready.target_names.is_empty() {
            true => json!({ "name": unready.name }),
            false => json!({ "name": unready.name, "target_names": unready.target_names }),
        })
        .collect();
    AdminResponse::json(&json!({ "unready_targets_dumps": dumps }))
}
