//! Sends a body on an HTTP/2 stream, at the peer's pace.

use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;

use crate::Body;
use crate::Frame;
use crate::Reason;
use crate::StreamError;

use super::session::StreamRef;

/// A body that is being sent. Holds at most one frame while the stream has no room for it.
#[derive(Debug)]
pub(super) struct Pump {
    body: Body,
    held: Bytes,
    /// Sending is paused, and the body was told.
    paused: bool,
}

impl Pump {
    pub(super) fn new(body: Body) -> Pump {
        Pump {
            body,
            held: Bytes::new(),
            paused: false,
        }
    }

    /// Ready once everything was handed to the connection, or nothing more can be sent because the body failed or the
    /// peer reset the stream.
    pub(super) fn poll(
        &mut self,
        stream: &StreamRef,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamError>> {
        loop {
            if !self.held.is_empty() {
                if ready!(self.poll_send_held(stream, cx))? {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            match self.body.poll_frame(cx) {
                Poll::Pending => return stream.poll_reset(cx).map(Err),
                Poll::Ready(Some(Ok(Frame::Data(bytes)))) if bytes.is_empty() => {}
                Poll::Ready(Some(Ok(Frame::Data(bytes)))) => self.held = bytes,
                Poll::Ready(Some(Ok(Frame::Trailers(trailers)))) => {
                    stream.send_trailers(trailers);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Some(Err(error))) => {
                    stream.reset(reset_reason(&error));
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(None) => {
                    stream.send_data(Bytes::new(), true);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// Sends as much of the held data as possible. Returns true at the end of the body.
    fn poll_send_held(
        &mut self,
        stream: &StreamRef,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, StreamError>> {
        let room = stream.poll_room(cx);
        if self.paused != room.is_pending() {
            self.paused = room.is_pending();
            self.body.set_paused(self.paused);
            stream.note_writing_paused(self.paused);
        }
        let room = ready!(room)?;
        let piece = self.held.split_to(room.min(self.held.len()));
        let ends = self.held.is_empty() && self.body.is_end_stream();
        stream.send_data(piece, ends);
        Poll::Ready(Ok(ends))
    }
}

/// The error code for resetting a stream whose body failed, as in Envoy.
fn reset_reason(error: &StreamError) -> Reason {
    match error {
        StreamError::LocalRefused => Reason::REFUSED_STREAM,
        StreamError::ConnectError => Reason::CONNECT_ERROR,
        StreamError::ProtocolError(_) => Reason::PROTOCOL_ERROR,
        _ => Reason::INTERNAL_ERROR,
    }
}
