//! Renders snapshots in the formats of `/stats` and `/stats/prometheus`.
//!
//! Each renderer is an iterator over pieces of some kilobytes, so that the admin server never has to hold a whole
//! response: for a thousand clusters it has 13 MB.

mod json;
mod number;
mod prometheus;
mod text;

pub use json::JsonRenderer;
pub use prometheus::PrometheusHistogramFormat;
pub use prometheus::PrometheusRenderer;
pub use text::TextRenderer;

use crate::RecordedHistogram;

/// How `/stats` shows histograms (`histogram_buckets`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HistogramFormat {
    /// Quantiles.
    #[default]
    Summary,
    /// For each bound, the number of values up to it.
    Cumulative,
    /// For each bound, the number of values between the previous bound and it.
    Disjoint,
    /// Every non-empty bucket, and the quantiles.
    Detailed,
}

/// A renderer ends a piece after the stat that exceeds this many bytes.
const PIECE_SIZE: usize = 64 * 1024;

/// For each of `bounds`, how many values a histogram has recorded in the last interval, and in total: up to the bound, or
/// with [`HistogramFormat::Disjoint`] between the previous bound and it.
fn bucket_counts(
    recorded: &RecordedHistogram,
    bounds: &[f64],
    histograms: HistogramFormat,
) -> [Vec<u64>; 2] {
    [&recorded.interval, &recorded.cumulative].map(|distribution| {
        let mut counts = distribution.cumulative(bounds);
        if histograms == HistogramFormat::Disjoint {
            disjoint(&mut counts);
        }
        counts
    })
}

/// Converts the numbers of values up to each bound into numbers of values between bounds.
fn disjoint(cumulative: &mut [u64]) {
    let mut below = 0;
    for count in cumulative {
        let up_to = *count;
        *count -= below;
        below = up_to;
    }
}

#[cfg(test)]
mod tests;
