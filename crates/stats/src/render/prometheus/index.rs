//! Groups rows into metrics, and extracts the labels of each row.
//!
//! Extracting labels from full names takes time. But all clusters have the same stats with the same labels: the result for
//! the first of them is reused for the others, with another cluster name.

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
pub(super) struct MetricFamily {
    /// The dotted name, without labels.
    pub(super) name: String,
    pub(super) kind: StatKind,
    /// The rows' indices in the snapshot.
    pub(super) rows: Vec<u32>,
}

/// Cached results for the stats of clusters.
#[derive(Debug, Default)]
pub(super) struct MetricIndex {
    /// By the number of the scope; `None` if the scope does not belong to a cluster.
    clusters: Vec<Option<IndexedCluster>>,
    /// For clusters whose names contain no dot, indexed by the number of the name below the cluster's scope.
    without_dots: CachedStats,
    /// For clusters whose names contain dots, and for scopes below a cluster's.
    with_dots: CachedStats,
}

/// By the number of the name below the cluster's scope. `None`: no stat of this name was seen yet. `Some(None)`: the labels
/// of this name depend on the cluster, so nothing can be cached.
type CachedStats = Vec<Option<Option<CachedStat>>>;

/// The cached result for one stat, valid for all clusters.
#[derive(Debug)]
struct CachedStat {
    /// The labels before and after the cluster's first word.
    labels: (String, String),
    /// The metric's name before and after the cluster's other words.
    metric: (String, String),
}

/// Identifies a cached stat: whether the cluster's name has dots, and the number of the name below its scope.
pub(super) type CachedStatId = (bool, usize);

/// The labels of a cluster's stat.
pub(super) struct LabelsOfCluster<'a> {
    pub(super) of: CachedStatId,
    /// The labels up to the first word of the cluster's name. Only that word differs between clusters.
    pub(super) start: &'a str,
    /// That word, escaped.
    pub(super) cluster: &'a str,
    /// The rest of the labels.
    pub(super) end: &'a str,
}

#[derive(Debug)]
struct IndexedCluster {
    /// The first word, escaped.
    first: Box<str>,
    /// The words after the first, as an index into the list that `add_clusters` returns.
    others: usize,
    has_others: bool,
}

/// A cluster's scope: its first word, which becomes a label, and the others, which stay in the metric's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ClusterScope<'a> {
    first: &'a str,
    others: &'a str,
}

/// Metrics in the order in which they were found, and where each is.
#[derive(Default)]
struct Metrics {
    list: Vec<MetricFamily>,
    by_name: HashMap<(u8, String), usize>,
    /// By [`IndexedCluster::others`], then by the number of the name below the cluster's scope. All stats of a name have
    /// one kind.
    by_cached_stat: Vec<Vec<Option<usize>>>,
}

/// Placeholders for the first word and the other words of a cluster's name. No name contains these characters.
const FIRST_PLACEHOLDER: char = '\u{1}';
const OTHERS_PLACEHOLDER: char = '\u{2}';

/// Names that Envoy's rules treat specially wherever they occur, or after a cluster's name.
const SPECIAL_NAMES: [&str; 4] = ["ssl", "http_local_rate_limit", "grpc", "ext_authz"];

impl Metrics {
    fn of_name(&mut self, kind: StatKind, name: String) -> usize {
        let key = (order(kind), name);
        if let Some(place) = self.by_name.get(&key) {
            return *place;
        }
        self.list.push(MetricFamily {
            name: key.1.clone(),
            kind,
            rows: Vec::new(),
        });
        let place = self.list.len() - 1;
        self.by_name.insert(key, place);
        place
    }

    /// The metric of a cached stat. `name` is called for the first stat of the metric, to make the metric's name.
    fn of_cached_stat(
        &mut self,
        kind: StatKind,
        number: usize,
        others: usize,
        name: impl FnOnce() -> String,
    ) -> usize {
        let known = self.by_cached_stat.get(others);
        if let Some(Some(place)) = known.and_then(|places| places.get(number)) {
            return *place;
        }
        let place = self.of_name(kind, name());
        *slot(slot(&mut self.by_cached_stat, others), number) = Some(place);
        place
    }
}

