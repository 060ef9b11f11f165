//! Endpoints for Envoy's own allocator and threads, which do not exist here; each response says so.

use super::Parameter;
use super::ParameterKind::OneOf;
use crate::Admin;
use crate::request::Request;
use crate::response::AdminResponse;

const fn switch(help: &'static str) -> Parameter {
    Parameter {
        name: "enable",
        help,
        kind: OneOf(&["y", "n"]),
    }
}

pub(super) const ALLOCATION_PARAMETERS: &[Parameter] =
    &[switch("enable/disable the allocation profiler")];
pub(super) const CPU_PARAMETERS: &[Parameter] = &[switch("enables the CPU profiler")];
pub(super) const HEAP_PARAMETERS: &[Parameter] = &[switch("enable/disable the heap profiler")];

pub(super) fn allocation(request: &Request, _: &Admin) -> AdminResponse {
    enable_or_disable(request, "allocation profiler")
}

pub(super) fn cpu(request: &Request, _: &Admin) -> AdminResponse {
    enable_or_disable(request, "CPU profiler")
}

pub(super) fn heap(_: &Request, _: &Admin) -> AdminResponse {
    unsupported("heap profiler")
}

pub(super) fn heap_dump(_: &Request, _: &Admin) -> AdminResponse {
    unsupported("heap dump")
}

pub(super) fn tcmalloc(_: &Request, _: &Admin) -> AdminResponse {
    unsupported("tcmalloc stats")
}

pub(super) fn contention(_: &Request, _: &Admin) -> AdminResponse {
    AdminResponse::text(
        "Mutex contention tracing is not enabled. To enable, run Envoy with flag --enable-mutex-tracing.",
    )
}

fn enable_or_disable(request: &Request, feature: &str) -> AdminResponse {
    let parameters = request.parameters();
    let valid = match parameters.as_slice() {
        [(name, value)] => name == "enable" && (value == "y" || value == "n"),
        _ => false,
    };
    match valid {
        true => unsupported(feature),
        false => AdminResponse::error(400, "?enable=<y|n>\n"),
    }
}

fn unsupported(feature: &str) -> AdminResponse {
    AdminResponse::error(501, format!("The current build does not support {feature}"))
}
