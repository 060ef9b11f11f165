//! `grpc_health_check`: a call of `grpc.health.v1.Health.Check`.

use std::future::poll_fn;
use std::time::Duration;

use ::http::Method;
use ::http::StatusCode;
use ::http::uri::Scheme;
use bytes::Bytes;
use outrider_codec::Body;
use outrider_codec::Frame;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderValue;
use outrider_codec::RequestHead;
use outrider_codec::Target;
use outrider_codec::header;
use outrider_net::clock;
use prost::Message;

use super::CheckResult;
use super::FailureType;
use super::config::GrpcCheck;
use super::connection::HealthCheckCx;
use super::connection::HttpConnection;
use super::http::USER_AGENT;
use crate::Host;

/// The method that is called.
const PATH: &str = "/grpc.health.v1.Health/Check";
/// `HealthCheckResponse.SERVING`
const SERVING: i32 = 1;
/// The flag and the length before each message.
const PREFIX: usize = 5;
/// The most that an answer may have.
const MOST: usize = 64 * 1024;

/// `grpc.health.v1.HealthCheckRequest`
#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`
#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks one host.
#[derive(Default)]
pub(super) struct GrpcProbe {
    /// Kept between checks; also by one that times out, whose stream is reset.
    connection: Option<HttpConnection>,
}

impl GrpcProbe {
    pub(super) async fn check(
        &mut self,
        config: &GrpcCheck,
        cx: &HealthCheckCx,
        host: &Host,
    ) -> CheckResult {
        if !(self.connection.as_ref()).is_some_and(HttpConnection::is_usable) {
            self.connection = cx.open(host, true).await;
        }
        let Some(connection) = &self.connection else {
            return CheckResult::BROKEN;
        };
        let call = Call {
            head: request(config, cx, host),
            body: Body::full(frame(&config.service_name)),
        };
        let result = call.run(connection).await;
        if !cx.config.reuse_connection || result == CheckResult::BROKEN {
            self.connection = None;
        }
        result
    }

    /// Ends a check that timed out.
    pub(super) fn give_up(&mut self, cx: &HealthCheckCx) {
        if !cx.config.reuse_connection {
            self.connection = None;
        }
    }
}

struct Call {
    head: RequestHead,
    body: Body,
}

impl Call {
    async fn run(self, connection: &HttpConnection) -> CheckResult {
        const FAILED: CheckResult = CheckResult::Failed {
            kind: FailureType::Active,
            retriable: false,
            status: 0,
        };
        clock::expire();
        let Ok(mut exchange) = connection.client.send(&self.head, self.body) else {
            return CheckResult::BROKEN;
        };
        let Ok(head) = poll_fn(|task| exchange.poll_response(task)).await else {
            return CheckResult::BROKEN;
        };
        let mut body = exchange.into_body();
        if head.status != StatusCode::OK || body.is_end_stream() {
            return FAILED; // even if it said OK, there is no message
        }
        let content_type = head.headers.get(&header::CONTENT_TYPE);
        if !content_type.is_some_and(|value| is_grpc(value.as_bytes())) {
            return FAILED;
        }
        let mut received = Vec::new();
        let trailers = loop {
            match body.frame().await {
                Some(Ok(Frame::Data(data))) => {
                    if received.len() + data.len() > MOST {
                        return FAILED;
                    }
                    received.extend_from_slice(&data);
                }
                Some(Ok(Frame::Trailers(trailers))) => break trailers,
                Some(Err(_)) => return CheckResult::BROKEN,
                None => return FAILED,
            }
        };
        let ok = (trailers.get(&header::GRPC_STATUS)).is_some_and(|status| status == "0");
        match ok && is_serving(&received) {
            true => CheckResult::Healthy { degraded: false },
            false => FAILED,
        }
    }
}

fn is_grpc(content_type: &[u8]) -> bool {
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
}

/// Whether an answer is one message, which says that the service serves.
fn is_serving(received: &[u8]) -> bool {
    let Some((prefix, message)) = received.split_at_checked(PREFIX) else {
        return false;
    };
    let [0, length @ ..] = prefix else {
        return false; // compressed
    };
    let length = length.try_into().map(u32::from_be_bytes);
    length.is_ok_and(|length| length as usize == message.len())
        && HealthCheckResponse::decode(message).is_ok_and(|answer| answer.status == SERVING)
}

/// The message that asks for `service`.
fn frame(service: &str) -> Bytes {
    let message = HealthCheckRequest {
        service: service.to_owned(),
    };
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(PREFIX + message.len());
    frame.push(0);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}

fn request(config: &GrpcCheck, cx: &HealthCheckCx, host: &Host) -> RequestHead {
    let mut headers = HeaderMap::new();
    headers.append(&header::TE, HeaderValue::from_static("trailers"));
    let content_type = HeaderValue::from_static("application/grpc");
    headers.append(&header::CONTENT_TYPE, content_type);
    headers.append(&header::USER_AGENT, USER_AGENT);
    config.initial_metadata.apply(&mut headers);
    if let Ok(timeout) = HeaderValue::try_from(timeout(cx.config.timeout)) {
        headers.insert(&header::GRPC_TIMEOUT, timeout);
    }
    RequestHead {
        method: Method::POST,
        scheme: Some(match cx.is_secure(host) {
            true => Scheme::HTTPS,
            false => Scheme::HTTP,
        }),
        authority: HeaderValue::try_from(cx.authority(host, &config.authority)).ok(),
        path: Target::try_from(PATH).ok(),
        headers,
    }
}

/// `grpc-timeout`, in the finest unit that eight digits can hold.
fn timeout(timeout: Duration) -> String {
    const LIMIT: u128 = 99_999_999;
    let millis = timeout.as_millis();
    match millis {
        0..=LIMIT => format!("{millis}m"),
        _ if millis / 1000 <= LIMIT => format!("{}S", millis / 1000),
        _ => format!("{}M", (millis / 60_000).min(LIMIT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_whether_it_serves() {
        let serving = [0, 0, 0, 0, 2, 8, 1];
        assert!(is_serving(&serving));
        assert!(!is_serving(&[0, 0, 0, 0, 2, 8, 2]));
        assert!(!is_serving(&[0, 0, 0, 0, 0]));
        assert!(!is_serving(&[1, 0, 0, 0, 2, 8, 1]));
        assert!(!is_serving(&[serving, serving].concat()));
        assert!(!is_serving(b""));
    }

    #[test]
    fn asks_for_a_service() {
        assert_eq!(frame("a").as_ref(), [0, 0, 0, 0, 3, 10, 1, b'a']);
        assert_eq!(frame("").as_ref(), [0, 0, 0, 0, 0]);
    }
}
