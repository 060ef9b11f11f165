//! One request on an HTTP/2 connection, in the client role.

use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use http::StatusCode;

use crate::Frame;
use crate::HeaderValue;
use crate::Meter;
use crate::Reason;
use crate::ResponseHead;
use crate::StreamError;
use crate::header;

use super::client::ActiveClientStream;
use super::pump::Pump;
use super::session::StreamRef;

/// One request on a connection. Dropping it before both messages have ended resets the stream.
#[derive(Debug)]
pub(crate) struct H2Exchange {
    stream: StreamRef,
    /// `None` once the whole request was handed to the connection.
    pump: Option<Pump>,
    /// The protocol that the request asks to upgrade to.
    upgrade: Option<HeaderValue>,
    response_phase: ResponsePhase,
    meter: Rc<Meter>,
    /// Declared last: the stream is reset before its capacity is released.
    _active: ActiveClientStream,
}

/// Which part of the response comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResponsePhase {
    Head,
    Body,
    Ended,
}

impl H2Exchange {
    pub(super) fn new(
        stream: StreamRef,
        pump: Option<Pump>,
        upgrade: Option<HeaderValue>,
        meter: Rc<Meter>,
        active: ActiveClientStream,
    ) -> H2Exchange {
        H2Exchange {
            stream,
            pump,
            upgrade,
            response_phase: ResponsePhase::Head,
            meter,
            _active: active,
        }
    }

    pub(crate) fn meter(&self) -> &Rc<Meter> {
        &self.meter
    }

    pub(crate) fn request_sent(&self) -> bool {
        self.pump.is_none()
    }

    /// Polls the next response head: interim ones first, then the final one.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, StreamError>> {
        let pumped = self.poll_pump(cx);
        if self.response_phase != ResponsePhase::Head {
            return Poll::Ready(Err(StreamError::LocalReset));
        }
        match self.stream.poll_head(cx) {
            Poll::Ready(Some(Ok(mut response))) => {
                if !response.status.is_informational() {
                    self.response_phase = ResponsePhase::Body;
                    self.restore_upgrade(&mut response);
                }
                Poll::Ready(Ok(response))
            }
            Poll::Ready(other) => {
                self.response_phase = ResponsePhase::Ended;
                let error = other.and_then(Result::err);
                Poll::Ready(Err(error.unwrap_or(StreamError::ConnectionTermination)))
            }
            // The request body failed and the stream was reset: no response will arrive.
            Poll::Pending => match pumped {
                Err(error) => Poll::Ready(Err(error)),
                Ok(()) => Poll::Pending,
            },
        }
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, StreamError>>> {
        // An error while sending shows in the response as well; or the server has responded without reading the whole
        // request.
        drop(self.poll_pump(cx));
        if self.response_phase != ResponsePhase::Body {
            return Poll::Ready(None);
        }
        let frame = ready!(self.stream.poll_frame(cx));
        if !matches!(frame, Some(Ok(Frame::Data(_)))) {
            self.response_phase = ResponsePhase::Ended;
        }
        Poll::Ready(frame)
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        match self.response_phase {
            ResponsePhase::Head => false,
            ResponsePhase::Body => self.stream.is_fully_read(),
            ResponsePhase::Ended => true,
        }
    }

    /// Turns a successful response to an extended CONNECT into the form that it has on HTTP/1: an accepted upgrade.
    fn restore_upgrade(&mut self, response: &mut ResponseHead) {
        if response.status == StatusCode::OK
            && let Some(protocol) = self.upgrade.take()
        {
            response.status = StatusCode::SWITCHING_PROTOCOLS;
            response.headers.remove(&header::CONTENT_LENGTH);
            response.headers.insert(&header::UPGRADE, protocol);
            let connection = HeaderValue::from_static("upgrade");
            response.headers.insert(&header::CONNECTION, connection);
        }
    }

    fn poll_pump(&mut self, cx: &mut Context<'_>) -> Result<(), StreamError> {
        let Some(pump) = &mut self.pump else {
            return Ok(());
        };
        match pump.poll(&self.stream, cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(result) => {
                self.pump = None;
                result
            }
        }
    }
}

impl Drop for H2Exchange {
    /// Resets the stream, with the error code that Envoy sends.
    fn drop(&mut self) {
        if self.pump.is_some() || !self.is_end_stream() {
            self.stream.reset(Reason::INTERNAL_ERROR);
        }
    }
}
