//! The transport sockets of a cluster: plaintext or TLS, for each host.

use std::cell::OnceCell;
use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_config::api::envoy::config::core::v3::Metadata;
use outrider_config::api::envoy::config::core::v3::TransportSocket;
use outrider_config::api::envoy::config::core::v3::transport_socket::ConfigType;
use outrider_config::api::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use outrider_config::type_name;
use outrider_config::unpack;
use outrider_net::Address;
use outrider_net::NetworkStream;
use outrider_net::TlsStream;
use outrider_net::WorkerCx;
use outrider_stats::Scope;
use outrider_stats::Store;
use outrider_tls::ClientContext;
use outrider_tls::ClientSession;
use outrider_tls::ClientTls;
use outrider_tls::Secrets;
use outrider_tls::TlsFailure;
use outrider_tls::TlsInfo;
use outrider_tls::WorkerSsl;
use outrider_tls::rustls::ClientConfig;
use outrider_tls::rustls::pki_types::ServerName;
use outrider_tls::tls_settings;
use prost::Name as _;
use prost_types::Struct;
use prost_types::Value;

use crate::Host;
use crate::HostDescription;
use crate::connection_names::ConnectionNames;
use crate::pool::PoolProtocol;
use crate::proxy_protocol::ProxyProtocolSocket;
use crate::stats::MatchStats;

/// The metadata that `transport_socket_matches` compares.
const METADATA: &str = "envoy.transport_socket_match";

/// The transport sockets of a cluster: the default, and those of `transport_socket_matches`.
#[derive(Debug)]
pub struct TransportSockets {
    default: TransportSocketSettings,
    matches: Vec<TransportSocketMatch>,
    /// Whether one of them tells hosts the addresses of clients.
    announces_clients: bool,
}

/// One transport socket.
#[derive(Debug)]
struct TransportSocketSettings {
    /// `None` for plaintext.
    tls: Option<Arc<ClientTls>>,
    /// What goes before the bytes of TLS.
    proxy_protocol: Option<ProxyProtocolSocket>,
}

/// `Cluster.TransportSocketMatch`
#[derive(Debug)]
struct TransportSocketMatch {
    name: Box<str>,
    labels: Vec<(String, Value)>,
    socket: TransportSocketSettings,
}

