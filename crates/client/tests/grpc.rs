//! gRPC calls to a server that answers, refuses, stalls, breaks the protocol and closes connections.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use http::HeaderMap;
use http::Request;
use http::Response;
use outrider_client::InternalClient;
use outrider_client::ServiceCx;
use outrider_client::grpc::Code;
use outrider_client::grpc::GrpcService;
use outrider_client::grpc::QueueFull;
use outrider_client::grpc::Status;
use outrider_config::FieldPath;
use outrider_config::Format;
use outrider_config::Source;
use outrider_config::api::envoy::config::core::v3 as core;
use outrider_config::api::envoy::config::core::v3::grpc_service::EnvoyGrpc;
use outrider_config::api::envoy::config::core::v3::grpc_service::TargetSpecifier;
use outrider_net::WorkerCx;
use outrider_stats::StatValue;
use outrider_stats::StatsFilter;
use outrider_stats::Store;
use outrider_upstream::ClusterManager;
use tokio::net::TcpListener;
use tokio::task::LocalSet;

/// One client and one server.
struct World {
    client: InternalClient,
    service: GrpcService,
    store: Arc<Store>,
    /// The heads of the calls that the server received.
    calls: Rc<RefCell<Vec<Request<()>>>>,
    _manager: Arc<ClusterManager>,
}

/// Runs `test` as a worker does, for at most 20 seconds.
fn run<F: Future<Output = ()>>(test: impl FnOnce(World) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let limited = async {
        let world = World::start().await;
        tokio::time::timeout(Duration::from_secs(20), test(world)).await
    };
    runtime
        .block_on(LocalSet::new().run_until(limited))
        .unwrap();
}

impl World {
    async fn start() -> World {
        let calls = Rc::default();
        let address = serve(Rc::clone(&calls)).await;
        let bootstrap = bootstrap(address);
        let store = Store::new();
        let manager = ClusterManager::build(
            &bootstrap,
            "",
            &store,
            &Arc::default(),
            (Arc::new(()), Default::default()),
        )
        .unwrap();
        let worker = Rc::new(WorkerCx::new(0, &store, 7));
        tokio::task::spawn_local(worker.timers.clone().run());
        manager.start();
        manager.initialized().await;
        let clusters = manager.worker(&worker);
        World {
            client: InternalClient::new(&clusters, "192.0.2.9".parse().unwrap()),
            service: service(&manager, "services"),
            store,
            calls,
            _manager: manager,
        }
    }

    async fn call(&self, method: &'static str, text: &str) -> Result<String, Status> {
        let timeout = Some(Duration::from_millis(300));
        self.client
            .unary(&self.service, method, &text.to_owned(), timeout)
            .await
    }

    fn stat(&self, name: &str) -> u64 {
        let snapshot = self.store.snapshot(&StatsFilter::default());
        let row = snapshot.rows().find(|row| row.name() == name);
        match row.map(|row| row.value()) {
            Some(StatValue::Counter(value) | StatValue::Gauge(value)) => value,
            _ => 0,
        }
    }
}

fn bootstrap(address: SocketAddr) -> outrider_config::api::envoy::config::bootstrap::v3::Bootstrap {
    let cluster = |name: &str, port: u16| {
        format!(
            r#"{{"name": "{name}", "connect_timeout": "1s", "http2_protocol_options": {{}},
                "load_assignment": {{"cluster_name": "{name}", "endpoints": [{{"lb_endpoints": [{{"endpoint": {{"address":
                {{"socket_address": {{"address": "127.0.0.1", "port_value": {port}}}}}}}}}]}}]}}}}"#
        )
    };
    let json = format!(
        r#"{{"static_resources": {{"clusters": [{}, {}]}}}}"#,
        cluster("services", address.port()),
        cluster("closed", 1),
    );
    let source = Source {
        name: "test".to_owned(),
        text: json.into_bytes(),
        format: Format::Json,
    };
    let loaded = outrider_config::load_texts(&[source], false);
    loaded.unwrap().bootstrap
}

fn service(manager: &ClusterManager, cluster: &str) -> GrpcService {
    let message = core::GrpcService {
        initial_metadata: vec![core::HeaderValue {
            key: "x-team".into(),
            value: "50%%".into(),
            ..core::HeaderValue::default()
        }],
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: cluster.into(),
            max_receive_message_length: Some(1000),
            ..EnvoyGrpc::default()
        })),
        ..core::GrpcService::default()
    };
    let cx = ServiceCx {
        has_cluster: &|name| manager.names().has(name),
        nearest_cluster: &|_| None,
    };
    GrpcService::build(&message, &FieldPath::root(), &cx).unwrap()
}

