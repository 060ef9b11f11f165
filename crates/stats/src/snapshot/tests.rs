use super::*;
use crate::Counter;
use crate::Gauge;
use crate::ResponseCodes;
use crate::Scope;
use crate::Store;
use crate::TextReadout;

crate::group! {
    struct SnapshotSample { total: Counter, active: Gauge, rq: ResponseCodes, build: TextReadout }
}

crate::group! {
    struct More { zebra: Counter, total: Counter, #[name("b.c")] dotted: Counter }
}

fn names(store: &Store, filter: &StatsFilter) -> Vec<String> {
    let snapshot = store.snapshot(filter);
    snapshot.rows().map(|row| row.name()).collect()
}

#[test]
fn names_are_sorted_across_scopes() {
    let store = Store::new();
    let scopes = ["a", "a.b", "a_b", "a-b"].map(|n| Scope::new("cluster").name(n));
    let held = scopes.map(|scope| store.register::<More>(scope));
    let names = names(&store, &StatsFilter::default());
    assert_eq!(names.len(), 12);
    assert!(names.is_sorted(), "{names:?}");
    assert!(names.contains(&"cluster.a.b.b.c".to_owned()));
    drop(held);
}

#[test]
fn copies_with_different_codes_are_summed() {
    let store = Store::new();
    let [a, b, c] = [(); 3].map(|()| store.register::<SnapshotSample>(Scope::new("x")));
    let more = store.register::<More>(Scope::new("x"));
    for (sample, status) in [(&a, 200), (&b, 404), (&b, 200), (&c, 404), (&c, 503)] {
        sample.rq.record(status);
    }
    b.active.inc();
    c.active.sub(3);
    a.total.inc();
    more.total.inc();
    c.build.set("1.0");
    let snapshot = store.snapshot(&StatsFilter::default());
    let shown: Vec<_> = snapshot
        .rows()
        .map(|row| match row.value() {
            StatValue::Counter(v) | StatValue::Gauge(v) => format!("{}={v}", row.name()),
            StatValue::Text(text) => format!("{}={text}", row.name()),
            StatValue::Histogram(_) => row.name(),
        })
        .collect();
    let want = [
        "x.active=0",
        "x.b.c=0",
        "x.build=1.0",
        "x.rq_200=2",
        "x.rq_2xx=2",
        "x.rq_404=2",
        "x.rq_4xx=2",
        "x.rq_503=1",
        "x.rq_5xx=1",
        "x.rq_completed=5",
        "x.total=2",
        "x.zebra=0",
    ];
    assert_eq!(shown, want);
}

#[test]
fn filters_by_name_kind_and_use() {
    let store = Store::new();
    let sample = store.register::<SnapshotSample>(Scope::new("x"));
    sample.active.inc();
    sample.active.dec();
    let regex = |r: &str| Some(Regex::new(r).unwrap());
    for (filter, want) in [
        (
            StatsFilter {
                used_only: true,
                ..StatsFilter::default()
            },
            &["x.active"][..],
        ),
        (
            StatsFilter {
                name: regex("^x.*tal$"),
                ..StatsFilter::default()
            },
            &["x.total"],
        ),
        (
            StatsFilter {
                name: regex("tal|act"),
                invert: true,
                ..StatsFilter::default()
            },
            &["x.build", "x.rq_completed"],
        ),
        (
            StatsFilter {
                kind: Some(StatKind::Text),
                ..StatsFilter::default()
            },
            &["x.build"],
        ),
    ] {
        assert_eq!(names(&store, &filter), want, "{filter:?}");
    }
}

#[test]
fn stats_matcher_hides_stats() {
    let store = Store::with_options(StatsOptions {
        admits: Some(Box::new(|name| name.ends_with("active"))),
        ..StatsOptions::default()
    });
    let sample = store.register::<SnapshotSample>(Scope::new("x"));
    assert_eq!(names(&store, &StatsFilter::default()), ["x.active"]);
    drop(sample);
}
