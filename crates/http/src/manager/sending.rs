//! Sends responses to the client, and ends streams.

use std::borrow::Cow;
use std::future::Future;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use http::Method;
use http::StatusCode;
use http::Version;
use outrider_codec::Body;
use outrider_codec::MalformedRequest;
use outrider_codec::Reason;
use outrider_codec::RequestHeadError;
use outrider_codec::Responder;
use outrider_codec::ResponseHead;
use outrider_codec::StreamError;
use outrider_codec::header;
use outrider_net::DownstreamConnectionInfo;
use outrider_net::clock;
use tokio::time::Instant;

use crate::RequestHead;
use crate::ResponseFlag;
use crate::Stream;
use crate::deadlines::ExpiredTimeout;
use crate::deadlines::StreamDeadlines;
use crate::filters::LateReply;
use crate::filters::LateReplySlot;
use crate::filters::PAYLOAD_TOO_LARGE;
use crate::local_reply::LocalReply;
use crate::manager::ConnectionManager;
use crate::route::Action;
use crate::router;
use crate::router::UpstreamRequest;
use crate::stream::StreamEnd;
use crate::upgrade;
use crate::wait::StreamWait;

impl ConnectionManager {
    /// Makes `reply` the response of `stream` and returns its body.
    pub(super) fn reply(
        &self,
        stream: &mut Stream,
        mut reply: LocalReply,
        respond: &Responder,
    ) -> Body {
        // A reply to a request whose route goes to a cluster gets the headers that the route adds, whichever part
        // replied.
        if !reply.as_is
            && reply.route.is_none()
            && let Some(route) = &stream.route
            && let Action::Forward(_) = route.action
        {
            reply.route = Some(route.clone());
        }
        let invalid = reply.status == StatusCode::BAD_REQUEST;
        if reply.details == PAYLOAD_TOO_LARGE {
            // As in Envoy, the rest of the request is not awaited.
            close_http1(stream, respond);
        }
        if invalid && !respond.has_stream_error_on_invalid_message() {
            close_http1(stream, respond);
        }
        reply.write(stream, self.config.local_replies.as_ref())
    }

    /// Sends the response whose head is in the stream, and notes how the stream ended.
    pub(super) async fn send(&self, end: &mut StreamEnd, body: Body, wait: &mut StreamWait<'_>) {
        let body = if self.filters.is_empty() || end.stream.skips_filters {
            body
        } else {
            let Some(body) = self.filter_response(end, body, wait).await else {
                return;
            };
            body
        };
        let stream = &mut end.stream;
        let Some(head) = self.finish_head(stream, wait.respond) else {
            return;
        };
        if wait.respond.meter().receive_ended().is_none() {
            self.stats
                .requests
                .downstream_rq_response_before_rq_complete
                .inc();
        }
        let upstream = stream
            .upstream
            .as_ref()
            .and_then(|upstream| upstream.request.clone());
        let answered = upstream
            .clone()
            .filter(|request| request.response_began().is_some());
        let outcome = send_until(head, body, answered, wait).await;
        if let Some(reply) = LateReply::take(wait.late_reply) {
            // The response has begun, so there can be no other.
            if let Some(flag) = reply.flag {
                end.stream.flags.set(flag);
            }
            end.stream.details = Some(reply.details);
            self.abort(end, wait.respond);
            return;
        }
        match outcome {
            SendOutcome::All => {
                end.mark_ended();
                if wait.respond.meter().receive_ended().is_none() {
                    self.stats.requests.downstream_rq_rx_reset.inc();
                    if end.stream.is_upgrade && lost_upstream(&end.stream) {
                        wait.respond.reset_unfinished_request(Reason::CONNECT_ERROR);
                    }
                }
            }
            SendOutcome::Failed(StreamError::LocalReset | StreamError::ConnectError)
                if let Some(error) = upstream.as_ref().and_then(|request| request.error()) =>
            {
                self.upstream_broke(end, &error, wait.respond);
            }
            SendOutcome::Failed(error) => end.client_gone(&error),
            SendOutcome::ExpiredTimeout(expired) => self.expire(end, expired, wait.respond),
        }
        end.stream.response_trailers = upstream.and_then(|request| request.take_trailers());
    }

