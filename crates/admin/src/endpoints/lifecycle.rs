//! Readiness, health, draining and the end of the server.

use super::Parameter;
use super::ParameterKind::Flag;
use crate::Admin;
use crate::DrainListeners;
use crate::ServerState;
use crate::request::Request;
use crate::response::AdminResponse;

pub(super) fn ready(_: &Request, admin: &Admin) -> AdminResponse {
    let state = admin.control.state();
    let status = if state == ServerState::Live { 200 } else { 503 };
    AdminResponse::error(status, format!("{}\n", state.name()))
}

pub(super) fn healthcheck_fail(_: &Request, admin: &Admin) -> AdminResponse {
    admin.control.fail_health_checks(true);
    AdminResponse::done()
}

pub(super) fn healthcheck_ok(_: &Request, admin: &Admin) -> AdminResponse {
    admin.control.fail_health_checks(false);
    AdminResponse::done()
}

pub(super) const DRAIN_PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "graceful",
        help: "When draining listeners, enter a graceful drain period prior to closing listeners. This behaviour and duration is configurable via server options or CLI",
        kind: Flag,
    },
    Parameter {
        name: "skip_exit",
        help: "When draining listeners, drain the connections but never stop the listeners. The graceful parameter has no effect when this is set, since the drain period only delays stopping the listeners",
        kind: Flag,
    },
    Parameter {
        name: "inboundonly",
        help: "Drains all inbound listeners. traffic_direction field in envoy_v3_api_msg_config.listener.v3.Listener is used to determine whether a listener is inbound or outbound.",
        kind: Flag,
    },
];

pub(super) fn drain_listeners(request: &Request, admin: &Admin) -> AdminResponse {
    admin.control.drain_listeners(DrainListeners {
        graceful: request.has("graceful"),
        skip_exit: request.has("skip_exit"),
        inbound_only: request.has("inboundonly"),
    });
    AdminResponse::done()
}

pub(super) fn quitquitquit(_: &Request, _: &Admin) -> AdminResponse {
    AdminResponse::done().then_quit()
}
