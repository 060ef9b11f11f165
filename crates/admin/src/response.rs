//! A response of the admin server.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use hyper::body::Bytes;
use hyper::body::Frame;
use serde_json::Value;

/// The body of a response.
pub(crate) type AdminResponseBody =
    Pin<Box<dyn hyper::body::Body<Data = Bytes, Error = Infallible>>>;

/// A response, before it is sent.
pub(crate) struct AdminResponse {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    /// Whether `x-content-type-options: nosniff` is sent twice, as in most errors of Envoy's `/config_dump`.
    pub(crate) has_double_nosniff: bool,
    pub(crate) body: AdminResponseBody,
    /// Whether to end the process once this is sent.
    pub(crate) quits: bool,
}

pub(crate) const TEXT: &str = "text/plain; charset=UTF-8";
pub(crate) const HTML: &str = "text/html; charset=UTF-8";
pub(crate) const JSON: &str = "application/json";

impl AdminResponse {
    /// 200 with `text`.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::error(200, text)
    }

    /// `status` with `text`.
    pub(crate) fn error(status: u16, text: impl Into<String>) -> Self {
        Self::streamed(whole(text)).with_status(status)
    }

    /// 200 with `OK`, the response of endpoints that have nothing to show.
    pub(crate) fn done() -> Self {
        Self::text("OK\n")
    }

    /// 200 with `value`, indented as protobuf indents it.
    pub(crate) fn json(value: &Value) -> Self {
        let mut text = Vec::new();
        let indented = serde_json::ser::PrettyFormatter::with_indent(b" ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, indented);
        // Writing a value into memory cannot fail, and what serde_json writes is UTF-8.
        let written = serde::Serialize::serialize(value, &mut serializer);
        debug_assert!(written.is_ok());
        text.push(b'\n');
        Self::text(String::from_utf8(text).unwrap_or_default()).with_type(JSON)
    }

    /// 200 with a text whose pieces are made when the client reads them.
    pub(crate) fn pieces(pieces: impl Iterator<Item = String> + 'static) -> Self {
        let is_fresh = true;
        let pieces = Box::new(pieces);
        Self::streamed(Box::pin(PiecewiseBody { pieces, is_fresh }))
    }

    /// 200 with a body that may take time.
    pub(crate) fn streamed(body: AdminResponseBody) -> Self {
        Self {
            status: 200,
            content_type: TEXT,
            has_double_nosniff: false,
            body,
            quits: false,
        }
    }

    pub(crate) fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn with_type(mut self, content_type: &'static str) -> Self {
        self.content_type = content_type;
        self
    }

    pub(crate) fn with_double_nosniff(mut self) -> Self {
        self.has_double_nosniff = true;
        self
    }

    pub(crate) fn then_quit(mut self) -> Self {
        self.quits = true;
        self
    }
}

impl fmt::Debug for AdminResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminResponse")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// An empty body.
pub(crate) fn empty() -> AdminResponseBody {
    Box::pin(FullBody(None))
}

/// A body of `text`.
pub(crate) fn whole(text: impl Into<String>) -> AdminResponseBody {
    Box::pin(FullBody(Some(text.into().into())))
}

/// A body whose bytes are in memory.
struct FullBody(Option<Bytes>);

impl hyper::body::Body for FullBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

/// A body whose pieces are made when the client reads them.
struct PiecewiseBody {
    pieces: Box<dyn Iterator<Item = String>>,
    /// Whether other tasks of this thread have run since the last frame.
    is_fresh: bool,
}

impl hyper::body::Body for PiecewiseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        const FRAME: usize = 16 * 1024;
        if !self.is_fresh {
            // Lets other tasks of the main thread run between the pieces of a large response.
            self.is_fresh = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut frame = String::new();
        while frame.len() < FRAME
            && let Some(piece) = self.pieces.next()
        {
            match frame.is_empty() {
                true => frame = piece,
                false => frame += &piece,
            }
        }
        if frame.is_empty() {
            return Poll::Ready(None);
        }
        self.is_fresh = false;
        Poll::Ready(Some(Ok(Frame::data(frame.into()))))
    }
}
