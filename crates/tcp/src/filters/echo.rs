//! `envoy.filters.network.echo`: sends back what the client sends.

use std::cell::RefCell;
use std::future::Future;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Buf as _;
use bytes::BytesMut;
use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::network::echo::v3::Echo;
use outrider_config::unpack;
use outrider_http::BuildCx;
use outrider_net::AcceptedConnection;
use outrider_net::ConnectionHandler;
use outrider_net::WorkerCx;
use prost_types::Any;
use tokio::io::AsyncWriteExt as _;

use super::NetworkFilterFactory;
use super::NetworkFilterWorkerCx;
use super::TerminalFilter;
use super::TerminalFilterConfig;

pub(super) const FACTORY: Factory<NetworkFilterFactory> = Factory {
    message: "envoy.extensions.filters.network.echo.v3.Echo",
    build: NetworkFilterFactory::Terminal(build),
};

/// How many bytes are read at once at most. Connections of a worker share one buffer of this size.
const READ_SIZE: usize = 16 * 1024;

fn build(
    any: &Any,
    path: &FieldPath,
    _: &BuildCx<'_>,
) -> Result<Arc<dyn TerminalFilterConfig>, ConfigErrors> {
    unpack::<Echo>(any, path)?;
    Ok(Arc::new(EchoConfig))
}

#[derive(Debug)]
struct EchoConfig;

impl TerminalFilterConfig for EchoConfig {
    fn worker(self: Arc<Self>, cx: &NetworkFilterWorkerCx<'_>) -> Rc<dyn TerminalFilter> {
        Rc::new(EchoFilter {
            worker: cx.worker.clone(),
            read_buffer: RefCell::new(vec![0; READ_SIZE]),
        })
    }
}

struct EchoFilter {
    worker: Rc<WorkerCx>,
    /// Only used within one poll.
    read_buffer: RefCell<Vec<u8>>,
}

impl EchoFilter {
    /// Sends back what comes, until the client ends or its connection fails.
    async fn echo(self: Rc<Self>, mut connection: AcceptedConnection) {
        let activity = self.worker.activity.connection();
        activity.set(true);
        if connection.secure().await.is_err() {
            return;
        }
        let stream = &mut connection.stream;
        loop {
            let read = poll_fn(|cx| {
                let buffer = &mut *self.read_buffer.borrow_mut();
                let read = stream.poll_read_some(cx, buffer);
                read.map_ok(|count| BytesMut::from(buffer.get(..count).unwrap_or_default()))
            });
            let Ok(mut bytes) = read.await else {
                return;
            };
            if bytes.is_empty() {
                // A client that has gone does not miss the end.
                let _ = stream.shutdown().await;
                return;
            }
            while bytes.has_remaining() {
                if stream.write_buf(&mut bytes).await.is_err() {
                    return;
                }
            }
        }
    }
}

impl ConnectionHandler for EchoFilter {
    fn serve(self: Rc<Self>, connection: AcceptedConnection) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(self.echo(connection))
    }
}

impl TerminalFilter for EchoFilter {}
