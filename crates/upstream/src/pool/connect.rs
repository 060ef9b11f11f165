//! Opens a socket to a host. If it has several addresses, the first that accepts a connection is used (RFC 8305).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use outrider_net::Address;
use outrider_net::ConnectError;
use outrider_net::NetworkStream;
use outrider_tls::TlsInfo;

use super::PoolCx;
use super::PoolFailure;
use super::PoolProtocol;
use crate::Host;
use crate::connection_names::ConnectionNames;
use crate::transport::PoolTls;

/// How long one address is tried before the next is tried in parallel. Envoy's value; RFC 8305 leaves it open.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(300);

/// The properties of an established connection.
#[derive(Debug)]
pub(super) struct Connected {
    /// `None` for a UNIX socket.
    pub(super) local: Option<Address>,
    pub(super) remote: Address,
    /// `None` without TLS.
    pub(super) tls: Option<Rc<TlsInfo>>,
}

/// Connects to `host`, for this protocol or for one that is not known here. The caller limits how long this takes.
pub(super) async fn connect(
    host: &Host,
    cx: &PoolCx,
    tls: Option<&PoolTls>,
    (protocol, names): (Option<PoolProtocol>, Option<&ConnectionNames>),
) -> Result<(Connected, NetworkStream), PoolFailure> {
    if let Some(tls) = tls {
        tls.count_if_not_ready();
    }
    let (remote, mut stream) = match host.addresses() {
        [only] => (only, connect_to(only, cx).await?),
        several => connect_to_any(host, several, cx).await?,
    };
    let local = match &stream {
        NetworkStream::Tcp(socket) => socket.local_addr().ok().map(Address::from),
        NetworkStream::Unix(_) | NetworkStream::Tls(_) => None,
        NetworkStream::Internal(_) => Some(Address::internal_client()),
    };
    let sockets = &cx.info.transport_sockets;
    if let Some(socket) = sockets.proxy_protocol(host.description()) {
        let client = names.and_then(|names| names.client.as_ref());
        let sent = socket.send(&mut stream, client, (local.as_ref(), remote));
        Box::pin(sent).await.map_err(|error| {
            let text = format!("delayed connect error: {}", reason(&error));
            PoolFailure::RemoteConnectionFailure(text.into())
        })?;
    }
    let mut info = None;
    if let Some(tls) = tls {
        let secured = Box::pin(tls.secure(stream, host, remote, protocol)).await;
        let (secure, known) = secured
            .map_err(|failure| PoolFailure::RemoteConnectionFailure(failure.to_string().into()))?;
        stream = secure;
        info = Some(known);
    }
    let connected = Connected {
        local,
        remote: remote.clone(),
        tls: info,
    };
    Ok((connected, stream))
}

async fn connect_to(address: &Address, cx: &PoolCx) -> Result<NetworkStream, PoolFailure> {
    if let Address::Internal(internal) = address {
        let connected = cx.worker.internal_listeners.connect(internal);
        return connected.map_err(|error| immediate_failure(address, &error));
    }
    let options = &cx.info.connect;
    outrider_net::connect(address, options)
        .await
        .map_err(|error| match error {
            ConnectError::Local(error) => {
                let source = options.source.map(Address::from);
                let source = source.map_or_else(|| "a socket".to_owned(), |s| s.to_string());
                cx.stats.bind_errors.inc();
                let text = format!("failed to bind to {source}: {}", reason(&error));
                PoolFailure::LocalConnectionFailure(text.into())
            }
            ConnectError::Remote(error) => {
                if is_immediate(address, &error) {
                    return immediate_failure(address, &error);
                }
                let text = format!("delayed connect error: {}", reason(&error));
                PoolFailure::RemoteConnectionFailure(text.into())
            }
        })
}

fn immediate_failure(address: &Address, error: &io::Error) -> PoolFailure {
    let why = reason(error);
    let text = format!("immediate connect error: {why}|remote address:{address}");
    PoolFailure::RemoteConnectionFailure(text.into())
}

type ConnectFuture<'a> = Pin<Box<dyn Future<Output = Result<NetworkStream, PoolFailure>> + 'a>>;

/// Written by hand because the attempts race: each begins when the previous one has failed or its delay has passed.
async fn connect_to_any<'a>(
    host: &Host,
    addresses: &'a [Address],
    cx: &PoolCx,
) -> Result<(&'a Address, NetworkStream), PoolFailure> {
    let mut untried = addresses.iter();
    let mut attempts: Vec<(&Address, ConnectFuture<'_>)> = Vec::with_capacity(addresses.len());
    let mut failure = PoolFailure::LocalConnectionFailure("no address".into());
    let mut timer = cx.worker.timers.timer();
    let mut next = true;
    poll_fn(|task| {
        loop {
            if std::mem::take(&mut next)
                && let Some(address) = untried.next()
            {
                if address != &addresses[0] {
                    // Envoy counts each attempt as a connection.
                    cx.stats.upstream_cx_total.inc();
                    host.stats.cx_total.inc();
                }
                attempts.push((address, Box::pin(connect_to(address, cx))));
                timer.set(Some(cx.worker.timers.now() + NEXT_ADDRESS_AFTER));
            }
            let mut index = 0;
            while let Some((address, attempt)) = attempts.get_mut(index) {
                match attempt.as_mut().poll(task) {
                    Poll::Ready(Ok(stream)) => return Poll::Ready(Ok((*address, stream))),
                    Poll::Ready(Err(error)) => {
                        failure = error;
                        next = true;
                        drop(attempts.swap_remove(index));
                    }
                    Poll::Pending => index += 1,
                }
            }
            if timer.poll_elapsed(task).is_ready() {
                timer.set(None);
                next = true;
            }
            if attempts.is_empty() && untried.len() == 0 {
                return Poll::Ready(Err(failure.clone()));
            }
            if !next || untried.len() == 0 {
                return Poll::Pending;
            }
        }
    })
    .await
}

/// Whether the kernel reported the error at once, not after trying: Envoy words the two differently.
fn is_immediate(address: &Address, error: &io::Error) -> bool {
    use io::ErrorKind::ConnectionRefused;
    use io::ErrorKind::ConnectionReset;
    use io::ErrorKind::HostUnreachable;
    use io::ErrorKind::TimedOut;
    address.ip().is_none()
        || !matches!(
            error.kind(),
            ConnectionRefused | ConnectionReset | HostUnreachable | TimedOut
        )
}

/// The system's message of an error, without its number.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
