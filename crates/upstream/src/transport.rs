//! The transport sockets of a cluster: plaintext or TLS.

use std::cell::OnceCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::TransportSocket;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
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
use outrider_tls::tls_settings;

use crate::Host;
use crate::pool::PoolProtocol;

/// The TLS context of the transport socket found at `path`; `None` for plaintext.
pub(crate) fn build(
    socket: Option<&TransportSocket>,
    path: &FieldPath,
    secrets: &Secrets,
) -> Result<Option<Arc<ClientContext>>, ConfigErrors> {
    let Some(settings) = tls_settings::<UpstreamTlsContext>(socket, path)? else {
        return Ok(None);
    };
    let context = ClientContext::build(&settings, &path.field("typed_config"), secrets)?;
    Ok(Some(Arc::new(context)))
}

/// The TLS of a cluster's connections on one worker.
#[derive(Debug)]
pub(crate) struct ClusterTls {
    context: Arc<ClientContext>,
    stats: WorkerSsl,
    /// The TLS configurations by offered protocols: HTTP/1.1, HTTP/2, or both.
    configs: [OnceCell<Arc<ClientConfig>>; 3],
}

impl ClusterTls {
    /// TLS with `context`, for a cluster whose stats are below `scope`.
    pub(crate) fn new(context: Arc<ClientContext>, scope: Scope, worker: &WorkerCx) -> ClusterTls {
        ClusterTls {
            context,
            stats: WorkerSsl(worker.store.register(scope.name("ssl"))),
            configs: Default::default(),
        }
    }

    /// Does the TLS handshake with `host` on a connection to `address`.
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
