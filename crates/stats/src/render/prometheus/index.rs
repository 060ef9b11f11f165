//! Groups rows into metrics, and extracts the labels of each row.
//!
//! Extracting labels from full names takes time. But clusters whose names contain no dot have the same stats with the
//! same labels: the result for the first of them is reused for the others, with another cluster name.

use std::collections::HashMap;

use super::escape;
use super::sanitize;
use crate::Kind;
use crate::Row;
use crate::Snapshot;
use crate::tags::TagRules;
use crate::tags::Tagged;

/// The rows of a snapshot that belong to one metric.
#[derive(Debug)]
pub(super) struct Metric {
    /// The dotted name, without labels.
    pub(super) name: String,
    pub(super) kind: Kind,
    /// The rows' indices in the snapshot.
    pub(super) rows: Vec<u32>,
}

/// Cached results for the stats of clusters whose names contain no dot.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Indexed by the number of the name below the cluster's scope.
    shapes: Vec<Option<Shape>>,
}

/// The cached result for one stat, valid for all clusters whose names contain no dot.
#[derive(Debug)]
struct Shape {
    /// The metric's index, while metrics are being collected. All stats with one name have the same kind.
    metric: Option<usize>,
    /// The text of the labels before and after the cluster's name; `None` if they are not the same for all clusters.
    labels: Option<(String, String)>,
}

/// A placeholder for the cluster's name. No name contains this character.
const ANY: &str = "\u{1}";

/// Names that Envoy's rules treat specially wherever they occur.
const SPECIAL: [&str; 2] = ["ssl", "http_local_rate_limit"];

impl Index {
    /// All metrics, sorted by kind and name.
    pub(super) fn metrics(&mut self, snapshot: &Snapshot, tags: &TagRules) -> Vec<Metric> {
        let mut metrics: Vec<Metric> = Vec::new();
        let mut places: HashMap<(u8, String), usize> = HashMap::new();
        for (number, row) in (0..).zip(snapshot.rows()) {
            let kind = row.value().kind();
            let shape = self.shape(row, tags);
            let known = shape.as_ref().and_then(|shape| shape.metric);
            let place = known.unwrap_or_else(|| {
                let name = tags.extract(&row.name()).name;
                let key = (order(kind), name);
                if let Some(place) = places.get(&key) {
                    return *place;
                }
                metrics.push(Metric {
                    name: key.1.clone(),
                    kind,
                    rows: Vec::new(),
                });
                places.insert(key, metrics.len() - 1);
                metrics.len() - 1
            });
            if let Some(shape) = shape {
                shape.metric = Some(place);
            }
            if let Some(metric) = metrics.get_mut(place) {
                metric.rows.push(number);
            }
        }
        for shape in self.shapes.iter_mut().flatten() {
            shape.metric = None; // sorting changes the indices
        }
        metrics.sort_by(|a, b| (order(a.kind), &a.name).cmp(&(order(b.kind), &b.name)));
        metrics
    }

    /// Appends a row's labels.
    pub(super) fn write_labels(&mut self, row: Row<'_>, tags: &TagRules, to: &mut String) {
        let shape = self.shape(row, tags);
        if let Some((before, after)) = shape.and_then(|shape| shape.labels.as_ref())
            && let Some(cluster) = cluster(row.scope())
        {
            to.push_str(before);
            if cluster.contains(['\\', '\n', '"']) {
                to.push_str(&escape(cluster));
            } else {
                to.push_str(cluster);
            }
            to.push_str(after);
        } else {
            write(&tags.extract(&row.name()), to);
        }
    }

    /// The cached result for this stat; `None` if its cluster's name contains a dot.
    fn shape(&mut self, row: Row<'_>, tags: &TagRules) -> Option<&mut Shape> {
        cluster(row.scope()).filter(|_| !tags.has_expressions())?;
        let (number, name) = row.below_scope();
        if number >= self.shapes.len() {
            self.shapes.resize_with(number + 1, || None);
        }
        let shape = self.shapes.get_mut(number)?;
        let shape = shape.get_or_insert_with(|| Shape::of(name, tags));
        shape.labels.is_some().then_some(shape)
    }
}

impl Shape {
    fn of(name: &str, tags: &TagRules) -> Shape {
        let tagged = tags.extract(&format!("cluster.{ANY}.{name}"));
        let mut labels = String::new();
        write(&tagged, &mut labels);
        let halves = labels.split_once(ANY);
        let halves = halves.filter(|(_, after)| !after.contains(ANY) && !tagged.name.contains(ANY));
        Shape {
            metric: None,
            labels: halves.map(|(before, after)| (before.to_owned(), after.to_owned())),
        }
    }
}

/// The cluster's name in a scope, if it contains no dot.
fn cluster(scope: &str) -> Option<&str> {
    let name = scope.strip_prefix("cluster.")?.strip_suffix('.')?;
    let is_word = !name.is_empty() && !name.contains('.') && !name.contains(ANY);
    (is_word && !SPECIAL.contains(&name)).then_some(name)
}

fn write(tagged: &Tagged, to: &mut String) {
    for (index, (tag, value)) in tagged.labels.iter().enumerate() {
        if index > 0 {
            to.push(',');
        }
        to.push_str(&sanitize(tag));
        to.push_str("=\"");
        to.push_str(&escape(value));
        to.push('"');
    }
}

/// The position of a kind in the output.
fn order(kind: Kind) -> u8 {
    match kind {
        Kind::Counter => 0,
        Kind::Gauge => 1,
        Kind::Text => 2,
        Kind::Histogram => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_holds_for_all_clusters_of_one_word() {
        let tags = TagRules::default();
        for name in [
            "upstream_rq_total",
            "upstream_rq_503",
            "upstream_rq_5xx",
            "grpc.s.m.total",
            "circuit_breakers.high.cx_open",
        ] {
            let (before, after) = Shape::of(name, &tags).labels.unwrap();
            for cluster in ["web", "a-b", "é:\"", "upstream_rq_200"] {
                let mut labels = String::new();
                write(
                    &tags.extract(&format!("cluster.{cluster}.{name}")),
                    &mut labels,
                );
                assert_eq!(labels, [&before, &*escape(cluster), &after].concat());
            }
        }
    }

    #[test]
    fn only_clusters_of_one_word_have_shapes() {
        for (scope, name) in [
            ("cluster.web.", Some("web")),
            ("cluster.a.b.", None),
            ("cluster.ssl.", None),
            ("http.web.", None),
            ("cluster.", None),
        ] {
            assert_eq!(cluster(scope), name, "{scope}");
        }
    }
}
