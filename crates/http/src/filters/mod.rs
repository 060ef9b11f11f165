//! HTTP filters, which see each request between the connection manager and the router, and its response on the way back.
//!
//! A new filter is a file beside this one and an entry in `FACTORIES`.
//!
//! A filter usually does its work at once, in [`HttpFilter::on_request`] and [`HttpFilter::on_response`]. If it has to
//! wait, for a timer, a call or a body, it returns [`FilterStatus::Wait`], and a future of it then borrows the stream and
//! the body. The stream's deadlines pass during such a wait as at any other time, and the client may leave: then the
//! future is dropped.

mod basic_auth;
mod body;
mod buffer;
mod cdn_loop;
mod chain;
mod context;
mod cors;
mod csrf;
mod dynamic_forward_proxy;
mod ext_authz;
mod ext_proc;
mod fault;
mod grpc_stats;
mod grpc_web;
mod header_mutation;
mod header_to_metadata;
mod health_check;
mod jwt_authn;
mod local_ratelimit;
mod lua;
mod mutation_rules;
mod original_uri;
mod query_parameters;
mod ratelimit;
mod rbac;
mod route_config;
mod set_filter_state;
mod set_metadata;
mod stream_slots;
mod string_matchers;

use std::fmt;
use std::future::Future;
use std::future::ready;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use outrider_codec::Body;
use outrider_codec::HeaderName;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use prost_types::Any;

use crate::Stream;
use crate::local_reply::LocalReply;

pub(crate) use chain::Filters;
pub(crate) use chain::HttpFilterChain;
pub(crate) use chain::HttpFilterChainConfig;
pub use context::BufferedBody;
pub use context::FilterBuildCx;
pub use context::FilterCx;
pub use context::FilterWorkerCx;
pub(crate) use context::HeaderLimits;
pub use context::LateReply;
pub(crate) use context::LateReplySlot;
pub(crate) use context::PAYLOAD_TOO_LARGE;
pub(crate) use cors::CorsPolicy;
pub(crate) use header_mutation::Mutation as HeaderMutation;
use original_uri::WWW_AUTHENTICATE;
use original_uri::original_uri;
pub use outrider_net::DynamicMetadata;
pub use outrider_net::FilterState;
pub use outrider_net::FilterStateObject;
pub(crate) use query_parameters::QueryParameters;
pub use route_config::RouteConfig;
use route_config::RouteFactory;
pub use route_config::RouteFilterConfig;
pub(crate) use route_config::RouteFilterConfigs;
pub(crate) use route_config::RouteFilterLevel;
pub use stream_slots::StreamSlot;
pub use stream_slots::StreamSlots;

/// Every HTTP filter but the router.
const FACTORIES: &[FilterFactory] = &[
    basic_auth::FACTORY,
    buffer::FACTORY,
    cdn_loop::FACTORY,
    cors::FACTORY,
    csrf::FACTORY,
    dynamic_forward_proxy::FACTORY,
    ext_authz::FACTORY,
    ext_proc::FACTORY,
    fault::FACTORY,
    grpc_stats::FACTORY,
    grpc_web::FACTORY,
    header_mutation::FACTORY,
    header_to_metadata::FACTORY,
    health_check::FACTORY,
    jwt_authn::FACTORY,
    local_ratelimit::FACTORY,
    lua::FACTORY,
    ratelimit::FACTORY,
    rbac::FACTORY,
    set_filter_state::FACTORY,
    set_metadata::FACTORY,
];

type BuildHttpFilter =
    fn(&Any, &FieldPath, &FilterBuildCx<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigErrors>;

/// Builds filters of one kind.
struct FilterFactory {
    /// The full name of the filter's message.
    message: &'static str,
    build: BuildHttpFilter,
    /// Builds the filter's configuration for some routes, if it has any.
    routes: Option<&'static RouteFactory>,
}

/// One configured filter, shared by all workers.
pub trait HttpFilterConfig: fmt::Debug + Send + Sync {
    /// The filter on one worker.
    fn worker(self: Arc<Self>, cx: &FilterWorkerCx<'_>) -> Rc<dyn HttpFilter>;
}

/// A filter on one worker, shared by its streams.
///
/// The heads are in the stream. A filter keeps its own data about a stream in a [`StreamSlot`]. To see or to change a
/// body it replaces the body by one that wraps it ([`Body::wrap`]); such a body ends the stream by a [`LateReply`].
pub trait HttpFilter: fmt::Debug {
    /// Handles the request's head.
    fn on_request(&self, stream: &mut Stream, body: &mut Body, cx: &FilterCx<'_>) -> FilterStatus {
        let _ = (stream, body, cx);
        FilterStatus::Continue
    }

    /// Handles the request further, after `on_request` has returned [`FilterStatus::Wait`]. An error is the reply to the
    /// client.
    fn wait_on_request<'a>(
        &'a self,
        stream: &'a mut Stream,
        body: &'a mut Body,
        cx: &'a FilterCx<'a>,
    ) -> FilterWait<'a> {
        let _ = (stream, body, cx);
        Box::pin(ready(Ok(())))
    }

    /// Handles the response's head, also that of a local reply to a request that the filter did not see.
    fn on_response(&self, stream: &mut Stream, body: &mut Body, cx: &FilterCx<'_>) -> FilterStatus {
        let _ = (stream, body, cx);
        FilterStatus::Continue
    }

    /// Handles the response further, after `on_response` has returned [`FilterStatus::Wait`]. An error is the reply that
    /// the client gets instead.
    fn wait_on_response<'a>(
        &'a self,
        stream: &'a mut Stream,
        body: &'a mut Body,
        cx: &'a FilterCx<'a>,
    ) -> FilterWait<'a> {
        let _ = (stream, body, cx);
        Box::pin(ready(Ok(())))
    }

    /// Whether [`HttpFilter::on_stream_end`] does anything.
    fn follows_end(&self) -> bool {
        false
    }

    /// Notes that the stream has ended, also one whose request did not reach the filter.
    fn on_stream_end(&self, stream: &mut Stream) {
        let _ = stream;
    }
}

/// What happens to a stream after a filter.
pub enum FilterStatus {
    /// The next filter runs.
    Continue,
    /// The client gets this reply. A reply to a request passes the response filters; one in place of a response does not.
    Reply(LocalReply),
    /// The filter waits, in `wait_on_request` or `wait_on_response`. Only this case allocates.
    Wait,
}

/// A filter's wait on behalf of a stream.
pub type FilterWait<'a> = Pin<Box<dyn Future<Output = Result<(), LocalReply>> + 'a>>;

impl fmt::Debug for FilterStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FilterStatus::Continue => "Continue",
            FilterStatus::Reply(_) => "Reply",
            FilterStatus::Wait => "Wait",
        })
    }
}

/// The limit that a response tells.
static X_RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
/// How many more requests are allowed.
static X_RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
/// In how many seconds more requests are allowed.
static X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Counts a request that a service refused as an answer of the cluster that it was for.
fn charge_cluster(stream: &Stream, status: StatusCode) {
    if let Some(cluster) = &stream.cluster {
        let stats = cluster.stats();
        stats.upstream_rq.record(status.as_u16());
        stats.internal.get().upstream_rq.record(status.as_u16());
    }
}

#[cfg(test)]
mod tests;
