//! How fast a server answers, which decides how long to wait for it.
//!
//! As in Envoy's resolver library: five times the average of the shortest period that has enough answers.

use std::time::Duration;

/// The periods over which averages are kept, in seconds; the last is unlimited.
const SPANS: [u64; 5] = [60, 15 * 60, 60 * 60, 24 * 60 * 60, u64::MAX];
/// The minimum number of answers for an average.
const ENOUGH: u64 = 3;
/// A server may take this many times the average.
const PATIENCE: u64 = 5;

/// The latency of one server.
#[derive(Debug, Default)]
pub(super) struct Latency {
    spans: [TwoPeriods; SPANS.len()],
}

/// The answers in the current period and in the one before.
#[derive(Debug, Default)]
struct TwoPeriods {
    present: Sum,
    previous: Sum,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    /// The index of the period.
    number: u64,
    answers: u64,
    milliseconds: u64,
}

impl Latency {
    /// Records an answer that took `took`. `now` is the time since a fixed instant.
    pub(super) fn record(&mut self, took: Duration, now: Duration) {
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
        for (span, length) in self.spans.iter_mut().zip(SPANS) {
            let number = now.as_secs() / length;
            if span.present.number != number {
                span.previous = span.present;
                span.present = Sum {
                    number,
                    ..Sum::default()
                };
            }
            span.present.answers += 1;
            span.present.milliseconds = span.present.milliseconds.saturating_add(took);
        }
    }

    /// How long to wait for an answer, if there were enough answers so far.
    pub(super) fn patience(&self, now: Duration) -> Option<Duration> {
        self.spans.iter().zip(SPANS).find_map(|(span, length)| {
            let number = now.as_secs() / length;
            let present = span.present.average(number);
            let previous = number.checked_sub(1);
            let average = present.or_else(|| {
                // If a period began without an answer, the sums still belong to the one before.
                let previous = previous?;
                let moved = span.previous.average(previous);
                moved.or_else(|| span.present.average(previous))
            });
            average.map(|average| Duration::from_millis(average.saturating_mul(PATIENCE)))
        })
    }
}

impl Sum {
    /// The average of period `number`, if this sum is for it and has enough answers.
    fn average(&self, number: u64) -> Option<u64> {
        let known = self.number == number && self.answers >= ENOUGH;
        known.then(|| self.milliseconds / self.answers.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_answers_are_enough_and_the_shortest_span_counts() {
        let (second, millisecond) = (Duration::from_secs(1), Duration::from_millis(1));
        let mut latency = Latency::default();
        latency.record(100 * millisecond, second);
        latency.record(100 * millisecond, 2 * second);
        assert_eq!(latency.patience(3 * second), None);
        latency.record(400 * millisecond, 3 * second);
        assert_eq!(latency.patience(4 * second), Some(second));
        // The minute before still counts; after that, the quarter of an hour does.
        assert_eq!(latency.patience(65 * second), Some(second));
        for _ in 0..3 {
            latency.record(20 * millisecond, 200 * second);
        }
        assert_eq!(latency.patience(201 * second), Some(100 * millisecond));
        assert_eq!(latency.patience(400 * second), Some(550 * millisecond));
    }
}
