//! A connection manager on one thread with real sockets: a listener, scripted upstreams and small clients.

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::Request;
use http::Response;
use outrider_config::FieldPath;
use outrider_config::Format;
use outrider_config::Source;
use outrider_config::api::envoy::config::listener::v3::filter::ConfigType;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use outrider_config::load_texts;
use outrider_config::unpack;
use outrider_http::BuildCx;
use outrider_http::ConnectionManagerConfig;
use outrider_http::access_log::FlushOptions;
use outrider_http::access_log::LogFiles;
use outrider_net::AcceptedConnection;
use outrider_net::Address;
use outrider_net::ConnectionHandler;
use outrider_net::DownstreamConnectionInfo;
use outrider_net::DrainSignal;
use outrider_net::NetworkStream;
use outrider_net::WorkerCx;
use outrider_runtime::Snapshot;
use outrider_stats::Scope;
use outrider_stats::StatValue;
use outrider_stats::StatsFilter;
use outrider_stats::Store;
use outrider_upstream::ClusterManager;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::task::spawn_local;

/// Runs a test in a local runtime.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(20), test)
            .await
            .expect("the test takes too long");
    });
}

/// A proxy with a listening socket.
pub(crate) struct TestProxy {
    pub(crate) address: SocketAddr,
    pub(crate) store: Arc<Store>,
}

impl TestProxy {
    /// Starts a proxy. `manager` has the fields of the connection manager and `clusters` the list of clusters, as YAML
    /// in flow style.
    pub(crate) async fn start(manager: &str, clusters: &str) -> TestProxy {
        let store = Store::new();
        let (config, clusters) = build(manager, clusters, &store);
        let worker = Rc::new(WorkerCx::new(0, &store, 7));
        spawn_local(worker.timers.clone().run());
        clusters.start();
        clusters.initialized().await;
        let drain = DrainSignal::new();
        let manager = config.worker(&worker, &clusters.worker(&worker), &drain);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        spawn_local(async move {
            while let Ok((socket, remote)) = listener.accept().await {
                let (local, remote) = (Address::from(address), Address::from(remote));
                let info = DownstreamConnectionInfo::new(1, local, remote);
                let connection = AcceptedConnection {
                    stream: NetworkStream::Tcp(socket),
                    info: Rc::new(info),
                };
                spawn_local(manager.clone().serve(connection));
            }
        });
        TestProxy { address, store }
    }

    /// The value of a counter or gauge.
    pub(crate) fn stat(&self, name: &str) -> u64 {
        let snapshot = self.store.snapshot(&StatsFilter::default());
        let row = snapshot.rows().find(|row| row.name() == name);
        match row.unwrap_or_else(|| panic!("no stat {name}")).value() {
            StatValue::Counter(value) | StatValue::Gauge(value) => value,
            _ => panic!("{name} is no number"),
        }
    }

    /// Sends one HTTP/2 request, and reads the response to its end.
    pub(crate) async fn h2(
        &self,
        request: Request<&'static [u8]>,
    ) -> Result<ProxyResponse, h2::Error> {
        let (head, rest) = self.h2_parts(request).await?;
        let (body, trailers) = rest?;
        Ok(ProxyResponse {
            status: head.status.as_u16(),
            headers: head.headers,
            body: String::from_utf8(body).unwrap(),
            trailers,
        })
    }

    /// Sends one HTTP/2 request. Returns the response's head, and the result of reading its body and trailers.
    pub(crate) async fn h2_parts(
        &self,
        request: Request<&'static [u8]>,
    ) -> Result<
        (
            http::response::Parts,
            Result<(Vec<u8>, HeaderMap), h2::Error>,
        ),
        h2::Error,
    > {
        let socket = TcpStream::connect(self.address).await.unwrap();
        let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
        spawn_local(async move {
            // The request sees the connection's error, too.
            let _ended = connection.await;
        });
        let (head, body) = request.into_parts();
        let request = Request::from_parts(head, ());
        let (response, mut send) = client.send_request(request, body.is_empty()).unwrap();
        if !body.is_empty() {
            send.send_data(Bytes::from_static(body), true).unwrap();
        }
        let (head, stream) = response.await?.into_parts();
        Ok((head, read(stream).await))
    }

    /// Sends `bytes`, and returns the proxy's output until it closes the connection or sends nothing for a while.
    pub(crate) async fn h1(&self, bytes: &str) -> String {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.write_all(bytes.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = socket.read_to_end(&mut answer);
        if tokio::time::timeout(Duration::from_secs(2), read)
            .await
            .is_err()
        {
            panic!("no end after {:?}", String::from_utf8_lossy(&answer));
        }
        String::from_utf8(answer).unwrap()
    }
}

/// A response's body and trailers, or the error that ended them early.
type Rest = Result<(Vec<u8>, HeaderMap), h2::Error>;

async fn read(mut stream: h2::RecvStream) -> Rest {
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        body.extend_from_slice(&data?);
    }
    let trailers = stream.trailers().await?.unwrap_or_default();
    Ok((body, trailers))
}

