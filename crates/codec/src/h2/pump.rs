//! Sends a body into an HTTP/2 stream, no faster than the peer takes it.

use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;

use crate::Body;
use crate::Frame;
use crate::Reason;
use crate::StreamError;

use super::session::StreamRef;

/// A body on its way into a stream. At most one frame is held while there is no room for it.
#[derive(Debug)]
pub(super) struct Pump {
    body: Body,
    held: Bytes,
    /// There is no room, and the body's source knows.
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

    /// Ready once everything was handed to the connection, or nothing more can be: the body failed, or the peer reset.
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
                Poll::Pending => return stream.poll_broken(cx).map(Err),
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

    /// Sends as much of the held bytes as there is room for; true when that was the end of the body.
    fn poll_send_held(
        &mut self,
        stream: &StreamRef,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, StreamError>> {
        let room = stream.poll_room(cx);
        if self.paused != room.is_pending() {
            self.paused = room.is_pending();
            self.body.set_paused(self.paused);
            stream.note_backed_up(self.paused);
        }
        let room = ready!(room)?;
        let piece = self.held.split_to(room.min(self.held.len()));
        let ends = self.held.is_empty() && self.body.is_end_stream();
        stream.send_data(piece, ends);
        Poll::Ready(Ok(ends))
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
