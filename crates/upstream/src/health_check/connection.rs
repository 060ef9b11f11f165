//! The connections of health checks. They are no part of any pool, and the cluster's stats of traffic do not count them.

use std::cell::OnceCell;
use std::cell::RefCell;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use outrider_codec::Client;
use outrider_codec::ClientOptions;
use outrider_codec::connect_http1;
use outrider_codec::connect_http2;
use outrider_codec::stats::ByteCounts;
use outrider_net::Address;
use outrider_net::NetworkStream;
use outrider_net::Timers;
use outrider_runtime::Runtime;
use outrider_stats::Scope;
use outrider_stats::Store;
use tokio::task::AbortHandle;

use super::HealthCheckConfig;
use crate::ClusterInfo;
use crate::Host;
use crate::SharedCluster;
use crate::shared::scope;
use crate::stats::HealthCheckStats;
use crate::transport::CheckTls;

/// What the checks of one cluster share.
pub(crate) struct HealthCheckCx {
    pub(super) config: Arc<HealthCheckConfig>,
    pub(super) info: Arc<ClusterInfo>,
    pub(super) had_traffic: Arc<AtomicBool>,
    pub(super) runtime: Arc<Runtime>,
    pub(super) stats: Arc<HealthCheckStats>,
    store: Arc<Store>,
    /// By the position of the transport socket; `None` for plaintext.
    tls: Vec<Option<CheckTls>>,
    http1: OnceCell<Rc<ClientOptions>>,
    http2: OnceCell<Rc<ClientOptions>>,
}

impl HealthCheckCx {
    pub(super) fn new(
        cluster: &SharedCluster,
        config: Arc<HealthCheckConfig>,
        store: &Arc<Store>,
    ) -> HealthCheckCx {
        let info = &cluster.info;
        let tls = info.transport_sockets.contexts().map(|context| {
            let scope = scope(info).name("ssl");
            context.map(|context| CheckTls::new(context.clone(), &config.alpn, scope, store))
        });
        HealthCheckCx {
            info: info.clone(),
            had_traffic: cluster.had_traffic.clone(),
            runtime: cluster.process.runtime.clone(),
            stats: store.register(scope(info).name("health_check")),
            store: store.clone(),
            tls: tls.collect(),
            http1: OnceCell::new(),
            http2: OnceCell::new(),
            config,
        }
    }

