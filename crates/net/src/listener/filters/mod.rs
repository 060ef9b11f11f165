//! Listener filters: they look at a connection before its filter chain is selected.
//!
//! A new filter is a file beside this one and an entry in `FACTORIES`.
//!
//! They read with `MSG_PEEK`, so that the bytes stay in the socket for the connection's handler, and the next filter sees
//! them, too. A filter that has to remove bytes, such as a PROXY protocol header, says how many.

mod chain;
mod disabled;
mod http_inspector;
mod inspected;
mod local_ratelimit;
mod original_dst;
mod proxy_protocol;
mod tls_inspector;

use std::fmt;
use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use prost_types::Any;

use crate::NetworkStream;
use crate::WorkerCx;

pub(super) use chain::ListenerFilterChain;
pub(super) use chain::ListenerFilters;
pub(super) use inspected::InspectedConnection;

/// All listener filters.
const FACTORIES: &[Factory<BuildListenerFilter>] = &[
    http_inspector::FACTORY,
    local_ratelimit::FACTORY,
    original_dst::FACTORY,
    proxy_protocol::FACTORY,
    tls_inspector::FACTORY,
];

type BuildListenerFilter =
    fn(&Any, &FieldPath) -> Result<Arc<dyn ListenerFilterConfig>, ConfigErrors>;

/// A listener filter as configured, shared by all workers.
trait ListenerFilterConfig: fmt::Debug + Send + Sync {
    /// The filter on one worker.
    fn worker(self: Arc<Self>, cx: &WorkerCx) -> Box<dyn ListenerFilter>;
}

/// A listener filter on one worker; its connections share it.
trait ListenerFilter {
    /// Handles a new connection.
    fn on_accept(
        &self,
        stream: &NetworkStream,
        connection: &mut InspectedConnection,
        cx: &WorkerCx,
    ) -> ListenerFilterStatus;

    /// Handles it further once bytes have arrived, after [`ListenerFilterStatus::Read`]. `bytes` are all that the client
    /// has sent, up to the number that the filter has asked for.
    fn on_data(&self, bytes: &[u8], connection: &mut InspectedConnection) -> ListenerFilterStatus {
        let _ = (bytes, connection);
        ListenerFilterStatus::Continue
    }
}

/// What happens to a connection after a listener filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ListenerFilterStatus {
    /// The next filter handles it.
    Continue,
    /// The same, without the first bytes: this many are removed.
    Drain(usize),
    /// The filter needs more bytes than it has seen. At most this many in all.
    Read(usize),
    /// It is closed. The filter has counted that.
    Close,
}
