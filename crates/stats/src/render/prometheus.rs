//! `/stats/prometheus`: the text exposition format.

mod index;

use std::fmt::Write;
use std::sync::Arc;

use self::index::CachedStatId;
use self::index::LabelsOfCluster;
use self::index::MetricFamily;
use self::index::MetricIndex;
use super::PIECE_SIZE;
use super::number::general;
use super::number::push_integer;
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
    line: ClusterLine,
    /// Buffers to reuse.
    labels: String,
    bucket: String,
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
        let (index, mut metrics) = MetricIndex::of(&snapshot, &store.options().tags);
        metrics.retain(|metric| metric.kind != StatKind::Text || text_readouts);
        Self {
            store,
            snapshot,
            histograms,
            index,
            metrics: metrics.into_iter(),
            metric: String::new(),
            rows: Vec::new().into_iter(),
            line: ClusterLine::default(),
            labels: String::new(),
            bucket: String::new(),
            bounds: Bounds::default(),
        }
    }

    fn begin(&mut self, metric: MetricFamily, to: &mut String) {
        self.metric = format!("envoy_{}", sanitize(&metric.name));
        self.rows = metric.rows.into_iter();
        self.line.cached_stat = None;
        let kind = match (metric.kind, self.histograms) {
            (StatKind::Counter, _) => "counter",
            (StatKind::Gauge | StatKind::Text, _) => "gauge",
            (StatKind::Histogram, PrometheusHistogramFormat::Cumulative) => "histogram",
            (StatKind::Histogram, PrometheusHistogramFormat::Summary) => "summary",
        };
        push(to, &["# TYPE ", &self.metric, " ", kind, "\n"]);
    }

    fn write_row(&mut self, at: u32, to: &mut String) -> std::fmt::Result {
        let Some(row) = self.snapshot.row(at as usize) else {
            return Ok(());
        };
        let options = self.store.options();
        if let StatValue::Counter(value) | StatValue::Gauge(value) = row.value() {
            match self.index.labels_of_cluster(row) {
                Some(labels) => self.line.write(&self.metric, &labels, to),
                None => {
                    push(to, &[&self.metric, "{"]);
                    self.index.write_labels(row, &options.tags, to);
                    to.push_str("} ");
                }
            }
            push_integer(value, to);
            to.push('\n');
            return Ok(());
        }
        self.labels.clear();
        self.index
            .write_labels(row, &options.tags, &mut self.labels);
        if let StatValue::Text(text) = row.value() {
            let labels = with("text_value", &escape(text), &self.labels);
            return writeln!(to, "{}{{{labels}}} 0", self.metric);
        }
        let nothing = RecordedHistogram::default();
        let shown = LabelledHistogram {
            metric: &self.metric,
            labels: &self.labels,
            recorded: match row.value() {
                StatValue::Histogram(Some(recorded)) => recorded,
                _ => &nothing,
            },
        };
        match self.histograms {
            PrometheusHistogramFormat::Cumulative => {
                let bounds = if options.has_own_bounds() {
                    options.bounds(&row.name())
                } else {
                    options.bounds("")
                };
                let texts = self.bounds.texts(bounds);
                shown.histogram(texts, bounds, &mut self.bucket, to);
                Ok(())
            }
            PrometheusHistogramFormat::Summary => shown.summary(to),
        }
    }
}

/// The line of a counter or gauge, which is the same for all clusters but for the cluster's name and the value.
#[derive(Debug, Default)]
struct ClusterLine {
    /// Which stat the texts are of.
    cached_stat: Option<CachedStatId>,
    /// The text up to the cluster's name, and from there to the value.
    start: String,
    end: String,
}

impl ClusterLine {
    /// Writes all but the value.
    fn write(&mut self, metric: &str, labels: &LabelsOfCluster<'_>, to: &mut String) {
        if self.cached_stat != Some(labels.of) {
            self.cached_stat = Some(labels.of);
            self.start.clear();
            push(&mut self.start, &[metric, "{", labels.start]);
            self.end.clear();
            push(&mut self.end, &[labels.end, "} "]);
        }
        push(to, &[&self.start, labels.cluster, &self.end]);
    }
}

impl Iterator for PrometheusRenderer {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut piece = String::with_capacity(PIECE_SIZE + 8192);
        while piece.len() < PIECE_SIZE {
            if let Some(at) = self.rows.next() {
                self.write_row(at, &mut piece).unwrap_or_default(); // writing to a String cannot fail
            } else if let Some(metric) = self.metrics.next() {
                self.begin(metric, &mut piece);
            } else {
                break;
            }
        }
        (!piece.is_empty()).then_some(piece)
    }
}

/// The end of a bucket's line from its bound to the count, cached because most histograms have the same bounds.
#[derive(Debug, Default)]
struct Bounds {
    bounds: Vec<f64>,
    texts: Vec<String>,
}

impl Bounds {
    fn texts(&mut self, bounds: &[f64]) -> &[String] {
        if self.bounds != bounds {
            self.bounds = bounds.to_vec();
            let text = |bound: &f64| general(*bound, DIGITS) + "\"} ";
            let texts = bounds.iter().map(text);
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
    /// `texts` are those of `bounds`; `bucket` is a buffer to reuse.
    fn histogram(&self, texts: &[String], bounds: &[f64], bucket: &mut String, to: &mut String) {
        let Self { metric, labels, .. } = self;
        let comma = if labels.is_empty() { "" } else { "," };
        let all = &self.recorded.cumulative;
        let total = all.count();
        bucket.clear();
        push(bucket, &[metric, "_bucket{", labels, comma, "le=\""]);
        if total == 0 {
            for bound in texts {
                push(to, &[bucket, bound, "0\n"]);
            }
        } else {
            for (bound, count) in texts.iter().zip(all.cumulative(bounds)) {
                push(to, &[bucket, bound]);
                push_integer(count, to);
                to.push('\n');
            }
        }
        push(to, &[bucket, "+Inf\"} "]);
        push_integer(total, to);
        let sum = general(all.sum(), DIGITS);
        push(to, &["\n", metric, "_sum{", labels, "} ", &sum, "\n"]);
        push(to, &[metric, "_count{", labels, "} "]);
        push_integer(total, to);
        to.push('\n');
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