impl TransportSockets {
    /// The transport sockets of `cluster`, found at `path`.
    pub(crate) fn build(
        cluster: &Cluster,
        path: &FieldPath,
        secrets: &Secrets,
    ) -> Result<TransportSockets, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let socket = cluster.transport_socket.as_ref();
        let default = errors.collect(build(socket, &path.field("transport_socket"), secrets));
        let list = path.field("transport_socket_matches");
        let mut matches = Vec::with_capacity(cluster.transport_socket_matches.len());
        for (index, config) in cluster.transport_socket_matches.iter().enumerate() {
            let path = list.index(index).field("transport_socket");
            let socket = config.transport_socket.as_ref();
            let Some(socket) = errors.collect(build(socket, &path, secrets)) else {
                continue;
            };
            let labels = config.r#match.iter().flat_map(|labels| &labels.fields);
            let labels = labels.map(|(name, value)| (name.clone(), value.clone()));
            matches.push(TransportSocketMatch {
                name: config.name.as_str().into(),
                labels: labels.collect(),
                socket,
            });
        }
        match default {
            Some(default) if errors.is_empty() => {
                let mut sockets = TransportSockets {
                    default,
                    matches,
                    announces_clients: false,
                };
                let announces = sockets.all().any(|socket| socket.proxy_protocol.is_some());
                sockets.announces_clients = announces;
                Ok(sockets)
            }
            _ => Err(errors),
        }
    }

    /// The default first.
    fn all(&self) -> impl Iterator<Item = &TransportSocketSettings> {
        let matched = self.matches.iter().map(|one| &one.socket);
        std::iter::once(&self.default).chain(matched)
    }

    /// Whether one of them tells hosts the addresses of clients.
    pub(crate) fn announces_clients(&self) -> bool {
        self.announces_clients
    }

    /// What tells `host` the addresses of clients, if its transport socket does.
    pub(crate) fn proxy_protocol(&self, host: &HostDescription) -> Option<&ProxyProtocolSocket> {
        match self.announces_clients {
            true => self.proxy_protocol_at(self.position(host)),
            false => None,
        }
    }

    /// The same, by the position of the transport socket.
    pub(crate) fn proxy_protocol_at(&self, position: usize) -> Option<&ProxyProtocolSocket> {
        self.all().nth(position)?.proxy_protocol.as_ref()
    }

    /// The TLS contexts, the default's first; `None` for plaintext.
    pub(crate) fn contexts(&self) -> impl Iterator<Item = Option<&Arc<ClientTls>>> {
        self.all().map(|socket| socket.tls.as_ref())
    }

    /// The position in [`contexts`](Self::contexts) of a host's context: the first that matches the metadata of the host,
    /// else the first that matches that of its locality, else the default.
    pub(crate) fn position(&self, host: &HostDescription) -> usize {
        let matching = |metadata: Option<&Metadata>| {
            let mut matches = self.matches.iter();
            matches.position(|one| one.matches(metadata))
        };
        let found = matching(host.metadata.as_deref());
        let found = found.or_else(|| matching(host.locality_metadata.as_deref()));
        found.map_or(0, |index| index + 1)
    }

    /// The position in [`contexts`](Self::contexts) of the context that `labels` select, else of the default.
    pub(crate) fn position_of_labels(&self, labels: &Struct) -> usize {
        let mut matches = self.matches.iter();
        let found = matches.position(|one| one.matches_fields(labels));
        found.map_or(0, |index| index + 1)
    }

    /// Lists the stats of the TLS contexts, below `scope`.
    pub(crate) fn list_stats(&self, store: &Arc<Store>, scope: &Scope) {
        let contexts = self.contexts().flatten();
        contexts.for_each(|tls| tls.list(store, scope));
        let announcing = (self.all()).filter_map(|socket| socket.proxy_protocol.as_ref());
        announcing.for_each(|socket| socket.list(store, scope));
    }

    /// Lists how many hosts each of [`contexts`](Self::contexts) is for, below `scope`.
    pub(crate) fn match_stats(&self, store: &Store, scope: &Scope) -> Vec<Arc<MatchStats>> {
        let names = self.matches.iter().map(|one| &*one.name);
        let names = std::iter::once("default").chain(names);
        names
            .map(|name| store.register(scope.clone().name(name)))
            .collect()
    }
}

impl TransportSocketMatch {
    /// Whether the metadata has all labels.
    fn matches(&self, metadata: Option<&Metadata>) -> bool {
        let fields = metadata.and_then(|metadata| metadata.filter_metadata.get(METADATA));
        let Some(fields) = fields else {
            return self.labels.is_empty();
        };
        self.matches_fields(fields)
    }

    /// Whether these are all labels.
    fn matches_fields(&self, fields: &Struct) -> bool {
        let mut labels = self.labels.iter();
        labels.all(|(name, value)| fields.fields.get(name) == Some(value))
    }
}

/// The transport socket found at `path`.
fn build(
    socket: Option<&TransportSocket>,
    path: &FieldPath,
    secrets: &Secrets,
) -> Result<TransportSocketSettings, ConfigErrors> {
    let config_path = path.field("typed_config");
    if let Some(ConfigType::TypedConfig(any)) =
        socket.and_then(|socket| socket.config_type.as_ref())
        && type_name(any) == ProxyProtocolUpstreamTransport::full_name()
    {
        let message: ProxyProtocolUpstreamTransport = unpack(any, &config_path)?;
        let inner = message.transport_socket.as_ref();
        let inner_path = config_path.field("transport_socket");
        return Ok(TransportSocketSettings {
            tls: build_tls(inner, &inner_path, secrets)?,
            proxy_protocol: Some(ProxyProtocolSocket::build(&message, &config_path)?),
        });
    }
    Ok(TransportSocketSettings {
        tls: build_tls(socket, path, secrets)?,
        proxy_protocol: None,
    })
}

