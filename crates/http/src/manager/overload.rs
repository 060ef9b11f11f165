//! What the overload manager changes for the requests of a connection manager.

use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_net::LoadShedPoint;
use outrider_net::LoadShedPointKind;
use outrider_net::OverloadAction;
use outrider_net::OverloadLevel;
use outrider_net::ScaledTimer;
use outrider_net::TimeoutScale;
use outrider_net::WorkerCx;

use crate::local_reply::LocalReply;

/// Tells the client that this proxy is overloaded, not the upstream.
const LOCAL_OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-local-overloaded");

/// What the overload manager changes for requests; nothing if it is not configured.
#[derive(Debug, Default)]
pub(super) struct RequestOverload {
    /// `envoy.overload_actions.stop_accepting_requests`
    stops: Option<Arc<OverloadLevel>>,
    /// `envoy.load_shed_points.http_connection_manager_decode_headers`
    decode_headers: Option<Arc<LoadShedPoint>>,
    /// `append_local_overload`
    tells_clients: bool,
    /// How the idle timeouts of streams are shortened.
    pub(super) stream_idle: Option<Rc<TimeoutScale>>,
}

impl RequestOverload {
    pub(super) fn new(worker: &WorkerCx, bypasses: bool, tells_clients: bool) -> RequestOverload {
        let overload = worker.overload();
        let stream_idle = overload.timer(ScaledTimer::StreamIdle).map(Rc::new);
        if bypasses {
            return RequestOverload {
                stream_idle,
                ..RequestOverload::default()
            };
        }
        RequestOverload {
            stops: overload.action(OverloadAction::StopAcceptingRequests),
            decode_headers: overload.point(LoadShedPointKind::DecodeHeaders),
            tells_clients,
            stream_idle,
        }
    }

    /// Whether a request that has just arrived is refused.
    pub(super) fn refuses(&self, worker: &WorkerCx) -> bool {
        let random = || worker.random();
        let point = self.decode_headers.as_ref();
        let stops = self.stops.as_ref();
        point.is_some_and(|point| point.sheds(random))
            || stops.is_some_and(|stops| stops.applies(random))
    }

    /// The reply to a refused request.
    pub(super) fn reply(&self) -> LocalReply {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let reply = LocalReply::new(status, "overload").body("envoy overloaded");
        match self.tells_clients {
            true => reply.header(LOCAL_OVERLOADED, HeaderValue::from_static("true")),
            false => reply,
        }
    }
}
