//! The client role: connections to upstream hosts, and the requests on them.

use std::any::Any;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use http::Version;
use outrider_net::NetworkStream;

use crate::Body;
use crate::ClientOptions;
use crate::ConnectionEnd;
use crate::Frame;
use crate::Meter;
use crate::RequestHead;
use crate::ResponseHead;
use crate::StreamError;
use crate::TcpConnectionOwner;
use crate::h1;
use crate::h2;
use crate::stats::ByteCounts;

/// Starts HTTP/2 on a connected socket. Returns the connection's handle and the future that drives it, which the caller
/// spawns.
///
/// `on_change` is called whenever [`Client::capacity`] may have grown or [`Client::is_draining`] has become true, also
/// while an [`UpstreamExchange`] is being dropped. It must not call back into the connection: it only sets a flag and
/// wakes the task that reacts.
pub fn connect_http2(
    socket: NetworkStream,
    options: Rc<ClientOptions>,
    on_change: Rc<dyn Fn()>,
) -> (Client, impl Future<Output = ConnectionEnd>) {
    let (connection, run) = h2::client::connect(socket, options, on_change);
    (Client(ClientKind::H2(connection)), run)
}

/// Starts HTTP/1 on a connected socket; otherwise like [`connect_http2`].
pub fn connect_http1(
    socket: NetworkStream,
    options: Rc<ClientOptions>,
    on_change: Rc<dyn Fn()>,
) -> (Client, impl Future<Output = ConnectionEnd>) {
    let (connection, run) = h1::client::connect(socket, options, on_change);
    (Client(ClientKind::H1(connection)), run)
}

/// A handle to a connection to an upstream host. Clones refer to the same connection.
#[derive(Clone, Debug)]
pub struct Client(ClientKind);

/// Which codec the connection speaks.
#[derive(Clone, Debug)]
enum ClientKind {
    H1(Rc<h1::client::H1ClientConnection>),
    H2(Rc<h2::client::H2ClientConnection>),
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

    /// How many streams can be opened now: the lower of the peer's and the configured limit, minus the open streams.
    /// Zero while the connection drains.
    #[must_use]
    pub fn capacity(&self) -> usize {
        match &self.0 {
            ClientKind::H1(connection) => connection.capacity(),
            ClientKind::H2(connection) => connection.capacity(),
        }
    }

    /// The number of open streams.
    #[must_use]
    pub fn active(&self) -> usize {
        match &self.0 {
            ClientKind::H1(connection) => connection.active(),
            ClientKind::H2(connection) => connection.active(),
        }
    }

    /// Whether the connection accepts no new streams, because of GOAWAY or `connection: close`, or because it has
    /// ended.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        match &self.0 {
            ClientKind::H1(connection) => connection.is_draining(),
            ClientKind::H2(connection) => connection.is_draining(),
        }
    }

    /// Opens a stream and sends the request's head. Polling the returned exchange sends the body.
    ///
    /// # Errors
    /// [`StreamError::Overflow`] without capacity, [`StreamError::RemoteRefused`] after GOAWAY, or the reason why the
    /// head is invalid.
    pub fn send(&self, head: &RequestHead, body: Body) -> Result<UpstreamExchange, StreamError> {
        match &self.0 {
            ClientKind::H1(connection) => connection
                .send(head, body)
                .map(|exchange| ExchangeKind::H1(Box::new(exchange))),
            ClientKind::H2(connection) => connection
                .send(head, body)
                .map(|exchange| ExchangeKind::H2(Box::new(exchange))),
        }
        .map(|kind| UpstreamExchange { kind, guard: None })
    }

    /// Drains the connection: it accepts no new streams, and closes when the open ones have ended.
    pub fn drain(&self) {
        match &self.0 {
            ClientKind::H1(connection) => connection.drain(),
            ClientKind::H2(connection) => connection.drain(),
        }
    }
}

