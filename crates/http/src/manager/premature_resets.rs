//! Clients that open streams only to reset them: what a reset costs the client is little, what it costs us and the upstream
//! is much. A connection of which too many streams end before any answer is ended.

use std::cell::Cell;

use outrider_net::clock;

use crate::Stream;

/// A stream whose response takes longer than this, in seconds, is no sign of abuse if the client resets it. The runtime
/// can change the value.
const MIN_LIFETIME: u64 = 1;

/// From this many streams on, the share of premature resets counts; before that, their number does. The runtime can
/// change the value.
const TOTAL_STREAMS: u64 = 500;

/// How the streams of one connection have ended.
#[derive(Debug, Default)]
pub(super) struct PrematureResets {
    ended: Cell<u64>,
    /// Of those, the streams that their client reset soon and before a response.
    premature: Cell<u64>,
}

impl PrematureResets {
    /// Counts a stream that got a response.
    pub(super) fn note_answer(&self) {
        self.ended.set(self.ended.get() + 1);
    }

    /// Counts a stream that its client reset before a response. Returns true if half of the connection's streams have
    /// ended this way.
    pub(super) fn note_reset(&self, stream: &Stream) -> bool {
        self.note_answer();
        let number = |key: &str, default: u64| {
            let set = stream.runtime().and_then(|runtime| runtime.number(key));
            set.unwrap_or(default)
        };
        let lived = clock::now().saturating_duration_since(stream.started);
        let min = number(
            "overload.premature_reset_min_stream_lifetime_seconds",
            MIN_LIFETIME,
        );
        if lived.as_secs() > min {
            return false;
        }
        let premature = self.premature.get() + 1;
        self.premature.set(premature);
        let total = number("overload.premature_reset_total_stream_count", TOTAL_STREAMS);
        premature.saturating_mul(2) >= self.ended.get().max(total)
    }
}