/// A server on loopback whose methods behave as their names say.
async fn serve(calls: Rc<RefCell<Vec<Request<()>>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let calls = calls.clone();
            tokio::task::spawn_local(async move {
                let mut connection = h2::server::handshake(socket).await.unwrap();
                while let Some(Ok((request, respond))) =
                    poll_fn(|cx| connection.poll_accept(cx)).await
                {
                    let (parts, body) = request.into_parts();
                    let path = parts.uri.path().to_owned();
                    calls.borrow_mut().push(Request::from_parts(parts, ()));
                    tokio::task::spawn_local(answer(path, body, respond));
                }
            });
        }
    });
    address
}

async fn answer(path: String, mut body: h2::RecvStream, mut respond: SendResponse<Bytes>) {
    let ok = || Response::new(());
    let trailers = |status: &'static str| {
        HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())])
    };
    let frame = |bytes: &'static [u8]| Bytes::from_static(bytes);
    match path.as_str() {
        "/t/Refuse" => {
            let head = Response::builder()
                .header("grpc-status", "7")
                .header("grpc-message", "not%20you");
            drop(respond.send_response(head.body(()).unwrap(), true));
        }
        "/t/Stall" => std::future::pending().await,
        "/t/StallInBody" => {
            let _sending = respond.send_response(ok(), false).unwrap();
            std::future::pending().await
        }
        "/t/Unavailable" => {
            let head = Response::builder().status(503).body(()).unwrap();
            drop(respond.send_response(head, true));
        }
        "/t/NoTrailers" => {
            let mut sending = respond.send_response(ok(), false).unwrap();
            sending.send_data(frame(b"\0\0\0\0\0"), true).unwrap();
        }
        "/t/NoMessage" => {
            let mut sending = respond.send_response(ok(), false).unwrap();
            sending.send_trailers(trailers("0")).unwrap();
        }
        "/t/NoStatus" => {
            let mut sending = respond.send_response(ok(), false).unwrap();
            sending.send_trailers(HeaderMap::new()).unwrap();
        }
        "/t/TooLong" => {
            let mut sending = respond.send_response(ok(), false).unwrap();
            sending.send_data(frame(b"\0\0\0\x03\xe9"), false).unwrap();
            std::future::pending().await
        }
        "/t/Die" => respond.send_reset(h2::Reason::INTERNAL_ERROR),
        "/t/DieInBody" => {
            let mut sending = respond.send_response(ok(), false).unwrap();
            sending.send_data(frame(b"\0\0"), false).unwrap();
            // The connection's task, which was woken first, sends what is queued: a reset would drop it.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            sending.send_reset(h2::Reason::INTERNAL_ERROR);
        }
        // Sends each piece back as it comes.
        _ => {
            let mut sending = respond.send_response(ok(), false).unwrap();
            while let Some(Ok(data)) = body.data().await {
                body.flow_control().release_capacity(data.len()).unwrap();
                sending.send_data(data, false).unwrap();
            }
            drop(sending.send_trailers(trailers("0")));
        }
    }
}

#[test]
fn a_call_is_made_and_counted_as_envoys() {
    run(async |world| {
        assert_eq!(world.call("/t/Echo", "hello").await.unwrap(), "hello");
        let call = world.calls.borrow_mut().pop().unwrap();
        assert_eq!(call.uri(), "http://services/t/Echo");
        let header = |name| call.headers().get(name).unwrap().to_str().unwrap();
        assert_eq!(header("content-type"), "application/grpc");
        assert_eq!(header("te"), "trailers");
        assert_eq!(header("grpc-timeout"), "300m");
        assert_eq!(header("x-team"), "50%");
        assert_eq!(header("x-envoy-expected-rq-timeout-ms"), "300");
        assert_eq!(header("x-envoy-internal"), "true");
        assert_eq!(header("x-forwarded-for"), "192.0.2.9");
        assert_eq!(world.stat("http.async-client.rq_total"), 1);
        let stat = |name: &str| world.stat(&format!("cluster.services.{name}"));
        assert_eq!(stat("upstream_rq_200"), 1);
        assert_eq!(stat("internal.upstream_rq_200"), 1);
        assert_eq!(
            (stat("upstream_rq_total"), stat("upstream_rq_active")),
            (1, 0)
        );
        assert_eq!(stat("upstream_rq_tx_reset"), 0);
    });
}

