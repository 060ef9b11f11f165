//! The environment of this crate's tests: clusters on one worker, scripted backends, and a scripted DNS server.

pub(crate) mod backend;
pub(crate) mod dns;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Version;
use outrider_codec::Body;
use outrider_codec::Frame;
use outrider_codec::HeaderValue;
use outrider_codec::RequestHead;
use outrider_codec::Target;
use outrider_codec::UpstreamExchange;
use outrider_config::api::envoy::config::bootstrap::v3::Bootstrap;
use outrider_config::api::envoy::config::bootstrap::v3::bootstrap::StaticResources;
use outrider_config::api::envoy::config::cluster::v3::Cluster as ClusterMessage;
use outrider_config::api::envoy::config::cluster::v3::cluster::ClusterDiscoveryType;
use outrider_config::api::envoy::config::cluster::v3::cluster::DiscoveryType;
use outrider_config::api::envoy::config::core::v3::Address;
use outrider_config::api::envoy::config::core::v3::Http2ProtocolOptions;
use outrider_config::api::envoy::config::core::v3::SocketAddress;
use outrider_config::api::envoy::config::core::v3::address;
use outrider_config::api::envoy::config::core::v3::socket_address::PortSpecifier;
use outrider_config::api::envoy::config::endpoint::v3::ClusterLoadAssignment;
use outrider_config::api::envoy::config::endpoint::v3::Endpoint;
use outrider_config::api::envoy::config::endpoint::v3::LbEndpoint;
use outrider_config::api::envoy::config::endpoint::v3::LocalityLbEndpoints;
use outrider_config::api::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use outrider_net::WorkerCx;
use outrider_stats::StatValue;
use outrider_stats::StatsFilter;
use outrider_stats::Store;
use outrider_upstream::Cluster;
use outrider_upstream::ClusterManager;
use outrider_upstream::Clusters;
use outrider_upstream::PickRequest;
use outrider_upstream::PoolFailure;
use outrider_upstream::RoutingPriority;
use outrider_upstream::UpstreamStream;
use tokio::task::LocalSet;

/// Runs `test` on a runtime like a worker's, for at most 20 seconds.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let limited = async { tokio::time::timeout(Duration::from_secs(20), test).await };
    runtime
        .block_on(LocalSet::new().run_until(limited))
        .unwrap();
}

/// Clusters on one thread, which is both the main thread and a worker.
pub(crate) struct TestClusters {
    pub(crate) manager: Arc<ClusterManager>,
    pub(crate) clusters: Rc<Clusters>,
    pub(crate) store: Arc<Store>,
}

impl TestClusters {
    pub(crate) async fn start(clusters: Vec<ClusterMessage>) -> TestClusters {
        let proxy = TestClusters::launch(clusters);
        proxy.manager.initialized().await;
        proxy
    }

    /// Does not wait for the first hosts.
    pub(crate) fn launch(clusters: Vec<ClusterMessage>) -> TestClusters {
        let store = Store::new();
        let manager = ClusterManager::build(
            &bootstrap(clusters),
            "",
            &store,
            &Arc::default(),
            (Arc::new(()), Default::default()),
        )
        .unwrap();
        let worker = Rc::new(WorkerCx::new(0, &store, 7));
        tokio::task::spawn_local(worker.timers.clone().run());
        manager.start();
        let clusters = manager.worker(&worker);
        TestClusters {
            manager,
            clusters,
            store,
        }
    }

    pub(crate) fn cluster(&self) -> Rc<Cluster> {
        self.clusters.get("c").unwrap()
    }

    pub(crate) async fn open(&self) -> Result<UpstreamStream, PoolFailure> {
        let pick = self.cluster().pick(PickRequest::default()).unwrap();
        pick.open(RoutingPriority::Default, Version::HTTP_11).await
    }

    /// Sends a request and waits for the head of the response.
    pub(crate) async fn request(&self) -> OpenResponse {
        let stream = self.open().await.unwrap();
        let host = stream.host().address().to_string();
        let head = RequestHead {
            path: Some(Target::root()),
            authority: Some(HeaderValue::from_static("a")),
            ..RequestHead::default()
        };
        let mut exchange = stream.send(&head, Body::Empty).unwrap();
        let head = poll_fn(|cx| exchange.poll_response(cx)).await.unwrap();
        assert_eq!(head.status, 200);
        OpenResponse { exchange, host }
    }

