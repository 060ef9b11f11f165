//! Streams against a control plane in memory.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrider_config::FieldPath;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_config::api::envoy::config::core::v3::ApiConfigSource;
use outrider_config::api::envoy::config::core::v3::GrpcService;
use outrider_config::api::envoy::config::core::v3::Node;
use outrider_config::api::envoy::config::core::v3::api_config_source::ApiType;
use outrider_config::api::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use outrider_config::api::envoy::service::discovery::v3::DiscoveryRequest;
use outrider_config::api::envoy::service::discovery::v3::DiscoveryResponse;
use outrider_config::api::envoy::service::discovery::v3::Resource as Wrapper;
use outrider_stats::Scope;
use outrider_stats::Store;
use prost::Message as _;
use prost_types::Any;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use super::*;
use crate::ConfigSource;
use crate::Origin;
use crate::Removed;
use crate::Subscription;
use crate::SubscriptionTarget;

/// Responses that come as the test sends them. Each stream takes the next receiver.
#[derive(Default)]
struct Fake {
    streams: RefCell<VecDeque<mpsc::UnboundedReceiver<XdsResponse>>>,
    requests: Rc<RefCell<Vec<XdsRequest>>>,
}

struct FakeStream {
    responses: mpsc::UnboundedReceiver<XdsResponse>,
    requests: Rc<RefCell<Vec<XdsRequest>>>,
}

impl ControlPlaneClient for Fake {
    fn open<'a>(
        &'a self,
        _: &'a ApiSource,
        _: &'static str,
    ) -> LocalFuture<'a, Result<Box<dyn DiscoveryStream>, String>> {
        let responses = self.streams.borrow_mut().pop_front();
        let requests = self.requests.clone();
        Box::pin(async move {
            let responses = responses.ok_or("refused")?;
            let stream: Box<dyn DiscoveryStream> = Box::new(FakeStream {
                responses,
                requests,
            });
            Ok(stream)
        })
    }
}

impl DiscoveryStream for FakeStream {
    fn send(&self, request: &XdsRequest) -> Result<(), Overflow> {
        self.requests.borrow_mut().push(request.clone());
        Ok(())
    }

    fn next(&mut self) -> LocalFuture<'_, Result<Option<XdsResponse>, String>> {
        Box::pin(async { Ok(self.responses.recv().await) })
    }
}

/// A subscription to all clusters, and the control plane's side of it.
struct Setting {
    subscription: Subscription,
    responses: mpsc::UnboundedSender<XdsResponse>,
    client: Rc<Fake>,
}

fn setting(api_type: ApiType) -> Setting {
    let store = Store::new();
    let sources = Sources::default();
    let message = ApiConfigSource {
        api_type: api_type.into(),
        grpc_services: vec![GrpcService::default()],
        ..ApiConfigSource::default()
    };
    let api = ApiSource::build(&message, &FieldPath::root(), &sources).unwrap();
    let client = Rc::new(Fake::default());
    let (responses, received) = mpsc::unbounded_channel();
    client.streams.borrow_mut().push_back(received);
    ControlPlanes::new(&sources, client.clone(), Node::default()).start(None, async {});
    let source = ConfigSource {
        origin: Origin::Api(Arc::new(api)),
        initial_fetch_timeout: Some(Duration::from_secs(15)),
    };
    let subject = SubscriptionTarget {
        kind: &ResourceType::CLUSTER,
        name: None,
        scope: Scope::new("x"),
    };
    Setting {
        subscription: sources.subscribe(&source, subject, &store).unwrap(),
        responses,
        client,
    }
}

impl Setting {
    fn send(&self, response: DiscoveryResponse) {
        let type_url = ResourceType::CLUSTER.url();
        self.responses
            .send(XdsResponse::Whole(DiscoveryResponse {
                type_url,
                ..response
            }))
            .unwrap();
    }

    /// Waits for an update, and accepts it or not. Its names.
    async fn update(&mut self, result: Result<(), String>) -> Vec<String> {
        let mut names = Vec::new();
        self.subscription.changed().await;
        let apply = async |update: Update| {
            names.extend(update.resources.into_iter().map(|one| one.name));
            result
        };
        self.subscription.update(apply).await;
        settle().await;
        names
    }

    /// The requests since the last call.
    fn whole_requests(&self) -> Vec<DiscoveryRequest> {
        let requests = self.client.requests.take().into_iter();
        let whole = requests.map(|request| match request {
            XdsRequest::Whole(request) => request,
            XdsRequest::Incremental(request) => panic!("{request:?}"),
        });
        whole.collect()
    }
}

async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

fn cluster(name: &str) -> Any {
    let cluster = Cluster {
        name: name.to_owned(),
        ..Cluster::default()
    };
    Any {
        type_url: ResourceType::CLUSTER.url(),
        value: cluster.encode_to_vec(),
    }
}

fn response(nonce: &str, resources: Vec<Any>) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: format!("v{nonce}"),
        nonce: nonce.to_owned(),
        resources,
        ..DiscoveryResponse::default()
    }
}

