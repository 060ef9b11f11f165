//! `http_health_check`: a request, whose response tells whether the host is healthy.

use std::future::poll_fn;

use ::http::uri::Scheme;
use outrider_codec::Body;
use outrider_codec::Frame;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderValue;
use outrider_codec::RequestHead;
use outrider_codec::ResponseHead;
use outrider_codec::header;
use outrider_net::clock;

use super::CheckResult;
use super::FailureType;
use super::config::HttpCheck;
use super::connection::HealthCheckCx;
use super::connection::HttpConnection;
use super::payload;
use crate::HealthFlag;
use crate::Host;

/// `user-agent` of all checks.
pub(super) const USER_AGENT: HeaderValue = HeaderValue::from_static("Envoy/HC");
/// The most that is kept of an answer's body when `response_buffer_size` is 0, which sets no limit in Envoy.
const MOST: usize = 1 << 20;

/// Asks one host.
#[derive(Default)]
pub(super) struct HttpProbe {
    /// Kept between checks.
    connection: Option<HttpConnection>,
}

impl HttpProbe {
    pub(super) async fn check(
        &mut self,
        config: &HttpCheck,
        cx: &HealthCheckCx,
        host: &Host,
    ) -> CheckResult {
        // Whoever stops polling gives the connection up: it is put back after a whole answer only.
        let kept = self.connection.take().filter(HttpConnection::is_usable);
        let connection = match kept {
            Some(connection) => connection,
            None => match cx.open(host, config.http2).await {
                Some(connection) => connection,
                None => return CheckResult::BROKEN,
            },
        };
        let body = Body::full(config.payload.clone());
        let head = request(config, cx, host);
        clock::expire();
        let Ok(mut exchange) = connection.client.send(&head, body) else {
            return CheckResult::BROKEN;
        };
        let Ok(head) = poll_fn(|task| exchange.poll_response(task)).await else {
            return CheckResult::BROKEN;
        };
        let most = match config.response_buffer_size {
            0 => MOST,
            size => size,
        };
        let mut received = Vec::new();
        let mut body = exchange.into_body();
        loop {
            match body.frame().await {
                Some(Ok(Frame::Data(data))) if !config.receive.is_empty() => {
                    let room = most.saturating_sub(received.len());
                    received.extend(data.iter().take(room));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) => return CheckResult::BROKEN,
                None => break,
            }
        }
        drop(body);
        if cx.config.reuse_connection && connection.is_usable() {
            self.connection = Some(connection);
        }
        evaluate(config, cx, host, &head, &received)
    }
}

fn request(config: &HttpCheck, cx: &HealthCheckCx, host: &Host) -> RequestHead {
    let mut headers = HeaderMap::new();
    headers.append(&header::USER_AGENT, USER_AGENT);
    let mut head = RequestHead {
        method: config.method.clone(),
        scheme: Some(match cx.is_secure(host) {
            true => Scheme::HTTPS,
            false => Scheme::HTTP,
        }),
        authority: HeaderValue::try_from(cx.authority(host, &config.host)).ok(),
        path: Some(config.path.clone()),
        headers,
    };
    config.headers.apply(&mut head.headers);
    if !config.payload.is_empty() {
        let length = config.payload.len().to_string();
        if let Ok(length) = HeaderValue::try_from(length) {
            head.headers.insert(&header::CONTENT_LENGTH, length);
        }
    }
    head
}

/// The result of a check that got this response.
fn evaluate(
    config: &HttpCheck,
    cx: &HealthCheckCx,
    host: &Host,
    head: &ResponseHead,
    received: &[u8],
) -> CheckResult {
    let status = head.status.as_u16();
    let failed = |retriable| CheckResult::Failed {
        kind: FailureType::Active,
        retriable,
        status,
    };
    let exclude_if_asked = || {
        let name = &header::X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL;
        if head.headers.contains_key(name) {
            host.state()
                .set(HealthFlag::ExcludedViaImmediateHcFail, true);
        }
    };
    if !payload::matches(&config.receive, received) {
        exclude_if_asked();
        return failed(false);
    }
    if !config.expected.contains(status) {
        exclude_if_asked();
        return failed(config.retriable.contains(status));
    }
    if let Some(matcher) = &config.service_name
        && verifies_cluster(cx)
    {
        cx.stats.verify_cluster.inc();
        let name = head
            .headers
            .get(&header::X_ENVOY_UPSTREAM_HEALTHCHECKED_CLUSTER);
        if !matcher.matches(name.map_or(b"", HeaderValue::as_bytes)) {
            return failed(false);
        }
    }
    CheckResult::Healthy {
        degraded: head.headers.contains_key(&header::X_ENVOY_DEGRADED),
    }
}

/// The runtime key `health_check.verify_cluster`: the percentage of answers whose service name is looked at.
fn verifies_cluster(cx: &HealthCheckCx) -> bool {
    let snapshot = cx.runtime.snapshot();
    let percent = snapshot
        .number("health_check.verify_cluster")
        .unwrap_or(100);
    fastrand::u64(0..100) < percent
}
