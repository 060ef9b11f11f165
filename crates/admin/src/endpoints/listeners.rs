//! `/listeners`.

use std::fmt::Write as _;

use outrider_net::Address;
use serde_json::Value;
use serde_json::json;

use super::Parameter;
use super::ParameterKind::OneOf;
use crate::Admin;
use crate::request::Request;
use crate::response::AdminResponse;

pub(super) const PARAMETERS: &[Parameter] = &[Parameter {
    name: "format",
    help: "File format to use",
    kind: OneOf(&["text", "json"]),
}];

pub(super) fn listeners(request: &Request, admin: &Admin) -> AdminResponse {
    let listeners = admin.control.listeners();
    if request.parameter("format").as_deref() != Some("json") {
        let mut text = String::new();
        for listener in &listeners {
            for address in &listener.addresses {
                // Writing to a String cannot fail.
                writeln!(text, "{}::{address}", listener.name).unwrap_or_default();
            }
        }
        return AdminResponse::text(text);
    }
    let statuses: Vec<_> = listeners
        .iter()
        .map(|listener| {
            let mut status = json!({ "name": listener.name });
            let mut addresses = listener.addresses.iter().map(address);
            if let Some(first) = addresses.next() {
                status["local_address"] = first;
            }
            let additional: Vec<_> = addresses.collect();
            if !additional.is_empty() {
                status["additional_local_addresses"] = additional.into();
            }
            status
        })
        .collect();
    match statuses.is_empty() {
        true => AdminResponse::json(&json!({})),
        false => AdminResponse::json(&json!({ "listener_statuses": statuses })),
    }
}

/// `envoy.config.core.v3.Address` as JSON.
pub(super) fn address(address: &Address) -> Value {
    match address {
        Address::Ip(ip) => json!({
            "socket_address": { "address": ip.ip().to_string(), "port_value": ip.port() }
        }),
        Address::Pipe(_) => json!({ "pipe": { "path": address.to_string() } }),
        Address::Internal(internal) => {
            let mut shown = json!({ "server_listener_name": &*internal.listener });
            if !internal.endpoint_id.is_empty() {
                shown["endpoint_id"] = (&*internal.endpoint_id).into();
            }
            json!({ "envoy_internal_address": shown })
        }
    }
}
