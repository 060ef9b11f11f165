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
