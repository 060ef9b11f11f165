//! `/stats?format=json`.

use std::fmt::Write;
use std::sync::Arc;

use super::HistogramFormat;
use super::PIECE_SIZE;
use super::bucket_counts;
use super::number::json;
use crate::Distribution;
use crate::QUANTILES;
use crate::RecordedHistogram;
use crate::StatValue;
use crate::StatsOptions;
use crate::StatsSnapshot;
use crate::Store;

/// `{"stats":[{"name":…,"value":…},…,{"histograms":…}]}`
#[derive(Debug)]
pub struct JsonRenderer {
    store: Arc<Store>,
    snapshot: StatsSnapshot,
    histograms: HistogramFormat,
    stage: Stage,
    /// Whether the list of stats has an element already.
    follows: bool,
}

/// The next part to write, and the row that it starts at.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Start,
    Texts(usize),
    Numbers(usize),
    HistogramFormat(usize, /* whether one was shown */ bool),
    End,
}

impl JsonRenderer {
    /// Renders `snapshot`, which was taken of `store`.
    pub fn new(store: Arc<Store>, snapshot: StatsSnapshot, histograms: HistogramFormat) -> Self {
        Self {
            store,
            snapshot,
            histograms,
            stage: Stage::Start,
            follows: false,
        }
    }

    /// Writes the next part and returns the one after it.
    fn step(&mut self, to: &mut String) -> Stage {
        match self.stage {
            Stage::Start => {
                to.push_str("{\"stats\":[");
                Stage::Texts(0)
            }
            Stage::Texts(at) => match self.snapshot.row(at) {
                None => Stage::Numbers(0),
                Some(row) => {
                    if let StatValue::Text(text) = row.value() {
                        let (name, text) = (quote(&row.name()), quote(text));
                        self.element(format_args!("{{\"name\":{name},\"value\":{text}}}"), to);
                    }
                    Stage::Texts(at + 1)
                }
            },
            Stage::Numbers(at) => match self.snapshot.row(at) {
                None => Stage::HistogramFormat(0, false),
                Some(row) => {
                    if let StatValue::Counter(value) | StatValue::Gauge(value) = row.value() {
                        let name = quote(&row.name());
                        self.element(format_args!("{{\"name\":{name},\"value\":{value}}}"), to);
                    }
                    Stage::Numbers(at + 1)
                }
            },
            Stage::HistogramFormat(at, shown) => self.histogram(at, shown, to),
            Stage::End => Stage::End,
        }
    }

    fn histogram(&mut self, at: usize, shown: bool, to: &mut String) -> Stage {
        let Some(row) = self.snapshot.row(at) else {
            if shown {
                to.push_str(match self.histograms {
                    HistogramFormat::Summary | HistogramFormat::Detailed => "]}}",
                    HistogramFormat::Cumulative | HistogramFormat::Disjoint => "]}",
                });
            }
            to.push_str("]}");
            return Stage::End;
        };
        let StatValue::Histogram(recorded) = row.value() else {
            return Stage::HistogramFormat(at + 1, shown);
        };
        let nothing = RecordedHistogram::default();
        let recorded = recorded.unwrap_or(&nothing);
        let shape = shape(&row.name(), recorded, self.histograms, self.store.options());
        if shown {
            to.push(',');
        } else {
            let percents: Vec<_> = QUANTILES.iter().map(|q| json(q * 100.0)).collect();
            let percents = percents.join(",");
            let opening = match self.histograms {
                HistogramFormat::Summary => format!(
                    "{{\"histograms\":{{\"supported_quantiles\":[{percents}],\"computed_quantiles\":["
                ),
                HistogramFormat::Detailed => {
                    format!(
                        "{{\"histograms\":{{\"supported_percentiles\":[{percents}],\"details\":["
                    )
                }
                HistogramFormat::Cumulative | HistogramFormat::Disjoint => {
                    "{\"histograms\":[".to_owned()
                }
            };
            self.element(format_args!("{opening}"), to);
        }
        to.push_str(&shape);
        Stage::HistogramFormat(at + 1, true)
    }

    fn element(&mut self, element: std::fmt::Arguments<'_>, to: &mut String) {
        if std::mem::replace(&mut self.follows, true) {
            to.push(',');
        }
        to.write_fmt(element).unwrap_or_default(); // writing to a String cannot fail
    }
}

impl Iterator for JsonRenderer {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut piece = String::new();
        while piece.len() < PIECE_SIZE && !matches!(self.stage, Stage::End) {
            self.stage = self.step(&mut piece);
        }
        (!piece.is_empty()).then_some(piece)
    }
}

/// Renders one histogram as an object.
fn shape(
    name: &str,
    recorded: &RecordedHistogram,
    histograms: HistogramFormat,
    options: &StatsOptions,
) -> String {
    let quoted = quote(name);
    match histograms {
        HistogramFormat::Summary => {
            format!("{{\"name\":{quoted},\"values\":{}}}", quantiles(recorded))
        }
        HistogramFormat::Detailed => format!(
            "{{\"name\":{quoted},\"totals\":{},\"intervals\":{},\"percentiles\":{}}}",
            buckets(&recorded.cumulative),
            buckets(&recorded.interval),
            quantiles(recorded)
        ),
        HistogramFormat::Cumulative | HistogramFormat::Disjoint => {
            let bounds = options.bounds(name);
            let [intervals, cumulatives] = bucket_counts(recorded, bounds, histograms);
            let shown = bounds.iter().zip(&intervals).zip(&cumulatives).map(
                |((bound, interval), cumulative)| {
                    let bound = json(*bound);
                    format!("{{\"upper_bound\":{bound},\"interval\":{interval},\"cumulative\":{cumulative}}}")
                },
            );
            format!("{{\"name\":{quoted},\"buckets\":{}}}", list(shown))
        }
    }
}

fn quantiles(recorded: &RecordedHistogram) -> String {
    let pairs = recorded.cumulative.quantiles().into_iter();
    let pairs = pairs.zip(recorded.interval.quantiles());
    list(pairs.map(|(cumulative, interval)| {
        let (cumulative, interval) = (json(cumulative), json(interval));
        format!("{{\"cumulative\":{cumulative},\"interval\":{interval}}}")
    }))
}

fn buckets(distribution: &Distribution) -> String {
    list(distribution.buckets().map(|b| {
        let (lower, width) = (json(b.lower), json(b.width));
        format!(
            "{{\"lower_bound\":{lower},\"width\":{width},\"count\":{}}}",
            b.count
        )
    }))
}

fn list(elements: impl Iterator<Item = String>) -> String {
    let elements: Vec<_> = elements.collect();
    format!("[{}]", elements.join(","))
}

fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