/// A response as the client received it.
#[derive(Debug)]
pub(crate) struct ProxyResponse {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    pub(crate) trailers: HeaderMap,
}

impl ProxyResponse {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

/// A gRPC request with an empty message.
pub(crate) fn grpc(path: &str) -> Request<&'static [u8]> {
    Request::post(format!("http://h.test{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(&b"\0\0\0\0\0"[..])
        .unwrap()
}

/// A plain request.
pub(crate) fn get(path: &str) -> Request<&'static [u8]> {
    Request::get(format!("http://h.test{path}"))
        .body(&b""[..])
        .unwrap()
}

/// A cluster with one HTTP/2 host.
pub(crate) fn h2_cluster(name: &str, host: SocketAddr) -> String {
    let options = "{'@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, \
                   explicit_http_config: {http2_protocol_options: {}}}";
    format!(
        "{{name: {name}, connect_timeout: 1s, typed_extension_protocol_options: \
         {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {options}}}, {}}}",
        assignment(name, host)
    )
}

fn assignment(name: &str, host: SocketAddr) -> String {
    format!(
        "load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: \
         {{socket_address: {{address: {}, port_value: {}}}}}}}}}]}}]}}",
        host.ip(),
        host.port()
    )
}

/// One request at a scripted HTTP/2 host.
pub(crate) struct ScriptedCall {
    pub(crate) request: Request<h2::RecvStream>,
    pub(crate) respond: h2::server::SendResponse<Bytes>,
}

impl ScriptedCall {
    /// Reads the request's body to its end.
    pub(crate) async fn body(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        while let Some(Ok(data)) = self.request.body_mut().data().await {
            body.extend_from_slice(&data);
        }
        body
    }

    /// Answers with a head, a body and trailers.
    pub(crate) fn answer(
        &mut self,
        head: Response<()>,
        body: &'static [u8],
        trailers: Option<HeaderMap>,
    ) {
        let mut stream = self.respond.send_response(head, false).unwrap();
        stream
            .send_data(Bytes::from_static(body), trailers.is_none())
            .unwrap();
        if let Some(trailers) = trailers {
            stream.send_trailers(trailers).unwrap();
        }
    }
}

/// An HTTP/2 host that runs `script` for each request.
pub(crate) async fn h2_host<F: Future<Output = ()> + 'static>(
    script: impl Fn(ScriptedCall) -> F + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let script = Rc::new(script);
    spawn_local(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let script = script.clone();
            spawn_local(async move {
                let mut connection = h2::server::handshake(socket).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    spawn_local(script(ScriptedCall { request, respond }));
                }
            });
        }
    });
    address
}

/// An address that refuses connections.
pub(crate) async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

/// The routes of a connection manager with a router, in YAML.
pub(crate) fn routes(routes: &str) -> String {
    format!(
        "stat_prefix: test, route_config: {{virtual_hosts: [{{name: all, domains: ['*'], routes: [{routes}]}}]}}, \
         http_filters: [{{name: router, typed_config: {{'@type': \
         type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]"
    )
}

fn build(
    manager: &str,
    clusters: &str,
    store: &Arc<Store>,
) -> (Arc<ConnectionManagerConfig>, Arc<ClusterManager>) {
    let name = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let text = format!(
        "static_resources: {{clusters: [{clusters}], listeners: [{{name: l, address: {{socket_address: \
         {{address: 127.0.0.1, port_value: 0}}}}, filter_chains: [{{filters: [{{name: hcm, typed_config: \
         {{'@type': {name}, {manager}}}}}]}}]}}]}}"
    );
    let source = Source {
        name: "test.yaml".to_owned(),
        text: text.into_bytes(),
        format: Format::Yaml,
    };
    let loaded = load_texts(&[source], false).unwrap_or_else(|errors| panic!("{errors}"));
    let clusters = ClusterManager::build(
        &loaded.bootstrap,
        "",
        store,
        &Arc::default(),
        (Arc::new(()), Default::default()),
    )
    .unwrap();
    let listeners = &loaded
        .bootstrap
        .static_resources
        .as_ref()
        .unwrap()
        .listeners;
    let Some(ConfigType::TypedConfig(any)) = &listeners[0].filter_chains[0].filters[0].config_type
    else {
        panic!("the filter has no configuration");
    };
    let path = FieldPath::root();
    let message: HttpConnectionManager = unpack(any, &path).unwrap();
    let cx = BuildCx {
        sources: &Default::default(),
        dns_caches: clusters.dns_caches(),
        runtime: &Snapshot::default(),
        store,
        clusters: &clusters.names(),
        log_files: &LogFiles::new(FlushOptions::default(), store),
        listener: &Scope::new("listener").name("test"),
        bypasses_overload_manager: false,
        buffer_limit: 1 << 20,
        prefers_ipv6: false,
        node_cluster: "",
        node_id: "",
        zone: "",
        is_outbound: false,
        tracers: &Default::default(),
    };
    let config = ConnectionManagerConfig::build(&message, &path, &cx);
    (
        config.unwrap_or_else(|errors| panic!("{errors:?}")),
        clusters,
    )
}
