//! An accepted connection, and who serves it.

use std::future::Future;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use outrider_tls::Failure;
use outrider_tls::TlsInfo;
use tokio::time::Instant;

use crate::Address;
use crate::NetworkStream;

/// What is known of an accepted connection, for logs, matching and headers.
#[derive(Clone, Debug)]
pub struct DownstreamConnectionInfo {
    /// The process-wide number of the connection (`%CONNECTION_ID%`).
    pub id: u64,
    /// The address the client connected to.
    pub local: Address,
    /// The client's address.
    pub remote: Address,
    /// When it was accepted.
    pub started: Instant,
    /// The listener's name, empty when the config gives none.
    pub listener: Arc<str>,
    /// The filter chain's name, empty when the config gives none.
    pub filter_chain: Arc<str>,
    /// The name that the TLS client asked for, as a listener filter found it; empty if none did.
    pub server_name: Box<str>,
    /// What is known of its TLS, once the handshake is complete; none without TLS.
    pub tls: Option<Rc<TlsInfo>>,
}

/// An accepted connection.
#[derive(Debug)]
pub struct AcceptedConnection {
    /// Its bytes.
    pub stream: NetworkStream,
    /// Its facts.
    pub info: Rc<DownstreamConnectionInfo>,
}

impl AcceptedConnection {
    /// Whether it is a TLS connection.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.stream, NetworkStream::Tls(_))
    }

    /// Shakes hands on a TLS connection, as its handler must before it reads; what is known then is in
    /// [`DownstreamConnectionInfo::tls`].
    ///
    /// # Errors
    /// When the handshake failed, and was counted as such.
    pub async fn secure(&mut self) -> Result<(), Failure> {
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

/// What serves the connections of a filter chain: the last network filter.
pub trait ConnectionHandler {
    /// Serves one connection to its end. Dropping the future closes the connection.
    fn serve(self: Rc<Self>, connection: AcceptedConnection) -> Pin<Box<dyn Future<Output = ()>>>;
}
