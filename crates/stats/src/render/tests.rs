//! Compares with Envoy 1.40's output for the same values.

use std::sync::Arc;

use super::*;
use crate::Counter;
use crate::Gauge;
use crate::Histogram;
use crate::ResponseCodes;
use crate::Scope;
use crate::StatsFilter;
use crate::Store;
use crate::TextReadout;

crate::group! {
    struct ClusterSample { upstream_cx_active: Gauge, upstream_cx_total: Counter, upstream_rq: ResponseCodes }
}
crate::group! {
    struct Sizes { upstream_rq_body_size: Histogram, idle: Histogram }
}
crate::group! {
    struct Plane { identifier: TextReadout }
}

fn clusters() -> (Arc<Store>, Vec<Arc<ClusterSample>>) {
    let store = Store::new();
    let scope = |name| Scope::new("cluster").name(name);
    let all = ["b", "a"].map(|name| store.register::<ClusterSample>(scope(name)));
    all[0].upstream_cx_total.add(3);
    all[0].upstream_rq.record(200);
    all[1].upstream_cx_active.inc();
    (store, all.into())
}

fn sizes() -> (Arc<Store>, Arc<Sizes>) {
    let store = Store::with_options(crate::StatsOptions {
        bounds: vec![(Box::new(|_| true), vec![3.0, 3.05, 305.0])],
        ..crate::StatsOptions::default()
    });
    let sizes = store.register::<Sizes>(Scope::new("cluster").name("x"));
    for size in [3, 3, 304] {
        sizes.upstream_rq_body_size.record(size);
    }
    store.flush();
    (store, sizes)
}

fn text(store: &Arc<Store>, histograms: HistogramFormat) -> String {
    TextRenderer::new(
        store.clone(),
        store.snapshot(&StatsFilter::default()),
        histograms,
    )
    .collect()
}

fn json(store: &Arc<Store>, histograms: HistogramFormat) -> String {
    JsonRenderer::new(
        store.clone(),
        store.snapshot(&StatsFilter::default()),
        histograms,
    )
    .collect()
}

fn prometheus(store: &Arc<Store>, histograms: PrometheusHistogramFormat) -> String {
    let snapshot = store.snapshot(&StatsFilter::default());
    PrometheusRenderer::new(store.clone(), snapshot, histograms, true).collect()
}

#[test]
fn counters_and_gauges() {
    let (store, held) = clusters();
    let plane = store.register::<Plane>(Scope::new("control_plane"));
    plane.identifier.set("a\"b");
    assert_eq!(
        text(&store, HistogramFormat::Summary),
        "control_plane.identifier: \"a\"b\"\n\
         cluster.a.upstream_cx_active: 1\n\
         cluster.a.upstream_cx_total: 0\n\
         cluster.a.upstream_rq_completed: 0\n\
         cluster.b.upstream_cx_active: 0\n\
         cluster.b.upstream_cx_total: 3\n\
         cluster.b.upstream_rq_200: 1\n\
         cluster.b.upstream_rq_2xx: 1\n\
         cluster.b.upstream_rq_completed: 1\n"
    );
    assert_eq!(
        prometheus(&store, PrometheusHistogramFormat::Cumulative),
        "# TYPE envoy_cluster_upstream_cx_total counter\n\
         envoy_cluster_upstream_cx_total{envoy_cluster_name=\"a\"} 0\n\
         envoy_cluster_upstream_cx_total{envoy_cluster_name=\"b\"} 3\n\
         # TYPE envoy_cluster_upstream_rq counter\n\
         envoy_cluster_upstream_rq{envoy_response_code=\"200\",envoy_cluster_name=\"b\"} 1\n\
         # TYPE envoy_cluster_upstream_rq_completed counter\n\
         envoy_cluster_upstream_rq_completed{envoy_cluster_name=\"a\"} 0\n\
         envoy_cluster_upstream_rq_completed{envoy_cluster_name=\"b\"} 1\n\
         # TYPE envoy_cluster_upstream_rq_xx counter\n\
         envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"2\",envoy_cluster_name=\"b\"} 1\n\
         # TYPE envoy_cluster_upstream_cx_active gauge\n\
         envoy_cluster_upstream_cx_active{envoy_cluster_name=\"a\"} 1\n\
         envoy_cluster_upstream_cx_active{envoy_cluster_name=\"b\"} 0\n\
         # TYPE envoy_control_plane_identifier gauge\n\
         envoy_control_plane_identifier{text_value=\"a\\\"b\"} 0\n"
    );
    let shown = json(&store, HistogramFormat::Summary);
    let start = r#"{"stats":[{"name":"control_plane.identifier","value":"a\"b"},{"name":"cluster.a.upstream_cx_active","value":1},"#;
    assert!(shown.starts_with(start), "{shown}");
    assert!(shown.ends_with("}]}"), "{shown}");
    drop(held);
}

#[test]
fn an_empty_store_is_valid_json() {
    assert_eq!(
        json(&Store::new(), HistogramFormat::Summary),
        r#"{"stats":[]}"#
    );
}

#[test]
fn histograms_as_text() {
    let (store, held) = sizes();
    for (histograms, want) in [
        (
            HistogramFormat::Cumulative,
            "cluster.x.upstream_rq_body_size: B3(2,2) B3.05(2,2) B305(3,3)\n",
        ),
        (
            HistogramFormat::Disjoint,
            "cluster.x.upstream_rq_body_size: B3(2,2) B3.05(0,0) B305(1,1)\n",
        ),
    ] {
        let idle = "cluster.x.idle: No recorded values\n";
        assert_eq!(text(&store, histograms), format!("{idle}{want}"));
    }
    store.flush();
    let shown = text(&store, HistogramFormat::Detailed);
    for line in [
        "cluster.x.upstream_rq_body_size:\n",
        "  totals=3,0.1:2, 300,10:1\n",
        "  intervals=\n",
        "  summary=P0(nan,3.033333333333333) P25(nan,3.033333333333333) P50(nan,3.066666666666667) P75(nan,305) ",
    ] {
        assert!(shown.contains(line), "{line} in {shown}");
    }
    drop(held);
}

