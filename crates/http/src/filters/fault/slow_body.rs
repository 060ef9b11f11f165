//! A body that is passed on at a limited rate.

use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use outrider_codec::Body;
use outrider_codec::BodyStream;
use outrider_codec::Frame;
use outrider_codec::StreamError;
use outrider_net::Timer;
use outrider_net::clock;
use tokio::time::Instant;

/// As in Envoy, a second has 16 slices, and each slice has its share of the bytes.
const SLICES: u32 = 16;

/// A body in slices.
pub(super) struct SlowBody {
    body: Body,
    /// What was read and may not be sent yet.
    held: Bytes,
    slice: usize,
    /// When the next slice may be sent.
    next: Instant,
    timer: Timer,
}

impl SlowBody {
    /// Passes on `rate` KiB in a second.
    pub(super) fn new(body: Body, rate: u64, timer: Timer) -> SlowBody {
        let bytes = rate.saturating_mul(1024) / u64::from(SLICES);
        SlowBody {
            body,
            held: Bytes::new(),
            slice: usize::try_from(bytes).unwrap_or(usize::MAX).max(1),
            next: clock::now(),
            timer,
        }
    }
}

impl BodyStream for SlowBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        if self.held.is_empty() {
            match ready!(self.body.poll_frame(cx)) {
                Some(Ok(Frame::Data(data))) => self.held = data,
                other => return Poll::Ready(other),
            }
        }
        let now = clock::now();
        if now < self.next {
            self.timer.set(Some(self.next));
            ready!(self.timer.poll_elapsed(cx));
        }
        // Slices that were not used in the last second are lost.
        let second_ago = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
        self.next = self.next.max(second_ago) + Duration::from_secs(1) / SLICES;
        let data = self.held.split_to(self.slice.min(self.held.len()));
        Poll::Ready(Some(Ok(Frame::Data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.body.is_end_stream()
    }

    fn set_paused(&mut self, paused: bool) {
        self.body.set_paused(paused);
    }
}