    /// Finishes the response's head, takes it out of the stream except for the captured headers, and counts its status.
    fn finish_head(&self, stream: &mut Stream, respond: &Responder) -> Option<ResponseHead> {
        let head = stream.response.as_mut()?;
        let upgraded = stream.is_upgrade && is_upgraded(&stream.request.method, head);
        if stream.is_upgrade && !upgraded {
            // The client's next bytes may belong to the other protocol.
            close_http1(stream, respond);
        }
        let head = stream.response.as_mut()?;
        if upgraded && stream.request.method == Method::CONNECT {
            // RFC 9110, section 8.6: the tunnel has no length.
            head.headers.remove(&header::CONTENT_LENGTH);
        }
        if let Some(trace) = &mut stream.trace {
            trace.finish_response(&mut head.headers);
        }
        let date = self.dates.value(clock::wall());
        self.config
            .response
            .apply(&mut head.headers, &stream.request.headers, upgraded, date);
        let captured = match &stream.routes {
            Some(routes) => routes.captures().response.from(&head.headers),
            // The request was refused before it had routes.
            None => (self.routes.current().captures().response).from(&head.headers),
        };
        let headers = std::mem::replace(&mut head.headers, captured);
        if !stream.is_health_check {
            self.count_status(head.status);
        }
        Some(ResponseHead {
            status: head.status,
            headers,
        })
    }

    /// Ends a stream whose upstream failed in the middle of the response.
    fn upstream_broke(&self, end: &mut StreamEnd, error: &StreamError, respond: &mut Responder) {
        note_upstream_error(&mut end.stream, error);
        let upstream = end.stream.upstream.as_ref();
        let request = upstream.and_then(|upstream| upstream.request.as_ref());
        if request.is_some_and(|request| request.awaits_grpc_status()) {
            self.stats
                .router
                .rq_reset_after_downstream_response_started
                .inc();
        }
        self.abort(end, respond);
    }

    /// Ends a stream whose deadline passed in the middle of the response.
    pub(super) fn expire(
        &self,
        end: &mut StreamEnd,
        expired: ExpiredTimeout,
        respond: &mut Responder,
    ) {
        if let Some(flag) = expired.flag() {
            end.stream.flags.set(flag);
        }
        end.stream.details = Some(Cow::Borrowed(expired.details()));
        let upstream = end.stream.upstream.as_ref();
        let request = upstream.and_then(|upstream| upstream.request.as_ref());
        if !request.is_some_and(|request| request.expired(expired)) {
            self.count_expired(expired);
        }
        self.abort(end, respond);
    }

    /// Resets the client's stream.
    fn abort(&self, end: &mut StreamEnd, respond: &mut Responder) {
        respond.reset(Reason::INTERNAL_ERROR);
        self.stats.requests.downstream_rq_tx_reset.inc();
        self.stats.requests.downstream_rq_rx_reset.inc();
        end.mark_ended();
    }

    /// Counts a response by its status, also an interim one.
    pub(super) fn count_status(&self, status: StatusCode) {
        self.stats.requests.downstream_rq.record(status.as_u16());
        self.listener_stats.downstream_rq.record(status.as_u16());
    }

    /// Counts a timeout of the connection manager.
    pub(super) fn count_expired(&self, expired: ExpiredTimeout) {
        match expired {
            ExpiredTimeout::Idle => self.stats.requests.downstream_rq_idle_timeout.inc(),
            ExpiredTimeout::Request => self.stats.requests.downstream_rq_timeout.inc(),
            ExpiredTimeout::Duration => {
                self.stats.requests.downstream_rq_max_duration_reached.inc()
            }
            ExpiredTimeout::Response
            | ExpiredTimeout::PerTry
            | ExpiredTimeout::PerTryIdle
            | ExpiredTimeout::UpstreamDuration => {}
        }
    }

    /// Counts a new request.
    pub(super) fn count_request(&self, protocol: Version) {
        self.stats.requests.downstream_rq_total.inc();
        if protocol == Version::HTTP_2 {
            self.stats.requests.downstream_rq_http2_total.inc();
        } else {
            self.stats.requests.downstream_rq_http1_total.inc();
        }
    }

    /// Makes and counts a stream for a request without a head.
    pub(super) fn headless_stream(
        &self,
        connection: Rc<DownstreamConnectionInfo>,
        protocol: Version,
        began: Option<Instant>,
    ) -> Stream {
        let head = RequestHead {
            // Without a method, the log prints `-`.
            method: Method::from_bytes(b"-").unwrap_or_default(),
            ..RequestHead::default()
        };
        let mut stream = Stream::new(connection, head, protocol, self.worker.random());
        stream.set_began(began);
        stream.runtime = self.worker.runtime();
        self.count_request(stream.protocol);
        stream
    }

