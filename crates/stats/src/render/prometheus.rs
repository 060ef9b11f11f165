//! `/stats/prometheus`: the text exposition format.

mod index;

use std::fmt::Write;
use std::sync::Arc;

use self::index::MetricFamily;
use self::index::MetricIndex;
use super::PIECE_SIZE;
use super::number::general;
use crate::QUANTILES;
use crate::RecordedHistogram;
use crate::StatKind;
use crate::StatValue;
use crate::StatsSnapshot;
use crate::Store;

/// How `/stats/prometheus` shows histograms (`histogram_buckets`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrometheusHistogramFormat {
    /// As histograms with cumulative buckets since the start.
    #[default]
    Cumulative,
    /// As summaries with the quantiles of the last interval.
    Summary,
}

/// Writes counters, gauges, optionally text readouts, and histograms; each kind sorted by dotted metric name.
#[derive(Debug)]
pub struct PrometheusRenderer {
    store: Arc<Store>,
    snapshot: StatsSnapshot,
    histograms: PrometheusHistogramFormat,
    index: MetricIndex,
    /// The metrics that were not written yet.
    metrics: std::vec::IntoIter<MetricFamily>,
    /// The current metric, and its remaining rows.
    metric: String,
    rows: std::vec::IntoIter<u32>,
    bounds: Bounds,
}

/// Enough digits for any double, as in Envoy.
const DIGITS: usize = 32;

impl PrometheusRenderer {
    /// Renders `snapshot`, which was taken of `store`.
    pub fn new(
        store: Arc<Store>,
        snapshot: StatsSnapshot,
        histograms: PrometheusHistogramFormat,
        text_readouts: bool,
    ) -> Self {
        let mut index = MetricIndex::default();
        let mut metrics = index.metrics(&snapshot, &store.options().tags);
        metrics.retain(|metric| metric.kind != StatKind::Text || text_readouts);
        Self {
            store,
            snapshot,
            histograms,
            index,
            metrics: metrics.into_iter(),
            metric: String::new(),
            rows: Vec::new().into_iter(),
            bounds: Bounds::default(),
        }
    }

    fn begin(&mut self, metric: MetricFamily, to: &mut String) {
        self.metric = format!("envoy_{}", sanitize(&metric.name));
        self.rows = metric.rows.into_iter();
        let kind = match (metric.kind, self.histograms) {
            (StatKind::Counter, _) => "counter",
            (StatKind::Gauge | StatKind::Text, _) => "gauge",
            (StatKind::Histogram, PrometheusHistogramFormat::Cumulative) => "histogram",
            (StatKind::Histogram, PrometheusHistogramFormat::Summary) => "summary",
        };
        push(to, &["# TYPE ", &self.metric, " ", kind, "\n"]);
    }

    /// Writes one row. `labels` is a buffer to reuse.
    fn write_row(&mut self, at: u32, labels: &mut String, to: &mut String) -> std::fmt::Result {
        let Some(row) = self.snapshot.row(at as usize) else {
            return Ok(());
        };
        let options = self.store.options();
        labels.clear();
        self.index.write_labels(row, &options.tags, labels);
        match row.value() {
            StatValue::Counter(value) | StatValue::Gauge(value) => {
                push(to, &[&self.metric, "{", labels, "} "]);
                writeln!(to, "{value}")
            }
            StatValue::Text(text) => {
                let labels = with("text_value", &escape(text), labels);
                writeln!(to, "{}{{{labels}}} 0", self.metric)
            }
            StatValue::Histogram(recorded) => {
                let nothing = RecordedHistogram::default();
                let shown = LabelledHistogram {
                    metric: &self.metric,
                    labels,
                    recorded: recorded.unwrap_or(&nothing),
                };
                match self.histograms {
                    PrometheusHistogramFormat::Cumulative => {
                        let bounds = if options.has_own_bounds() {
                            options.bounds(&row.name())
                        } else {
                            options.bounds("")
                        };
                        shown.histogram(self.bounds.texts(bounds), bounds, to)
                    }
                    PrometheusHistogramFormat::Summary => shown.summary(to),
                }
            }
        }
    }
}

impl Iterator for PrometheusRenderer {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut piece = String::with_capacity(PIECE_SIZE + 4096);
        let mut labels = String::new();
        while piece.len() < PIECE_SIZE {
            if let Some(at) = self.rows.next() {
                self.write_row(at, &mut labels, &mut piece)
                    .unwrap_or_default(); // writing to a String cannot fail
            } else if let Some(metric) = self.metrics.next() {
                self.begin(metric, &mut piece);
            } else {
                break;
            }
        }
        (!piece.is_empty()).then_some(piece)
    }
}

/// The formatted bucket bounds, cached because most histograms have the same.
#[derive(Debug, Default)]
struct Bounds {
    bounds: Vec<f64>,
    texts: Vec<String>,
}

impl Bounds {
    fn texts(&mut self, bounds: &[f64]) -> &[String] {
        if self.bounds != bounds {
            self.bounds = bounds.to_vec();
            let texts = bounds.iter().map(|bound| general(*bound, DIGITS));
            self.texts = texts.collect();
        }
        &self.texts
    }
}

/// A histogram with its labels.
struct LabelledHistogram<'a> {
    metric: &'a str,
    labels: &'a str,
    recorded: &'a RecordedHistogram,
}

impl LabelledHistogram<'_> {
    fn histogram(&self, texts: &[String], bounds: &[f64], to: &mut String) -> std::fmt::Result {
        let Self { metric, labels, .. } = self;
        let comma = if labels.is_empty() { "" } else { "," };
        let all = &self.recorded.cumulative;
        let total = all.count();
        let bucket = [metric, "_bucket{", labels, comma, "le=\""].concat();
        if total == 0 {
            for bound in texts {
                push(to, &[&bucket, bound, "\"} 0\n"]);
            }
        } else {
            for (bound, count) in texts.iter().zip(all.cumulative(bounds)) {
                push(to, &[&bucket, bound, "\"} "]);
                writeln!(to, "{count}")?;
            }
        }
        push(to, &[&bucket, "+Inf\"} "]);
        writeln!(to, "{total}")?;
        let sum = general(all.sum(), DIGITS);
        push(to, &[metric, "_sum{", labels, "} ", &sum, "\n"]);
        push(to, &[metric, "_count{", labels, "} "]);
        writeln!(to, "{total}")
    }

    fn summary(&self, to: &mut String) -> std::fmt::Result {
        let Self { metric, labels, .. } = self;
        let last = &self.recorded.interval;
        for (quantile, value) in QUANTILES.iter().zip(last.quantiles()) {
            let quantile = with("quantile", &quantile.to_string(), labels);
            writeln!(to, "{metric}{{{quantile}}} {}", general(value, DIGITS))?;
        }
        writeln!(
            to,
            "{metric}_sum{{{labels}}} {}",
            general(last.sum(), DIGITS)
        )?;
        writeln!(to, "{metric}_count{{{labels}}} {}", last.count())
    }
}

fn push(to: &mut String, parts: &[&str]) {
    parts.iter().for_each(|part| to.push_str(part));
}

fn with(label: &str, value: &str, labels: &str) -> String {
    let comma = if labels.is_empty() { "" } else { "," };
    format!("{labels}{comma}{label}=\"{value}\"")
}

/// Metric and label names contain letters, digits and `_` only; each byte of any other character becomes `_`.
fn sanitize(name: &str) -> String {
    let fit = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte),
        _ => '_',
    };
    name.bytes().map(fit).collect()
}

/// Escapes a label's value, which may contain anything.
fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace('"', "\\\"")
}
