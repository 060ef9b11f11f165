//! One request on an HTTP/1 connection, and its response.

use std::fmt;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use http::Method;

use crate::Body;
use crate::EndCause;
use crate::Frame;
use crate::Meter;
use crate::ResponseHead;
use crate::StreamError;
use crate::meter::HeadSize;

use super::client::H1ClientConnection;
use super::deferred_writes;
use super::framing::Framing;
use super::framing::Piece;
use super::framing::count_framing;
use super::framing::count_trailers;
use super::head;
use super::head::ReceivedResponse;
use super::head::SentRequest;
use super::sink::BodySink;
use super::transport::Filled;

/// One request. Polling it sends the request's body and receives the response. Dropping it early closes the connection.
pub(crate) struct H1Exchange {
    connection: Rc<H1ClientConnection>,
    method: Method,
    /// The request asks for a tunnel.
    tunnel: bool,
    /// The request's remaining body; `None` once it was sent.
    upload: Option<(BodySink, Body)>,
    /// How the rest of the response's body is framed, once its head has arrived.
    response_framing: Option<Framing>,
    searched: usize,
    keep_alive: bool,
    /// The connection is available again, or was closed.
    released: bool,
    meter: Rc<Meter>,
}

impl H1Exchange {
    pub(super) fn new(
        connection: Rc<H1ClientConnection>,
        method: Method,
        upload: Option<(BodySink, Body)>,
        meter: Rc<Meter>,
        tunnel: bool,
    ) -> H1Exchange {
        if upload.is_none() {
            meter.end_send();
        }
        H1Exchange {
            connection,
            method,
            tunnel,
            upload,
            response_framing: None,
            searched: 0,
            keep_alive: !tunnel,
            released: false,
            meter,
        }
    }

    pub(crate) fn meter(&self) -> &Rc<Meter> {
        &self.meter
    }

    pub(crate) fn request_sent(&self) -> bool {
        self.upload.is_none()
    }

    /// Ready once all queued bytes were written, or cannot be.
    pub(crate) fn poll_written(&self, cx: &mut Context<'_>) -> Poll<()> {
        let written = self.connection.transport.borrow_mut().poll_drain(cx);
        written.map(drop)
    }

