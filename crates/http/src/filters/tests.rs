//! In which order a chain runs its filters, how they wait, what routes change, and which configurations are refused.

use std::cell::OnceCell;

use http::StatusCode;
use outrider_codec::Frame;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::Meter;
use outrider_codec::ResponseHead;
use outrider_codec::StreamError;
use outrider_config::api::envoy::config::bootstrap::v3::Bootstrap;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter as HttpFilterMessage;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use outrider_net::WorkerCx;
use outrider_runtime::Runtime;
use outrider_runtime::Snapshot;
use outrider_stats::Scope;
use outrider_stats::Store;
use outrider_upstream::ClusterManager;
use outrider_upstream::ClusterNames;
use outrider_upstream::Clusters;
use outrider_upstream::DnsCaches;
use tokio::task::LocalSet;

use super::chain::ChainEntry;
use super::*;
use crate::BuildCx;
use crate::ManagerStats;
use crate::access_log::FlushOptions;
use crate::access_log::LogFiles;
use crate::testing;

/// A filter that notes each call in the header `x-steps` and then does what the test wants.
#[derive(Debug)]
struct Scripted {
    name: &'static str,
    status: fn() -> FilterStatus,
    late: fn() -> Result<(), LocalReply>,
}

impl HttpFilter for Scripted {
    fn on_request(&self, stream: &mut Stream, _: &mut Body, _: &FilterCx<'_>) -> FilterStatus {
        note(stream, self.name);
        (self.status)()
    }

    fn wait_on_request<'a>(
        &'a self,
        stream: &'a mut Stream,
        body: &'a mut Body,
        cx: &'a FilterCx<'a>,
    ) -> FilterWait<'a> {
        Box::pin(async move {
            cx.hold_body(body, tokio::task::yield_now()).await;
            note(stream, "waited ");
            (self.late)()
        })
    }

    fn on_response(&self, stream: &mut Stream, body: &mut Body, cx: &FilterCx<'_>) -> FilterStatus {
        self.on_request(stream, body, cx)
    }

    fn wait_on_response<'a>(
        &'a self,
        stream: &'a mut Stream,
        body: &'a mut Body,
        cx: &'a FilterCx<'a>,
    ) -> FilterWait<'a> {
        self.wait_on_request(stream, body, cx)
    }
}

const STEPS: HeaderName = HeaderName::from_static("x-steps");

fn note(stream: &mut Stream, name: &str) {
    let steps = steps(stream) + name;
    let steps = HeaderValue::try_from(steps).unwrap();
    stream.request.headers.insert(STEPS, steps);
}

fn steps(stream: &Stream) -> String {
    let steps = stream.request.headers.get(&STEPS);
    steps.map_or("", |steps| steps.as_str().unwrap()).to_owned()
}

fn forbidden() -> LocalReply {
    LocalReply::new(StatusCode::FORBIDDEN, "no")
}

fn goes_on(name: &'static str) -> Scripted {
    Scripted {
        name,
        status: || FilterStatus::Continue,
        late: || Ok(()),
    }
}

fn waits(name: &'static str, late: fn() -> Result<(), LocalReply>) -> Scripted {
    Scripted {
        name,
        status: || FilterStatus::Wait,
        late,
    }
}

fn chain<const N: usize>(filters: [Scripted; N]) -> HttpFilterChain {
    let entries = filters.into_iter().map(|filter| ChainEntry {
        name: filter.name.into(),
        is_disabled: filter.name == "off",
        filter: Rc::new(filter),
    });
    HttpFilterChain::new(entries.collect())
}

