//! The endpoints: one table, which dispatches requests and from which `/` and `/help` are printed.

mod certs;
mod clusters;
mod config_dump;
mod home;
mod lifecycle;
mod listeners;
mod logging;
mod profilers;
mod reload;
mod runtime;
mod server;
mod stats;

use std::pin::Pin;
use std::rc::Rc;

use crate::Admin;
use crate::request::Request;
use crate::request_body::BodyError;
use crate::request_body::RequestBody;
use crate::response::AdminResponse;

/// One endpoint.
pub(crate) struct AdminEndpoint {
    pub(crate) path: &'static str,
    pub(crate) help: &'static str,
    pub(crate) parameters: &'static [Parameter],
    /// Whether it requires POST because it changes something. The others answer any method.
    pub(crate) mutates: bool,
    handle: EndpointHandler,
}

/// The function of an endpoint.
enum EndpointHandler {
    /// Answers at once, after the end of the request.
    Immediate(fn(&Request, &Admin) -> AdminResponse),
    /// May wait before it answers, and reads the request's body.
    Async(fn(Request, RequestBody, Rc<Admin>) -> ResponseFuture),
}

/// The future of a response.
type ResponseFuture = Pin<Box<dyn Future<Output = Result<AdminResponse, BodyError>>>>;

/// A parameter of an endpoint, as the help describes it.
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) kind: ParameterKind,
}

/// Which values a parameter takes.
pub(crate) enum ParameterKind {
    Flag,
    Text,
    OneOf(&'static [&'static str]),
}

const fn get(
    path: &'static str,
    help: &'static str,
    parameters: &'static [Parameter],
    handle: fn(&Request, &Admin) -> AdminResponse,
) -> AdminEndpoint {
    AdminEndpoint {
        path,
        help,
        parameters,
        mutates: false,
        handle: EndpointHandler::Immediate(handle),
    }
}

const fn post(
    path: &'static str,
    help: &'static str,
    parameters: &'static [Parameter],
    handle: fn(&Request, &Admin) -> AdminResponse,
) -> AdminEndpoint {
    AdminEndpoint {
        path,
        help,
        parameters,
        mutates: true,
        handle: EndpointHandler::Immediate(handle),
    }
}

const fn async_post(
    path: &'static str,
    help: &'static str,
    parameters: &'static [Parameter],
    handle: fn(Request, RequestBody, Rc<Admin>) -> ResponseFuture,
) -> AdminEndpoint {
    AdminEndpoint {
        path,
        help,
        parameters,
        mutates: true,
        handle: EndpointHandler::Async(handle),
    }
}

