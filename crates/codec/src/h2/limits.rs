//! Flood limits: they bound frames that are cheap to send and costly to process. Most are Envoy's; the budget of useless
//! frames is our own.

use std::time::Duration;

use tokio::time::Instant;

use crate::Http2Options;
use crate::stats::Http2Stats;

use super::frame;
use super::frame::Head;

/// One connection's flood limits, and the frames counted so far.
#[derive(Debug)]
pub(super) struct FloodLimits {
    empty_in_a_row: u32,
    max_empty_in_a_row: u32,
    priorities: u64,
    max_priorities_per_stream: u32,
    window_updates: u64,
    max_window_updates_per_data: u32,
    /// Streams opened by either side.
    streams: u64,
    /// DATA frames sent by this side.
    data_sent: u64,
    max_frames: u32,
    max_control_frames: u32,
    /// Limits stream resets, by the peer and by this side because of the peer's errors; only on servers.
    resets: Option<TokenBucket>,
    /// Limits frames that bring nothing.
    useless: TokenBucket,
    /// Whether the peer exceeded a limit that Envoy does not have: on resets by this side, or on useless frames.
    exceeded: bool,
}

/// How many useless frames a connection may send at once, and per second. Each new stream and each DATA frame that
/// carries data in either direction allows some more: clients and servers send pings and window updates for them.
const USELESS_BURST: u64 = 10_000;
const USELESS_RATE: u64 = 1_000;
const USELESS_PER_FRAME: u64 = 10;
/// Received DATA with less than this, in bytes, counts as useless. A message of gRPC or WebSocket has at least as much.
const MIN_USEFUL_DATA: usize = 5;

/// A flood limit that was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flood {
    /// `max_consecutive_inbound_frames_with_empty_payload`
    EmptyFrames,
    /// `max_inbound_priority_frames_per_stream`
    Priorities,
    /// `max_inbound_window_update_frames_per_data_frame_sent`
    WindowUpdates,
    /// `max_outbound_frames`
    Frames,
    /// `max_outbound_control_frames`
    ControlFrames,
    /// `stream_reset_burst` and `stream_reset_rate`
    Resets,
}

impl FloodLimits {
    pub(super) fn new(options: &Http2Options, is_server: bool) -> FloodLimits {
        let resets = || TokenBucket::new(options.stream_reset_burst, options.stream_reset_rate);
        FloodLimits {
            empty_in_a_row: 0,
            max_empty_in_a_row: options.max_consecutive_inbound_frames_with_empty_payload,
            priorities: 0,
            max_priorities_per_stream: options.max_inbound_priority_frames_per_stream,
            window_updates: 0,
            max_window_updates_per_data: options
                .max_inbound_window_update_frames_per_data_frame_sent,
            streams: 0,
            data_sent: 0,
            max_frames: options.max_outbound_frames,
            max_control_frames: options.max_outbound_control_frames,
            resets: is_server.then(resets),
            useless: TokenBucket::new(USELESS_BURST, USELESS_RATE),
            exceeded: false,
        }
    }

    pub(super) fn note_stream(&mut self) {
        self.streams += 1;
        self.useless.put(USELESS_PER_FRAME);
    }

    pub(super) fn note_data_sent(&mut self) {
        self.data_sent += 1;
        self.useless.put(USELESS_PER_FRAME);
    }

    /// Counts a DATA frame that arrived for an open stream. `data` is its length in bytes without padding.
    pub(super) fn note_data_received(&mut self, data: usize, ends: bool) {
        if data >= MIN_USEFUL_DATA {
            self.useless.put(USELESS_PER_FRAME);
        } else if !ends {
            self.note_useless(1);
        }
    }

    /// Counts a frame that costs this side as much as `count` frames that are only parsed, and brings it nothing.
    pub(super) fn note_useless(&mut self, count: usize) {
        self.exceeded |= !self.useless.take(count as u64);
    }

    /// Counts a reset by this side that the peer's error caused. Such resets cost as much as those by the peer.
    pub(super) fn note_caused_reset(&mut self) {
        if let Some(resets) = &mut self.resets {
            self.exceeded |= !resets.take(1);
        }
    }

