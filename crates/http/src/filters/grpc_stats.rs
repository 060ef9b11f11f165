//! Counts gRPC calls by cluster and method (`envoy.filters.http.grpc_stats`): statuses, messages and the time upstream.
//! Calls in the Connect protocol are counted, too.
//!
//! Clients choose the names of the methods that they call, so the memory for names is limited: a worker has counters
//! for [`METHODS`] methods of a cluster. It finds the counters of recent calls without hashing a name ([`RecentCall`]).

mod messages;

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::HashSet;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use outrider_codec::Body;
use outrider_codec::HeaderValue;
use outrider_codec::Meter;
use outrider_codec::header;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::http::grpc_stats::v3::FilterConfig as Message;
use outrider_config::api::envoy::extensions::filters::http::grpc_stats::v3::filter_config::PerMethodStatSpecifier;
use outrider_config::unpack;
use outrider_stats::Counter;
use outrider_stats::Histogram;
use outrider_stats::Lazy;
use outrider_stats::Scope;
use outrider_stats::Stat;
use outrider_stats::Visitor;
use outrider_stats::WorkerStore;
use prost_types::Any;

use self::messages::CountedRequest;
use self::messages::CountedResponse;
use self::messages::Protocol;
use super::FilterBuildCx;
use super::FilterCx;
use super::FilterFactory;
use super::FilterStatus;
use super::FilterWorkerCx;
use super::HttpFilter;
use super::HttpFilterConfig;
use super::StreamSlot;

use crate::Stream;

/// How many methods of a cluster get counters of their own on one worker. Calls of other methods are counted for the
/// cluster only.
const METHODS: usize = 1000;
/// How many recent paths are remembered with their counters; a power of two.
const RECENT: usize = 64;
/// The longest path that is remembered; longer ones are looked up each time.
const LONGEST_KEPT: usize = 256;