/// The item at `index`, created with all before it if it is not there.
fn slot<T: Default>(list: &mut Vec<T>, index: usize) -> &mut T {
    if index >= list.len() {
        list.resize_with(index + 1, T::default);
    }
    &mut list[index]
}

impl MetricIndex {
    /// The index of `snapshot`, and all metrics, by kind and in the order of their names.
    pub(super) fn of(
        snapshot: &StatsSnapshot,
        tags: &TagRules,
    ) -> (MetricIndex, Vec<MetricFamily>) {
        let mut index = MetricIndex::default();
        let others = index.add_clusters(snapshot, tags);
        let mut metrics = Metrics::default();
        for (at, row) in (0..).zip(snapshot.rows()) {
            let kind = row.value().kind();
            index.cache(row, tags);
            let place = match index.cached_stat(row) {
                Some((cluster, cached_stat)) => {
                    let (start, end) = &cached_stat.metric;
                    let name = || [start, others[cluster.others], end].concat();
                    metrics.of_cached_stat(kind, row.below_scope().0, cluster.others, name)
                }
                None => metrics.of_name(kind, tags.extract(&row.name()).name),
            };
            if let Some(metric) = metrics.list.get_mut(place) {
                metric.rows.push(at);
            }
        }
        let mut list = metrics.list;
        list.sort_by(|a, b| (order(a.kind), &a.name).cmp(&(order(b.kind), &b.name)));
        (index, list)
    }

    /// Finds the scopes of clusters. Returns the parts of their names after the first word, each once.
    fn add_clusters<'s>(&mut self, snapshot: &'s StatsSnapshot, tags: &TagRules) -> Vec<&'s str> {
        let mut numbers = HashMap::from([("", 0)]);
        let mut others = vec![""];
        for scope in snapshot.scopes() {
            let cluster = ClusterScope::of(scope).filter(|_| !tags.has_expressions());
            self.clusters.push(cluster.map(|cluster| IndexedCluster {
                first: escape(cluster.first).into(),
                others: *numbers.entry(cluster.others).or_insert_with(|| {
                    others.push(cluster.others);
                    others.len() - 1
                }),
                has_others: !cluster.others.is_empty(),
            }));
        }
        others
    }

    /// The labels of a cluster's stat; `None` if they have to be extracted from its full name.
    pub(super) fn labels_of_cluster(&self, row: StatRow<'_>) -> Option<LabelsOfCluster<'_>> {
        let (cluster, cached_stat) = self.cached_stat(row)?;
        Some(LabelsOfCluster {
            of: (cluster.has_others, row.below_scope().0),
            start: &cached_stat.labels.0,
            cluster: &cluster.first,
            end: &cached_stat.labels.1,
        })
    }

    /// Appends a row's labels.
    pub(super) fn write_labels(&self, row: StatRow<'_>, tags: &TagRules, to: &mut String) {
        match self.labels_of_cluster(row) {
            Some(labels) => {
                for part in [labels.start, labels.cluster, labels.end] {
                    to.push_str(part);
                }
            }
            None => write(&tags.extract(&row.name()), to),
        }
    }

    /// The cluster of this stat and the cached result for its name; `None` if nothing is cached.
    fn cached_stat(&self, row: StatRow<'_>) -> Option<(&IndexedCluster, &CachedStat)> {
        let cluster = self.clusters.get(row.scope())?.as_ref()?;
        let cached_stats = match cluster.has_others {
            true => &self.with_dots,
            false => &self.without_dots,
        };
        let cached_stat = cached_stats.get(row.below_scope().0)?.as_ref()?;
        Some((cluster, cached_stat.as_ref()?))
    }

    /// Caches the result for this stat's name, unless it is cached already.
    fn cache(&mut self, row: StatRow<'_>, tags: &TagRules) {
        let Some(Some(cluster)) = self.clusters.get(row.scope()) else {
            return;
        };
        let has_others = cluster.has_others;
        let cached_stats = match has_others {
            true => &mut self.with_dots,
            false => &mut self.without_dots,
        };
        let (number, name) = row.below_scope();
        slot(cached_stats, number).get_or_insert_with(|| {
            let is_special = name.split('.').any(|word| SPECIAL_NAMES.contains(&word));
            if is_special && has_others {
                return None;
            }
            CachedStat::of(name, has_others, tags)
        });
    }
}