/// The TLS of the transport socket found at `path`; `None` for plaintext.
fn build_tls(
    socket: Option<&TransportSocket>,
    path: &FieldPath,
    secrets: &Secrets,
) -> Result<Option<Arc<ClientTls>>, ConfigErrors> {
    let Some(settings) = tls_settings::<UpstreamTlsContext>(socket, path)? else {
        return Ok(None);
    };
    let tls = ClientTls::build(&settings, &path.field("typed_config"), secrets)?;
    Ok(Some(tls))
}

/// One TLS context of a cluster on one worker.
#[derive(Debug)]
pub(crate) struct ClusterTls {
    factory: Arc<ClientTls>,
    /// Listed from the first context on.
    stats: OnceCell<WorkerSsl>,
    scope: Scope,
    worker: Rc<WorkerCx>,
    /// The configurations by the context that was used last.
    used: RefCell<Option<Rc<ContextConfigs>>>,
}

/// A context with its configurations.
#[derive(Debug)]
struct ContextConfigs {
    context: Arc<ClientContext>,
    /// The TLS configurations by offered protocols: HTTP/1.1, HTTP/2, or both.
    configs: [OnceCell<Arc<ClientConfig>>; 3],
}

impl ClusterTls {
    /// TLS by `factory`, for a cluster whose stats are below `scope`.
    pub(crate) fn new(factory: Arc<ClientTls>, scope: Scope, worker: &Rc<WorkerCx>) -> ClusterTls {
        ClusterTls {
            factory,
            stats: OnceCell::new(),
            scope: scope.name("ssl"),
            worker: worker.clone(),
            used: RefCell::default(),
        }
    }

    /// The present context; none before its secrets have come.
    fn context(&self) -> Option<Rc<ContextConfigs>> {
        let context = self.factory.context()?;
        let mut used = self.used.borrow_mut();
        if let Some(used) = &*used
            && Arc::ptr_eq(&used.context, &context)
        {
            return Some(used.clone());
        }
        let configs = Default::default();
        let new = Rc::new(ContextConfigs { context, configs });
        *used = Some(new.clone());
        Some(new)
    }

    fn stats(&self) -> WorkerSsl {
        let register = || WorkerSsl(self.worker.store.register(self.scope.clone()));
        self.stats.get_or_init(register).clone()
    }
}

impl ContextConfigs {
    /// The settings for connections by this protocol. Without one, only what the context itself names is offered.
    fn config(&self, protocol: Option<PoolProtocol>) -> Arc<ClientConfig> {
        let (place, offered): (usize, &[&str]) = match protocol {
            Some(PoolProtocol::Http1) => (0, &["http/1.1"]),
            Some(PoolProtocol::Http2) => (1, &["h2"]),
            Some(PoolProtocol::Negotiated) => (2, &["h2", "http/1.1"]),
            None => return self.context.config_of_checks(&[]),
        };
        let make = || self.context.config_offering(offered);
        match self.configs.get(place) {
            Some(cell) => cell.get_or_init(make).clone(),
            None => make(),
        }
    }
}

/// The TLS of a pool's connections.
#[derive(Debug)]
pub(crate) struct PoolTls {
    cluster: Rc<ClusterTls>,
    names: Option<Rc<ConnectionNames>>,
    /// With a required name: the cluster's settings, and those made of them for this pool.
    requiring: RefCell<Option<(Arc<ClientConfig>, Arc<ClientConfig>)>>,
}

impl PoolTls {
    /// TLS by `cluster`, for requests that require `names`.
    pub(crate) fn new(cluster: Rc<ClusterTls>, names: Option<Rc<ConnectionNames>>) -> PoolTls {
        PoolTls {
            cluster,
            names,
            requiring: RefCell::default(),
        }
    }

    /// Counts a connection that is about to be made before the secrets have come.
    pub(crate) fn count_if_not_ready(&self) {
        let factory = &self.cluster.factory;
        if factory.context().is_none() {
            factory.count_not_ready();
        }
    }