outrider_stats::group! {
    /// `cluster.<name>.grpc.*` and `cluster.<name>.grpc.<service>.<method>.*`
    pub(super) struct GrpcStats {
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
pub(super) struct Statuses([Lazy<Counter>; STATUSES.len()]);

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
    fn count(&self, status: Option<&HeaderValue>) {
        let Some(status) = status.map(HeaderValue::as_bytes) else {
            return;
        };
        if let Some(known) = STATUSES.iter().position(|name| name.as_bytes() == status) {
            self.statuses.0[known].get().inc();
        }
        self.count_outcome(status == b"0");
    }

    /// Counts a call by whether it succeeded.
    fn count_outcome(&self, success: bool) {
        let outcome = match success {
            true => &self.success,
            false => &self.failure,
        };
        outcome.get().inc();
        self.total.get().inc();
    }

    /// Records the time from the first byte sent upstream to the last one received.
    fn record_time(&self, upstream: &Meter) {
        if let (Some(began), Some(ended)) = (upstream.send_began(), upstream.receive_ended()) {
            let millis = ended.saturating_duration_since(began).as_millis();
            let millis = u64::try_from(millis).unwrap_or(u64::MAX);
            self.upstream_rq_time.get().record(millis);
        }
    }
}

/// The filter's configuration.
#[derive(Debug)]
struct GrpcStatsConfig {
    methods: Methods,
    /// `enable_upstream_stats`
    times_upstream: bool,
}

/// Which methods have counters of their own.
#[derive(Debug)]
enum Methods {
    /// Only the methods in this list of services and methods.
    Named(HashSet<(Box<str>, Box<str>)>),
    /// All methods, up to [`METHODS`].
    All {
        /// `replace_dots_in_grpc_service_name`
        replace_dots: bool,
    },
}

pub(super) const FACTORY: FilterFactory = FilterFactory {
    message: "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
    build,
    routes: None,
};

fn build(
    config: &Any,
    path: &FieldPath,
    _cx: &FilterBuildCx<'_>,
) -> Result<Arc<dyn HttpFilterConfig>, ConfigErrors> {
    let message: Message = unpack(config, path)?;
    let methods = match message.per_method_stat_specifier {
        Some(PerMethodStatSpecifier::StatsForAllMethods(true)) => Methods::All {
            replace_dots: message.replace_dots_in_grpc_service_name,
        },
        Some(PerMethodStatSpecifier::IndividualMethodStatsAllowlist(list)) => {
            let services = list.services.into_iter();
            let named = services.flat_map(|service| {
                let methods = service.method_names.into_iter();
                methods.map(move |method| (service.name.as_str().into(), method.into()))
            });
            Methods::Named(named.collect())
        }
        _ => Methods::Named(HashSet::new()),
    };
    Ok(Arc::new(GrpcStatsConfig {
        methods,
        times_upstream: message.enable_upstream_stats,
    }))
}

impl HttpFilterConfig for GrpcStatsConfig {
    fn worker(self: Arc<Self>, cx: &FilterWorkerCx<'_>) -> Rc<dyn HttpFilter> {
        Rc::new(GrpcStatsFilter {
            config: self,
            store: cx.worker.store.clone(),
            call: cx.slot(),
            recent: RefCell::new(std::array::from_fn(|_| None)),
            clusters: RefCell::default(),
        })
    }
}

/// The filter on one worker.
struct GrpcStatsFilter {
    config: Arc<GrpcStatsConfig>,
    store: WorkerStore,
    /// The counters of a stream's call, if it is counted.
    call: StreamSlot<CallCounters>,
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
struct CallCounters {
    protocol: Protocol,
    stats: Arc<GrpcStats>,
}

impl HttpFilter for GrpcStatsFilter {
    fn on_request(&self, stream: &mut Stream, body: &mut Body, _cx: &FilterCx<'_>) -> FilterStatus {
        if let Some(upstream) = &stream.upstream
            && let Some(protocol) = Protocol::of(&stream.request.headers)
            && let Some(target) = &stream.request.path
            && let Some(call) = self.find(&upstream.cluster, target.as_str())
        {
            let call = match protocol {
                Protocol::GRPC => call,
                protocol => Rc::new(CallCounters {
                    protocol,
                    ..(*call).clone()
                }),
            };
            self.call.set(stream, call.clone());
            if !body.is_end_stream() {
                *body = Body::wrap(CountedRequest::new(std::mem::take(body), call));
            }
        }
        FilterStatus::Continue
    }

    fn on_response(
        &self,
        stream: &mut Stream,
        body: &mut Body,
        _cx: &FilterCx<'_>,
    ) -> FilterStatus {
        let (Some(call), Some(response)) = (self.call.share(stream), &stream.response) else {
            return FilterStatus::Continue;
        };
        let upstream = stream.upstream.as_ref();
        let meter = upstream
            .and_then(|upstream| upstream.request.as_ref()?.meter())
            .filter(|_| self.config.times_upstream);
        let (status, headers) = (response.status, &response.headers);
        if call.protocol.versioned {
            call.stats.count_outcome(status == StatusCode::OK);
        } else if !messages::is_connect_response(status, headers) {
            call.stats.count(headers.get(&header::GRPC_STATUS));
        }
        if body.is_end_stream() {
            if let Some(meter) = &meter {
                call.stats.record_time(meter);
            }
            return FilterStatus::Continue;
        }
        let is_grpc = messages::is_grpc_response(status, headers);
        let counted = CountedResponse::new(std::mem::take(body), is_grpc, meter, call);
        *body = Body::wrap(counted);
        FilterStatus::Continue
    }
}

impl GrpcStatsFilter {
    /// The counters for a call of `path`; `None` if the path names no method.
    fn find(&self, cluster: &Rc<str>, path: &str) -> Option<Rc<CallCounters>> {
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
        let service = match &self.config.methods {
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
        let call = self.counters(scope(name).verbatim(&service).verbatim(method));
        known.methods.insert(full.into(), call.clone());
        Some(call)
    }

    fn others(&self, known: &mut ClusterMethods, name: &str) -> Rc<CallCounters> {
        let made = || self.counters(scope(name));
        known.others.get_or_insert_with(made).clone()
    }

    fn counters(&self, scope: Scope) -> Rc<CallCounters> {
        Rc::new(CallCounters {
            protocol: Protocol::GRPC,
            stats: self.store.register(scope),
        })
    }
}

impl fmt::Debug for GrpcStatsFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcStatsFilter")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

fn scope(cluster: &str) -> Scope {
    Scope::new("cluster").name(cluster).name("grpc")
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

    fn filter(methods: Methods) -> (GrpcStatsFilter, Arc<Store>) {
        let store = Store::new();
        let config = Arc::new(GrpcStatsConfig {
            methods,
            times_upstream: false,
        });
        let filter = GrpcStatsFilter {
            config,
            store: store.of_worker(0),
            call: StreamSlot::at(0),
            recent: RefCell::new(std::array::from_fn(|_| None)),
            clusters: RefCell::default(),
        };
        (filter, store)
    }

    #[test]
    fn methods_beyond_the_limit_share_counters() {
        let (filter, store) = filter(Methods::All {
            replace_dots: false,
        });
        let cluster: Rc<str> = "c".into();
        for at in 0..METHODS + 5 {
            let call = filter.find(&cluster, &format!("/s/m{at}")).unwrap();
            call.stats.total.get().inc();
        }
        let first = filter.find(&cluster, "/s/m0").unwrap();
        assert_eq!(first.stats.total.get().value(), 1);
        let snapshot = store.snapshot(&outrider_stats::StatsFilter::default());
        assert_eq!(snapshot.rows().count(), METHODS + 1);
        let others = filter.find(&cluster, "/s/one-more").unwrap();
        assert_eq!(others.stats.total.get().value(), 5);
    }

    #[test]
    fn methods_that_are_not_listed_are_counted_together() {
        let (filter, _) = filter(Methods::Named([("s".into(), "m".into())].into()));
        let cluster: Rc<str> = "c".into();
        let find = |path| filter.find(&cluster, path).unwrap();
        assert!(Rc::ptr_eq(&find("/s/m"), &find("/s/m?x")));
        assert!(Rc::ptr_eq(&find("/s/n"), &find("/t/m")));
        assert!(!Rc::ptr_eq(&find("/s/m"), &find("/s/n")));
    }
}