/// All endpoints, in the order of the help. Names and descriptions are Envoy's, because tools parse `/help`.
pub(crate) const ENDPOINTS: &[AdminEndpoint] = &[
    get("/", "Admin home page", &[], home::home),
    post(
        "/allocprofiler",
        "enable/disable the allocation profiler (if supported)",
        profilers::ALLOCATION_PARAMETERS,
        profilers::allocation,
    ),
    get("/certs", "print certs on machine", &[], certs::certs),
    get(
        "/clusters",
        "upstream cluster status",
        clusters::PARAMETERS,
        clusters::clusters,
    ),
    get(
        "/config_dump",
        "dump current Envoy configs",
        config_dump::PARAMETERS,
        config_dump::config_dump,
    ),
    get(
        "/contention",
        "dump current Envoy mutex contention stats (if enabled)",
        &[],
        profilers::contention,
    ),
    post(
        "/cpuprofiler",
        "enable/disable the CPU profiler",
        profilers::CPU_PARAMETERS,
        profilers::cpu,
    ),
    post(
        "/drain_listeners",
        "drain listeners",
        lifecycle::DRAIN_PARAMETERS,
        lifecycle::drain_listeners,
    ),
    post(
        "/healthcheck/fail",
        "cause the server to fail health checks",
        &[],
        lifecycle::healthcheck_fail,
    ),
    post(
        "/healthcheck/ok",
        "cause the server to pass health checks",
        &[],
        lifecycle::healthcheck_ok,
    ),
    get(
        "/heap_dump",
        "dump current Envoy heap (if supported)",
        &[],
        profilers::heap_dump,
    ),
    post(
        "/heapprofiler",
        "enable/disable the heap profiler",
        profilers::HEAP_PARAMETERS,
        profilers::heap,
    ),
    get("/help", "print out list of admin commands", &[], home::help),
    get(
        "/hot_restart_version",
        "print the hot restart compatibility version",
        &[],
        server::hot_restart_version,
    ),
    get(
        "/init_dump",
        "dump current Envoy init manager information (experimental)",
        server::INIT_PARAMETERS,
        server::init_dump,
    ),
    get(
        "/listeners",
        "print listener info",
        listeners::PARAMETERS,
        listeners::listeners,
    ),
    post(
        "/logging",
        "query/change logging levels",
        logging::PARAMETERS,
        logging::logging,
    ),
    get(
        "/memory",
        "print current allocation/heap usage",
        &[],
        server::memory,
    ),
    get(
        "/memory/tcmalloc",
        "print TCMalloc stats",
        &[],
        profilers::tcmalloc,
    ),
    get(
        "/peak_heap_dump",
        "dump peak Envoy heap (if supported)",
        &[],
        profilers::heap_dump,
    ),
    post(
        "/quitquitquit",
        "exit the server",
        &[],
        lifecycle::quitquitquit,
    ),
    get(
        "/ready",
        "print server state, return 200 if LIVE, otherwise return 503",
        &[],
        lifecycle::ready,
    ),
    AdminEndpoint {
        path: "/reload",
        help: "read the config file again and apply it (POST); show what came of the last times",
        parameters: &[],
        mutates: false,
        handle: EndpointHandler::Async(reload::reload),
    },
    post(
        "/reopen_logs",
        "reopen access logs",
        &[],
        logging::reopen_logs,
    ),
    post(
        "/reset_counters",
        "reset all counters to zero",
        &[],
        stats::reset_counters,
    ),
    get("/runtime", "print runtime values", &[], runtime::runtime),
    async_post(
        "/runtime_modify",
        "Adds or modifies runtime values as passed in query parameters. To delete a previously added key, use an empty string as the value. Note that deletion only applies to overrides added via this endpoint; values loaded from disk can be modified via override but not deleted. E.g. ?key1=value1&key2=value2...",
        &[],
        runtime::modify,
    ),
    get(
        "/server_info",
        "print server version/status information",
        &[],
        server::server_info,
    ),
    get(
        "/stats",
        "print server stats",
        stats::PARAMETERS,
        stats::stats,
    ),
    get(
        "/stats/prometheus",
        "print server stats in prometheus format",
        stats::PROMETHEUS_PARAMETERS,
        stats::prometheus,
    ),
    get(
        "/stats/recentlookups",
        "Show recent stat-name lookups",
        &[],
        stats::recent_lookups,
    ),
    post(
        "/stats/recentlookups/clear",
        "clear list of stat-name lookups and counter",
        &[],
        stats::change_recent_lookups,
    ),
    post(
        "/stats/recentlookups/disable",
        "disable recording of reset stat-name lookup names",
        &[],
        stats::change_recent_lookups,
    ),
    post(
        "/stats/recentlookups/enable",
        "enable recording of reset stat-name lookup names",
        &[],
        stats::change_recent_lookups,
    ),
];

/// Answers `request`, after its end.
///
/// # Errors
/// If `body` cannot be read.
pub(crate) async fn answer(
    request: Request,
    mut body: RequestBody,
    admin: Rc<Admin>,
) -> Result<AdminResponse, BodyError> {
    let handle = match find(&request, &admin) {
        Ok(endpoint) => &endpoint.handle,
        Err(refused) => {
            body.discard().await?;
            return Ok(refused);
        }
    };
    match handle {
        EndpointHandler::Immediate(handle) => {
            body.discard().await?;
            Ok(handle(&request, &admin))
        }
        EndpointHandler::Async(handle) => handle(request, body, admin).await,
    }
}

fn find(request: &Request, admin: &Admin) -> Result<&'static AdminEndpoint, AdminResponse> {
    let Request { method, target, .. } = request;
    if !admin.config.allows(target) {
        let text = format!("request to path {target} not allowed");
        return Err(AdminResponse::error(403, text));
    }
    let mut endpoints = ENDPOINTS.iter();
    let Some(endpoint) = endpoints.find(|endpoint| endpoint.path == request.path()) else {
        let text = format!("invalid path. {}", home::commands());
        return Err(AdminResponse::error(404, text));
    };
    if endpoint.mutates && method != "POST" {
        let text = format!("Method {method} not allowed, POST required.");
        return Err(AdminResponse::error(405, text));
    }
    Ok(endpoint)
}
