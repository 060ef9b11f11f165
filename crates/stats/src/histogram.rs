//! What workers write to: a histogram's buckets since the last flush.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

/// A distribution of whole numbers: milliseconds, bytes, counts.
///
/// The buckets are those of Envoy's libcirclhist: two significant digits, so 90 a decade. They are allocated a decade
/// at a time when first needed, because most histograms stay empty and the others are narrow.
#[derive(Debug, Default)]
pub struct Histogram(OnceLock<Box<Decades>>);

#[derive(Debug, Default)]
struct Decades {
    /// 0 to 9: as many buckets as values.
    digits: [AtomicU32; 10],
    /// From 10–99 upwards.
    decades: [OnceLock<Box<Decade>>; DECADES],
}

/// Up to 10^19, the last power of ten in a `u64`.
const DECADES: usize = 19;

/// One bucket for each pair of leading digits, 10 to 99.
#[derive(Debug)]
struct Decade([AtomicU32; 90]);

impl Default for Decade {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; 90])
    }
}

impl Histogram {
    /// Records one value.
    pub fn record(&self, value: u64) {
        let all = self.0.get_or_init(Box::default);
        let counter = match value {
            0..=9 => &all.digits[value as usize],
            _ => {
                let exponent = value.ilog10() - 1;
                let leading = (value / 10u64.pow(exponent)) as usize;
                &all.decades[exponent as usize].get_or_init(Box::default).0[leading - 10]
            }
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Takes out what was recorded since the last time: `take(lower bound of the bucket, count)`, upwards.
    pub(crate) fn drain(&self, mut take: impl FnMut(u64, u32)) {
        let Some(all) = self.0.get() else {
            return;
        };
        for (digit, counter) in (0..).zip(&all.digits) {
            if counter.load(Relaxed) != 0 {
                take(digit, counter.swap(0, Relaxed));
            }
        }
        for (exponent, decade) in (0..).zip(&all.decades) {
            for (leading, counter) in (10..).zip(decade.get().into_iter().flat_map(|d| &d.0)) {
                if counter.load(Relaxed) != 0 {
                    take(leading * 10u64.pow(exponent), counter.swap(0, Relaxed));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_keep_two_digits() {
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
}
