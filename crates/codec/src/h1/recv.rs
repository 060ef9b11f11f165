//! A request body received on an HTTP/1 connection.

use std::cell::Cell;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use crate::Frame;
use crate::Meter;
use crate::StreamError;
use crate::deadlines::ConnectionDeadlines;
use crate::stats::Http1Stats;

use super::deferred_writes::DeferredWrites;
use super::framing::BrokenFraming;
use super::framing::Framing;
use super::framing::Piece;
use super::framing::count_framing;
use super::framing::count_trailers;
use super::head::HeadError;
use super::head::HeadLimits;
use super::transport::Filled;
use super::transport::Transport;

/// The maximum number of bytes of pipelined requests to read while a complete request is being served.
const READ_AHEAD: usize = 64 * 1024;

/// State shared by a server connection, its current request's body and its current response.
pub(super) struct SharedState {
    pub(super) transport: RefCell<Transport>,
    /// How the rest of the current request's body is framed.
    pub(super) framing: RefCell<Framing>,
    pub(super) limits: HeadLimits,
    pub(super) keep_trailers: bool,
    /// Counts dropped and refused trailer fields.
    pub(super) stats: Arc<Http1Stats>,
    /// The whole current response was written.
    pub(super) response_written: Cell<bool>,
    /// The connection closes after the current response.
    pub(super) close_after_response: Cell<bool>,
    /// The connection closes after the next response, if one comes.
    pub(super) close_after_next_response: Cell<bool>,
    /// The connection is draining: responses announce that it will close.
    pub(super) draining: Cell<bool>,
    /// The connection closes because `drain_timeout` has expired, which may not have been announced to the client.
    pub(super) drain_timed_out: Cell<bool>,
    pub(super) deadlines: RefCell<ConnectionDeadlines>,
    /// The response was cut off, so that nothing more can be sent or received on the connection.
    pub(super) broken: Cell<bool>,
    /// The current request's body has invalid framing. The client gets an error response if none was begun, then the
    /// connection closes.
    pub(super) body_error: Cell<Option<HeadError>>,
}

impl SharedState {
    /// Starts the drain. For `drain_timeout`, requests that the client sent before it learnt of the drain are served.
    pub(super) fn drain(&self, timeout: Duration) {
        self.draining.set(true);
        self.deadlines.borrow_mut().drain(timeout);
    }

    /// Whether the whole current request was read.
    pub(super) fn is_request_read(&self) -> bool {
        self.framing.borrow().is_done()
    }

    /// Ready when the client has closed the connection, which only reading detects: up to a limit, this reads further
    /// requests into the buffer.
    #[inline(never)] // not inlined: one copy for all callers
    pub(super) fn poll_client_gone(&self, cx: &mut Context<'_>) -> Poll<StreamError> {
        let mut transport = self.transport.borrow_mut();
        loop {
            if transport.ended || transport.has_failed() || self.broken.get() {
                return Poll::Ready(StreamError::ConnectionTermination);
            }
            if let Some(error) = self.body_error.get() {
                return Poll::Ready(StreamError::ProtocolError(error.details));
            }
            if !self.is_request_read() || transport.input.len() >= READ_AHEAD {
                return Poll::Pending;
            }
            // An error will show in `has_failed`.
            drop(ready!(transport.poll_fill(cx)));
        }
    }

    fn poll_piece(&self, meter: &Meter, cx: &mut Context<'_>) -> Poll<Result<Piece, StreamError>> {
        let mut transport = self.transport.borrow_mut();
        let mut framing = self.framing.borrow_mut();
        loop {
            let stats = self.keep_trailers.then_some(&*self.stats);
            let before = transport.input.len();
            let taken = framing.take(&mut transport.input, self.limits, stats);
            count_framing(meter, before - transport.input.len(), &taken);
            match taken {
                Ok(Some(piece)) => return Poll::Ready(Ok(piece)),
                Ok(None) => {}
                Err(BrokenFraming(error)) => {
                    self.body_error.set(Some(error));
                    self.close_after_response.set(true);
                    return Poll::Ready(Err(StreamError::ProtocolError(error.details)));
                }
            }
            match ready!(transport.poll_fill(cx)) {
                Ok(Filled::Some) => {}
                Ok(Filled::End) if framing.may_close() => return Poll::Ready(Ok(Piece::End)),
                // `poll_client_gone` reports it: handling a request ends when its client is gone, not with an error of
                // the body.
                Ok(Filled::End) | Err(_) => return Poll::Pending,
            }
        }
    }
}

impl DeferredWrites for SharedState {
    fn write_now(&self) {
        self.transport.borrow_mut().write_deferred();
    }
}

/// A client's body.
pub struct H1RecvBody {
    shared: Rc<SharedState>,
    meter: Rc<Meter>,
    ended: bool,
}

impl H1RecvBody {
    pub(super) fn new(shared: Rc<SharedState>, meter: Rc<Meter>) -> H1RecvBody {
        H1RecvBody {
            shared,
            meter,
            ended: false,
        }
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, StreamError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let piece = ready!(self.shared.poll_piece(&self.meter, cx));
        if !matches!(piece, Ok(Piece::Data(_))) || self.shared.is_request_read() {
            self.ended = true;
            if piece.is_ok() {
                self.meter.end_receive();
            }
        }
        Poll::Ready(match piece {
            Ok(Piece::Data(bytes)) => {
                self.meter.add_body_received(bytes.len(), bytes.len());
                Some(Ok(Frame::Data(bytes)))
            }
            Ok(Piece::Trailers(trailers)) if self.shared.keep_trailers => {
                count_trailers(&self.meter, &trailers);
                Some(Ok(Frame::Trailers(trailers)))
            }
            Ok(Piece::Trailers(_) | Piece::End) => None,
            Err(error) => Some(Err(error)),
        })
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.ended
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        let transport = self.shared.transport.borrow();
        transport.counts().reading_paused(paused);
    }
}

impl fmt::Debug for H1RecvBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("H1RecvBody")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
