//! The recorded values of a histogram, summed over its copies, and the quantiles and buckets computed from them.

/// Counts by bucket. As in Envoy's libcirclhist, a bucket contains the values that share their two leading digits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// Lower bound and count of each bucket, in ascending order.
    buckets: Vec<(u64, u64)>,
}

/// A bucket with at least one value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// The lowest value of the bucket.
    pub lower: f64,
    /// The distance to the next bucket; 0 for the bucket of zeros.
    pub width: f64,
    /// The number of recorded values.
    pub count: u64,
}

/// The quantiles that Envoy prints.
pub const QUANTILES: [f64; 10] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0];

impl Distribution {
    /// Adds `count` values to the bucket that starts at `lower`.
    pub(crate) fn add(&mut self, lower: u64, count: u64) {
        match self.buckets.binary_search_by_key(&lower, |bucket| bucket.0) {
            Ok(at) => self.buckets[at].1 += count,
            Err(at) => self.buckets.insert(at, (lower, count)),
        }
    }

    pub(crate) fn clear(&mut self) {
        self.buckets.clear();
    }

    /// The number of recorded values.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.1).sum()
    }

    /// The sum of all values, where each value counts as the (harmonic) middle of its bucket, as in libcirclhist.
    pub fn sum(&self) -> f64 {
        let middle = |b: &Bucket| match b.width {
            0.0 => b.lower,
            width => 2.0 * b.lower * (b.lower + width) / (2.0 * b.lower + width),
        };
        self.buckets()
            .fold(0.0, |sum, b| sum + middle(&b) * b.count as f64)
    }

    /// The buckets that are not empty, in ascending order.
    pub fn buckets(&self) -> impl Iterator<Item = Bucket> {
        self.buckets.iter().map(|&(lower, count)| Bucket {
            lower: lower as f64,
            width: width(lower),
            count,
        })
    }

    /// The values at [`QUANTILES`]; NaN if nothing was recorded.
    ///
    /// The k-th of n values in a bucket counts as lying at k/(n+1) of its width.
    pub fn quantiles(&self) -> [f64; QUANTILES.len()] {
        let total = self.count() as f64;
        QUANTILES.map(|q| self.at_rank((q * total).ceil().max(1.0) as u64))
    }

    fn at_rank(&self, rank: u64) -> f64 {
        let mut below = 0;
        for bucket in self.buckets() {
            if rank <= below + bucket.count {
                let within = (rank - below) as f64 / (bucket.count + 1) as f64;
                return bucket.lower + bucket.width * within;
            }
            below += bucket.count;
        }
        f64::NAN
    }

    /// For each of `bounds`, which are ascending, the number of values up to it. A bucket that starts at or below a
    /// bound counts completely.
    pub fn cumulative(&self, bounds: &[f64]) -> Vec<u64> {
        let mut buckets = self.buckets().peekable();
        let mut count = 0;
        let up_to = |bound: &f64| {
            while let Some(bucket) = buckets.next_if(|bucket| bucket.lower <= *bound) {
                count += bucket.count;
            }
            count
        };
        bounds.iter().map(up_to).collect()
    }
}

fn width(lower: u64) -> f64 {
    match lower {
        0 => 0.0,
        1..=9 => 0.1,
        _ => 10u64.pow(lower.ilog10() - 1) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distribution(values: &[(u64, u64)]) -> Distribution {
        let mut d = Distribution::default();
        values
            .iter()
            .for_each(|(lower, count)| d.add(*lower, *count));
        d
    }

    /// The sizes 3,3,4,5,7,7,10,25,25,26,99,100,104,300,304,305,308,310,999,1000,1003,12345,123456, and Envoy 1.40's
    /// output for them.
    #[test]
    fn results_are_envoys() {
        let d = distribution(&[
            (3, 2),
            (4, 1),
            (5, 1),
            (7, 2),
            (10, 1),
            (25, 2),
            (26, 1),
            (99, 1),
            (100, 2),
            (300, 4),
            (310, 1),
            (990, 1),
            (1000, 2),
            (12_000, 1),
            (120_000, 1),
        ]);
        let want = [
            3.033333333333333,
            7.066666666666666,
            103.33333333333333,
            315.0,
            1066.6666666666667,
            12_500.0,
            125_000.0,
            125_000.0,
            125_000.0,
            125_000.0,
        ];
        assert_eq!(d.quantiles(), want);
        assert_eq!(d.sum(), 142_331.070_720_412_33);
        assert_eq!(d.count(), 23);
        let bounds = [3.0, 3.05, 7.0, 25.0, 25.5, 100.0, 305.0, 1000.0];
        assert_eq!(d.cumulative(&bounds), [2, 2, 6, 9, 9, 13, 17, 21]);
    }

    /// 244 zeros and 8 ones.
    #[test]
    fn zeros_have_a_bucket_without_width() {
        let d = distribution(&[(0, 244), (1, 8)]);
        let q = d.quantiles();
        assert_eq!(q[..6], [0.0; 6]);
        let want = [
            1.0666666666666667,
            1.0777777777777777,
            1.0888888888888888,
            1.0888888888888888,
        ];
        assert_eq!(q[6..], want);
        assert_eq!(d.sum(), 8.380952380952381);
        assert_eq!(d.cumulative(&[0.5, 1.0]), [244, 252]);
    }

    #[test]
    fn an_empty_histogram_has_no_quantiles() {
        assert!(
            Distribution::default()
                .quantiles()
                .iter()
                .all(|q| q.is_nan())
        );
    }

    /// Records random values: quantiles are ascending and within the buckets used, and no value is lost.
    #[test]
    fn quantiles_are_ascending() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let histogram = crate::Histogram::default();
            let values: Vec<u64> = (0..random.usize(1..200))
                .map(|_| random.u64(..) >> random.u32(0..64))
                .collect();
            values.iter().for_each(|value| histogram.record(*value));
            let mut d = Distribution::default();
            histogram.drain(|lower, count| d.add(lower, u64::from(count)));

            assert_eq!(d.count(), values.len() as u64);
            let quantiles = d.quantiles();
            assert!(quantiles.is_sorted(), "{quantiles:?}");
            let (min, max) = (values.iter().min().unwrap(), values.iter().max().unwrap());
            assert!(quantiles[0] >= *min as f64 * 0.9 && quantiles[0] <= *min as f64 * 1.11);
            assert!(quantiles[9] >= *max as f64 * 0.9 && quantiles[9] <= *max as f64 * 1.11);
        }
    }
}
