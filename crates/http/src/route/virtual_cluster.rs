//! Stats of some requests of a virtual host: those of its virtual clusters, and of routes with a `stat_prefix`.
//!
//! They are rarely used, so all workers share one copy of each.

use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::route::v3 as api;
use outrider_stats::Scope;
use outrider_stats::Store;

use crate::RequestHead;
use crate::stats::VirtualClusterStats;
use outrider_matching::HeaderMatcher;

/// `VirtualHost.virtual_clusters`.
#[derive(Debug, Default)]
pub struct VirtualClusters {
    /// The last one is for requests that match no other.
    clusters: Box<[VirtualCluster]>,
}

/// One of `VirtualHost.virtual_clusters`.
#[derive(Debug)]
pub(crate) struct VirtualCluster {
    /// Its name; `None` for the one that takes requests that match no other.
    pub(crate) name: Option<Arc<str>>,
    /// The stats of its requests, in addition to those of their cluster.
    pub(crate) stats: Arc<VirtualClusterStats>,
    headers: Box<[HeaderMatcher]>,
}

impl VirtualClusters {
    pub(crate) fn build(
        host: &api::VirtualHost,
        store: &Store,
        path: &FieldPath,
    ) -> Result<VirtualClusters, ConfigErrors> {
        if host.virtual_clusters.is_empty() {
            return Ok(VirtualClusters::default());
        }
        let mut errors = ConfigErrors::new();
        let stats = |name: &str| stats_below(store, &host.name, "vcluster", name);
        let mut clusters = Vec::with_capacity(host.virtual_clusters.len());
        for (at, config) in host.virtual_clusters.iter().enumerate() {
            let path = path.field("virtual_clusters").index(at).field("headers");
            if config.headers.is_empty() {
                errors.push(&path, "virtual clusters must define 'headers'");
            }
            let headers = config.headers.iter().enumerate();
            let headers = headers.filter_map(|(at, header)| {
                errors.collect(HeaderMatcher::build(header, &path.index(at)))
            });
            clusters.push(VirtualCluster {
                name: Some(config.name.as_str().into()),
                stats: stats(&config.name),
                headers: headers.collect(),
            });
        }
        clusters.push(VirtualCluster {
            name: None,
            stats: stats("other"),
            headers: Box::default(),
        });
        errors.finish(VirtualClusters {
            clusters: clusters.into(),
        })
    }

    /// The virtual cluster of a request.
    pub(crate) fn find(&self, head: &RequestHead) -> Option<&VirtualCluster> {
        let takes = |cluster: &&VirtualCluster| cluster.headers.iter().all(|h| h.matches(head));
        self.clusters.iter().find(takes)
    }
}

/// The stats of a route with a `stat_prefix`.
pub(crate) fn route_stats(
    store: &Store,
    host: &str,
    route: &api::Route,
) -> Option<Arc<VirtualClusterStats>> {
    let prefix = &route.stat_prefix;
    (!prefix.is_empty()).then(|| stats_below(store, host, "route", prefix))
}

fn stats_below(store: &Store, host: &str, kind: &str, name: &str) -> Arc<VirtualClusterStats> {
    let scope = Scope::new("vhost").verbatim(host);
    store.register(scope.name(kind).verbatim(name))
}

#[cfg(test)]
mod tests {
    use outrider_config::api::envoy::config::route::v3::HeaderMatcher as Header;
    use outrider_config::api::envoy::config::route::v3::VirtualCluster as Cluster;
    use outrider_config::api::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;

    use super::*;
    use crate::route::tests::head;

    fn host(names: &[&str]) -> api::VirtualHost {
        let named = |name: &&str| Cluster {
            name: (*name).into(),
            headers: vec![Header {
                name: (*name).into(),
                header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
                ..Header::default()
            }],
        };
        api::VirtualHost {
            name: "v".into(),
            virtual_clusters: names.iter().map(named).collect(),
            ..api::VirtualHost::default()
        }
    }

    #[test]
    fn a_request_counts_in_the_first_that_matches() {
        let store = Store::new();
        let path = FieldPath::root();
        let clusters = VirtualClusters::build(&host(&["a", "b"]), &store, &path).unwrap();
        for headers in [&[("b", "1")][..], &[("a", "1"), ("b", "1")], &[]] {
            let head = head("GET", "x", "/", headers);
            clusters.find(&head).unwrap().stats.upstream_rq_total.inc();
        }
        let snapshot = store.snapshot(&outrider_stats::StatsFilter {
            used_only: true,
            ..Default::default()
        });
        let names: Vec<_> = snapshot.rows().map(|row| row.name()).collect();
        let want = ["a", "b", "other"].map(|n| format!("vhost.v.vcluster.{n}.upstream_rq_total"));
        assert_eq!(names, want);
    }

    #[test]
    fn without_virtual_clusters_nothing_is_counted() {
        let clusters = VirtualClusters::build(&host(&[]), &Store::new(), &FieldPath::root());
        let head = head("GET", "x", "/", &[]);
        assert!(clusters.unwrap().find(&head).is_none());
    }

    #[test]
    fn a_cluster_needs_headers() {
        let mut host = host(&["a"]);
        host.virtual_clusters[0].headers.clear();
        let errors = VirtualClusters::build(&host, &Store::new(), &FieldPath::root()).unwrap_err();
        assert_eq!(
            errors.to_string(),
            "virtual_clusters[0].headers: virtual clusters must define 'headers'"
        );
    }
}
