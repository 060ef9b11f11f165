//! Keeps what was read of a request's body, so that every attempt can send it from the start.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;

use outrider_codec::Body;
use outrider_codec::BodyStream;
use outrider_codec::Frame;
use outrider_codec::StreamError;
use outrider_upstream::ClusterStats;

/// A request's body, for several attempts, of which one reads at a time.
///
/// Once more was read than the limit allows, what was kept is dropped and the attempt under way is the last.
#[derive(Clone, Debug)]
pub(super) struct ReplayBuffer(Rc<RefCell<ReplayState>>);

#[derive(Debug)]
struct ReplayState {
    rest: Body,
    kept: Vec<Frame>,
    /// The bytes of data in `kept`.
    bytes: usize,
    limit: usize,
    /// Whether all of the body was read.
    ended: bool,
    /// Whether another attempt may follow, for which what is read has to be kept.
    keeps: bool,
    /// Whether the body was longer than the limit.
    abandoned: bool,
    stats: Arc<ClusterStats>,
}

/// The body as one attempt sends it.
#[derive(Debug)]
struct ReplayedBody {
    buffer: ReplayBuffer,
    /// How many of the kept frames this attempt has read.
    read: usize,
}

impl ReplayBuffer {
    /// A buffer that keeps at most `limit` bytes of data of this body.
    pub(super) fn new(body: Body, limit: usize, stats: Arc<ClusterStats>) -> ReplayBuffer {
        ReplayBuffer(Rc::new(RefCell::new(ReplayState {
            ended: body.is_end_stream(),
            rest: body,
            kept: Vec::new(),
            bytes: 0,
            limit,
            keeps: true,
            abandoned: false,
            stats,
        })))
    }

    /// The whole body, for the next attempt.
    pub(super) fn body(&self) -> Body {
        let state = self.0.borrow();
        if state.ended && state.kept.is_empty() {
            return Body::Empty;
        }
        drop(state);
        Body::wrap(ReplayedBody {
            buffer: self.clone(),
            read: 0,
        })
    }

    /// The attempt under way is the last: what it reads from now on is not kept.
    pub(super) fn stop_keeping(&self) {
        self.0.borrow_mut().keeps = false;
    }

    /// How many bytes of data are kept of the whole body; `None` if it is not all there.
    pub(super) fn whole(&self) -> Option<usize> {
        let state = self.0.borrow();
        (state.ended && state.keeps).then_some(state.bytes)
    }

    /// Whether the body was too long to be kept, so that no other attempt can send it.
    pub(super) fn is_abandoned(&self) -> bool {
        self.0.borrow().abandoned
    }
}

impl ReplayState {
    fn keep(&mut self, frame: &Frame) {
        if !self.keeps {
            return;
        }
        match frame {
            Frame::Data(data) => {
                self.bytes += data.len();
                if self.bytes > self.limit {
                    self.stats.retry_or_shadow_abandoned.inc();
                    self.abandoned = true;
                    self.keeps = false;
                    self.kept = Vec::new();
                    return;
                }
                self.kept.push(Frame::Data(data.clone()));
            }
            Frame::Trailers(trailers) => self.kept.push(Frame::Trailers(trailers.clone())),
        }
    }
}

impl BodyStream for ReplayedBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        let mut state = self.buffer.0.borrow_mut();
        if let Some(frame) = state.kept.get(self.read) {
            self.read += 1;
            return Poll::Ready(Some(Ok(match frame {
                Frame::Data(data) => Frame::Data(data.clone()),
                Frame::Trailers(trailers) => Frame::Trailers(trailers.clone()),
            })));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        let frame = std::task::ready!(state.rest.poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                state.keep(frame);
                self.read = state.kept.len();
                state.ended = matches!(frame, Frame::Trailers(_)) || state.rest.is_end_stream();
            }
            Some(Err(_)) | None => state.ended = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let state = self.buffer.0.borrow();
        self.read >= state.kept.len() && (state.ended || state.rest.is_end_stream())
    }

    fn set_paused(&mut self, paused: bool) {
        self.buffer.0.borrow_mut().rest.set_paused(paused);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use outrider_codec::HeaderMap;

    use crate::testing::SlowFrames;

    use super::*;

    fn buffer(limit: usize) -> ReplayBuffer {
        let data = |text: &'static str| Frame::Data(Bytes::from_static(text.as_bytes()));
        let trailers = Frame::Trailers(HeaderMap::new());
        let frames = [data("abc"), data("def"), data("ghi"), trailers];
        let body = Body::wrap(SlowFrames::new(frames));
        ReplayBuffer::new(body, limit, Arc::default())
    }

    /// Reads `frames` frames, or all; returns the data and the number of trailers.
    async fn read(body: &mut Body, frames: usize) -> (Vec<u8>, usize) {
        let (mut text, mut trailers) = (Vec::new(), 0);
        for _ in 0..frames {
            match body.frame().await {
                Some(Ok(Frame::Data(data))) => text.extend_from_slice(&data),
                Some(Ok(Frame::Trailers(_))) => trailers += 1,
                _ => break,
            }
        }
        (text, trailers)
    }

    #[tokio::test]
    async fn every_attempt_sends_the_whole_body() {
        for first in 0..5 {
            let buffer = buffer(100);
            read(&mut buffer.body(), first).await;
            let whole = (b"abcdefghi".to_vec(), 1);
            for _ in 0..2 {
                assert_eq!(read(&mut buffer.body(), 9).await, whole, "{first}");
            }
            assert!(!buffer.is_abandoned());
        }
    }

    #[tokio::test]
    async fn the_last_attempt_keeps_nothing_and_reads_what_was_kept() {
        let buffer = buffer(5);
        read(&mut buffer.body(), 1).await;
        let mut last = buffer.body();
        buffer.stop_keeping();
        assert_eq!(read(&mut last, 9).await, (b"abcdefghi".to_vec(), 1));
        assert!(!buffer.is_abandoned());
        assert_eq!(buffer.0.borrow().kept.len(), 1);
    }

    #[tokio::test]
    async fn a_body_above_the_limit_goes_on_but_is_not_kept() {
        let buffer = buffer(5);
        let mut body = buffer.body();
        assert_eq!(read(&mut body, 1).await.0, b"abc");
        assert!(!buffer.is_abandoned());
        assert_eq!(read(&mut body, 9).await, (b"defghi".to_vec(), 1));
        assert!(buffer.is_abandoned());
        assert!(buffer.0.borrow().kept.is_empty());
    }
}
