//! Clients that open streams only to reset them: what a reset costs the client is little, what it costs us and the upstream
//! is much. A connection of which too many streams end before any answer is ended.

use std::cell::Cell;

use outrider_net::clock;

use crate::Stream;

/// Streams whose answers do not come for longer than so many seconds are no sign of abuse, unless the runtime says otherwise.
const MIN_LIFETIME: u64 = 1;

/// From so many streams on, the share of resets counts; before, the resets alone do. The runtime may say otherwise.
const TOTAL_STREAMS: u64 = 500;

/// How the streams of one connection have ended.
#[derive(Debug, Default)]
pub(super) struct PrematureResets {
    ended: Cell<u64>,
    /// Of those, the ones that were reset soon and without an answer.
    premature: Cell<u64>,
}

impl PrematureResets {
    /// Counts a stream that is answered.
    pub(super) fn note_answer(&self) {
        self.ended.set(self.ended.get() + 1);
    }

    /// Counts a stream that its client reset before any answer; true when half of the connection's streams have ended so.
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
