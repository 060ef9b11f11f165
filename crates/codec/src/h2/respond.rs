//! The way back to the client of one HTTP/2 stream.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::Response;

use crate::Body;
use crate::Meter;
use crate::StreamError;
use crate::stats::ConnectionStats;

use super::FRAME_HEAD;
use super::headers;
use super::pump::Pump;
use super::pump::reset_error;
use super::stream_error;
use super::streams::Streams;

/// One stream's answer. Dropping it unfinished resets the stream.
#[derive(Debug)]
pub(crate) struct Respond {
    phase: Phase,
    /// The answer to a HEAD request has no body, whatever it is given.
    head_request: bool,
    meter: Rc<Meter>,
    streams: Rc<Streams>,
}

/// ```text
/// Head --send--> Body --all sent--> Ended
///   '--send, without a body, or reset--^
/// ```
#[derive(Debug)]
enum Phase {
    Head(SendResponse<Bytes>),
    Body(Pump),
    Ended,
}

impl Respond {
    pub(super) fn new(
        respond: SendResponse<Bytes>,
        head_request: bool,
        meter: Rc<Meter>,
        streams: Rc<Streams>,
    ) -> Respond {
        Respond {
            phase: Phase::Head(respond),
            head_request,
            meter,
            streams,
        }
    }

    pub(crate) fn meter(&self) -> &Rc<Meter> {
        &self.meter
    }

    pub(crate) fn stats(&self) -> &Arc<ConnectionStats> {
        self.streams.stats()
    }

    pub(crate) fn has_stream_error_on_invalid_message(&self) -> bool {
        self.streams.has_stream_error_on_invalid_message()
    }

    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        match &mut self.phase {
            Phase::Head(respond) => respond.poll_reset(cx).map(|reason| reset_error(&reason)),
            Phase::Body(pump) => pump.poll_reset(cx),
            Phase::Ended => Poll::Pending,
        }
    }

    pub(crate) fn informational(&mut self, head: Response<()>) -> Result<(), StreamError> {
        match &mut self.phase {
            Phase::Head(respond) => respond
                .send_informational(head)
                .map_err(|error| stream_error(&error)),
            Phase::Body(_) | Phase::Ended => Ok(()),
        }
    }

    pub(crate) async fn send(&mut self, response: Response<Body>) -> Result<(), StreamError> {
        let Phase::Head(respond) = &mut self.phase else {
            return Err(StreamError::LocalReset);
        };
        self.streams.close_if_draining();
        let (head, body) = response.into_parts();
        let ends = self.head_request || body.is_end_stream();
        let size = headers::size(&head.headers);
        let stream = respond
            .send_response(Response::from_parts(head, ()), ends)
            .map_err(|error| stream_error(&error))?;
        self.meter.add_headers_sent(size, size + FRAME_HEAD);
        if ends {
            self.phase = Phase::Ended;
            self.meter.end_send();
            return Ok(());
        }
        self.phase = Phase::Body(Pump::new(stream, body, self.meter.clone()));
        poll_fn(|cx| self.poll_body(cx)).await
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let Phase::Body(pump) = &mut self.phase else {
            return Poll::Ready(Ok(()));
        };
        let sent = pump.poll(cx);
        if sent.is_ready() {
            self.phase = Phase::Ended;
        }
        sent
    }

    pub(crate) fn reset(&mut self, reason: Reason) {
        if reason == Reason::PROTOCOL_ERROR {
            self.streams.note_own_reset();
        }
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Head(mut respond) => respond.send_reset(reason),
            Phase::Body(mut pump) => pump.reset(reason),
            Phase::Ended => {}
        }
    }

    pub(crate) fn close_connection_after(&self) {
        self.streams.close();
    }
}
