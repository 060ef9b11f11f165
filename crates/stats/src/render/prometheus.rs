//! `/stats/prometheus`: the text exposition format.

mod index;

use std::fmt::Write;
use std::sync::Arc;

use self::index::Index;
use self::index::Metric;
use super::PIECE;
use super::number::general;
use crate::Kind;
use crate::QUANTILES;
use crate::Recorded;
use crate::Snapshot;
use crate::Store;
use crate::Value;

/// How `/stats/prometheus` shows histograms (`histogram_buckets`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrometheusHistograms {
    /// As histograms with cumulative buckets since the start.
    #[default]
    Cumulative,
    /// As summaries with the quantiles of the last interval.
    Summary,
}

/// Writes counters, gauges, optionally text readouts, and histograms; each kind sorted by dotted metric name.
#[derive(Debug)]
pub struct Prometheus {
    store: Arc<Store>,
    snapshot: Snapshot,
    histograms: PrometheusHistograms,
    index: Index,
    /// The metrics that were not written yet.
    metrics: std::vec::IntoIter<Metric>,
    /// The current metric, and its remaining rows.
    metric: String,
    rows: std::vec::IntoIter<u32>,
    bounds: Bounds,
}

/// Enough digits for any double, as in Envoy.
const DIGITS: usize = 32;

impl Prometheus {
    /// Renders `snapshot`, which was taken of `store`.
    pub fn new(
        store: Arc<Store>,
        snapshot: Snapshot,
        histograms: PrometheusHistograms,
        text_readouts: bool,
    ) -> Self {
        let mut index = Index::default();
        let mut metrics = index.metrics(&snapshot, &store.options().tags);
        metrics.retain(|metric| metric.kind != Kind::Text || text_readouts);
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

    fn begin(&mut self, metric: Metric, to: &mut String) {
        self.metric = format!("envoy_{}", sanitize(&metric.name));
        self.rows = metric.rows.into_iter();
        let kind = match (metric.kind, self.histograms) {
            (Kind::Counter, _) => "counter",
            (Kind::Gauge | Kind::Text, _) => "gauge",
            (Kind::Histogram, PrometheusHistograms::Cumulative) => "histogram",
            (Kind::Histogram, PrometheusHistograms::Summary) => "summary",
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
            Value::Counter(value) | Value::Gauge(value) => {
                push(to, &[&self.metric, "{", labels, "} "]);
                writeln!(to, "{value}")
            }
            Value::Text(text) => {
                let labels = with("text_value", &escape(text), labels);
                writeln!(to, "{}{{{labels}}} 0", self.metric)
            }
            Value::Histogram(recorded) => {
                let nothing = Recorded::default();
                let shown = Shown {
                    metric: &self.metric,
                    labels,
                    recorded: recorded.unwrap_or(&nothing),
                };
                match self.histograms {
                    PrometheusHistograms::Cumulative => {
                        let bounds = if options.has_own_bounds() {
                            options.bounds(&row.name())
                        } else {
                            options.bounds("")
                        };
                        shown.histogram(self.bounds.texts(bounds), bounds, to)
                    }
                    PrometheusHistograms::Summary => shown.summary(to),
                }
            }
        }
    }
}

impl Iterator for Prometheus {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut piece = String::with_capacity(PIECE + 4096);
        let mut labels = String::new();
        while piece.len() < PIECE {
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
struct Shown<'a> {
    metric: &'a str,
    labels: &'a str,
    recorded: &'a Recorded,
}

impl Shown<'_> {
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