    /// Does the TLS handshake with `host` on a connection to `address`.
    pub(crate) async fn secure(
        &self,
        socket: NetworkStream,
        host: &Host,
        address: &Address,
        protocol: Option<PoolProtocol>,
    ) -> Result<(NetworkStream, Rc<TlsInfo>), TlsFailure> {
        let cluster = &*self.cluster;
        let Some(used) = cluster.context() else {
            return Err(TlsFailure::secrets_not_ready());
        };
        let address = address.ip().map(|ip| ip.ip());
        let of_request = self
            .names
            .as_ref()
            .and_then(|names| names.server_name.as_deref());
        let session = ClientSession {
            config: (used.context)
                .config_between(self.config(&used, protocol), || socket.ip_addresses()),
            server_name: (used.context).server_name(host.hostname(), address, of_request),
        };
        let name = match &session.server_name {
            ServerName::DnsName(name) => name.as_ref().to_owned(),
            _ => String::new(),
        };
        let mut stream = TlsStream::connect(socket, session, cluster.stats())?;
        let mut info = poll_fn(|cx| stream.poll_handshake(cx)).await?;
        if let Some(info) = Rc::get_mut(&mut info) {
            info.server_name = name;
        }
        Ok((NetworkStream::Tls(Box::new(stream)), info))
    }

    fn config(&self, used: &ContextConfigs, protocol: Option<PoolProtocol>) -> Arc<ClientConfig> {
        let config = used.config(protocol);
        let names = self.names.as_ref();
        let Some(name) = names.and_then(|names| names.required_name.as_deref()) else {
            return config;
        };
        let mut requiring = self.requiring.borrow_mut();
        if let Some((of, made)) = &*requiring
            && Arc::ptr_eq(of, &config)
        {
            return made.clone();
        }
        let made = used.context.config_requiring(&config, name);
        *requiring = Some((config, made.clone()));
        made
    }
}

/// The TLS of a cluster's health checks, on the main thread.
#[derive(Debug)]
pub(crate) struct CheckTls {
    factory: Arc<ClientTls>,
    /// What is offered; empty for what the context offers.
    alpn: Vec<String>,
    stats: WorkerSsl,
    /// The context that was used last, with its configuration.
    used: RefCell<Option<(Arc<ClientContext>, Arc<ClientConfig>)>>,
}

impl CheckTls {
    /// TLS by `factory` that offers the protocols `alpn`, or else those of its context. The stats are at `scope`.
    pub(crate) fn new(
        factory: Arc<ClientTls>,
        alpn: &[String],
        scope: Scope,
        store: &Store,
    ) -> CheckTls {
        CheckTls {
            factory,
            alpn: alpn.to_vec(),
            stats: WorkerSsl(store.register(scope)),
            used: RefCell::default(),
        }
    }

    /// Does the TLS handshake with `host` on a connection to `address`.
    pub(crate) async fn secure(
        &self,
        socket: NetworkStream,
        host: &Host,
        address: &Address,
    ) -> Result<NetworkStream, TlsFailure> {
        let Some(context) = self.factory.context() else {
            return Err(TlsFailure::secrets_not_ready());
        };
        let address = address.ip().map(|ip| ip.ip());
        let session = ClientSession {
            config: self.config(&context),
            server_name: context.server_name(host.hostname(), address, None),
        };
        let mut stream = TlsStream::connect(socket, session, self.stats.clone())?;
        poll_fn(|cx| stream.poll_handshake(cx)).await?;
        Ok(NetworkStream::Tls(Box::new(stream)))
    }

    fn config(&self, context: &Arc<ClientContext>) -> Arc<ClientConfig> {
        let mut used = self.used.borrow_mut();
        if let Some((of, config)) = &*used
            && Arc::ptr_eq(of, context)
        {
            return config.clone();
        }
        let config = context.config_of_checks(&self.alpn);
        *used = Some((context.clone(), config.clone()));
        config
    }
}
