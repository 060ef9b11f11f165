//! Renders snapshots as `/stats` and `/stats/prometheus` print them.
//!
//! Each renderer is an iterator over pieces of some kilobytes: the answer for a thousand clusters has 13 MB, and whoever
//! sends it need never hold more than a piece.

mod json;
mod number;
mod prometheus;
mod text;

pub use json::Json;
pub use prometheus::Prometheus;
pub use prometheus::PrometheusHistograms;
pub use text::Text;

/// How `/stats` shows histograms (`histogram_buckets`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Histograms {
    /// Quantiles.
    #[default]
    Summary,
    /// For each bound the values up to it.
    Cumulative,
    /// For each bound the values between the bound before and it.
    Disjoint,
    /// Every bucket that is not empty, and the quantiles.
    Detailed,
}

/// A renderer stops at the end of the stat that passes this many bytes.
const PIECE: usize = 16 * 1024;

/// The values between one bound and the next, from the values up to each.
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