#[tokio::test(start_paused = true)]
async fn acknowledges_what_is_accepted_and_refuses_the_rest() {
    let work = async {
        let mut setting = setting(ApiType::Grpc);
        setting.send(response("1", vec![cluster("a"), cluster("b")]));
        assert_eq!(setting.update(Ok(())).await, ["a", "b"]);
        setting.send(response("2", vec![cluster("a")]));
        setting.update(Err("a: not today".to_owned())).await;
        let [first, accepted, refused] = &setting.whole_requests()[..] else {
            panic!("three requests");
        };
        assert_eq!((&*first.version_info, &*first.response_nonce), ("", ""));
        assert_eq!(
            (&*accepted.version_info, &*accepted.response_nonce),
            ("v1", "1")
        );
        assert!(accepted.error_detail.is_none());
        assert_eq!(
            (&*refused.version_info, &*refused.response_nonce),
            ("v1", "2")
        );
        let reason = &refused.error_detail.as_ref().unwrap().message;
        assert_eq!(reason, "a: not today");
    };
    LocalSet::new().run_until(work).await;
}

#[tokio::test(start_paused = true)]
async fn refuses_what_it_cannot_read() {
    let work = async {
        let mut setting = setting(ApiType::Grpc);
        let broken = Any {
            value: vec![0x0a, 0xff],
            ..cluster("a")
        };
        let other = Any {
            type_url: "type.googleapis.com/envoy.config.listener.v3.Listener".to_owned(),
            ..cluster("a")
        };
        let wrapped = Any {
            type_url: "type.googleapis.com/envoy.service.discovery.v3.Resource".to_owned(),
            value: vec![0xff],
        };
        for (nonce, bad) in [("1", broken), ("2", other), ("3", wrapped)] {
            setting.send(response(nonce, vec![cluster("b"), bad]));
            settle().await;
        }
        setting
            .responses
            .send(XdsResponse::Whole(response("4", vec![])))
            .unwrap(); // of no type
        settle().await;
        let requests = setting.whole_requests();
        let refused = requests
            .iter()
            .filter(|request| request.error_detail.is_some());
        let nonces: Vec<_> = refused.map(|request| &*request.response_nonce).collect();
        assert_eq!(nonces, ["1", "2", "3"]);
        setting.send(response("5", vec![cluster("b")]));
        assert_eq!(setting.update(Ok(())).await, [""; 0]); // the notice that one was refused
        while setting.update(Ok(())).await.is_empty() {}
        assert_eq!(setting.whole_requests().last().unwrap().version_info, "v5");
    };
    LocalSet::new().run_until(work).await;
}

#[tokio::test(start_paused = true)]
async fn asks_again_on_a_new_stream_for_what_it_has() {
    let work = async {
        let mut setting = setting(ApiType::DeltaGrpc);
        let added = DeltaDiscoveryResponse {
            type_url: ResourceType::CLUSTER.url(),
            nonce: "1".to_owned(),
            resources: vec![Wrapper {
                name: "a".to_owned(),
                version: "a1".to_owned(),
                resource: Some(cluster("a")),
                ..Wrapper::default()
            }],
            ..DeltaDiscoveryResponse::default()
        };
        let response = XdsResponse::Incremental(added.clone());
        setting.responses.send(response).unwrap();
        assert_eq!(setting.update(Ok(())).await, ["a"]);
        let twice = DeltaDiscoveryResponse {
            removed_resources: vec!["a".to_owned()],
            nonce: "2".to_owned(),
            ..added
        };
        setting
            .responses
            .send(XdsResponse::Incremental(twice))
            .unwrap();
        settle().await;
        let (again, received) = mpsc::unbounded_channel();
        setting.client.streams.borrow_mut().push_back(received);
        setting.responses = again;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let requests = setting.client.requests.take();
        let [
            ..,
            XdsRequest::Incremental(refused),
            XdsRequest::Incremental(first),
        ] = &requests[..]
        else {
            panic!("{requests:?}");
        };
        assert!(refused.error_detail.is_some());
        let versions: Vec<_> = first.initial_resource_versions.iter().collect();
        assert_eq!(versions, [(&"a".to_owned(), &"a1".to_owned())]);
    };
    LocalSet::new().run_until(work).await;
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_is_not_confirmed_in_time_is_removed() {
    let work = async {
        let mut setting = setting(ApiType::Grpc);
        let wrapper = Wrapper {
            name: "a".to_owned(),
            ttl: Some(prost_types::Duration {
                seconds: 1,
                nanos: 0,
            }),
            resource: Some(cluster("a")),
            ..Wrapper::default()
        };
        let any = Any {
            type_url: "type.googleapis.com/envoy.service.discovery.v3.Resource".to_owned(),
            value: wrapper.encode_to_vec(),
        };
        setting.send(response("1", vec![any]));
        assert_eq!(setting.update(Ok(())).await, ["a"]);
        let mut removed = Removed::default();
        let apply = async |update: Update| {
            removed = update.removed;
            Ok(())
        };
        setting.subscription.update(apply).await;
        assert_eq!(removed, Removed::Names(vec!["a".to_owned()]));
    };
    LocalSet::new().run_until(work).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_control_plane_ends_the_first_wait() {
    let work = async {
        let mut setting = setting(ApiType::Grpc);
        let started = tokio::time::Instant::now();
        assert_eq!(setting.update(Ok(())).await, [""; 0]);
        assert_eq!(started.elapsed(), Duration::from_secs(15));
    };
    LocalSet::new().run_until(work).await;
}