    /// Whether the peer exceeded the limit on useless frames, or on resets that it caused.
    pub(super) fn is_exceeded(&self) -> bool {
        self.exceeded
    }

    /// Counts a received frame. `padding` is how many bytes of its payload are padding.
    pub(super) fn note_frame(&mut self, head: Head, padding: usize) -> Result<(), Flood> {
        match head.kind {
            frame::DATA | frame::HEADERS | frame::CONTINUATION => {
                let ends = head.kind != frame::CONTINUATION && head.has(frame::END_STREAM);
                if head.length > padding || ends {
                    self.empty_in_a_row = 0;
                    return Ok(());
                }
                self.empty_in_a_row += 1;
                within(
                    self.empty_in_a_row <= self.max_empty_in_a_row,
                    Flood::EmptyFrames,
                )
            }
            frame::PRIORITY => {
                self.priorities += 1;
                let max = u64::from(self.max_priorities_per_stream) * (1 + self.streams);
                within(self.priorities <= max, Flood::Priorities)
            }
            frame::WINDOW_UPDATE => {
                self.window_updates += 1;
                let per_data = u64::from(self.max_window_updates_per_data);
                let max = 5 + 2 * (self.streams + per_data * self.data_sent);
                within(self.window_updates <= max, Flood::WindowUpdates)
            }
            frame::RST_STREAM => match &mut self.resets {
                Some(resets) => within(resets.take(1), Flood::Resets),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Checks the number of queued frames: all of them, and the control frames.
    pub(super) fn check_queued(&self, (frames, control): (u32, u32)) -> Result<(), Flood> {
        within(frames <= self.max_frames, Flood::Frames)?;
        within(control <= self.max_control_frames, Flood::ControlFrames)
    }
}

impl Flood {
    /// Counts the violation in the stats.
    pub(super) fn count(self, stats: &Http2Stats) {
        match self {
            Flood::EmptyFrames => stats.inbound_empty_frames_flood.inc(),
            Flood::Priorities => stats.inbound_priority_frames_flood.inc(),
            Flood::WindowUpdates => stats.inbound_window_update_frames_flood.inc(),
            Flood::Frames => stats.outbound_flood.inc(),
            Flood::ControlFrames => stats.outbound_control_flood.inc(),
            Flood::Resets => {}
        }
    }

    /// Whether the limit is one on queued outbound frames.
    pub(super) fn is_outbound(self) -> bool {
        matches!(self, Flood::Frames | Flood::ControlFrames)
    }

    /// `%RESPONSE_CODE_DETAILS%` of the streams that end with the connection.
    pub(super) fn details(self) -> &'static str {
        match self {
            Flood::EmptyFrames => "codec_error:Too_many_consecutive_frames_with_an_empty_payload",
            Flood::Priorities => "codec_error:Too_many_PRIORITY_frames",
            Flood::WindowUpdates => "codec_error:Too_many_WINDOW_UPDATE_frames",
            Flood::Frames => "codec_error:Too_many_frames_in_the_outbound_queue.",
            Flood::ControlFrames => "codec_error:Too_many_control_frames_in_the_outbound_queue.",
            Flood::Resets => "codec_error:The_user_callback_function_failed",
        }
    }
}

fn within(good: bool, flood: Flood) -> Result<(), Flood> {
    if good { Ok(()) } else { Err(flood) }
}

/// Limits frames to a burst and a rate per second.
#[derive(Debug)]
struct TokenBucket {
    tokens: u64,
    burst: u64,
    rate: u64,
    refilled: Option<Instant>,
}

impl TokenBucket {
    fn new(burst: u64, rate: u64) -> TokenBucket {
        TokenBucket {
            tokens: burst,
            burst,
            rate,
            refilled: None,
        }
    }

    fn put(&mut self, count: u64) {
        self.tokens = self.tokens.saturating_add(count).min(self.burst);
    }

    /// Takes `count` tokens; false if there are fewer.
    fn take(&mut self, count: u64) -> bool {
        let now = Instant::now();
        let since = *self.refilled.get_or_insert(now);
        let seconds = now.saturating_duration_since(since).as_secs();
        if seconds > 0 {
            self.refilled = Some(since + Duration::from_secs(seconds));
            self.put(self.rate.saturating_mul(seconds));
        }
        match self.tokens.checked_sub(count) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Head {
        Head {
            length,
            kind,
            flags,
            stream: 1,
        }
    }

    #[test]
    fn each_limit_is_envoys_default() {
        let cases = [
            (frame(frame::DATA, 0, 0), 1, Flood::EmptyFrames),
            (frame(frame::PRIORITY, 0, 5), 100, Flood::Priorities),
            (frame(frame::WINDOW_UPDATE, 0, 4), 5, Flood::WindowUpdates),
            (frame(frame::RST_STREAM, 0, 4), 1000, Flood::Resets),
        ];
        for (head, allowed, flood) in cases {
            let mut limits = FloodLimits::new(&Http2Options::default(), true);
            for _ in 0..allowed {
                assert_eq!(limits.note_frame(head, 0), Ok(()), "{flood:?}");
            }
            assert_eq!(limits.note_frame(head, 0), Err(flood));
        }
    }

    #[test]
    fn streams_and_data_allow_more_window_updates() {
        let mut limits = FloodLimits::new(&Http2Options::default(), true);
        limits.note_stream();
        limits.note_data_sent();
        for _ in 0..5 + 2 + 20 {
            assert_eq!(
                limits.note_frame(frame(frame::WINDOW_UPDATE, 0, 4), 0),
                Ok(())
            );
        }
        assert!(
            limits
                .note_frame(frame(frame::WINDOW_UPDATE, 0, 4), 0)
                .is_err()
        );
    }

    #[test]
    fn only_empty_frames_in_a_row_count() {
        let mut limits = FloodLimits::new(&Http2Options::default(), true);
        for _ in 0..10 {
            assert_eq!(limits.note_frame(frame(frame::DATA, 0, 0), 0), Ok(()));
            assert_eq!(limits.note_frame(frame(frame::DATA, 0, 1), 0), Ok(()));
        }
        assert_eq!(
            limits.note_frame(frame(frame::DATA, frame::PADDED, 3), 3),
            Ok(())
        );
        assert!(limits.note_frame(frame(frame::DATA, 0, 0), 0).is_err());
    }

    #[test]
    fn queued_frames_are_limited() {
        let limits = FloodLimits::new(&Http2Options::default(), true);
        assert_eq!(limits.check_queued((10_000, 1_000)), Ok(()));
        assert_eq!(limits.check_queued((10_001, 0)), Err(Flood::Frames));
        assert_eq!(
            limits.check_queued((1_001, 1_001)),
            Err(Flood::ControlFrames)
        );
    }

    #[test]
    fn useless_frames_are_limited_and_useful_ones_allow_more() {
        let mut limits = FloodLimits::new(&Http2Options::default(), false);
        limits.note_useless(10_000);
        assert!(!limits.is_exceeded());
        limits.note_data_received(MIN_USEFUL_DATA, false);
        for _ in 0..10 {
            limits.note_data_received(1, false);
        }
        limits.note_data_received(1, true);
        assert!(!limits.is_exceeded());
        limits.note_data_received(1, false);
        assert!(limits.is_exceeded());
    }

    #[tokio::test(start_paused = true)]
    async fn useless_frames_at_a_low_rate_are_no_flood() {
        let mut limits = FloodLimits::new(&Http2Options::default(), true);
        for _ in 0..100 {
            limits.note_useless(1_000);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(!limits.is_exceeded());
    }

    #[test]
    fn resets_by_either_side_have_one_limit() {
        let mut limits = FloodLimits::new(&Http2Options::default(), true);
        for _ in 0..500 {
            limits.note_caused_reset();
            let reset = limits.note_frame(frame(frame::RST_STREAM, 0, 4), 0);
            assert_eq!(reset, Ok(()));
        }
        assert!(!limits.is_exceeded());
        limits.note_caused_reset();
        assert!(limits.is_exceeded());
    }
}