#[test]
fn each_way_to_fail_has_envoys_status() {
    run(async |world| {
        for (method, code) in [
            ("/t/Refuse", Code(7)),
            ("/t/Stall", Code::UNAVAILABLE),
            ("/t/StallInBody", Code::INTERNAL),
            ("/t/Unavailable", Code::CANCELLED),
            ("/t/NoTrailers", Code::UNKNOWN),
            ("/t/NoMessage", Code::INTERNAL),
            ("/t/NoStatus", Code::UNKNOWN),
            ("/t/TooLong", Code::RESOURCE_EXHAUSTED),
            ("/t/Die", Code::UNAVAILABLE),
            ("/t/DieInBody", Code::INTERNAL),
        ] {
            let status = world.call(method, "x").await.unwrap_err();
            assert_eq!(status.code, code, "{method}: {status}");
        }
        let refused = world.call("/t/Refuse", "x").await.unwrap_err();
        assert_eq!(refused.message, "not you");
        let stat = |name: &str| world.stat(&format!("cluster.services.{name}"));
        assert_eq!(stat("upstream_rq_timeout"), 2);
        assert_eq!(stat("internal.upstream_rq_504"), 1);
        assert_eq!(stat("upstream_rq_rx_reset"), 2);
        assert_eq!(stat("upstream_rq_active"), 0);
        let closed = service(&world._manager, "closed");
        let called = world
            .client
            .unary::<String>(&closed, "/t/Echo", &String::new(), None)
            .await;
        let status = called.unwrap_err();
        assert_eq!(status.code, Code::UNAVAILABLE);
        assert!(
            status
                .message
                .ends_with("reset reason: remote connection failure")
        );
    });
}

#[test]
fn a_dropped_call_is_cancelled() {
    run(async |world| {
        let call = world.call("/t/Stall", "x");
        assert!(
            tokio::time::timeout(Duration::from_millis(50), call)
                .await
                .is_err()
        );
        assert_eq!(world.stat("cluster.services.upstream_rq_active"), 0);
        assert_eq!(world.stat("cluster.services.upstream_rq_tx_reset"), 1);
        assert_eq!(world.stat("cluster.services.upstream_rq_timeout"), 0);
    });
}

#[test]
fn a_stream_carries_messages_both_ways() {
    run(async |world| {
        let started = world.client.stream(&world.service, "/t/Chat", None).await;
        let mut stream = started.unwrap();
        for text in ["one", "two", ""] {
            stream.send(&text.to_owned()).unwrap();
            let answer: Option<String> = stream.next().await.unwrap();
            assert_eq!(answer.as_deref(), Some(text));
        }
        // Waiting in vain loses nothing.
        let vain = tokio::time::timeout(Duration::from_millis(20), stream.next()).await;
        assert!(vain.is_err());
        stream.send(&"last".to_owned()).unwrap();
        stream.close();
        assert_eq!(stream.next().await.unwrap().as_deref(), Some("last"));
        assert_eq!(stream.next().await.unwrap(), None);
        assert_eq!(stream.next().await.unwrap(), None);
        assert_eq!(world.stat("cluster.services.upstream_rq_active"), 0);
    });
}

#[test]
fn requests_that_nobody_takes_are_bounded() {
    run(async |world| {
        let started = world
            .client
            .stream::<String, String>(&world.service, "/t/Stall", None);
        let stream = started.await.unwrap();
        let big = "x".repeat(100_000);
        let sent = (0..100).take_while(|_| stream.send(&big).is_ok()).count();
        assert_eq!(sent, 11);
        assert_eq!(stream.send(&big), Err(QueueFull));
        drop(stream);
        assert_eq!(world.stat("cluster.services.upstream_rq_tx_reset"), 1);
    });
}

#[test]
fn a_stream_ends_with_the_status_of_the_service() {
    run(async |world| {
        for (method, code) in [
            ("/t/Refuse", Code(7)),
            ("/t/Die", Code::UNAVAILABLE),
            ("/t/DieInBody", Code::INTERNAL),
        ] {
            let started = world
                .client
                .stream::<String, String>(&world.service, method, None);
            let mut stream = started.await.unwrap();
            assert_eq!(stream.next().await.unwrap_err().code, code, "{method}");
            assert_eq!(stream.next().await, Ok(None));
        }
    });
}
