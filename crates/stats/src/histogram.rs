//! The histograms that workers record into: the buckets, and how much of each was already flushed.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use crate::Stat;
use crate::Visitor;

/// A distribution of whole numbers such as milliseconds, bytes or counts.
///
/// The buckets are those of Envoy's libcirclhist: two significant digits, so 90 per decade. Each decade is allocated
/// when first needed, because most histograms stay empty and the others are narrow.
///
/// Only one thread may record, so that recording needs no atomic read-modify-write. Use [`SharedHistogram`] for several
/// threads.
#[derive(Debug, Default)]
pub struct Histogram(OnceLock<Box<Decades>>);

/// A histogram that several threads record into.
#[derive(Debug, Default)]
pub struct SharedHistogram(pub(crate) Histogram);

/// The number of recorded and of flushed values, each written by one thread only. Both wrap around.
#[derive(Debug)]
struct BucketCounts {
    recorded: AtomicU32,
    taken: AtomicU32,
}

impl BucketCounts {
    const fn new() -> BucketCounts {
        BucketCounts {
            recorded: AtomicU32::new(0),
            taken: AtomicU32::new(0),
        }
    }

    fn take(&self) -> u32 {
        let recorded = self.recorded.load(Relaxed);
        let before = self.taken.load(Relaxed);
        if recorded != before {
            self.taken.store(recorded, Relaxed);
        }
        recorded.wrapping_sub(before)
    }
}

#[derive(Debug)]
struct Decades {
    /// One bucket for each value from 0 to 9.
    digits: [BucketCounts; 10],
    /// The decades 10–99, 100–999 and so on.
    decades: [OnceLock<Box<Decade>>; DECADES],
}

/// Up to 10^19, the highest power of ten in a `u64`.
const DECADES: usize = 19;

/// One bucket for each pair of leading digits, 10 to 99.
#[derive(Debug)]
struct Decade([BucketCounts; 90]);

impl Default for Decade {
    fn default() -> Self {
        Self([const { BucketCounts::new() }; 90])
    }
}

impl Default for Decades {
    fn default() -> Self {
        Self {
            digits: [const { BucketCounts::new() }; 10],
            decades: Default::default(),
        }
    }
}

impl Histogram {
    /// Records one value.
    pub fn record(&self, value: u64) {
        let recorded = &self.bucket(value).recorded;
        recorded.store(recorded.load(Relaxed).wrapping_add(1), Relaxed);
    }

    fn bucket(&self, value: u64) -> &BucketCounts {
        let all = self.0.get_or_init(Box::default);
        match value {
            0..=9 => &all.digits[value as usize],
            _ => {
                let exponent = value.ilog10() - 1;
                let leading = (value / 10u64.pow(exponent)) as usize;
                &all.decades[exponent as usize].get_or_init(Box::default).0[leading - 10]
            }
        }
    }

    /// Calls `take(lower bound of the bucket, count)`, in ascending order, for what was recorded since the last call.
    /// Must not be called by two threads at a time.
    pub(crate) fn drain(&self, mut take: impl FnMut(u64, u32)) {
        let Some(all) = self.0.get() else {
            return;
        };
        for (digit, bucket) in (0..).zip(&all.digits) {
            match bucket.take() {
                0 => {}
                count => take(digit, count),
            }
        }
        for (exponent, decade) in (0..).zip(&all.decades) {
            for (leading, bucket) in (10..).zip(decade.get().into_iter().flat_map(|d| &d.0)) {
                match bucket.take() {
                    0 => {}
                    // Only buckets above `u64::MAX` would overflow, and they stay empty.
                    count => take(leading * 10u64.pow(exponent), count),
                }
            }
        }
    }
}

impl SharedHistogram {
    /// Records one value.
    pub fn record(&self, value: u64) {
        self.0.bucket(value).recorded.fetch_add(1, Relaxed);
    }
}

impl Stat for SharedHistogram {
    fn visit_as(&self, name: &'static str, visitor: &mut Visitor<'_>) {
        self.0.visit_as(name, visitor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_have_two_significant_digits() {
        let histogram = Histogram::default();
        for value in [0, 1, 9, 10, 99, 100, 109, 110, 123_456, u64::MAX, 1] {
            histogram.record(value);
        }
        let mut seen = Vec::new();
        histogram.drain(|bound, count| seen.push((bound, count)));
        let top = 18_000_000_000_000_000_000;
        let want = [
            (0, 1),
            (1, 2),
            (9, 1),
            (10, 1),
            (99, 1),
            (100, 2),
            (110, 1),
            (120_000, 1),
            (top, 1),
        ];
        assert_eq!(seen, want);
        histogram.drain(|bound, count| panic!("{count} left in {bound}"));
    }

    #[test]
    fn several_threads_can_record_into_a_shared_histogram() {
        let histogram = SharedHistogram::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| histogram.record(25)));
            }
        });
        let mut seen = Vec::new();
        histogram.0.drain(|bound, count| seen.push((bound, count)));
        assert_eq!(seen, [(25, 40_000)]);
    }
}
