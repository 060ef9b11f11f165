//! Looks at the frames that pass a connection, for what the `h2` crate does not tell: stats, flood limits, GOAWAY.
//!
//! Only frame heads are looked at, nine bytes a frame, so this costs next to nothing and parses no payload but an error code.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::Http2Options;
use crate::io::Watch;
use crate::stats::Http2Stats;

use super::FRAME_HEAD;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const PREFACE: usize = 24;
const PROTOCOL_ERROR: u32 = 1;

/// The frames of one connection.
#[derive(Debug)]
pub(super) struct FrameWatch {
    inbound: Splitter,
    outbound: Splitter,
    counts: Counts,
    limits: Limits,
    stats: Arc<Http2Stats>,
}

/// What was seen. The connection's task reads it after each turn.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Bytes and frames received: grows with any sign of life.
    pub(super) frames_received: u64,
    /// SETTINGS frames received: the peer's limits may have changed.
    pub(super) settings_received: u64,
    /// The peer has sent GOAWAY.
    pub(super) goaway_received: bool,
    /// Why the connection must end, in Envoy's words.
    pub(super) violation: Option<&'static str>,
    /// The `h2` crate has reset a stream for a malformed message.
    pub(super) malformed: bool,
    /// Resets with PROTOCOL_ERROR by our own hand that are still to come by; they do not tell of malformed messages.
    pub(super) own_resets: u64,
    opened_streams: u64,
    newest_stream: u32,
    data_sent: u64,
    priority_received: u64,
    window_updates_received: u64,
    empty_in_a_row: u64,
}

/// Envoy's flood limits.
#[derive(Debug)]
struct Limits {
    empty_in_a_row: u64,
    priority_per_stream: u64,
    window_updates_per_data: u64,
    /// Streams that the peer may reset; servers only.
    resets: Option<TokenBucket>,
}

impl FrameWatch {
    pub(super) fn server(options: &Http2Options, stats: Arc<Http2Stats>) -> FrameWatch {
        let resets = TokenBucket::new(options.stream_reset_burst, options.stream_reset_rate);
        let mut watch = FrameWatch::new(options, stats, Some(resets));
        watch.inbound.skip = PREFACE;
        watch
    }

    pub(super) fn client(options: &Http2Options, stats: Arc<Http2Stats>) -> FrameWatch {
        let mut watch = FrameWatch::new(options, stats, None);
        watch.outbound.skip = PREFACE;
        watch
    }

    fn new(
        options: &Http2Options,
        stats: Arc<Http2Stats>,
        resets: Option<TokenBucket>,
    ) -> FrameWatch {
        FrameWatch {
            inbound: Splitter::default(),
            outbound: Splitter::default(),
            counts: Counts::default(),
            limits: Limits {
                empty_in_a_row: options
                    .max_consecutive_inbound_frames_with_empty_payload
                    .into(),
                priority_per_stream: options.max_inbound_priority_frames_per_stream.into(),
                window_updates_per_data: options
                    .max_inbound_window_update_frames_per_data_frame_sent
                    .into(),
                resets,
            },
            stats,
        }
    }

    pub(super) fn counts(&mut self) -> &mut Counts {
        &mut self.counts
    }
}