    /// Replies to a request that the codec could not parse.
    pub(super) async fn refuse(
        self: Rc<Self>,
        connection: Rc<DownstreamConnectionInfo>,
        error: MalformedRequest,
        mut respond: Responder,
    ) {
        let began = respond.meter().receive_began();
        let stream = self.headless_stream(connection, respond.protocol(), began);
        let mut end = StreamEnd::new(stream, self.clone(), respond.meter().clone());
        let reply = LocalReply::new(error.status, error.details).body(error.body.into_owned());
        let reply = match error.details {
            MalformedRequest::HEADER_TIMEOUT => {
                self.stats.requests.downstream_rq_header_timeout.inc();
                reply
            }
            MalformedRequest::IDLE_TIMEOUT => {
                self.count_expired(ExpiredTimeout::Idle);
                reply.flag(ResponseFlag::StreamIdleTimeout)
            }
            MalformedRequest::REQUEST_TIMEOUT => {
                self.count_expired(ExpiredTimeout::Request);
                reply
            }
            MalformedRequest::MAX_DURATION => {
                self.count_expired(ExpiredTimeout::Duration);
                reply
            }
            _ => reply.flag(ResponseFlag::DownstreamProtocolError),
        };
        let body = self.reply(&mut end.stream, reply, &respond);
        let mut deadlines =
            StreamDeadlines::new(self.worker.timers.timer().into(), end.stream.started);
        deadlines.set_idle(self.config.timeouts.idle);
        let late_reply = LateReplySlot::new();
        let mut wait = StreamWait {
            respond: &mut respond,
            deadlines: &mut deadlines,
            late_reply: &late_reply,
        };
        self.send(&mut end, body, &mut wait).await;
    }
}

/// Notes how a request with an incomplete head ended.
pub(super) fn end_headless(mut end: StreamEnd, refused: RequestHeadError) {
    match refused {
        RequestHeadError::Error(error) => end.client_gone(&error),
        RequestHeadError::Limit(details) => {
            end.client_gone(&StreamError::RemoteReset(Reason::INTERNAL_ERROR));
            end.stream.details = Some(Cow::Borrowed(details));
        }
    }
}

/// The outcome of sending a response.
enum SendOutcome {
    All,
    Failed(StreamError),
    ExpiredTimeout(ExpiredTimeout),
}

/// Sends a response until a deadline passes. `upstream` tells when the response is complete; without `upstream` it is
/// complete from the start.
async fn send_until(
    head: ResponseHead,
    body: Body,
    upstream: Option<Rc<UpstreamRequest>>,
    wait: &mut StreamWait<'_>,
) -> SendOutcome {
    let meter = wait.respond.meter().clone();
    let mut sending = pin!(wait.respond.send(head, body));
    poll_fn(|cx| {
        match sending.as_mut().poll(cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(SendOutcome::All),
            Poll::Ready(Err(error)) => return Poll::Ready(SendOutcome::Failed(error)),
            Poll::Pending => {}
        }
        if upstream.as_ref().is_none_or(|request| request.has_ended()) {
            wait.deadlines.begin_flush();
        }
        wait.deadlines
            .poll_expired(&meter, cx)
            .map(SendOutcome::ExpiredTimeout)
    })
    .await
}

fn note_upstream_error(stream: &mut Stream, error: &StreamError) {
    stream.flags.set(router::flag(error));
    stream.details = Some(Cow::Owned(router::after_response(error)));
}

/// Whether the response accepts the upgrade or the tunnel that the client asked for.
fn is_upgraded(method: &Method, head: &ResponseHead) -> bool {
    *method == Method::CONNECT && head.status.is_success()
        || upgrade::requested(&head.headers).is_some()
}

/// Whether the connection to the upstream failed or was lost.
fn lost_upstream(stream: &Stream) -> bool {
    let flags = &stream.flags;
    flags.has(ResponseFlag::UpstreamConnectionFailure)
        || flags.has(ResponseFlag::UpstreamConnectionTermination)
}

fn close_http1(stream: &Stream, respond: &Responder) {
    if stream.protocol != Version::HTTP_2 {
        respond.close_connection_after();
    }
}
