//! The client role: connections to upstream hosts, and the requests on them.

use std::any::Any;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;

use http::Request;
use http::Response;

use crate::Body;
use crate::Frame;
use crate::Meter;
use crate::StreamError;

/// A connection to an upstream host. Clones are the same connection.
#[derive(Clone, Debug)]
pub struct Client {
    kind: ClientKind,
}

/// Which codec the connection speaks.
#[derive(Clone, Debug)]
enum ClientKind {}

impl Client {
    /// How many streams may be opened now: the peer's limit and the config's, less what is open; 0 when it drains.
    #[must_use]
    pub fn capacity(&self) -> usize {
        match self.kind {}
    }

    /// Streams that are open.
    #[must_use]
    pub fn active(&self) -> usize {
        match self.kind {}
    }

    /// Whether no new stream may be opened any more: GOAWAY, `connection: close`, or dead.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        match self.kind {}
    }

    /// Opens a stream and sends the request's head; the body goes up while the exchange is polled.
    pub fn send(&self, _request: Request<Body>) -> Result<Exchange, StreamError> {
        match self.kind {}
    }

    /// Takes no new streams, and closes once those that are open have ended.
    pub fn drain(&self) {
        match self.kind {}
    }
}

/// One request on one upstream connection. Polling it drives the request body up while the answer comes down, in the
/// caller's own task. Dropping it before both have ended resets the stream.
#[derive(Debug)]
pub struct Exchange {
    kind: ExchangeKind,
    meter: Rc<Meter>,
    /// Declared last: by the time it is dropped, the stream's place on the connection is free again.
    guard: Option<Box<dyn Any>>,
}

/// Which codec the exchange is on.
#[derive(Debug)]
enum ExchangeKind {}

impl Exchange {
    /// The head of the final answer.
    pub fn poll_response(
        &mut self,
        _cx: &mut Context<'_>,
    ) -> Poll<Result<Response<()>, StreamError>> {
        match self.kind {}
    }

    /// An interim answer (1xx) that came before the final one; `None` once there can be none.
    pub fn poll_informational(
        &mut self,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Response<()>, StreamError>>> {
        match self.kind {}
    }

    /// The answer's body; to be called once the head has come.
    #[must_use]
    pub fn into_body(self) -> Body {
        Body::Exchange(self)
    }

    /// Whether all of the request, body and trailers, was handed to the connection.
    #[must_use]
    pub fn request_sent(&self) -> bool {
        match self.kind {}
    }

    /// Keeps `guard` until the exchange is over, and drops it after the stream was given back to the connection: what
    /// the pool counts as an active request.
    pub fn hold(&mut self, guard: Box<dyn Any>) {
        self.guard = Some(guard);
    }

    /// The exchange's counts: sent is the request, received the answer.
    #[must_use]
    pub fn meter(&self) -> &Rc<Meter> {
        &self.meter
    }

    pub(crate) fn poll_frame(
        &mut self,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, StreamError>>> {
        match self.kind {}
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        match self.kind {}
    }
}
