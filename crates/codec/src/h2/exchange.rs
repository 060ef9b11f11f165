//! One request on an HTTP/2 connection, as the client sees it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use h2::Reason;
use h2::client::ResponseFuture;
use http::Response;

use crate::Frame;
use crate::Meter;
use crate::StreamError;

use super::FRAME_HEAD;
use super::RecvBody;
use super::client::ActiveStream;
use super::headers;
use super::pump::Pump;
use super::stream_error;

/// One request on a connection. Dropping it before both messages have ended resets the stream.
pub(crate) struct Exchange {
    pump: Pump,
    /// The pump is done.
    sent: bool,
    answer: Answer,
    active: ActiveStream,
    meter: Rc<Meter>,
}

/// What is awaited of the answer.
enum Answer {
    Head(ResponseFuture),
    Body(RecvBody),
    Ended,
}

impl Exchange {
    pub(super) fn new(
        pump: Pump,
        sent: bool,
        response: ResponseFuture,
        active: ActiveStream,
        meter: Rc<Meter>,
    ) -> Exchange {
        Exchange {
            pump,
            sent,
            answer: Answer::Head(response),
            active,
            meter,
        }
    }

    pub(crate) fn meter(&self) -> &Rc<Meter> {
        &self.meter
    }

    pub(crate) fn request_sent(&self) -> bool {
        self.sent
    }

    pub(crate) fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<()>, StreamError>> {
        let pumped = self.poll_pump(cx);
        let Answer::Head(response) = &mut self.answer else {
            return Poll::Ready(Err(StreamError::LocalReset));
        };
        match Pin::new(response).poll(cx) {
            Poll::Ready(Ok(response)) => {
                let (head, body) = response.into_parts();
                let size = headers::size(&head.headers);
                self.meter.add_headers_received(size, size + FRAME_HEAD);
                self.answer = Answer::Body(RecvBody::new(body, self.meter.clone(), None));
                Poll::Ready(self.check(Response::from_parts(head, ())))
            }
            Poll::Ready(Err(error)) => {
                self.answer = Answer::Ended;
                Poll::Ready(Err(self.failure(&error)))
            }
            // The request failed by its own source, and the stream was reset: no answer will come.
            Poll::Pending => match pumped {
                Err(error) => Poll::Ready(Err(error)),
                Ok(()) => Poll::Pending,
            },
        }
    }

    pub(crate) fn poll_informational(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Response<()>, StreamError>>> {
        match &mut self.answer {
            Answer::Head(response) => response
                .poll_informational(cx)
                .map_err(|error| self.failure(&error)),
            Answer::Body(_) | Answer::Ended => Poll::Ready(None),
        }
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, StreamError>>> {
        // An error of the request shows in the answer, or the peer did not care for the rest of it.
        drop(self.poll_pump(cx));
        let Answer::Body(body) = &mut self.answer else {
            return Poll::Ready(None);
        };
        let frame = ready!(body.poll_frame(cx));
        if body.is_end_stream() && frame.is_none() {
            self.answer = Answer::Ended;
        }
        Poll::Ready(frame)
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        match &self.answer {
            Answer::Head(_) => false,
            Answer::Body(body) => body.is_end_stream(),
            Answer::Ended => true,
        }
    }

    fn poll_pump(&mut self, cx: &mut Context<'_>) -> Result<(), StreamError> {
        if self.sent {
            return Ok(());
        }
        match self.pump.poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(result) => {
                self.sent = true;
                result
            }
        }
    }

    /// What the crate's error means. One that is the crate's own tells of a malformed head.
    fn failure(&self, error: &h2::Error) -> StreamError {
        if error.is_reset() && error.is_library() {
            self.active.malformed();
        }
        stream_error(error)
    }

    /// `max_headers_count` and `max_response_headers_kb`.
    fn check(&self, response: Response<()>) -> Result<Response<()>, StreamError> {
        let options = self.active.options();
        let limit = options.max_response_headers_kb.unwrap_or(60) as usize * 1024;
        if headers::size(response.headers()) > limit
            || response.headers().len() > options.max_headers_count as usize
        {
            options.http2_stats.header_overflow.inc();
            return Err(StreamError::ProtocolError("http2.too_many_headers"));
        }
        Ok(response)
    }
}

impl Drop for Exchange {
    /// Tells the peer that nobody waits any more, with the code that Envoy gives.
    fn drop(&mut self) {
        if !self.sent || !self.is_end_stream() {
            self.pump.reset(Reason::INTERNAL_ERROR);
        }
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").finish_non_exhaustive()
    }
}
