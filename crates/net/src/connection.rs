//! An accepted connection, and the interface of the code that serves it.

use std::future::Future;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use outrider_tls::TlsFailure;
use outrider_tls::TlsInfo;
use tokio::time::Instant;

use crate::Address;
use crate::DynamicMetadata;
use crate::FilterState;
use crate::NetworkStream;
use crate::ProxyProtocolHeader;

/// What the proxy knows about an accepted connection, for logs, matching and headers.
#[derive(Clone, Debug)]
pub struct DownstreamConnectionInfo {
    /// The process-wide number of the connection (`%CONNECTION_ID%`).
    pub id: u64,
    /// The address the client connected to, possibly as a listener filter found it.
    pub local: Address,
    /// The client's address, possibly as a listener filter found it.
    pub remote: Address,
    /// The addresses of the socket itself, if a listener filter has replaced them.
    pub socket_addresses: Option<Box<SocketAddresses>>,
    /// When it was accepted.
    pub started: Instant,
    /// The listener's name; empty if the config gives none.
    pub listener: Arc<str>,
    /// The filter chain's name; empty if the config gives none.
    pub filter_chain: Arc<str>,
    /// The server name (SNI) that a listener filter read from the TLS ClientHello; empty if it read none.
    pub server_name: Box<str>,
    /// JA3 of the ClientHello; empty unless a listener filter computed it.
    pub ja3: Box<str>,
    /// JA4 of the ClientHello; empty unless a listener filter computed it.
    pub ja4: Box<str>,
    /// The TLS properties, once the handshake is complete; `None` without TLS.
    pub tls: Option<Rc<TlsInfo>>,
    /// Metadata that filters have set.
    pub metadata: DynamicMetadata,
    /// Objects that filters share.
    pub filter_state: FilterState,
}

/// The two ends of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketAddresses {
    /// The end on this machine.
    pub local: Address,
    /// The peer.
    pub remote: Address,
}

impl DownstreamConnectionInfo {
    /// A connection that was accepted now, of which nothing else is known.
    #[must_use]
    pub fn new(id: u64, local: Address, remote: Address) -> DownstreamConnectionInfo {
        DownstreamConnectionInfo {
            id,
            local,
            remote,
            socket_addresses: None,
            started: Instant::now(),
            listener: "".into(),
            filter_chain: "".into(),
            server_name: Box::default(),
            ja3: Box::default(),
            ja4: Box::default(),
            tls: None,
            metadata: DynamicMetadata::default(),
            filter_state: FilterState::default(),
        }
    }

    /// What the next proxy is told about this connection, if its client is at `remote`: what a header of the PROXY
    /// protocol told, or else its addresses.
    #[must_use]
    pub fn proxy_protocol_header(&self, remote: &Address) -> ProxyProtocolHeader {
        let received = self
            .filter_state
            .get_as::<ProxyProtocolHeader>(ProxyProtocolHeader::KEY);
        received.cloned().unwrap_or_else(|| ProxyProtocolHeader {
            source: remote.clone(),
            destination: self.local.clone(),
            tlvs: Vec::new(),
        })
    }

    /// The address of the socket's end on this machine.
    #[must_use]
    pub fn direct_local(&self) -> &Address {
        let replaced = self.socket_addresses.as_ref();
        replaced.map_or(&self.local, |socket| &socket.local)
    }

    /// The address of the socket's peer.
    #[must_use]
    pub fn direct_remote(&self) -> &Address {
        let replaced = self.socket_addresses.as_ref();
        replaced.map_or(&self.remote, |socket| &socket.remote)
    }
}

/// An accepted connection.
#[derive(Debug)]
pub struct AcceptedConnection {
    /// The connected socket.
    pub stream: NetworkStream,
    /// What is known about it.
    pub info: Rc<DownstreamConnectionInfo>,
}

impl AcceptedConnection {
    /// Whether it is a TLS connection.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.stream, NetworkStream::Tls(_))
    }

    /// Whether the secrets that its TLS needs had come.
    #[must_use]
    pub fn has_secrets(&self) -> bool {
        match &self.stream {
            NetworkStream::Tls(stream) => !stream.is_not_ready(),
            NetworkStream::Tcp(_) | NetworkStream::Unix(_) | NetworkStream::Internal(_) => true,
        }
    }

    /// Does the TLS handshake, if there is TLS. The handler must call this before it reads. Afterwards
    /// [`DownstreamConnectionInfo::tls`] is set.
    ///
    /// # Errors
    /// The handshake failed. The failure has been counted.
    pub async fn secure(&mut self) -> Result<(), TlsFailure> {
        if let NetworkStream::Tls(stream) = &mut self.stream {
            let shaken = poll_fn(|cx| stream.poll_handshake(cx)).await;
            let tls = shaken.inspect_err(|failure| {
                let remote = &self.info.remote;
                log::debug!(target: "connection", "TLS handshake with {remote} failed: {failure}");
            })?;
            Rc::make_mut(&mut self.info).tls = Some(tls);
        }
        Ok(())
    }
}

/// Serves the connections of a filter chain: the chain's last network filter.
pub trait ConnectionHandler {
    /// Serves one connection to its end. Dropping the future closes the connection.
    fn serve(self: Rc<Self>, connection: AcceptedConnection) -> Pin<Box<dyn Future<Output = ()>>>;
}