/// One request on one upstream connection. Polling it sends the request body and receives the response, in the caller's
/// task. Dropping it before both have ended resets the stream.
#[derive(Debug)]
pub struct UpstreamExchange {
    kind: ExchangeKind,
    /// Declared last, so that it is dropped after the stream has released its capacity on the connection.
    guard: Option<Box<dyn Any>>,
}

/// Which codec the exchange uses. Boxed because an exchange is moved often and is part of every [`Body`].
#[derive(Debug)]
enum ExchangeKind {
    H1(Box<h1::H1Exchange>),
    H2(Box<h2::H2Exchange>),
    Tcp(Box<h1::TcpExchange>),
}

impl UpstreamExchange {
    /// A tunnel that ends here: sends `first` and then `body` to a host without HTTP. The response is a 200 whose body is
    /// what the host sends. `buffer_limit` is in bytes.
    #[must_use]
    pub fn over_tcp(
        socket: NetworkStream,
        (counts, buffer_limit): (Arc<dyn ByteCounts>, u32),
        (first, body): (Bytes, Body),
        owner: Box<dyn TcpConnectionOwner>,
    ) -> UpstreamExchange {
        let exchange = h1::TcpExchange::new(socket, (counts, buffer_limit), (first, body), owner);
        UpstreamExchange {
            kind: ExchangeKind::Tcp(Box::new(exchange)),
            guard: None,
        }
    }

    /// Polls the head of the final response, skipping interim ones.
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

    /// Polls the next response head: interim ones (1xx) first, then the final one, which may be a 101.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, StreamError>> {
        match &mut self.kind {
            ExchangeKind::H1(exchange) => exchange.poll_head(cx),
            ExchangeKind::H2(exchange) => exchange.poll_head(cx),
            ExchangeKind::Tcp(_) => Poll::Ready(Ok(h1::TcpExchange::head())),
        }
    }

    /// The response's body. Call this after the final head has arrived.
    #[must_use]
    pub fn into_body(self) -> Body {
        Body::Exchange(self)
    }

    /// Whether the whole request, including body and trailers, was handed to the connection.
    #[must_use]
    pub fn request_sent(&self) -> bool {
        match &self.kind {
            ExchangeKind::H1(exchange) => exchange.request_sent(),
            ExchangeKind::H2(exchange) => exchange.request_sent(),
            ExchangeKind::Tcp(exchange) => exchange.request_sent(),
        }
    }

    /// Ready once the whole request was handed to the connection and, on HTTP/1, written to the socket.
    pub fn poll_request_written(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.request_sent() {
            return Poll::Pending;
        }
        match &self.kind {
            ExchangeKind::H1(exchange) => exchange.poll_written(cx),
            ExchangeKind::H2(_) | ExchangeKind::Tcp(_) => Poll::Ready(()),
        }
    }

    /// Keeps `guard` until the exchange has ended, and drops it after the stream has released its capacity. The pool
    /// uses it to count active requests.
    pub fn hold(&mut self, guard: Box<dyn Any>) {
        self.guard = Some(guard);
    }

    /// The exchange's byte counts: "sent" is the request, "received" the response.
    #[must_use]
    pub fn meter(&self) -> &Rc<Meter> {
        match &self.kind {
            ExchangeKind::H1(exchange) => exchange.meter(),
            ExchangeKind::H2(exchange) => exchange.meter(),
            ExchangeKind::Tcp(exchange) => exchange.meter(),
        }
    }

    /// Polls the next frame of the response's body.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, StreamError>>> {
        match &mut self.kind {
            ExchangeKind::H1(exchange) => exchange.poll_frame(cx),
            ExchangeKind::H2(exchange) => exchange.poll_frame(cx),
            ExchangeKind::Tcp(exchange) => exchange.poll_frame(cx),
        }
    }

    /// Whether the response is known to have ended, so that no frame remains.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        match &self.kind {
            ExchangeKind::H1(exchange) => exchange.is_end_stream(),
            ExchangeKind::H2(exchange) => exchange.is_end_stream(),
            ExchangeKind::Tcp(exchange) => exchange.is_end_stream(),
        }
    }
}
