//! Sends a body into an HTTP/2 stream, no faster than the peer takes it.

use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use h2::Reason;
use h2::SendStream;

use crate::Body;
use crate::Frame;
use crate::Meter;
use crate::StreamError;

use super::FRAME_HEAD;
use super::headers;
use super::stream_error;

/// What a stream may send before it asks for room: most messages are smaller, and asking takes the connection's lock.
const UNASKED: usize = 16 * 1024;

/// A body on its way into a stream. At most one frame is held while there is no room for it.
#[derive(Debug)]
pub(super) struct Pump {
    stream: SendStream<Bytes>,
    body: Body,
    held: Bytes,
    unasked: usize,
    meter: Rc<Meter>,
}

impl Pump {
    pub(super) fn new(stream: SendStream<Bytes>, body: Body, meter: Rc<Meter>) -> Pump {
        Pump {
            stream,
            body,
            held: Bytes::new(),
            unasked: UNASKED,
            meter,
        }
    }

    pub(super) fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }

    /// Ready once everything was handed to the connection, or nothing more can be: the body failed, or the peer reset.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        loop {
            if !self.held.is_empty() {
                if ready!(self.poll_send_held(cx))? {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            match self.body.poll_frame(cx) {
                Poll::Pending => return self.poll_reset(cx).map(Err),
                Poll::Ready(Some(Ok(Frame::Data(bytes)))) if bytes.is_empty() => {}
                Poll::Ready(Some(Ok(Frame::Data(bytes)))) => self.held = bytes,
                Poll::Ready(Some(Ok(Frame::Trailers(trailers)))) => {
                    let size = headers::size(&trailers);
                    self.meter.add_headers_sent(size, size + FRAME_HEAD);
                    return Poll::Ready(self.finish(|stream| stream.send_trailers(trailers)));
                }
                Poll::Ready(Some(Err(error))) => {
                    self.stream.send_reset(reset_reason(&error));
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(None) => {
                    return Poll::Ready(self.finish(|stream| stream.send_data(Bytes::new(), true)));
                }
            }
        }
    }

    /// Ready when the peer has reset the stream, or the connection is gone.
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        self.stream
            .poll_reset(cx)
            .map(|reason| reset_error(&reason))
    }

    /// Sends as much of the held bytes as there is room for; true when that was the end of the body.
    fn poll_send_held(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, StreamError>> {
        let room = if self.held.len() <= self.unasked {
            self.unasked -= self.held.len();
            self.held.len()
        } else {
            self.unasked = 0;
            ready!(self.poll_room(cx))?
        };
        let piece = self.held.split_to(room.min(self.held.len()));
        let ends = self.held.is_empty() && self.body.is_end_stream();
        self.meter
            .add_body_sent(piece.len(), piece.len() + FRAME_HEAD);
        if ends {
            self.finish(|stream| stream.send_data(piece, true))?;
        } else {
            self.stream
                .send_data(piece, false)
                .map_err(|error| stream_error(&error))?;
        }
        Poll::Ready(Ok(ends))
    }

    /// How much the connection takes of this stream now; at least one byte.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, StreamError>> {
        let room = self.stream.capacity();
        if room > 0 {
            return Poll::Ready(Ok(room));
        }
        self.stream.reserve_capacity(self.held.len());
        let room = self.stream.capacity();
        if room > 0 {
            return Poll::Ready(Ok(room));
        }
        match ready!(self.stream.poll_capacity(cx)) {
            Some(Ok(room)) => Poll::Ready(Ok(room)),
            Some(Err(error)) => Poll::Ready(Err(stream_error(&error))),
            // No capacity will ever come: the stream was reset.
            None => self.poll_reset(cx).map(Err),
        }
    }

    fn finish(
        &mut self,
        send: impl FnOnce(&mut SendStream<Bytes>) -> Result<(), h2::Error>,
    ) -> Result<(), StreamError> {
        send(&mut self.stream).map_err(|error| stream_error(&error))?;
        self.meter.end_send();
        Ok(())
    }
}

/// What a wait for a reset came to.
pub(super) fn reset_error(reason: &Result<Reason, h2::Error>) -> StreamError {
    match reason {
        Ok(Reason::REFUSED_STREAM) => StreamError::RemoteRefused,
        Ok(reason) => StreamError::RemoteReset(*reason),
        Err(error) => stream_error(error),
    }
}

/// The code to reset a stream with when its body fails, as Envoy maps them.
fn reset_reason(error: &StreamError) -> Reason {
    match error {
        StreamError::LocalRefused => Reason::REFUSED_STREAM,
        StreamError::ConnectError => Reason::CONNECT_ERROR,
        StreamError::ProtocolError(_) => Reason::PROTOCOL_ERROR,
        _ => Reason::INTERNAL_ERROR,
    }
}
