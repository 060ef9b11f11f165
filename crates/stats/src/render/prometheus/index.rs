//! Groups rows into metrics, and extracts the labels of each row.
//!
//! Extracting labels from full names takes time. But clusters whose names contain no dot have the same stats with the
//! same labels: the result for the first of them is reused for the others, with another cluster name.

use std::collections::HashMap;

use super::escape;
use super::sanitize;
use crate::StatKind;
use crate::StatRow;
use crate::StatsSnapshot;
use crate::tags::TagRules;
use crate::tags::Tagged;

/// The rows of a snapshot that belong to one metric.
#[derive(Debug)]
pub(super) struct Metric {
    /// The dotted name, without labels.
    pub(super) name: String,
    pub(super) kind: StatKind,
    /// The rows' indices in the snapshot.
    pub(super) rows: Vec<u32>,
}

/// Cached results for the stats of clusters whose names contain no dot.
#[derive(Debug, Default)]
pub(super) struct MetricIndex {
    /// Indexed by the number of the name below the cluster's scope.
    cached_stats: Vec<Option<CachedStat>>,
}

/// The cached result for one stat, valid for all clusters whose names contain no dot.
#[derive(Debug)]
struct CachedStat {
    /// The metric's index, while metrics are being collected. All stats with one name have the same kind.
    metric: Option<usize>,
    /// The text of the labels before and after the cluster's name; `None` if they are not the same for all clusters.
    labels: Option<(String, String)>,
}

/// A placeholder for the cluster's name. No name contains this character.
const CLUSTER_PLACEHOLDER: &str = "\u{1}";

/// Names that Envoy's rules treat specially wherever they occur.
const SPECIAL_NAMES: [&str; 2] = ["ssl", "http_local_rate_limit"];

impl MetricIndex {
    /// All metrics, sorted by kind and name.
    pub(super) fn metrics(&mut self, snapshot: &StatsSnapshot, tags: &TagRules) -> Vec<Metric> {
        let mut metrics: Vec<Metric> = Vec::new();
        let mut places: HashMap<(u8, String), usize> = HashMap::new();
        for (number, row) in (0..).zip(snapshot.rows()) {
            let kind = row.value().kind();
            let cached_stat = self.cached_stat(row, tags);
            let known = cached_stat
                .as_ref()
                .and_then(|cached_stat| cached_stat.metric);
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
            if let Some(cached_stat) = cached_stat {
                cached_stat.metric = Some(place);
            }
            if let Some(metric) = metrics.get_mut(place) {
                metric.rows.push(number);
            }
        }
        for cached_stat in self.cached_stats.iter_mut().flatten() {
            cached_stat.metric = None; // sorting changes the indices
        }
        metrics.sort_by(|a, b| (order(a.kind), &a.name).cmp(&(order(b.kind), &b.name)));
        metrics
    }

    /// Appends a row's labels.
    pub(super) fn write_labels(&mut self, row: StatRow<'_>, tags: &TagRules, to: &mut String) {
        let cached_stat = self.cached_stat(row, tags);
        if let Some((before, after)) =
            cached_stat.and_then(|cached_stat| cached_stat.labels.as_ref())
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
    fn cached_stat(&mut self, row: StatRow<'_>, tags: &TagRules) -> Option<&mut CachedStat> {
        cluster(row.scope()).filter(|_| !tags.has_expressions())?;
        let (number, name) = row.below_scope();
        if number >= self.cached_stats.len() {
            self.cached_stats.resize_with(number + 1, || None);
        }
        let cached_stat = self.cached_stats.get_mut(number)?;
        let cached_stat = cached_stat.get_or_insert_with(|| CachedStat::of(name, tags));
        cached_stat.labels.is_some().then_some(cached_stat)
    }
}

impl CachedStat {
    fn of(name: &str, tags: &TagRules) -> CachedStat {
        let tagged = tags.extract(&format!("cluster.{CLUSTER_PLACEHOLDER}.{name}"));
        let mut labels = String::new();
        write(&tagged, &mut labels);
        let halves = labels.split_once(CLUSTER_PLACEHOLDER);
        let halves = halves.filter(|(_, after)| {
            !after.contains(CLUSTER_PLACEHOLDER) && !tagged.name.contains(CLUSTER_PLACEHOLDER)
        });
        CachedStat {
            metric: None,
            labels: halves.map(|(before, after)| (before.to_owned(), after.to_owned())),
        }
    }
}

/// The cluster's name in a scope, if it contains no dot.
fn cluster(scope: &str) -> Option<&str> {
    let name = scope.strip_prefix("cluster.")?.strip_suffix('.')?;
    let is_word = !name.is_empty() && !name.contains('.') && !name.contains(CLUSTER_PLACEHOLDER);
    (is_word && !SPECIAL_NAMES.contains(&name)).then_some(name)
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
fn order(kind: StatKind) -> u8 {
    match kind {
        StatKind::Counter => 0,
        StatKind::Gauge => 1,
        StatKind::Text => 2,
        StatKind::Histogram => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_labels_are_right_for_all_clusters_without_dots() {
        let tags = TagRules::default();
        for name in [
            "upstream_rq_total",
            "upstream_rq_503",
            "upstream_rq_5xx",
            "grpc.s.m.total",
            "circuit_breakers.high.cx_open",
        ] {
            let (before, after) = CachedStat::of(name, &tags).labels.unwrap();
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
    fn only_clusters_without_dots_are_cached() {
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
