//! Sends the response to one HTTP/1 request.

use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use http::Method;
use http::StatusCode;
use http::Version;

use crate::Body;
use crate::Frame;
use crate::MalformedRequest;
use crate::Meter;
use crate::ResponseHead;
use crate::ServerOptions;
use crate::StreamError;
use crate::header;
use crate::meter::HeadSize;
use crate::stats::ConnectionStats;

use super::encode;
use super::encode::BodyCoding;
use super::encode::EncodedHead;
use super::encode::ResponseContext;
use super::head::HeadError;
use super::recv::SharedState;
use super::sink::BodySink;

/// The properties of a request that its response depends on.
pub(super) struct RequestLine {
    pub(super) method: Method,
    pub(super) version: Version,
}

/// Sends one response. Dropping it before its end closes the connection.
pub(crate) struct H1Responder {
    shared: Rc<SharedState>,
    options: Rc<ServerOptions>,
    request: RequestLine,
    meter: Rc<Meter>,
    sink: Option<(BodySink, Body)>,
    begun: bool,
    /// A 100 response was sent. Later ones are dropped: the client waits for only one.
    continued: bool,
}

impl H1Responder {
    pub(super) fn new(
        shared: Rc<SharedState>,
        options: Rc<ServerOptions>,
        request: RequestLine,
        meter: Rc<Meter>,
    ) -> H1Responder {
        H1Responder {
            shared,
            options,
            request,
            meter,
            sink: None,
            begun: false,
            continued: false,
        }
    }

    pub(crate) fn protocol(&self) -> Version {
        self.request.version
    }

    pub(crate) fn meter(&self) -> &Rc<Meter> {
        &self.meter
    }

    pub(crate) fn stats(&self) -> &Arc<ConnectionStats> {
        &self.options.stats
    }

    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        self.shared.poll_client_gone(cx)
    }

    pub(crate) fn has_stream_error_on_invalid_message(&self) -> bool {
        self.options.http1.stream_error_on_invalid_message
    }

    pub(crate) fn buffer_limit(&self) -> u32 {
        self.options.buffer_limit
    }

    pub(crate) fn malformed_body(&self) -> Option<MalformedRequest> {
        let error = self.shared.body_error.get().filter(|_| !self.begun);
        error.map(HeadError::into_malformed)
    }

    pub(crate) fn informational(&mut self, head: &ResponseHead) {
        let repeated =
            head.status == StatusCode::CONTINUE && std::mem::replace(&mut self.continued, true);
        if !repeated && !self.begun && self.request.version == Version::HTTP_11 {
            let options = &self.options.http1;
            self.shared
                .transport
                .borrow_mut()
                .write(|out| encode::informational(head, options, out));
        }
    }

    pub(crate) async fn send(
        &mut self,
        head: &ResponseHead,
        body: Body,
    ) -> Result<(), StreamError> {
        if self.begun {
            return Err(StreamError::LocalReset);
        }
        self.begun = true;
        let ends = body.is_end_stream();
        let encoded = self.send_head(head, ends);
        if encoded.coding == BodyCoding::None && ends {
            self.end();
            return Ok(());
        }
        // The body is read even if the response must not have one: it may still fail.
        self.sink = Some((BodySink::new(encoded, self.options.buffer_limit), body));
        poll_fn(|cx| self.poll_body(cx)).await
    }

    fn send_head(&mut self, head: &ResponseHead, ends: bool) -> EncodedHead {
        let shared = &self.shared;
        // If the request was not read completely, the position of the next request is unknown, so the connection must
        // close.
        if !shared.is_request_read() || shared.close_after_next_response.get() {
            shared.close_after_response.set(true);
        }
        if !shared.draining.get() && self.options.drain.is_draining() {
            self.options.stats.downstream_cx_drain_close.inc();
            shared.drain(self.options.drain_timeout);
        }
        if !shared.draining.get() && self.options.overload.ends_connection() {
            let stats = &self.options.stats;
            stats.downstream_cx_overload_disable_keepalive.inc();
            // As in Envoy, it counts as drained too.
            stats.downstream_cx_drain_close.inc();
            shared.draining.set(true);
            shared.close_after_response.set(true);
        }
        if self.request.version == Version::HTTP_10
            && !head.headers.contains_key(&header::CONTENT_LENGTH)
        {
            shared.close_after_response.set(true);
        }
        let cx = ResponseContext {
            options: &self.options.http1,
            method: &self.request.method,
            version: self.request.version,
            ends,
            close: shared.close_after_response.get() || shared.draining.get(),
        };
        let mut transport = shared.transport.borrow_mut();
        let before = transport.queued();
        let encoded = transport.write(|out| encode::response(head, cx, out));
        let size = transport.queued() - before;
        self.meter
            .add_headers_sent(HeadSize::http1(encoded.fields, size));
        encoded
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let Some((sink, body)) = &mut self.sink else {
            return Poll::Ready(Ok(()));
        };
        loop {
            if ready!(sink.poll_room(&self.shared.transport, body, cx)).is_err() {
                return Poll::Ready(Err(StreamError::ConnectionTermination));
            }
            let frame = match body.poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => return self.shared.poll_client_gone(cx).map(Err),
            };
            let mut transport = self.shared.transport.borrow_mut();
            match frame {
                Some(Ok(Frame::Data(bytes))) => sink.write(bytes, &mut transport, &self.meter),
                Some(Ok(Frame::Trailers(trailers))) => {
                    let options = &self.options.http1;
                    sink.end(Some(&trailers), options, &mut transport, &self.meter);
                    break;
                }
                Some(Err(error)) => {
                    self.shared.broken.set(true);
                    return Poll::Ready(Err(error));
                }
                None => {
                    sink.end(None, &self.options.http1, &mut transport, &self.meter);
                    break;
                }
            }
        }
        if sink.is_short() {
            // The body is shorter than announced. Only closing the connection can tell the client.
            self.shared.broken.set(true);
            return Poll::Ready(Err(StreamError::ConnectionTermination));
        }
        self.end();
        Poll::Ready(Ok(()))
    }

    fn end(&mut self) {
        self.sink = None;
        self.shared.response_written.set(true);
        self.meter.end_send();
    }

    pub(crate) fn reset(&mut self) {
        self.sink = None;
        self.begun = true;
        self.shared.broken.set(true);
    }

    pub(crate) fn close_connection_after(&self) {
        self.shared.close_after_response.set(true);
    }
}

impl fmt::Debug for H1Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("H1Responder")
            .field("begun", &self.begun)
            .finish_non_exhaustive()
    }
}
