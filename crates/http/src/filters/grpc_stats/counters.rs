//! Counters for gRPC calls, by cluster and method.
//!
//! Clients choose the names of the methods that they call, so the memory for names is limited: a worker has counters
//! for [`METHODS`] methods of a cluster. It finds the counters of recent calls without hashing a name ([`RecentCall`]).

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::HashSet;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use outrider_codec::HeaderValue;
use outrider_codec::Meter;
use outrider_stats::Counter;
use outrider_stats::Histogram;
use outrider_stats::Lazy;
use outrider_stats::Scope;
use outrider_stats::Stat;
use outrider_stats::Visitor;
use outrider_stats::WorkerStore;

use super::messages::Protocol;

/// How many methods of a cluster get counters of their own on one worker. Calls of other methods are counted for the
/// cluster only.
const METHODS: usize = 1000;
/// How many recent paths are remembered with their counters; a power of two.
const RECENT: usize = 64;
/// The longest path that is remembered; longer ones are looked up each time.
const LONGEST_KEPT: usize = 256;

outrider_stats::group! {
    /// `cluster.<name>.grpc.*` and `cluster.<name>.grpc.<service>.<method>.*`
    pub(in crate::filters) struct GrpcStats {
        #[name("")]
        statuses: Statuses,
        failure: Lazy<Counter>,
        request_message_count: Lazy<Counter>,
        response_message_count: Lazy<Counter>,
        success: Lazy<Counter>,
        total: Lazy<Counter>,
        upstream_rq_time: Lazy<Histogram>,
    }
}

/// The names of gRPC's statuses, by number.
const STATUSES: [&str; 17] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16",
];

/// Calls by status. A status is listed from its first call on.
#[derive(Debug, Default)]
pub(in crate::filters) struct Statuses([Lazy<Counter>; STATUSES.len()]);

impl Stat for Statuses {
    fn visit_as(&self, name: &'static str, visitor: &mut Visitor<'_>) {
        visitor.below(name, |visitor| {
            for (name, counter) in STATUSES.iter().zip(&self.0) {
                counter.visit_as(name, visitor);
            }
        });
    }
}

impl GrpcStats {
    /// Counts a call that ended with this `grpc-status`.
    pub(in crate::filters) fn count(&self, status: Option<&HeaderValue>) {
        let Some(status) = status.map(HeaderValue::as_bytes) else {
            return;
        };
        if let Some(known) = STATUSES.iter().position(|name| name.as_bytes() == status) {
            self.statuses.0[known].get().inc();
        }
        self.count_outcome(status == b"0");
    }

    /// Counts a call by whether it succeeded.
    pub(super) fn count_outcome(&self, success: bool) {
        let outcome = match success {
            true => &self.success,
            false => &self.failure,
        };
        outcome.get().inc();
        self.total.get().inc();
    }

    /// Records the time from the first byte sent upstream to the last one received.
    pub(super) fn record_time(&self, upstream: &Meter) {
        if let (Some(began), Some(ended)) = (upstream.send_began(), upstream.receive_ended()) {
            let millis = ended.saturating_duration_since(began).as_millis();
            let millis = u64::try_from(millis).unwrap_or(u64::MAX);
            self.upstream_rq_time.get().record(millis);
        }
    }
}

/// Which methods have counters of their own.
#[derive(Clone, Debug)]
pub(in crate::filters) enum Methods {
    /// Only the methods in this list of services and methods.
    Named(HashSet<(Box<str>, Box<str>)>),
    /// All methods, up to [`METHODS`].
    All {
        /// `replace_dots_in_grpc_service_name`
        replace_dots: bool,
    },
}

/// The counters of the calls that one filter counts on one worker.
pub(in crate::filters) struct MethodCounters {
    methods: Methods,
    /// The part of the stats' names after the cluster's: `grpc` or `grpc-web`.
    protocol: &'static str,
    store: WorkerStore,
    recent: RefCell<[Option<RecentCall>; RECENT]>,
    /// By the cluster's name in stats.
    clusters: RefCell<HashMap<Rc<str>, ClusterMethods>>,
}

/// A path that was called recently, and the counters of its calls; no counters if the path names no method.
struct RecentCall {
    /// The cluster's name in stats. A cluster that replaces another one of that name has another copy of the string.
    cluster: Rc<str>,
    path: Box<[u8]>,
    stats: Option<Rc<CallCounters>>,
}

/// The counters of a cluster's calls.
#[derive(Default)]
struct ClusterMethods {
    /// The counters for methods without counters of their own.
    others: Option<Rc<CallCounters>>,
    methods: HashMap<Box<str>, Rc<CallCounters>>,
}

/// What a stream keeps about its call: the counters and the protocol.
#[derive(Clone)]
pub(in crate::filters) struct CallCounters {
    pub(super) protocol: Protocol,
    pub(in crate::filters) stats: Arc<GrpcStats>,
}

impl MethodCounters {
    /// No counters yet, for calls whose stats are below `cluster.<name>.<protocol>`.
    pub(in crate::filters) fn new(
        methods: Methods,
        protocol: &'static str,
        store: WorkerStore,
    ) -> MethodCounters {
        MethodCounters {
            methods,
            protocol,
            store,
            recent: RefCell::new(std::array::from_fn(|_| None)),
            clusters: RefCell::default(),
        }
    }

