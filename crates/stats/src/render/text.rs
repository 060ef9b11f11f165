//! `/stats`: one line per stat.

use std::fmt::Write;
use std::sync::Arc;

use super::HistogramFormat;
use super::PIECE_SIZE;
use super::bucket_counts;
use super::number::general;
use super::number::push_integer;
use super::number::shortest;
use crate::Distribution;
use crate::QUANTILES;
use crate::RecordedHistogram;
use crate::StatRow;
use crate::StatValue;
use crate::StatsOptions;
use crate::StatsSnapshot;
use crate::Store;

/// Writes text readouts, then counters and gauges, then histograms, each sorted by name.
#[derive(Debug)]
pub struct TextRenderer {
    store: Arc<Store>,
    snapshot: StatsSnapshot,
    histograms: HistogramFormat,
    pass: usize,
    next: usize,
}

type Wanted = fn(&StatValue<'_>) -> bool;

const PASSES: [Wanted; 3] = [
    |value| matches!(value, StatValue::Text(_)),
    |value| matches!(value, StatValue::Counter(_) | StatValue::Gauge(_)),
    |value| matches!(value, StatValue::Histogram(_)),
];

impl TextRenderer {
    /// Renders `snapshot`, which was taken of `store`.
    pub fn new(store: Arc<Store>, snapshot: StatsSnapshot, histograms: HistogramFormat) -> Self {
        Self {
            store,
            snapshot,
            histograms,
            pass: 0,
            next: 0,
        }
    }

    fn write(&self, row: StatRow<'_>, to: &mut String) -> std::fmt::Result {
        match row.value() {
            StatValue::Counter(value) | StatValue::Gauge(value) => {
                row.write_name(to);
                to.push_str(": ");
                push_integer(value, to);
                to.push('\n');
                Ok(())
            }
            StatValue::Text(text) => writeln!(to, "{}: \"{text}\"", row.name()),
            StatValue::Histogram(None) => {
                row.write_name(to);
                to.push_str(": No recorded values\n");
                Ok(())
            }
            StatValue::Histogram(Some(recorded)) => {
                let options = self.store.options();
                histogram(&row.name(), recorded, self.histograms, options, to)
            }
        }
    }
}

impl Iterator for TextRenderer {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut piece = String::with_capacity(PIECE_SIZE + 1024);
        while piece.len() < PIECE_SIZE {
            let Some(row) = self.snapshot.row(self.next) else {
                self.pass += 1;
                self.next = 0;
                if self.pass >= PASSES.len() {
                    break;
                }
                continue;
            };
            self.next += 1;
            let wanted = PASSES.get(self.pass)?;
            if wanted(&row.value()) {
                self.write(row, &mut piece).unwrap_or_default(); // writing to a String cannot fail
            }
        }
        (!piece.is_empty()).then_some(piece)
    }
}

fn histogram(
    name: &str,
    recorded: &RecordedHistogram,
    histograms: HistogramFormat,
    options: &StatsOptions,
    to: &mut String,
) -> std::fmt::Result {
    match histograms {
        HistogramFormat::Summary => writeln!(to, "{name}: {}", summary(recorded)),
        HistogramFormat::Cumulative | HistogramFormat::Disjoint => {
            let bounds = options.bounds(name);
            let [intervals, cumulatives] = bucket_counts(recorded, bounds, histograms);
            write!(to, "{name}:")?;
            for ((bound, interval), cumulative) in bounds.iter().zip(&intervals).zip(&cumulatives) {
                write!(to, " B{}({interval},{cumulative})", general(*bound, 6))?;
            }
            writeln!(to)
        }
        HistogramFormat::Detailed => {
            writeln!(to, "{name}:")?;
            writeln!(to, "  totals={}", buckets(&recorded.cumulative))?;
            writeln!(to, "  intervals={}", buckets(&recorded.interval))?;
            writeln!(to, "  summary={}", summary(recorded))
        }
    }
}

/// `P0(interval,cumulative) P25(…) …`
fn summary(recorded: &RecordedHistogram) -> String {
    let interval = recorded.interval.quantiles();
    let cumulative = recorded.cumulative.quantiles();
    let pairs = QUANTILES.iter().zip(interval).zip(cumulative);
    let shown: Vec<_> = pairs
        .map(|((quantile, interval), cumulative)| {
            let percent = general(quantile * 100.0, 6);
            format!(
                "P{percent}({},{})",
                shortest(interval),
                shortest(cumulative)
            )
        })
        .collect();
    shown.join(" ")
}

/// `lower,width:count, …`
fn buckets(distribution: &Distribution) -> String {
    let shown: Vec<_> = distribution
        .buckets()
        .map(|b| {
            format!(
                "{},{}:{}",
                general(b.lower, 6),
                general(b.width, 6),
                b.count
            )
        })
        .collect();
    shown.join(", ")
}
