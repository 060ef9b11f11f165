//! The access log of the admin server.

use outrider_admin::AdminRequest;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::Admin;
use outrider_http::access_log::AccessLog;
use outrider_http::access_log::Exchange;
use outrider_http::access_log::LogFiles;
use outrider_http::access_log::WorkerLog;

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

/// Writes an answered request to `logs`.
pub(crate) fn write(logs: &[WorkerLog], request: &AdminRequest) {
    for log in logs {
        log.log_exchange(&Exchange {
            started: request.started,
            duration: request.duration,
            method: &request.method,
            target: &request.target,
            headers: &request.headers,
            status: request.status,
            received: request.received,
            sent: request.sent,
            local: &request.local,
            remote: &request.remote,
        });
    }
}