/// Runs a test with what filters need.
async fn with_cx<T>(test: impl AsyncFnOnce(&FilterCx<'_>) -> T) -> T {
    let local = LocalSet::new();
    local
        .run_until(async {
            let store = Store::new();
            let worker = Rc::new(WorkerCx::new(0, &store, 1));
            let late_reply = OnceCell::new();
            let cx = FilterCx {
                worker: &worker,
                clusters: &clusters(&store, &worker),
                meter: &Rc::new(Meter::default()),
                protocol: http::Version::HTTP_11,
                buffer_limit: 10,
                header_limits: HeaderLimits {
                    count: 100,
                    bytes: 60 << 10,
                },
                stats: &ManagerStats::default(),
                late_reply: &late_reply,
                find_route: &|stream| note(stream, "rerouted "),
            };
            test(&cx).await
        })
        .await
}

fn clusters(store: &Arc<Store>, worker: &Rc<WorkerCx>) -> Rc<Clusters> {
    let bootstrap = Bootstrap::default();
    let manager = ClusterManager::build(
        &bootstrap,
        "",
        store,
        &Arc::default(),
        (Arc::new(()), Default::default()),
    )
    .unwrap();
    manager.worker(worker)
}

fn response() -> Option<ResponseHead> {
    Some(ResponseHead {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
    })
}

#[tokio::test]
async fn a_request_goes_down_and_a_response_up() {
    with_cx(async |cx| {
        let chain = chain([
            goes_on("a "),
            goes_on("off"),
            waits("b ", || Ok(())),
            goes_on("c "),
        ]);
        let mut stream = testing::stream();
        let mut body = Body::full("body");
        chain.request(&mut stream, &mut body, cx).await.unwrap();
        assert_eq!(steps(&stream), "a b waited c ");
        stream.response = response();
        chain.response(&mut stream, &mut body, cx).await.unwrap();
        assert_eq!(steps(&stream), "a b waited c c b waited a ");
        let frame = body.frame().await;
        assert!(matches!(frame, Some(Ok(Frame::Data(data))) if data == "body"));
    })
    .await;
}

#[tokio::test]
async fn a_reply_ends_the_chain() {
    with_cx(async |cx| {
        let at_once = Scripted {
            status: || FilterStatus::Reply(forbidden()),
            ..goes_on("b")
        };
        for stop in [at_once, waits("b", || Err(forbidden()))] {
            let chain = chain([goes_on("a"), stop, goes_on("c")]);
            let mut stream = testing::stream();
            let reply = chain.request(&mut stream, &mut Body::Empty, cx).await;
            assert_eq!(reply.unwrap_err().status, StatusCode::FORBIDDEN);
            assert!(steps(&stream).starts_with("ab"), "{}", steps(&stream));
            assert!(!steps(&stream).contains('c'));
        }
    })
    .await;
}

#[tokio::test]
async fn a_slot_belongs_to_one_filter() {
    let (one, two): (StreamSlot<u32>, StreamSlot<u32>) = (StreamSlot::at(0), StreamSlot::at(1));
    let mut stream = testing::stream();
    two.set(&mut stream, Rc::new(2));
    assert_eq!((one.get(&stream), two.get(&stream)), (None, Some(&2)));
    one.set(&mut stream, Rc::new(1));
    assert_eq!(one.share(&stream).as_deref(), Some(&1));
}

#[tokio::test]
async fn a_buffered_body_is_there_again_afterwards() {
    with_cx(async |cx| {
        for (limit, complete) in [(2, false), (5, false), (6, true), (100, true)] {
            let frames = [
                Frame::Data("abc".into()),
                Frame::Data("def".into()),
                Frame::Trailers(HeaderMap::new()),
            ];
            let mut body = Body::wrap(testing::SlowFrames::new(frames));
            let buffered = cx.buffer_body(&mut body, limit).await.unwrap();
            assert_eq!(buffered.is_complete, complete, "limit {limit}");
            assert_eq!(buffered.trailers.is_some(), complete);
            let mut data = Vec::new();
            let mut trailers = 0;
            while let Some(frame) = body.frame().await {
                match frame.unwrap() {
                    Frame::Data(bytes) => data.extend_from_slice(&bytes),
                    Frame::Trailers(_) => trailers += 1,
                }
            }
            assert_eq!((data.as_slice(), trailers), (&b"abcdef"[..], 1));
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_ends_its_stream_with_the_first_reply() {
    with_cx(async |cx| {
        assert!(LateReply::take(cx.late_reply).is_none());
        let (one, two) = (cx.late_reply(), cx.late_reply());
        assert_eq!(one.end(forbidden()), StreamError::LocalReset);
        let _ = two.end(LocalReply::new(StatusCode::OK, "second"));
        let reply = LateReply::take(cx.late_reply).unwrap();
        assert_eq!(reply.status, StatusCode::FORBIDDEN);
        assert!(LateReply::take(cx.late_reply).is_none());
    })
    .await;
}

fn errors(filters: &[HttpFilterMessage]) -> Vec<String> {
    let store = Store::new();
    let scope = Scope::new("http");
    let cx = BuildCx {
        sources: &Default::default(),
        dns_caches: &DnsCaches::new(
            &Bootstrap::default(),
            &store,
            &Runtime::new(Snapshot::default()),
        )
        .unwrap(),
        runtime: &Snapshot::default(),
        store: &store,
        clusters: &ClusterNames::default(),
        log_files: &LogFiles::new(FlushOptions::default(), &store),
        listener: &scope,
        bypasses_overload_manager: false,
        buffer_limit: 1 << 20,
        prefers_ipv6: false,
        node_cluster: "",
        node_id: "",
        zone: "",
        is_outbound: false,
        tracers: &Default::default(),
    };
    let path = FieldPath::root().field("http_filters");
    match HttpFilterChainConfig::build(filters, &path, &scope, &cx) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.0.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn the_router_is_last_and_others_are_refused_by_name() {
    let filter = |name: &str, message: &str| HttpFilterMessage {
        name: name.to_owned(),
        config_type: Some(ConfigType::TypedConfig(Any {
            type_url: format!("type.googleapis.com/{message}"),
            value: Vec::new(),
        })),
        ..HttpFilterMessage::default()
    };
    let router = || filter("router", "envoy.extensions.filters.http.router.v3.Router");
    assert!(errors(&[router()]).is_empty());
    assert!(errors(&[]).is_empty());
    let refused = errors(&[filter("none", "envoy.None"), router()]);
    let [refused] = refused.as_slice() else {
        panic!("{refused:?}");
    };
    let start = "http_filters[0].typed_config: not supported: HTTP filter envoy.None; expected one of: envoy.";
    assert!(refused.starts_with(start), "{refused}");
    assert_eq!(errors(&[router(), router()]).len(), 1);
    assert_eq!(errors(&[HttpFilterMessage::default()]).len(), 1);
    let disabled = HttpFilterMessage {
        disabled: true,
        ..router()
    };
    assert_eq!(errors(&[disabled]).len(), 1);
}