#[test]
fn histograms_as_json() {
    let (store, held) = sizes();
    let shown = json(&store, HistogramFormat::Cumulative);
    assert_eq!(
        shown,
        concat!(
            r#"{"stats":[{"histograms":[{"name":"cluster.x.idle","buckets":[{"upper_bound":3,"interval":0,"cumulative":0},"#,
            r#"{"upper_bound":3.05,"interval":0,"cumulative":0},{"upper_bound":305,"interval":0,"cumulative":0}]},"#,
            r#"{"name":"cluster.x.upstream_rq_body_size","buckets":[{"upper_bound":3,"interval":2,"cumulative":2},"#,
            r#"{"upper_bound":3.05,"interval":2,"cumulative":2},{"upper_bound":305,"interval":3,"cumulative":3}]}]}]}"#
        )
    );
    for (histograms, start, end) in [
        (
            HistogramFormat::Summary,
            r#"{"stats":[{"histograms":{"supported_quantiles":[0,25,50,75,90,95,99,99.5,99.9,100],"computed_quantiles":[{"name":"cluster.x.idle","values":[{"cumulative":null,"interval":null},"#,
            r#"{"cumulative":305,"interval":305}]}]}}]}"#,
        ),
        (
            HistogramFormat::Detailed,
            r#"{"stats":[{"histograms":{"supported_percentiles":[0,25,50,75,90,95,99,99.5,99.9,100],"details":[{"name":"cluster.x.idle","totals":[],"intervals":[],"percentiles":["#,
            r#"{"cumulative":305,"interval":305}]}]}}]}"#,
        ),
    ] {
        let shown = json(&store, histograms);
        assert!(shown.starts_with(start) && shown.ends_with(end), "{shown}");
    }
    drop(held);
}

#[test]
fn histograms_for_prometheus() {
    let (store, held) = sizes();
    let shown = prometheus(&store, PrometheusHistogramFormat::Cumulative);
    let want = "# TYPE envoy_cluster_upstream_rq_body_size histogram\n\
        envoy_cluster_upstream_rq_body_size_bucket{envoy_cluster_name=\"x\",le=\"3\"} 2\n\
        envoy_cluster_upstream_rq_body_size_bucket{envoy_cluster_name=\"x\",le=\"3.049999999999999822364316059975\"} 2\n\
        envoy_cluster_upstream_rq_body_size_bucket{envoy_cluster_name=\"x\",le=\"305\"} 3\n\
        envoy_cluster_upstream_rq_body_size_bucket{envoy_cluster_name=\"x\",le=\"+Inf\"} 3\n\
        envoy_cluster_upstream_rq_body_size_sum{envoy_cluster_name=\"x\"} ";
    assert!(shown.contains(want), "{shown}");
    assert!(
        shown.ends_with("envoy_cluster_upstream_rq_body_size_count{envoy_cluster_name=\"x\"} 3\n")
    );

    store.flush();
    let shown = prometheus(&store, PrometheusHistogramFormat::Summary);
    let want = "# TYPE envoy_cluster_upstream_rq_body_size summary\n\
        envoy_cluster_upstream_rq_body_size{envoy_cluster_name=\"x\",quantile=\"0\"} nan\n\
        envoy_cluster_upstream_rq_body_size{envoy_cluster_name=\"x\",quantile=\"0.25\"} nan\n";
    assert!(shown.contains(want), "{shown}");
    assert!(shown.ends_with("_sum{envoy_cluster_name=\"x\"} 0\nenvoy_cluster_upstream_rq_body_size_count{envoy_cluster_name=\"x\"} 0\n"));
    drop(held);
}

/// Pieces stay small even if there is much to show.
#[test]
fn a_large_store_is_rendered_in_pieces() {
    let store = Store::new();
    let scope = |i: usize| Scope::new("cluster").name(&format!("c{i}"));
    let held: Vec<_> = (0..2_000)
        .map(|i| store.register::<ClusterSample>(scope(i)))
        .collect();
    let snapshot = || store.snapshot(&StatsFilter::default());
    let lengths = |pieces: &mut dyn Iterator<Item = String>| -> (usize, usize) {
        pieces.fold((0, 0), |(n, max), piece| (n + 1, max.max(piece.len())))
    };
    let (pieces, longest) = lengths(&mut TextRenderer::new(
        store.clone(),
        snapshot(),
        HistogramFormat::Summary,
    ));
    assert!(pieces > 3 && longest < 2 * PIECE_SIZE, "{pieces} {longest}");
    let (pieces, longest) = lengths(&mut JsonRenderer::new(
        store.clone(),
        snapshot(),
        HistogramFormat::Summary,
    ));
    assert!(pieces > 3 && longest < 2 * PIECE_SIZE, "{pieces} {longest}");
    let snapshot = snapshot();
    let mut pieces = PrometheusRenderer::new(
        store.clone(),
        snapshot,
        PrometheusHistogramFormat::Cumulative,
        false,
    );
    let (pieces, longest) = lengths(&mut pieces);
    assert!(pieces > 3 && longest < 2 * PIECE_SIZE, "{pieces} {longest}");
    drop(held);
}
