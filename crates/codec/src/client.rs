//! The client role: connections to upstream hosts, and the requests on them.

use std::any::Any;
use std::future::Future;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use http::Version;
use outrider_net::Stream;

use crate::Body;
use crate::ClientOptions;
use crate::ConnectionEnd;
use crate::Frame;
use crate::Meter;
use crate::RequestHead;
use crate::ResponseHead;
use crate::StreamError;
use crate::h1;
use crate::h2;

/// Opens HTTP/2 on a connected socket: the connection, and the future that drives it, to be spawned.
///
/// `on_change` is called whenever [`Client::capacity`] may have grown or [`Client::is_draining`] has become true, also
/// while an [`Exchange`] is dropped: it must only take note and wake whoever acts on it.
pub fn connect_http2(
    socket: Stream,
    options: Rc<ClientOptions>,
    on_change: Rc<dyn Fn()>,
) -> (Client, impl Future<Output = ConnectionEnd>) {
    let (connection, run) = h2::client::connect(socket, options, on_change);
    (Client(ClientKind::H2(connection)), run)
}

/// Opens HTTP/1 on a connected socket; otherwise as [`connect_http2`].
pub fn connect_http1(
    socket: Stream,
    options: Rc<ClientOptions>,
    on_change: Rc<dyn Fn()>,
) -> (Client, impl Future<Output = ConnectionEnd>) {
    let (connection, run) = h1::client::connect(socket, options, on_change);
    (Client(ClientKind::H1(connection)), run)
}

/// A connection to an upstream host. Clones are the same connection.
#[derive(Clone, Debug)]
pub struct Client(ClientKind);

/// Which codec the connection speaks.
#[derive(Clone, Debug)]
enum ClientKind {
    H1(Rc<h1::client::Connection>),
    H2(Rc<h2::client::Connection>),
}

impl Client {
    /// `HTTP/1.1` or `HTTP/2`.
    #[must_use]
    pub fn protocol(&self) -> Version {
        match &self.0 {
            ClientKind::H1(_) => Version::HTTP_11,
            ClientKind::H2(_) => Version::HTTP_2,
        }
    }

    /// How many streams may be opened now: the peer's limit and the config's, less what is open; 0 when it drains.
    #[must_use]
    pub fn capacity(&self) -> usize {
        match &self.0 {
            ClientKind::H1(connection) => connection.capacity(),
            ClientKind::H2(connection) => connection.capacity(),
        }
    }

    /// Streams that are open.
    #[must_use]
    pub fn active(&self) -> usize {
        match &self.0 {
            ClientKind::H1(connection) => connection.active(),
            ClientKind::H2(connection) => connection.active(),
        }
    }

    /// Whether no new stream may be opened any more: GOAWAY, `connection: close`, or dead.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        match &self.0 {
            ClientKind::H1(connection) => connection.is_draining(),
            ClientKind::H2(connection) => connection.is_draining(),
        }
    }

    /// Opens a stream and sends the request's head; the body goes up while the exchange is polled.
    ///
    /// # Errors
    /// [`StreamError::Overflow`] without capacity, [`StreamError::RemoteRefused`] after GOAWAY, or what is wrong with the head.
    pub fn send(&self, head: &RequestHead, body: Body) -> Result<Exchange, StreamError> {
        match &self.0 {
            ClientKind::H1(connection) => connection
                .send(head, body)
                .map(|exchange| ExchangeKind::H1(Box::new(exchange))),
            ClientKind::H2(connection) => connection
                .send(head, body)
                .map(|exchange| ExchangeKind::H2(Box::new(exchange))),
        }
        .map(|kind| Exchange { kind, guard: None })
    }

    /// Takes no new streams, and closes once those that are open have ended.
    pub fn drain(&self) {
        match &self.0 {
            ClientKind::H1(connection) => connection.drain(),
            ClientKind::H2(connection) => connection.drain(),
        }
    }
}

/// One request on one upstream connection. Polling it drives the request body up while the answer comes down, in the
/// caller's own task. Dropping it before both have ended resets the stream.
#[derive(Debug)]
pub struct Exchange {
    kind: ExchangeKind,
    /// Declared last: by the time it is dropped, the stream's place on the connection is free again.
    guard: Option<Box<dyn Any>>,
}

/// Which codec the exchange is on. Boxed: an exchange is moved about, and is part of every [`Body`].
#[derive(Debug)]
enum ExchangeKind {
    H1(Box<h1::Exchange>),
    H2(Box<h2::Exchange>),
}

impl Exchange {
    /// The head of the final answer; interim ones are skipped.
    pub fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, StreamError>> {
        loop {
            let head = ready!(self.poll_head(cx))?;
            if !head.is_interim() {
                return Poll::Ready(Ok(head));
            }
        }
    }

    /// The next head of the answer: any interim ones (1xx), then the final one, which may be a 101.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, StreamError>> {
        match &mut self.kind {
            ExchangeKind::H1(exchange) => exchange.poll_head(cx),
            ExchangeKind::H2(exchange) => exchange.poll_head(cx),
        }
    }

    /// The answer's body; to be called once the head has come.
    #[must_use]
    pub fn into_body(self) -> Body {
        Body::Exchange(self)
    }

    /// Whether all of the request, body and trailers, was handed to the connection.
    #[must_use]
    pub fn request_sent(&self) -> bool {
        match &self.kind {
            ExchangeKind::H1(exchange) => exchange.request_sent(),
            ExchangeKind::H2(exchange) => exchange.request_sent(),
        }
    }

    /// Keeps `guard` until the exchange is over, and drops it after the stream was given back to the connection: what
    /// the pool counts as an active request.
    pub fn hold(&mut self, guard: Box<dyn Any>) {
        self.guard = Some(guard);
    }

    /// The exchange's counts: sent is the request, received the answer.
    #[must_use]
    pub fn meter(&self) -> &Rc<Meter> {
        match &self.kind {
            ExchangeKind::H1(exchange) => exchange.meter(),
            ExchangeKind::H2(exchange) => exchange.meter(),
        }
    }

    /// The next frame of the answer's body.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, StreamError>>> {
        match &mut self.kind {
            ExchangeKind::H1(exchange) => exchange.poll_frame(cx),
            ExchangeKind::H2(exchange) => exchange.poll_frame(cx),
        }
    }

    /// Whether the answer is known to be over, so that nothing is left to poll for.
    pub(crate) fn is_end_stream(&self) -> bool {
        match &self.kind {
            ExchangeKind::H1(exchange) => exchange.is_end_stream(),
            ExchangeKind::H2(exchange) => exchange.is_end_stream(),
        }
    }
}
