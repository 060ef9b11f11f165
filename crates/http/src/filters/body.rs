//! Bodies that filters wrap around others.

use std::task::Context;
use std::task::Poll;
use std::task::ready;

use outrider_codec::Body;
use outrider_codec::BodyStream;
use outrider_codec::Frame;
use outrider_codec::HeaderMap;
use outrider_codec::StreamError;

/// A body whose trailers, if it has any, a function changes.
pub(super) struct TrailersBody<F> {
    body: Body,
    change: F,
}

impl<F: FnMut(&mut HeaderMap) + 'static> TrailersBody<F> {
    /// Wraps `body`.
    pub(super) fn wrap(body: &mut Body, change: F) {
        *body = Body::wrap(TrailersBody {
            body: std::mem::take(body),
            change,
        });
    }
}

impl<F: FnMut(&mut HeaderMap)> BodyStream for TrailersBody<F> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        let mut frame = ready!(self.body.poll_frame(cx));
        if let Some(Ok(Frame::Trailers(trailers))) = &mut frame {
            (self.change)(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn set_paused(&mut self, paused: bool) {
        self.body.set_paused(paused);
    }
}

/// A body that has broken off.
pub(super) struct BrokenBody(Option<StreamError>);

impl BrokenBody {
    /// A body that ends with this error.
    pub(super) fn body(error: StreamError) -> Body {
        Body::wrap(BrokenBody(Some(error)))
    }
}

impl BodyStream for BrokenBody {
    fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        Poll::Ready(self.0.take().map(Err))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}