    /// The counters for a call of `path`; `None` if the path names no method.
    pub(in crate::filters) fn find(
        &self,
        cluster: &Rc<str>,
        path: &str,
    ) -> Option<Rc<CallCounters>> {
        let place = slot(path.as_bytes());
        if let Some(recent) = &self.recent.borrow()[place]
            && Rc::ptr_eq(&recent.cluster, cluster)
            && *recent.path == *path.as_bytes()
        {
            return recent.stats.clone();
        }
        let stats = self.look_up(cluster, path);
        if path.len() <= LONGEST_KEPT {
            self.recent.borrow_mut()[place] = Some(RecentCall {
                cluster: cluster.clone(),
                path: path.as_bytes().into(),
                stats: stats.clone(),
            });
        }
        stats
    }

    fn look_up(&self, cluster: &Rc<str>, path: &str) -> Option<Rc<CallCounters>> {
        let mut clusters = self.clusters.borrow_mut();
        if !clusters.contains_key(cluster) {
            // The names of removed clusters have no other owner.
            clusters.retain(|name, _| Rc::strong_count(name) > 1);
        }
        let mut known = clusters.remove(cluster).unwrap_or_default();
        let call = self.call_of(&mut known, cluster, path);
        clusters.insert(cluster.clone(), known);
        call
    }

    fn call_of(
        &self,
        known: &mut ClusterMethods,
        name: &str,
        path: &str,
    ) -> Option<Rc<CallCounters>> {
        let (service, method) = service_and_method(path)?;
        let service = match &self.methods {
            Methods::All { replace_dots: true } => service.replace('.', "_"),
            Methods::All {
                replace_dots: false,
            } => service.to_owned(),
            Methods::Named(named) => {
                if !named.contains(&(service.into(), method.into())) {
                    return Some(self.others(known, name));
                }
                service.to_owned()
            }
        };
        let full = format!("{service}/{method}");
        if let Some(call) = known.methods.get(full.as_str()) {
            return Some(call.clone());
        }
        if known.methods.len() >= METHODS {
            return Some(self.others(known, name));
        }
        let call = self.counters(self.scope(name).verbatim(&service).verbatim(method));
        known.methods.insert(full.into(), call.clone());
        Some(call)
    }

    fn others(&self, known: &mut ClusterMethods, name: &str) -> Rc<CallCounters> {
        let made = || self.counters(self.scope(name));
        known.others.get_or_insert_with(made).clone()
    }

    fn scope(&self, cluster: &str) -> Scope {
        Scope::new("cluster").name(cluster).name(self.protocol)
    }

    fn counters(&self, scope: Scope) -> Rc<CallCounters> {
        Rc::new(CallCounters {
            protocol: Protocol::GRPC,
            stats: self.store.register(scope),
        })
    }
}

impl fmt::Debug for MethodCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MethodCounters")
            .field("methods", &self.methods)
            .finish_non_exhaustive()
    }
}

/// The slot in which a path is remembered, by its last bytes: paths usually differ there. Paths that share a slot
/// replace each other, and are looked up.
fn slot(path: &[u8]) -> usize {
    let end = path.last_chunk().map_or(0, |end| u64::from_le_bytes(*end));
    let mixed = (end ^ path.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::from((mixed >> 56) as u8) % RECENT
}

/// The service and the method in a path, without its query. Slashes around them are ignored.
fn service_and_method(path: &str) -> Option<(&str, &str)> {
    let path = path.split('?').next()?;
    let mut words = path.split('/').filter(|word| !word.is_empty());
    let (service, method) = (words.next()?, words.next()?);
    words.next().is_none().then_some((service, method))
}

#[cfg(test)]
mod tests {
    use outrider_stats::Store;

    use super::*;

    #[test]
    fn a_path_names_a_service_and_a_method() {
        for (path, expected) in [
            ("/a.B/C", Some(("a.B", "C"))),
            ("//a//b/", Some(("a", "b"))),
            ("/a/b?c/d", Some(("a", "b"))),
            ("/a", None),
            ("/a/b/c", None),
            ("/", None),
        ] {
            assert_eq!(service_and_method(path), expected, "{path}");
        }
    }

    fn counters(methods: Methods) -> (MethodCounters, Arc<Store>) {
        let store = Store::new();
        let counters = MethodCounters::new(methods, "grpc", store.of_worker(0));
        (counters, store)
    }

    #[test]
    fn methods_beyond_the_limit_share_counters() {
        let (counters, store) = counters(Methods::All {
            replace_dots: false,
        });
        let cluster: Rc<str> = "c".into();
        for at in 0..METHODS + 5 {
            let call = counters.find(&cluster, &format!("/s/m{at}")).unwrap();
            call.stats.total.get().inc();
        }
        let first = counters.find(&cluster, "/s/m0").unwrap();
        assert_eq!(first.stats.total.get().value(), 1);
        let snapshot = store.snapshot(&outrider_stats::StatsFilter::default());
        assert_eq!(snapshot.rows().count(), METHODS + 1);
        let others = counters.find(&cluster, "/s/one-more").unwrap();
        assert_eq!(others.stats.total.get().value(), 5);
    }

    #[test]
    fn methods_that_are_not_listed_are_counted_together() {
        let (counters, _) = counters(Methods::Named([("s".into(), "m".into())].into()));
        let cluster: Rc<str> = "c".into();
        let find = |path| counters.find(&cluster, path).unwrap();
        assert!(Rc::ptr_eq(&find("/s/m"), &find("/s/m?x")));
        assert!(Rc::ptr_eq(&find("/s/n"), &find("/t/m")));
        assert!(!Rc::ptr_eq(&find("/s/m"), &find("/s/n")));
    }
}