impl Watch for FrameWatch {
    fn inbound(&mut self, bytes: &[u8]) -> io::Result<()> {
        let FrameWatch {
            inbound,
            counts,
            limits,
            stats,
            ..
        } = self;
        inbound.feed(bytes, |frame| counts.see_inbound(frame, limits, stats));
        match counts.violation {
            None => Ok(()),
            Some(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn outbound(&mut self, bytes: &[u8]) {
        let FrameWatch {
            outbound,
            counts,
            stats,
            ..
        } = self;
        outbound.feed(bytes, |frame| counts.see_outbound(frame, stats));
    }
}

impl Counts {
    fn see_inbound(&mut self, frame: &Frame, limits: &mut Limits, stats: &Http2Stats) {
        self.frames_received += 1;
        if frame.kind == HEADERS {
            self.open(frame.stream);
        }
        match frame.kind {
            DATA | HEADERS | CONTINUATION => {
                let ends = frame.kind != CONTINUATION && frame.flags & END_STREAM != 0;
                if frame.length > 0 || ends {
                    self.empty_in_a_row = 0;
                    return;
                }
                self.empty_in_a_row += 1;
                if self.empty_in_a_row > limits.empty_in_a_row {
                    stats.inbound_empty_frames_flood.inc();
                    self.violation = Some("http2.inbound_empty_frames_flood");
                }
            }
            PRIORITY => {
                self.priority_received += 1;
                if self.priority_received > limits.priority_per_stream * (1 + self.opened_streams) {
                    stats.inbound_priority_frames_flood.inc();
                    self.violation = Some("http2.inbound_priority_frames_flood");
                }
            }
            WINDOW_UPDATE => {
                self.window_updates_received += 1;
                let allowed = self.opened_streams + limits.window_updates_per_data * self.data_sent;
                if self.window_updates_received > 5 + 2 * allowed {
                    stats.inbound_window_update_frames_flood.inc();
                    self.violation = Some("http2.inbound_window_update_frames_flood");
                }
            }
            RST_STREAM => {
                stats.rx_reset.inc();
                if let Some(resets) = &mut limits.resets
                    && !resets.take()
                {
                    self.violation = Some("http2.too_many_resets");
                }
            }
            SETTINGS => self.settings_received += 1,
            GOAWAY => self.goaway_received = true,
            _ => {}
        }
    }

    /// Counts a stream at its first HEADERS, whichever side sends it: ids only grow.
    fn open(&mut self, stream: u32) {
        if stream > self.newest_stream {
            self.newest_stream = stream;
            self.opened_streams += 1;
        }
    }

    fn see_outbound(&mut self, frame: &Frame, stats: &Http2Stats) {
        match frame.kind {
            DATA => self.data_sent += 1,
            HEADERS => self.open(frame.stream),
            RST_STREAM => {
                stats.tx_reset.inc();
                if frame.error_code != PROTOCOL_ERROR {
                    return;
                }
                if self.own_resets > 0 {
                    self.own_resets -= 1;
                } else {
                    stats.rx_messaging_error.inc();
                    self.malformed = true;
                }
            }
            // The `h2` crate answers GOAWAY with its own, which Envoy does not send.
            GOAWAY if self.goaway_received => {}
            GOAWAY => stats.goaway_sent.inc(),
            _ => {}
        }
    }
}

/// A frame's head, and the error code of a RST_STREAM.
#[derive(Debug)]
struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
    error_code: u32,
}

/// Finds the frames in a stream of bytes that comes in pieces of any size.
#[derive(Debug, Default)]
struct Splitter {
    head: [u8; FRAME_HEAD + 4],
    filled: usize,
    /// Bytes of payload still to pass.
    skip: usize,
}

impl Splitter {
    fn feed(&mut self, mut bytes: &[u8], mut see: impl FnMut(&Frame)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let count = self.skip.min(bytes.len());
                self.skip -= count;
                bytes = &bytes[count..];
                continue;
            }
            let wanted = self.wanted();
            let count = (wanted - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
            self.filled += count;
            bytes = &bytes[count..];
            if self.filled == self.wanted() {
                let [a, b, c, kind, flags, s, t, u, v, error_code @ ..] = self.head;
                let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.skip = FRAME_HEAD + length - self.filled;
                self.filled = 0;
                see(&Frame {
                    length,
                    kind,
                    flags,
                    stream: u32::from_be_bytes([s & 0x7f, t, u, v]),
                    error_code: u32::from_be_bytes(error_code),
                });
            }
        }
    }

    /// Bytes to look at: the head; for a RST_STREAM of the right length, its error code as well.
    fn wanted(&self) -> usize {
        let reset = self.filled >= FRAME_HEAD && self.head[..4] == [0, 0, 4, RST_STREAM];
        if reset { FRAME_HEAD + 4 } else { FRAME_HEAD }
    }
}

/// nghttp2's limit on RST_STREAM frames: a burst, and so many more a second.
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