    /// What the checks name as the authority: the name that the endpoint has for this, or the check's, or the cluster's.
    pub(super) fn authority<'a>(&'a self, host: &'a Host, of_check: &'a str) -> &'a str {
        let of_endpoint = host.description().health_check.as_ref();
        let of_endpoint = of_endpoint.map_or("", |check| &*check.hostname);
        let names = [of_endpoint, of_check].into_iter();
        let mut named = names.filter(|name| !name.is_empty());
        named.next().unwrap_or(&self.info.name)
    }

    /// Whether the checks of `host` run over TLS.
    pub(super) fn is_secure(&self, host: &Host) -> bool {
        self.tls_of(host).is_some()
    }

    fn tls_of(&self, host: &Host) -> Option<&CheckTls> {
        self.tls.get(self.socket_position(host))?.as_ref()
    }

    /// The position of the transport socket that checks of `host` use.
    fn socket_position(&self, host: &Host) -> usize {
        let sockets = &self.info.transport_sockets;
        match &self.config.transport_socket_match_criteria {
            Some(labels) => sockets.position_of_labels(labels),
            None => sockets.position(host.description()),
        }
    }

    /// Connects to the address at which `host` is checked; `None` if that fails. The caller limits the time.
    pub(super) async fn connect(&self, host: &Host) -> Option<NetworkStream> {
        let address = checked_address(host);
        let connected = outrider_net::connect(&address, &self.info.connect).await;
        let socket = connected.map_err(|error| {
            log::debug!(target: "hc", "health check of {address}: {error:?}");
        });
        let mut socket = socket.ok()?;
        let announcing = self
            .info
            .transport_sockets
            .proxy_protocol_at(self.socket_position(host));
        if let Some(announcing) = announcing {
            let local = match &socket {
                NetworkStream::Tcp(socket) => socket.local_addr().ok().map(Address::from),
                NetworkStream::Unix(_) | NetworkStream::Tls(_) | NetworkStream::Internal(_) => None,
            };
            let sent = announcing.send(&mut socket, None, (local.as_ref(), &address));
            Box::pin(sent).await.ok()?;
        }
        match self.tls_of(host) {
            None => Some(socket),
            Some(tls) => {
                let secured = Box::pin(tls.secure(socket, host, &address)).await;
                secured
                    .map_err(
                        |failure| log::debug!(target: "hc", "health check of {address}: {failure}"),
                    )
                    .ok()
            }
        }
    }

    /// Connects to `host` and starts the codec.
    pub(super) async fn open(&self, host: &Host, http2: bool) -> Option<HttpConnection> {
        let socket = self.connect(host).await?;
        let options = self.client_options(http2).clone();
        let on_change = Rc::new(|| ());
        let (client, task) = if http2 {
            options.http2_stats.nghttp2_upstream_connections.inc();
            let (client, driver) = connect_http2(socket, options, on_change);
            (
                client,
                tokio::task::spawn_local(async {
                    driver.await;
                }),
            )
        } else {
            let (client, driver) = connect_http1(socket, options, on_change);
            (
                client,
                tokio::task::spawn_local(async {
                    driver.await;
                }),
            )
        };
        Some(HttpConnection {
            client,
            task: task.abort_handle(),
        })
    }

    fn client_options(&self, http2: bool) -> &Rc<ClientOptions> {
        let cell = if http2 { &self.http2 } else { &self.http1 };
        cell.get_or_init(|| {
            let info = &self.info;
            let mut options = ClientOptions::new(timers(), Arc::new(Uncounted));
            options.http1 = info.http.http1.clone();
            options.http2 = info.http.http2.clone();
            options.max_headers_count = info.http.max_headers_count;
            options.max_response_headers_kb = info.http.max_response_headers_kb;
            options.buffer_limit = info.per_connection_buffer_limit_bytes;
            let below = |name: &str| -> Scope { scope(info).name(name) };
            if http2 {
                options.http2_stats = self.store.register(below("http2"));
            } else {
                options.http1_stats = self.store.register(below("http1"));
            }
            Rc::new(options)
        })
    }
}

/// An HTTP connection to a host; closed when this is dropped.
pub(super) struct HttpConnection {
    pub(super) client: Client,
    task: AbortHandle,
}

impl HttpConnection {
    /// Whether another check may use it.
    pub(super) fn is_usable(&self) -> bool {
        !self.client.is_draining() && self.client.capacity() > 0
    }
}

impl Drop for HttpConnection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The address at which `host` is checked.
fn checked_address(host: &Host) -> Address {
    let check = host.description().health_check.as_deref();
    let own = check.and_then(|check| check.address.as_ref());
    let address = own.unwrap_or_else(|| host.address());
    match (address, check.and_then(|check| check.port)) {
        (Address::Ip(ip), Some(port)) => Address::Ip(SocketAddr::new(ip.ip(), port)),
        (address, _) => address.clone(),
    }
}

/// The timer wheel of this thread's checks. All clusters share it, because an empty one takes 16 KiB.
fn timers() -> Timers {
    thread_local! {
        static TIMERS: RefCell<Option<(Timers, AbortHandle)>> = const { RefCell::new(None) };
    }
    TIMERS.with(|cell| {
        let mut timers = cell.borrow_mut();
        match &*timers {
            Some((timers, driver)) if !driver.is_finished() => timers.clone(),
            _ => {
                let new = Timers::new();
                let driver = tokio::task::spawn_local(new.clone().run());
                *timers = Some((new.clone(), driver.abort_handle()));
                new
            }
        }
    })
}

/// Counts no bytes.
#[derive(Debug)]
struct Uncounted;

impl ByteCounts for Uncounted {
    fn received(&self, _: u64) {}
    fn sent(&self, _: u64) {}
    fn receive_buffered(&self, _: u64, _: u64) {}
    fn send_buffered(&self, _: u64, _: u64) {}
    fn reading_paused(&self, _: bool) {}
    fn writing_paused(&self, _: bool) {}
}

impl fmt::Debug for HealthCheckCx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthCheckCx")
            .field("cluster", &self.info.name)
            .finish_non_exhaustive()
    }
}
