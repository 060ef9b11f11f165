//! `/stats/prometheus`: the text exposition format.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::fmt::Write;
use std::sync::Arc;

use super::PIECE;
use super::number::general;
use crate::Kind;
use crate::QUANTILES;
use crate::Recorded;
use crate::Row;
use crate::Snapshot;
use crate::Store;
use crate::Value;

/// How `/stats/prometheus` shows histograms (`histogram_buckets`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrometheusHistograms {
    /// As histograms, with cumulative buckets since the start.
    #[default]
    Cumulative,
    /// As summaries, with the quantiles of the last interval.
    Summary,
}

/// Counters, gauges, text readouts if wanted, histograms; within each the metrics in the order of their dotted names.
#[derive(Debug)]
pub struct Prometheus {
    store: Arc<Store>,
    snapshot: Snapshot,
    histograms: PrometheusHistograms,
    kinds: std::vec::IntoIter<Kind>,
    kind: Kind,
    metrics: btree_map::IntoIter<String, Vec<u32>>,
    /// The metric being written, and its rows to come.
    metric: String,
    rows: std::vec::IntoIter<u32>,
}

/// Enough digits for any double, as Envoy prints them.
const DIGITS: usize = 32;

impl Prometheus {
    /// Renders `snapshot`, which was taken of `store`.
    pub fn new(
        store: Arc<Store>,
        snapshot: Snapshot,
        histograms: PrometheusHistograms,
        text_readouts: bool,
    ) -> Self {
        let mut kinds = vec![Kind::Counter, Kind::Gauge, Kind::Text, Kind::Histogram];
        kinds.retain(|kind| *kind != Kind::Text || text_readouts);
        Self {
            store,
            snapshot,
            histograms,
            kinds: kinds.into_iter(),
            kind: Kind::Counter,
            metrics: BTreeMap::new().into_iter(),
            metric: String::new(),
            rows: Vec::new().into_iter(),
        }
    }

    /// The rows of each metric of one kind, by the dotted name without labels.
    fn metrics(&self, kind: Kind) -> BTreeMap<String, Vec<u32>> {
        let mut metrics = BTreeMap::<String, Vec<u32>>::new();
        let tags = &self.store.options().tags;
        for (index, row) in self.snapshot.rows().enumerate() {
            if row.value().kind() == kind {
                let metric = tags.extract(&row.name()).name;
                metrics.entry(metric).or_default().push(index as u32);
            }
        }
        metrics
    }

    fn write_type(&self, to: &mut String) -> std::fmt::Result {
        let kind = match (self.kind, self.histograms) {
            (Kind::Counter, _) => "counter",
            (Kind::Gauge | Kind::Text, _) => "gauge",
            (Kind::Histogram, PrometheusHistograms::Cumulative) => "histogram",
            (Kind::Histogram, PrometheusHistograms::Summary) => "summary",
        };
        writeln!(to, "# TYPE {} {kind}", self.metric)
    }

    fn write_row(&self, row: Row<'_>, to: &mut String) -> std::fmt::Result {
        let metric = &self.metric;
        let name = row.name();
        let labels = self.labels(&name);
        match row.value() {
            Value::Counter(value) | Value::Gauge(value) => {
                writeln!(to, "{metric}{{{labels}}} {value}")
            }
            Value::Text(text) => {
                let labels = with("text_value", &escape(text), &labels);
                writeln!(to, "{metric}{{{labels}}} 0")
            }
            Value::Histogram(recorded) => {
                let nothing = Recorded::default();
                let shown = Shown {
                    metric,
                    labels: &labels,
                    recorded: recorded.unwrap_or(&nothing),
                };
                match self.histograms {
                    PrometheusHistograms::Cumulative => {
                        shown.histogram(self.store.options().bounds(&name), to)
                    }
                    PrometheusHistograms::Summary => shown.summary(to),
                }
            }
        }
    }

    fn labels(&self, name: &str) -> String {
        let labels = self.store.options().tags.extract(name).labels;
        let labels = labels.iter();
        let labels: Vec<_> = labels
            .map(|(tag, value)| format!("{}=\"{}\"", sanitize(tag), escape(value)))
            .collect();
        labels.join(",")
    }
}

impl Iterator for Prometheus {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut piece = String::new();
        while piece.len() < PIECE {
            if let Some(index) = self.rows.next() {
                let row = self.snapshot.row(index as usize)?;
                self.write_row(row, &mut piece).unwrap_or_default(); // a String takes everything
            } else if let Some((metric, rows)) = self.metrics.next() {
                self.metric = format!("envoy_{}", sanitize(&metric));
                self.rows = rows.into_iter();
                self.write_type(&mut piece).unwrap_or_default();
            } else if let Some(kind) = self.kinds.next() {
                self.kind = kind;
                self.metrics = self.metrics(kind).into_iter();
            } else {
                break;
            }
        }
        (!piece.is_empty()).then_some(piece)
    }
}

/// One histogram with its labels.
struct Shown<'a> {
    metric: &'a str,
    labels: &'a str,
    recorded: &'a Recorded,
}

impl Shown<'_> {
    fn histogram(&self, bounds: &[f64], to: &mut String) -> std::fmt::Result {
        let Self { metric, labels, .. } = self;
        let comma = if labels.is_empty() { "" } else { "," };
        let all = &self.recorded.cumulative;
        let total = all.count();
        for (bound, count) in bounds.iter().zip(all.cumulative(bounds)) {
            let bound = general(*bound, DIGITS);
            writeln!(
                to,
                "{metric}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}"
            )?;
        }
        writeln!(to, "{metric}_bucket{{{labels}{comma}le=\"+Inf\"}} {total}")?;
        writeln!(
            to,
            "{metric}_sum{{{labels}}} {}",
            general(all.sum(), DIGITS)
        )?;
        writeln!(to, "{metric}_count{{{labels}}} {total}")
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

fn with(label: &str, value: &str, labels: &str) -> String {
    let comma = if labels.is_empty() { "" } else { "," };
    format!("{labels}{comma}{label}=\"{value}\"")
}

/// Names of metrics and labels hold letters, digits and `_` only; each byte of any other character is a `_`.
fn sanitize(name: &str) -> String {
    let fit = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte),
        _ => '_',
    };
    name.bytes().map(fit).collect()
}

/// Values of labels may hold anything, escaped.
fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace('"', "\\\"")
}
