//! The server role: what a connection manager implements, and the way back to the client.

use std::borrow::Cow;
use std::future::Future;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;

use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use http::Version;

use crate::Body;
use crate::Meter;
use crate::StreamError;

/// Whom a request is for: `:authority`, or `host`, or the authority of an absolute target. An extension of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority(pub HeaderValue);

/// A request that the codec could not make sense of, to be answered as a stream of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MalformedRequest {
    /// The answer's status.
    pub status: StatusCode,
    /// The answer's body; for HTTP/1 the phrase of the status.
    pub body: Cow<'static, str>,
    /// `%RESPONSE_CODE_DETAILS%`, such as `http1.codec_error`.
    pub details: &'static str,
}

/// Serves the streams of connections: the HTTP connection manager.
pub trait Handler: 'static {
    /// Serves one stream to its end. Dropped when the connection dies.
    fn serve(
        self: Rc<Self>,
        request: Request<Body>,
        respond: Respond,
    ) -> impl Future<Output = ()> + 'static;

    /// Answers a request that the codec could not parse.
    fn malformed(
        self: Rc<Self>,
        error: MalformedRequest,
        respond: Respond,
    ) -> impl Future<Output = ()> + 'static;
}

/// The way back to the client for one stream. Dropping it before [`Respond::send`] has ended resets the stream.
#[derive(Debug)]
pub struct Respond {
    kind: Kind,
    meter: Rc<Meter>,
}

/// Which codec the stream is on.
#[derive(Debug)]
enum Kind {}

impl Respond {
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    #[must_use]
    pub fn protocol(&self) -> Version {
        match self.kind {}
    }

    /// The stream's counts.
    #[must_use]
    pub fn meter(&self) -> &Rc<Meter> {
        &self.meter
    }

    /// Ready when the client has reset the stream or its connection is gone.
    pub fn poll_reset(&mut self, _cx: &mut Context<'_>) -> Poll<StreamError> {
        match self.kind {}
    }

    /// Sends an interim answer: 100, 103.
    pub fn informational(&mut self, _head: Response<()>) -> Result<(), StreamError> {
        match self.kind {}
    }

    /// Sends head, body and trailers; ends when the last byte was handed to the connection, or the client has reset the stream.
    pub async fn send(&mut self, _response: Response<Body>) -> Result<(), StreamError> {
        match self.kind {}
    }

    /// Resets the stream; on HTTP/1, closes the connection.
    pub fn reset(&mut self, _reason: h2::Reason) {
        match self.kind {}
    }

    /// Closes the connection once its streams are done: `connection: close`, or GOAWAY.
    pub fn close_connection_after(&self) {
        match self.kind {}
    }
}