impl CachedStat {
    /// `None` if the labels of this name depend on the cluster.
    fn of(name: &str, has_others: bool, tags: &TagRules) -> Option<CachedStat> {
        let tagged = tags.extract(&match has_others {
            true => format!("cluster.{FIRST_PLACEHOLDER}.{OTHERS_PLACEHOLDER}.{name}"),
            false => format!("cluster.{FIRST_PLACEHOLDER}.{name}"),
        });
        let mut labels = String::new();
        write(&tagged, &mut labels);
        if tagged.name.contains(FIRST_PLACEHOLDER) || labels.contains(OTHERS_PLACEHOLDER) {
            return None;
        }
        let metric = match has_others {
            true => halves(&tagged.name, OTHERS_PLACEHOLDER)?,
            false => (tagged.name, String::new()),
        };
        Some(CachedStat {
            labels: halves(&labels, FIRST_PLACEHOLDER)?,
            metric,
        })
    }
}

/// The parts of `text` before and after `mark`; `None` unless `mark` occurs exactly once.
fn halves(text: &str, mark: char) -> Option<(String, String)> {
    let (before, after) = text.split_once(mark)?;
    (!after.contains(mark)).then(|| (before.to_owned(), after.to_owned()))
}

impl<'a> ClusterScope<'a> {
    /// The cluster that the scope belongs to.
    fn of(scope: &'a str) -> Option<ClusterScope<'a>> {
        let name = scope.strip_prefix("cluster.")?.strip_suffix('.')?;
        let plain = |word: &str| !word.is_empty() && !SPECIAL_NAMES.contains(&word);
        let (first, others) = name.split_once('.').unwrap_or((name, ""));
        let is_plain =
            name.split('.').all(plain) && !name.contains([FIRST_PLACEHOLDER, OTHERS_PLACEHOLDER]);
        is_plain.then_some(ClusterScope { first, others })
    }
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

/// In which order kinds are printed.
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

    const NAMES: [&str; 8] = [
        "upstream_rq_total",
        "upstream_rq_503",
        "upstream_rq_5xx",
        "grpc.s.m.total",
        "ext_authz.p.ok",
        "ssl.versions.TLSv1.3",
        "circuit_breakers.high.cx_open",
        "external.upstream_rq_time",
    ];

    #[test]
    fn a_cached_stat_is_valid_for_all_clusters() {
        let tags = TagRules::default();
        let of_one_word = ["web", "a-b", "é:\"", "upstream_rq_200"];
        let of_more = [
            "outbound|80||a.ns.svc",
            "a.b",
            "web.circuit_breakers",
            "web.zone.x.y",
        ];
        for cluster in of_one_word.into_iter().chain(of_more) {
            let scope = format!("cluster.{cluster}.");
            let ClusterScope { first, others } = ClusterScope::of(&scope).unwrap();
            for name in NAMES {
                let special = name.split('.').any(|word| SPECIAL_NAMES.contains(&word));
                if !others.is_empty() && special {
                    continue;
                }
                let Some(cached_stat) = CachedStat::of(name, !others.is_empty(), &tags) else {
                    assert!(special, "{name}");
                    continue;
                };
                let tagged = tags.extract(&format!("{scope}{name}"));
                let mut labels = String::new();
                write(&tagged, &mut labels);
                let (before, after) = &cached_stat.labels;
                assert_eq!(labels, [before, &*escape(first), after].concat());
                let (before, after) = &cached_stat.metric;
                assert_eq!(tagged.name, [before, others, after].concat());
            }
        }
    }

    #[test]
    fn clusters_with_special_names_are_not_cached() {
        let cluster = |first, others| Some(ClusterScope { first, others });
        for (scope, found) in [
            ("cluster.web.", cluster("web", "")),
            ("cluster.a.b.c.", cluster("a", "b.c")),
            ("cluster.ssl.", None),
            ("cluster.a.grpc.", None),
            ("cluster.a..b.", None),
            ("http.web.", None),
            ("cluster.", None),
        ] {
            assert_eq!(ClusterScope::of(scope), found, "{scope}");
        }
    }
}
