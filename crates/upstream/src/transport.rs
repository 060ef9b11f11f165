//! The transport sockets of a cluster: plain, or TLS.

use std::cell::OnceCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::TransportSocket;
use outrider_config::api::envoy::config::core::v3::transport_socket::ConfigType;
use outrider_config::api::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use outrider_config::type_name;
use outrider_config::unpack;
use outrider_net::Address;
use outrider_net::NetworkStream;
use outrider_net::TlsStream;
use outrider_net::WorkerCx;
use outrider_stats::Scope;
use outrider_tls::ClientContext;
use outrider_tls::ClientSession;
use outrider_tls::Secrets;
use outrider_tls::TlsFailure;
use outrider_tls::TlsInfo;
use outrider_tls::WorkerSsl;
use outrider_tls::rustls::ClientConfig;
use prost::Name as _;

use crate::Host;
use crate::pool::PoolProtocol;

/// The TLS of the transport socket found at `path`; none if it is plain.
pub(crate) fn build(
    socket: Option<&TransportSocket>,
    path: &FieldPath,
    secrets: &Secrets,
) -> Result<Option<Arc<ClientContext>>, ConfigErrors> {
    let Some(socket) = socket else {
        return Ok(None);
    };
    let path = path.field("typed_config");
    match &socket.config_type {
        Some(ConfigType::TypedConfig(any)) if type_name(any) == UpstreamTlsContext::full_name() => {
            let config: UpstreamTlsContext = unpack(any, &path)?;
            Ok(Some(Arc::new(ClientContext::build(
                &config, &path, secrets,
            )?)))
        }
        Some(ConfigType::TypedConfig(any)) if type_name(any) == RawBuffer::full_name() => Ok(None),
        None if socket.name.ends_with("raw_buffer") => Ok(None),
        _ => {
            let name = &socket.name;
            let message = format!(
                "not supported: {name}; known are envoy.transport_sockets.raw_buffer and envoy.transport_sockets.tls"
            );
            let mut errors = ConfigErrors::new();
            errors.push(&path, message);
            Err(errors)
        }
    }
}

/// The TLS of a cluster's connections on one worker.
#[derive(Debug)]
pub(crate) struct ClusterTls {
    context: Arc<ClientContext>,
    stats: WorkerSsl,
    /// By what is offered: HTTP/1.1, HTTP/2, either.
    configs: [OnceCell<Arc<ClientConfig>>; 3],
}

impl ClusterTls {
    /// TLS by `context`, of a cluster whose stats are below `scope`.
    pub(crate) fn new(context: Arc<ClientContext>, scope: Scope, worker: &WorkerCx) -> ClusterTls {
        ClusterTls {
            context,
            stats: WorkerSsl(worker.store.register(scope.name("ssl"))),
            configs: Default::default(),
        }
    }

    /// Shakes hands with `host` on a connection to `address`.
    pub(crate) async fn secure(
        &self,
        socket: NetworkStream,
        host: &Host,
        address: &Address,
        protocol: PoolProtocol,
    ) -> Result<(NetworkStream, Rc<TlsInfo>), TlsFailure> {
        let (place, offered): (usize, &[&str]) = match protocol {
            PoolProtocol::Http1 => (0, &["http/1.1"]),
            PoolProtocol::Http2 => (1, &["h2"]),
            PoolProtocol::Negotiated => (2, &["h2", "http/1.1"]),
        };
        let make = || self.context.config_offering(offered);
        let config = match self.configs.get(place) {
            Some(cell) => cell.get_or_init(make).clone(),
            None => make(),
        };
        let address = address.ip().map(|ip| ip.ip());
        let session = ClientSession {
            config,
            server_name: self.context.server_name(host.hostname(), address, None),
        };
        let mut stream = TlsStream::connect(socket, session, self.stats.clone())?;
        let info = poll_fn(|cx| stream.poll_handshake(cx)).await?;
        Ok((NetworkStream::Tls(Box::new(stream)), info))
    }
}
