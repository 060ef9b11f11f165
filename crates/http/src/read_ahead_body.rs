//! A body that is read while its stream waits for a connection or for a filter.
//!
//! As in Envoy, it is read up to a limit. So, if no host can be reached, a small request has been read completely by
//! the time of the reply, and its connection can be used again.

use std::collections::VecDeque;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use outrider_codec::Body;
use outrider_codec::BodyStream;
use outrider_codec::Frame;
use outrider_codec::HeaderMap;
use outrider_codec::StreamError;

/// The frames that were read, and the rest of the body.
#[derive(Debug)]
pub(crate) struct ReadAheadBody {
    read: VecDeque<Result<Frame, StreamError>>,
    bytes: usize,
    limit: usize,
    ended: bool,
    /// Whether more than the limit was read, so that reading from the client is paused.
    paused: bool,
    rest: Body,
}

impl ReadAheadBody {
    /// A body of which nothing has been read. [`read_ahead`](Self::read_ahead) stops after the frame that exceeds
    /// `limit` bytes.
    pub(crate) fn new(rest: Body, limit: usize) -> ReadAheadBody {
        ReadAheadBody {
            read: VecDeque::new(),
            bytes: 0,
            limit,
            ended: rest.is_end_stream(),
            paused: false,
            rest,
        }
    }

    /// A body of which these bytes and trailers have been read already.
    pub(crate) fn from_parts(
        data: Bytes,
        trailers: Option<HeaderMap>,
        rest: Body,
        ended: bool,
    ) -> ReadAheadBody {
        let data = Some(data).filter(|data| !data.is_empty());
        let frames = data.map(Frame::Data).into_iter();
        ReadAheadBody {
            read: frames
                .chain(trailers.map(Frame::Trailers))
                .map(Ok)
                .collect(),
            ended,
            ..ReadAheadBody::new(rest, 0)
        }
    }

    /// Reads the frames that have arrived. Returns whether they exceed the limit, so that the client has to wait.
    pub(crate) fn read_ahead(&mut self, cx: &mut Context<'_>) -> bool {
        while !self.ended && self.bytes <= self.limit {
            let Poll::Ready(frame) = self.rest.poll_frame(cx) else {
                return false;
            };
            match &frame {
                Some(Ok(Frame::Data(data))) => {
                    self.bytes += data.len();
                    self.ended = self.rest.is_end_stream();
                }
                Some(Ok(Frame::Trailers(_)) | Err(_)) | None => self.ended = true,
            }
            self.read.extend(frame);
        }
        let pauses = self.bytes > self.limit && !self.paused;
        if pauses {
            self.paused = true;
            self.rest.set_paused(true);
        }
        pauses
    }

    /// Ends the wait. Returns whether the client had to wait, too.
    pub(crate) fn resume(&mut self) -> bool {
        let was_paused = std::mem::take(&mut self.paused);
        if was_paused {
            self.rest.set_paused(false);
        }
        was_paused
    }

    /// The whole body again.
    pub(crate) fn into_body(self) -> Body {
        match (self.read.is_empty(), self.ended) {
            (true, true) => Body::Empty,
            (true, false) => self.rest,
            _ => Body::wrap(self),
        }
    }
}

impl BodyStream for ReadAheadBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        match self.read.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None if self.ended => Poll::Ready(None),
            None => self.rest.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && (self.ended || self.rest.is_end_stream())
    }

    fn set_paused(&mut self, paused: bool) {
        self.rest.set_paused(paused);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// A body of these frames, all of which are ready.
    struct ReadyFrames(VecDeque<Frame>);

    impl BodyStream for ReadyFrames {
        fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }
    }

    #[tokio::test]
    async fn returns_all_frames_in_order_and_reads_ahead_only_up_to_the_limit() {
        for limit in [0, 4, 6, 100] {
            let data = |text: &'static str| Frame::Data(Bytes::from_static(text.as_bytes()));
            let frames = [
                data("abc"),
                data("def"),
                data("ghi"),
                Frame::Trailers(HeaderMap::new()),
            ];
            let mut early = ReadAheadBody::new(Body::wrap(ReadyFrames(frames.into())), limit);
            poll_fn(|cx| {
                let paused = early.read_ahead(cx);
                assert_eq!(paused, early.bytes > limit);
                assert!(!early.read_ahead(cx), "told twice");
                assert_eq!(early.resume(), paused);
                Poll::Ready(())
            })
            .await;
            assert!(
                early.bytes <= limit + 3,
                "{} bytes with a limit of {limit}",
                early.bytes
            );
            let mut body = early.into_body();
            let mut text = Vec::new();
            let mut trailers = 0;
            while let Some(frame) = body.frame().await {
                match frame.unwrap() {
                    Frame::Data(data) => text.extend_from_slice(&data),
                    Frame::Trailers(_) => trailers += 1,
                }
            }
            assert_eq!(
                (text.as_slice(), trailers),
                (&b"abcdefghi"[..], 1),
                "limit {limit}"
            );
        }
    }
}
