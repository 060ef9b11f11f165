//! Sends the response on one HTTP/2 stream.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use crate::ResponseHead;

use crate::Body;
use crate::Meter;
use crate::Reason;
use crate::StreamError;
use crate::stats::ConnectionStats;

use super::headers;
use super::pump::Pump;
use super::server::SharedConnection;
use super::session::StreamRef;

/// Sends one stream's response. Dropping it before its end resets the stream.
#[derive(Debug)]
pub(crate) struct H2Responder {
    stream: StreamRef,
    phase: RespondPhase,
    /// The response to HEAD has no body, even if one is given.
    head_request: bool,
    meter: Rc<Meter>,
    connection: Rc<SharedConnection>,
}

/// ```text
/// Head --send--> Body --all sent--> Ended
///   '--send, without a body, or reset--^
/// ```
#[derive(Debug)]
enum RespondPhase {
    Head,
    Body(Pump),
    Ended,
}

impl H2Responder {
    pub(super) fn new(
        stream: StreamRef,
        head_request: bool,
        meter: Rc<Meter>,
        connection: Rc<SharedConnection>,
    ) -> H2Responder {
        H2Responder {
            stream,
            phase: RespondPhase::Head,
            head_request,
            meter,
            connection,
        }
    }

    pub(crate) fn meter(&self) -> &Rc<Meter> {
        &self.meter
    }

    pub(crate) fn stats(&self) -> &Arc<ConnectionStats> {
        self.connection.stats()
    }

    pub(crate) fn has_stream_error_on_invalid_message(&self) -> bool {
        self.connection.has_stream_error_on_invalid_message()
    }

    pub(crate) fn stream_window(&self) -> u32 {
        self.connection.stream_window()
    }

    pub(crate) fn abort_connection(&self, why: &'static str) -> bool {
        self.connection.abort(why)
    }

    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        match &self.phase {
            RespondPhase::Head | RespondPhase::Body(_) => self.stream.poll_reset(cx),
            RespondPhase::Ended => Poll::Pending,
        }
    }

    pub(crate) fn reset_error(&self) -> Option<StreamError> {
        self.stream.reset_error()
    }

    pub(crate) fn set_flush_timeout(&self, timeout: Option<Duration>) {
        self.stream.set_flush_timeout(timeout);
    }

    pub(crate) fn informational(&mut self, head: &ResponseHead) {
        if matches!(self.phase, RespondPhase::Head) {
            self.send_head(head, false);
        }
    }

    pub(crate) async fn send(
        &mut self,
        head: &ResponseHead,
        body: Body,
    ) -> Result<(), StreamError> {
        if !matches!(self.phase, RespondPhase::Head) {
            return Err(StreamError::LocalReset);
        }
        self.connection.close_if_draining();
        let ends = self.head_request || body.is_end_stream();
        self.send_head(head, ends);
        if ends {
            self.phase = RespondPhase::Ended;
            return Ok(());
        }
        self.phase = RespondPhase::Body(Pump::new(body));
        poll_fn(|cx| self.poll_body(cx)).await
    }

    fn send_head(&self, head: &ResponseHead, ends: bool) {
        self.stream.send_head(ends, |encoder, out| {
            headers::encode_response(head, encoder, out)
        });
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let RespondPhase::Body(pump) = &mut self.phase else {
            return Poll::Ready(Ok(()));
        };
        let sent = pump.poll(&self.stream, cx);
        if sent.is_ready() {
            self.phase = RespondPhase::Ended;
        }
        sent
    }

    pub(crate) fn reset(&mut self, reason: Reason) {
        if !matches!(self.phase, RespondPhase::Ended) {
            self.stream.reset(reason);
            self.phase = RespondPhase::Ended;
        }
    }

    /// Resets a request that continues after its complete response, with this code.
    pub(crate) fn reset_unfinished_request(&self, reason: Reason) {
        if matches!(self.phase, RespondPhase::Ended) {
            self.stream.reset_unfinished_request(reason);
        }
    }

    pub(crate) fn close_connection_after(&self) {
        self.connection.close();
    }
}
