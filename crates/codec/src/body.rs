//! Message bodies: streams of frames. The consumer polls one frame at a time, when it has room for it.

use std::fmt;
use std::future::poll_fn;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;

use crate::StreamError;
use crate::UpstreamExchange;
use crate::h1;
use crate::h2;
use crate::header::HeaderMap;

/// A piece of a body.
#[derive(Debug)]
pub enum Frame {
    /// Bytes. Empty data is legal, but is never written to the wire.
    Data(Bytes),
    /// Trailer fields. No frame follows them.
    Trailers(HeaderMap),
}

/// A message body. Dropping it before its end resets the stream that it is read from.
///
/// Back-pressure: the sender waits until its sink has room, then polls one frame. Taking a frame gives the peer credit
/// for more.
#[derive(Default)]
pub enum Body {
    /// No body and no trailers.
    #[default]
    Empty,
    /// A complete body in memory.
    Full(Bytes),
    /// The body received on an HTTP/1 connection.
    H1(h1::H1RecvBody),
    /// The body received on an HTTP/2 stream.
    H2(h2::H2RecvBody),
    /// An upstream's response body. Polling it also sends the request's body.
    Exchange(UpstreamExchange),
    /// A body that a filter inspects or changes.
    Wrapped(Box<dyn BodyStream>),
}

/// A body that wraps another one: implemented by filters and by the replay of retries.
pub trait BodyStream {
    /// Polls the next frame, `None` after the last. Must not be polled after `None` or an error.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>>;

    /// Whether the body is known to have ended.
    fn is_end_stream(&self) -> bool;

    /// Tells the body that its consumer stopped reading, or reads again. Sources count this in stats; wrappers pass it
    /// to the body that they wrap.
    fn set_paused(&mut self, paused: bool) {
        let _ = paused;
    }
}

impl Body {
    /// A body that reads its frames from `stream`.
    pub fn wrap(stream: impl BodyStream + 'static) -> Body {
        Body::Wrapped(Box::new(stream))
    }

    /// A body of these bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Body {
        let bytes = bytes.into();
        if bytes.is_empty() {
            Body::Empty
        } else {
            Body::Full(bytes)
        }
    }

    /// Polls the next frame, `None` after the last. After an error the body has ended.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        match self {
            Body::Empty => Poll::Ready(None),
            Body::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Body::Empty;
                Poll::Ready(Some(Ok(Frame::Data(bytes))))
            }
            Body::H1(body) => body.poll_frame(cx),
            Body::H2(body) => body.poll_frame(cx),
            Body::Exchange(exchange) => exchange.poll_frame(cx),
            Body::Wrapped(stream) => stream.poll_frame(cx),
        }
    }

    /// The next frame, `None` after the last.
    pub async fn frame(&mut self) -> Option<Result<Frame, StreamError>> {
        poll_fn(|cx| self.poll_frame(cx)).await
    }

    /// Tells the body that its consumer stopped reading, or reads again.
    pub fn set_paused(&mut self, paused: bool) {
        match self {
            Body::H1(body) => body.set_paused(paused),
            Body::H2(body) => body.set_paused(paused),
            Body::Wrapped(stream) => stream.set_paused(paused),
            Body::Empty | Body::Full(_) | Body::Exchange(_) => {}
        }
    }

    /// Whether the body is known to have ended. `false` means unknown: the next poll may still return `None`.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(_) => false,
            Body::H1(body) => body.is_end_stream(),
            Body::H2(body) => body.is_end_stream(),
            Body::Exchange(exchange) => exchange.is_end_stream(),
            Body::Wrapped(stream) => stream.is_end_stream(),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        Body::full(bytes)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Body::Empty => "Body::Empty",
            Body::Full(_) => "Body::Full",
            Body::H1(_) => "Body::H1",
            Body::H2(_) => "Body::H2",
            Body::Exchange(_) => "Body::Exchange",
            Body::Wrapped(_) => "Body::Wrapped",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_body_gives_its_bytes_once() {
        let mut body = Body::full("abc");
        assert!(!body.is_end_stream());
        assert!(
            matches!(body.frame().await, Some(Ok(Frame::Data(bytes))) if bytes.as_ref() == b"abc")
        );
        assert!(body.frame().await.is_none());
        assert!(body.is_end_stream());
        assert!(Body::full("").is_end_stream());
    }
}
