//! The access log of the admin server.

use std::net::IpAddr;
use std::sync::Arc;

use outrider_admin::AdminRequest;
use outrider_admin::AdminRequestHead;
use outrider_admin::RequestFailure;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::Admin;
use outrider_http::ResponseFlag;
use outrider_http::access_log::AccessLog;
use outrider_http::access_log::LogFiles;
use outrider_http::access_log::LoggedExchange;
use outrider_http::access_log::WorkerLog;
use outrider_runtime::Snapshot;

/// Builds `admin.access_log`, and the older `admin.access_log_path`.
#[expect(deprecated, reason = "Envoy still obeys access_log_path")]
pub(crate) fn build(
    admin: &Admin,
    path: &FieldPath,
    files: &LogFiles,
) -> Result<Vec<AccessLog>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let mut logs = Vec::new();
    for (index, log) in admin.access_log.iter().enumerate() {
        let path = path.field("access_log").index(index);
        logs.extend(errors.collect(AccessLog::build(log, &path, files)));
    }
    if !admin.access_log_path.is_empty() {
        let path = path.field("access_log_path");
        logs.extend(errors.collect(AccessLog::to_file(&admin.access_log_path, &path, files)));
    }
    errors.finish(logs)
}

/// Writes an ended request to `logs`, whose filters read `runtime`. `local_address` replaces the loopback address in
/// `x-forwarded-for`.
pub(crate) fn write(
    logs: &[WorkerLog],
    request: &AdminRequest,
    local_address: IpAddr,
    runtime: &Arc<Snapshot>,
) {
    let unread = AdminRequestHead::default();
    let head = request.head.as_ref().unwrap_or(&unread);
    let exchange = LoggedExchange {
        started: request.started,
        duration: request.duration,
        protocol: request.protocol,
        method: &head.method,
        target: &head.target,
        headers: &head.headers,
        local_address: (!request.is_refused).then_some(local_address),
        status: request.status,
        details: request.details,
        flag: request.failure.map(flag),
        response_headers: &request.response_headers,
        received: request.received,
        sent: request.sent,
        local: &request.local,
        remote: &request.remote,
        runtime,
    };
    for log in logs {
        log.log_exchange(&exchange);
    }
}

fn flag(failure: RequestFailure) -> ResponseFlag {
    match failure {
        RequestFailure::Protocol => ResponseFlag::DownstreamProtocolError,
        RequestFailure::Disconnect => ResponseFlag::DownstreamConnectionTermination,
        RequestFailure::IdleTimeout => ResponseFlag::StreamIdleTimeout,
    }
}