    /// Sends a request and returns the body of the response.
    pub(crate) async fn call(&self) -> String {
        self.request().await.body().await
    }

    /// The sum over all copies of `cluster.c.<name>`.
    pub(crate) fn stat(&self, name: &str) -> u64 {
        let name = format!("cluster.c.{name}");
        let snapshot = self.store.snapshot(&StatsFilter::default());
        let row = snapshot.rows().find(|row| row.name() == name);
        match row.unwrap_or_else(|| panic!("no stat {name}")).value() {
            StatValue::Counter(value) | StatValue::Gauge(value) => value,
            other => panic!("{name} is {other:?}"),
        }
    }

    /// Waits until a stat has a value.
    pub(crate) async fn until(&self, name: &str, value: u64) {
        until(|| self.stat(name) == value).await;
    }

    /// The hosts' addresses, as `/clusters` lists them.
    pub(crate) fn hosts(&self) -> Vec<String> {
        let view = &self.manager.view()[0];
        view.hosts()
            .map(|host| host.address().to_string())
            .collect()
    }
}

/// Waits until a condition holds. The limit of `run` bounds the wait.
pub(crate) async fn until(mut so: impl FnMut() -> bool) {
    while !so() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A response whose head has arrived.
pub(crate) struct OpenResponse {
    pub(crate) exchange: UpstreamExchange,
    pub(crate) host: String,
}

impl OpenResponse {
    pub(crate) async fn body(self) -> String {
        let mut body = self.exchange.into_body();
        let mut bytes: Vec<u8> = Vec::new();
        while let Some(frame) = body.frame().await {
            if let Frame::Data(data) = frame.unwrap() {
                bytes.extend_from_slice(&data);
            }
        }
        String::from_utf8(bytes).unwrap()
    }
}

pub(crate) fn bootstrap(clusters: Vec<ClusterMessage>) -> Bootstrap {
    Bootstrap {
        static_resources: Some(StaticResources {
            clusters,
            ..StaticResources::default()
        }),
        ..Bootstrap::default()
    }
}

/// A STATIC cluster `c` of HTTP/1 hosts.
pub(crate) fn fixed(hosts: &[SocketAddr]) -> ClusterMessage {
    let endpoints = hosts
        .iter()
        .map(|host| (host.ip().to_string(), host.port()));
    cluster(DiscoveryType::Static, endpoints.collect())
}

/// A STATIC cluster `c` of HTTP/2 hosts.
#[allow(deprecated, reason = "the shortest way to configure HTTP/2")]
pub(crate) fn fixed_http2(hosts: &[SocketAddr]) -> ClusterMessage {
    ClusterMessage {
        http2_protocol_options: Some(Http2ProtocolOptions::default()),
        ..fixed(hosts)
    }
}

/// A STATIC cluster `c` with one host at `address`.
pub(crate) fn at(address: Address) -> ClusterMessage {
    let mut cluster = fixed(&[SocketAddr::from(([127, 0, 0, 1], 1))]);
    endpoint(&mut cluster).address = Some(address);
    cluster
}

/// The first endpoint of a cluster.
pub(crate) fn endpoint(cluster: &mut ClusterMessage) -> &mut Endpoint {
    let assignment = cluster.load_assignment.as_mut().unwrap();
    let endpoint = &mut assignment.endpoints[0].lb_endpoints[0];
    match endpoint.host_identifier.as_mut().unwrap() {
        HostIdentifier::Endpoint(endpoint) => endpoint,
        HostIdentifier::EndpointName(name) => panic!("a name: {name}"),
    }
}

/// A cluster `c` of these names or addresses.
pub(crate) fn cluster(kind: DiscoveryType, endpoints: Vec<(String, u16)>) -> ClusterMessage {
    let lb_endpoints = endpoints.into_iter().map(|(name, port)| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(address(&name, port)),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    });
    ClusterMessage {
        name: "c".to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind.into())),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: "c".to_owned(),
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: lb_endpoints.collect(),
                ..LocalityLbEndpoints::default()
            }],
            ..ClusterLoadAssignment::default()
        }),
        ..ClusterMessage::default()
    }
}

pub(crate) fn address(name: &str, port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: name.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..SocketAddress::default()
        })),
    }
}

pub(crate) fn seconds(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: duration.as_secs().cast_signed(),
        nanos: duration.subsec_nanos().cast_signed(),
    }
}
