//! `envoy.filters.network.direct_response`: sends the same bytes to each client and closes its connection.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::network::direct_response::v3::Config;
use outrider_config::data_source;
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
    message: "envoy.extensions.filters.network.direct_response.v3.Config",
    build: NetworkFilterFactory::Terminal(build),
};

fn build(
    any: &Any,
    path: &FieldPath,
    _: &BuildCx<'_>,
) -> Result<Arc<dyn TerminalFilterConfig>, ConfigErrors> {
    let config: Config = unpack(any, path)?;
    let response = match &config.response {
        Some(source) => data_source::read(source, None, &path.field("response"))?,
        None => Vec::new(),
    };
    Ok(Arc::new(DirectResponseConfig(response.into())))
}

#[derive(Debug)]
struct DirectResponseConfig(Arc<[u8]>);

impl TerminalFilterConfig for DirectResponseConfig {
    fn worker(self: Arc<Self>, cx: &NetworkFilterWorkerCx<'_>) -> Rc<dyn TerminalFilter> {
        Rc::new(DirectResponse {
            response: self.0.clone(),
            worker: cx.worker.clone(),
        })
    }
}

struct DirectResponse {
    response: Arc<[u8]>,
    worker: Rc<WorkerCx>,
}

impl ConnectionHandler for DirectResponse {
    fn serve(
        self: Rc<Self>,
        mut connection: AcceptedConnection,
    ) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move {
            let activity = self.worker.activity.connection();
            activity.set(true);
            if connection.secure().await.is_ok() {
                let stream = &mut connection.stream;
                // A client that has gone does not miss the response.
                let _ = stream.write_all(&self.response).await;
                stream.discard_unread();
            }
        })
    }
}

impl TerminalFilter for DirectResponse {}