    /// Takes one; false when there is none.
    fn take(&mut self) -> bool {
        let now = Instant::now();
        let since = *self.refilled.get_or_insert(now);
        let seconds = now.saturating_duration_since(since).as_secs();
        if seconds > 0 {
            self.refilled = Some(since + Duration::from_secs(seconds));
            let gained = self.rate.saturating_mul(seconds);
            self.tokens = self.tokens.saturating_add(gained).min(self.burst);
        }
        match self.tokens.checked_sub(1) {
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

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![
            0,
            0,
            u8::try_from(payload.len()).unwrap(),
            kind,
            flags,
            0,
            0,
            0,
            1,
        ];
        bytes.extend_from_slice(payload);
        bytes
    }

    fn client() -> FrameWatch {
        let mut watch = FrameWatch::client(&Http2Options::default(), Arc::default());
        watch.outbound(&[0; PREFACE]);
        watch
    }

    #[test]
    fn finds_frames_however_the_bytes_are_cut() {
        let bytes = [
            frame(SETTINGS, 0, &[]),
            frame(DATA, 0, b"abc"),
            frame(RST_STREAM, 0, &[0, 0, 0, 8]),
            frame(GOAWAY, 0, &[0; 8]),
        ]
        .concat();
        for size in 1..=bytes.len() {
            let mut watch = client();
            for piece in bytes.chunks(size) {
                watch.inbound(piece).unwrap();
            }
            let counts = watch.counts();
            assert_eq!(counts.frames_received, 4, "pieces of {size}");
            assert_eq!(counts.settings_received, 1);
            assert!(counts.goaway_received);
            assert_eq!(watch.stats.rx_reset.value(), 1);
        }
    }

    #[test]
    fn ends_the_connection_on_envoys_limits() {
        let cases: [(Vec<u8>, usize, &str); 4] = [
            (frame(DATA, 0, b""), 1, "http2.inbound_empty_frames_flood"),
            (
                frame(PRIORITY, 0, &[0; 5]),
                100,
                "http2.inbound_priority_frames_flood",
            ),
            (
                frame(WINDOW_UPDATE, 0, &[0; 4]),
                5,
                "http2.inbound_window_update_frames_flood",
            ),
            (
                frame(RST_STREAM, 0, &[0, 0, 0, 8]),
                1000,
                "http2.too_many_resets",
            ),
        ];
        for (frame, allowed, violation) in cases {
            let mut watch = FrameWatch::server(&Http2Options::default(), Arc::default());
            watch.inbound(&[0; PREFACE]).unwrap();
            for _ in 0..allowed {
                watch.inbound(&frame).unwrap();
            }
            assert!(watch.inbound(&frame).is_err(), "{violation}");
            assert_eq!(watch.counts().violation, Some(violation));
        }
    }

    #[test]
    fn lets_a_client_update_the_windows_of_the_streams_it_opens() {
        let mut watch = FrameWatch::server(&Http2Options::default(), Arc::default());
        watch.inbound(&[0; PREFACE]).unwrap();
        for stream in (1..200).step_by(2) {
            let mut headers = frame(HEADERS, 4, b"x");
            headers[8] = stream;
            watch.inbound(&headers).unwrap();
            watch.inbound(&frame(WINDOW_UPDATE, 0, &[0; 4])).unwrap();
            watch.inbound(&frame(WINDOW_UPDATE, 0, &[0; 4])).unwrap();
        }
        assert_eq!(watch.counts().violation, None);
    }

    #[test]
    fn tells_the_crates_resets_from_our_own() {
        let reset = frame(RST_STREAM, 0, &[0, 0, 0, 1]);
        let mut watch = client();
        watch.counts().own_resets = 1;
        watch.outbound(&reset);
        assert!(!watch.counts().malformed);
        watch.outbound(&reset);
        assert!(watch.counts().malformed);
        assert_eq!(watch.stats.tx_reset.value(), 2);
    }
}