    /// Polls the next head, interim or final.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, StreamError>> {
        if self.response_framing.is_some() {
            return Poll::Ready(Err(StreamError::LocalReset));
        }
        let response = ready!(self.poll_read_head(cx))?;
        Poll::Ready(Ok(if response.head.is_interim() {
            response.head
        } else {
            self.begin_body(response)
        }))
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, StreamError>>> {
        if let Err(error) = self.poll_upload(cx) {
            return Poll::Ready(Some(Err(self.fail(error, EndCause::Local))));
        }
        let Some(framing) = &mut self.response_framing else {
            return Poll::Ready(None);
        };
        if self.released {
            return Poll::Ready(None);
        }
        let connection = self.connection.clone();
        let mut transport = connection.transport.borrow_mut();
        loop {
            let before = transport.input.len();
            let taken = framing.take(&mut transport.input, connection.limits(), None);
            count_framing(&self.meter, before - transport.input.len(), &taken);
            match taken {
                Ok(Some(Piece::Data(bytes))) => {
                    let ends = framing.is_done();
                    self.meter.add_body_received(bytes.len(), bytes.len());
                    drop(transport);
                    if ends {
                        self.end_response();
                    }
                    return Poll::Ready(Some(Ok(Frame::Data(bytes))));
                }
                Ok(Some(Piece::Trailers(trailers))) => {
                    drop(transport);
                    self.end_response();
                    let kept = self.connection.options.http1.enable_trailers;
                    if kept {
                        count_trailers(&self.meter, &trailers);
                    }
                    return Poll::Ready(kept.then_some(Ok(Frame::Trailers(trailers))));
                }
                Ok(Some(Piece::End)) => {
                    drop(transport);
                    self.end_response();
                    return Poll::Ready(None);
                }
                Ok(None) => {}
                Err(_) => {
                    drop(transport);
                    let details = "http1.codec_error";
                    let error = self.fail(
                        StreamError::ProtocolError(details),
                        EndCause::ProtocolError(details),
                    );
                    return Poll::Ready(Some(Err(error)));
                }
            }
            match ready!(transport.poll_fill(cx)) {
                Ok(Filled::Some) => {}
                Ok(Filled::End) | Err(_) if framing.may_close() => {
                    drop(transport);
                    self.keep_alive = false;
                    self.end_response();
                    return Poll::Ready(None);
                }
                Ok(Filled::End) | Err(_) if *framing != Framing::Raw => {
                    drop(transport);
                    return Poll::Ready(Some(Err(self.fail_incomplete())));
                }
                Ok(Filled::End) if self.method == Method::CONNECT => {
                    drop(transport);
                    let error = self.fail(StreamError::ConnectionTermination, EndCause::Local);
                    return Poll::Ready(Some(Err(error)));
                }
                Ok(Filled::End) | Err(_) => {
                    drop(transport);
                    let error = self.fail(StreamError::ConnectionTermination, EndCause::Remote);
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.released
    }

    fn poll_read_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ReceivedResponse, StreamError>> {
        if let Err(error) = self.poll_upload(cx) {
            return Poll::Ready(Err(self.fail(error, EndCause::Local)));
        }
        let connection = self.connection.clone();
        let mut transport = connection.transport.borrow_mut();
        loop {
            if !transport.input.is_empty() {
                let taken = head::take_response(
                    &mut transport.input,
                    &mut self.searched,
                    connection.limits(),
                    &connection.options.http1,
                    SentRequest {
                        method: &self.method,
                        upgrade: self.tunnel && self.method != Method::CONNECT,
                    },
                );
                match taken {
                    Ok(Some(head)) => return Poll::Ready(Ok(head)),
                    Ok(None) => {}
                    Err(error) => {
                        drop(transport);
                        let cause = EndCause::ProtocolError(error.details);
                        let error = StreamError::ProtocolError(error.details);
                        return Poll::Ready(Err(self.fail(error, cause)));
                    }
                }
            }
            let filled = ready!(transport.poll_fill(cx));
            if !matches!(filled, Ok(Filled::Some)) {
                let has_begun = !transport.input.is_empty();
                drop(transport);
                // As in Envoy, the end of the host's side does not yet close the connection of a CONNECT.
                let cause = match filled {
                    Ok(_) if self.method == Method::CONNECT => EndCause::Local,
                    _ => EndCause::Remote,
                };
                return Poll::Ready(Err(match has_begun {
                    true => self.fail_incomplete(),
                    false => self.fail(StreamError::ConnectionTermination, cause),
                }));
            }
        }
    }

    fn begin_body(&mut self, response: ReceivedResponse) -> ResponseHead {
        let size = HeadSize::http1(response.field_bytes, response.bytes);
        self.meter.add_headers_received(size);
        self.keep_alive &= response.keep_alive;
        let ends = response.framing.is_done();
        self.response_framing = Some(response.framing);
        if ends {
            self.end_response();
        }
        response.head
    }

    /// The whole response was read.
    fn end_response(&mut self) {
        self.meter.end_receive();
        if std::mem::replace(&mut self.released, true) {
            return;
        }
        if self.upload.is_some() {
            // A server that responded before it had the whole request would take the remaining body for the next
            // request.
            self.connection.close_after_early_response();
        } else {
            self.connection.release(self.keep_alive);
        }
    }

    /// The peer closed or reset the connection in the middle of its response, which is a protocol error.
    fn fail_incomplete(&mut self) -> StreamError {
        let error = StreamError::ProtocolError("http1.codec_error");
        self.fail(error, EndCause::IncompleteResponse)
    }

    fn fail(&mut self, error: StreamError, cause: EndCause) -> StreamError {
        if !self.released {
            self.released = true;
            self.connection.abort(cause);
        }
        error
    }

    /// Sends as much of the request as possible. Fails only if the request body fails: a peer that stops reading may
    /// have responded already.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), StreamError> {
        if self.released {
            return Ok(());
        }
        let pending = self.poll_upload_body(cx);
        if self.connection.transport.borrow_mut().defer_write(cx) {
            deferred_writes::defer(self.connection.clone());
        }
        match pending {
            Poll::Ready(Ok(())) => {
                self.upload = None;
                self.close_connect_tunnel(cx)
            }
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Ok(()),
        }
    }

    /// Like Envoy, closes a CONNECT tunnel's connection when the client's side of the tunnel has ended.
    fn close_connect_tunnel(&self, cx: &mut Context<'_>) -> Result<(), StreamError> {
        if self.method != Method::CONNECT {
            return Ok(());
        }
        match self.connection.transport.borrow_mut().poll_drain(cx) {
            Poll::Ready(_) => Err(StreamError::ConnectionTermination),
            Poll::Pending => Ok(()),
        }
    }

    fn poll_upload_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let Some((sink, body)) = &mut self.upload else {
            return Poll::Ready(Ok(()));
        };
        loop {
            if ready!(sink.poll_room(&self.connection.transport, body, cx)).is_err() {
                return Poll::Pending;
            }
            let frame = ready!(body.poll_frame(cx));
            let options = &self.connection.options.http1;
            let mut transport = self.connection.transport.borrow_mut();
            match frame {
                Some(Ok(Frame::Data(bytes))) => sink.write(bytes, &mut transport, &self.meter),
                Some(Ok(Frame::Trailers(trailers))) => {
                    sink.end(Some(&trailers), options, &mut transport, &self.meter);
                    break;
                }
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => {
                    sink.end(None, options, &mut transport, &self.meter);
                    break;
                }
            }
        }
        if sink.is_short() {
            return Poll::Ready(Err(StreamError::LocalReset));
        }
        self.meter.end_send();
        Poll::Ready(Ok(()))
    }
}

impl Drop for H1Exchange {
    fn drop(&mut self) {
        if !self.released {
            self.connection.abort(EndCause::Local);
        }
    }
}

impl fmt::Debug for H1Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("H1Exchange")
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}
