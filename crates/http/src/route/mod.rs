//! Routes: finds the route of a request, and holds the route's configuration.
//!
//! A [`RouteTable`] is built once from a `RouteConfiguration` and shared by all workers. [`RouteTable::find`] returns
//! the [`Route`] of a request, which holds all the configuration that the request needs, merged from all levels. Each
//! weighted cluster has a route of its own.

mod direct_response;
mod domains;
mod forward;
mod hash_policy;
mod header_mutation;
mod index;
mod internal_redirect;
mod mirror_policy;
mod redirect;
mod retry_policy;
mod rewrite;
mod route_match;
mod table;
mod tunnel;
mod virtual_cluster;
mod virtual_host;
mod weighted;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use outrider_config::api::envoy::config::core::v3::Metadata;
use outrider_net::TlsInfo;
use outrider_runtime::Snapshot;
use outrider_stats::Store;

use crate::Captures;
use crate::RequestHead;
use crate::Stream;
use crate::filters::FilterState;
use crate::filters::RouteFilterConfigs;
use crate::rate_limits::RateLimits;
pub use crate::route::direct_response::DirectResponse;
pub use crate::route::forward::ClusterSpecifier;
pub use crate::route::forward::ForwardAction;
pub use crate::route::forward::MaxStreamDuration;
pub use crate::route::forward::Upgrade;
pub(crate) use crate::route::hash_policy::RequestHash;
pub use crate::route::header_mutation::HeaderMutations;
pub(crate) use crate::route::header_mutation::header_name;
pub(crate) use crate::route::internal_redirect::InternalRedirectPolicy;
pub(crate) use crate::route::internal_redirect::RedirectPredicate;
pub(crate) use crate::route::mirror_policy::MirrorPolicy;
pub use crate::route::redirect::Redirect;
pub(crate) use crate::route::retry_policy::BackOffIntervals;
pub(crate) use crate::route::retry_policy::DEFAULT_BASE_INTERVAL;
pub(crate) use crate::route::retry_policy::ResetFormat;
pub(crate) use crate::route::retry_policy::RetryOn;
pub(crate) use crate::route::retry_policy::RetryPolicy;
pub(crate) use crate::route::rewrite::Substitution;
pub(crate) use crate::route::route_match::RouteMatch;
pub use crate::route::table::RouteTable;
pub use crate::route::virtual_cluster::VirtualClusters;
pub use crate::route::virtual_host::VirtualHost;
use crate::stats::VirtualClusterStats;
use crate::tracing::RouteTracing;

/// The parts of a request that routes match on.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// The request head.
    pub head: &'a RequestHead,
    /// The request's random number, for runtime fractions and weighted clusters.
    pub random: u64,
    /// The runtime values that apply to the request.
    pub runtime: Option<&'a Snapshot>,
    /// The TLS of the connection it came in by.
    pub tls: Option<&'a TlsInfo>,
    /// Metadata that filters have set.
    pub dynamic_metadata: Option<&'a Metadata>,
    /// Objects that filters share.
    pub filter_state: &'a FilterState,
}

impl<'a> RequestView<'a> {
    /// The request of `stream`.
    pub(crate) fn of(stream: &'a Stream) -> RequestView<'a> {
        RequestView {
            head: &stream.request,
            random: stream.id,
            runtime: stream.runtime(),
            tls: stream.connection.tls.as_deref(),
            dynamic_metadata: stream.dynamic_metadata.get(),
            filter_state: &stream.filter_state,
        }
    }
}

/// The parts of the rest of the configuration that building routes needs.
#[derive(Clone, Copy)]
pub struct RouteCx<'a> {
    /// Whether a cluster of this name exists.
    pub has_cluster: &'a dyn Fn(&str) -> bool,
    /// Suggests an existing cluster for a name that does not exist.
    pub nearest_cluster: &'a dyn Fn(&str) -> Option<String>,
    /// Whether an unknown cluster is an error, where `validate_clusters` does not say: as in Envoy, for routes within the
    /// config of a connection manager.
    pub validates_clusters: bool,
    /// Where stats are registered.
    pub store: &'a Store,
}

/// The action and the options for requests that a `RouteMatch` matches (`envoy.config.route.v3.Route`).
#[derive(Debug)]
pub struct Route {
    /// `%ROUTE_NAME%`.
    pub name: String,
    /// The virtual host that the route is in.
    pub virtual_host: Arc<VirtualHost>,
    /// The action.
    pub action: Action,
    /// `Route.metadata`.
    pub metadata: Option<Arc<Metadata>>,
    /// The stats of `Route.stat_prefix`.
    pub(crate) stats: Option<Arc<VirtualClusterStats>>,
    /// Request header mutations of all levels, in the order in which they apply.
    pub(crate) request_mutations: Box<[Arc<HeaderMutations>]>,
    /// Response header mutations of all levels, in the order in which they apply.
    pub(crate) response_mutations: Box<[Arc<HeaderMutations>]>,
    /// How much of a request's body is kept for retries.
    pub(crate) buffer_limits: BufferLimits,
    /// The filters' configuration of all levels (`typed_per_filter_config`).
    pub(crate) filter_configs: RouteFilterConfigs,
    /// `Route.tracing` and `Route.decorator`.
    pub(crate) tracing: Option<Arc<RouteTracing>>,
}

/// How many bytes of a request's body the route or its virtual host lets be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BufferLimits {
    /// `request_body_buffer_limit`: replaces the limit of the client's connection.
    pub(crate) request_body: Option<u64>,
    /// `per_request_buffer_limit_bytes`: lowers the limit of the client's connection.
    pub(crate) per_request: Option<u32>,
}

/// `Route.action`.
#[derive(Debug)]
pub enum Action {
    /// Forwards the request to a cluster.
    Forward(Box<ForwardAction>),
    /// Answers with a `location`.
    Redirect(Redirect),
    /// Answers with a fixed response.
    DirectResponse(DirectResponse),
    /// No action of the router: a filter has to answer.
    NonForwarding,
}

/// How the limits of a virtual host apply to a route (`vh_rate_limits`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostLimits {
    /// If the route has none of its own.
    Overridden,
    /// After the route's.
    Included,
    /// Never.
    Ignored,
}

impl Route {
    /// `rate_limits` of the route and of its virtual host, as far as they apply. `of_host` is what a filter's configuration
    /// says; `include_vh_rate_limits` of the route has precedence.
    pub(crate) fn rate_limits(&self, of_host: Option<HostLimits>) -> [Option<&RateLimits>; 2] {
        let Action::Forward(action) = &self.action else {
            return [None, None];
        };
        let own = &action.rate_limits;
        let of_host = match action.includes_host_limits {
            true => HostLimits::Included,
            false => of_host.unwrap_or(HostLimits::Overridden),
        };
        let host_applies = match of_host {
            HostLimits::Overridden => own.is_empty(),
            HostLimits::Included => true,
            HostLimits::Ignored => false,
        };
        let host = Some(&self.virtual_host.rate_limits).filter(|_| host_applies);
        [Some(own), host]
    }

    /// Applies the request header mutations of all levels.
    pub fn mutate_request(&self, stream: &mut Stream) {
        for mutations in &self.request_mutations {
            mutations.apply_to_request(stream);
        }
    }

    /// Applies the response header mutations of all levels. `local_reply`: whether the response is a local reply.
    pub fn mutate_response(&self, stream: &mut Stream, local_reply: bool) {
        for mutations in &self.response_mutations {
            mutations.apply_to_response(stream, local_reply);
        }
    }

    /// Adds the headers that the response's mutations and a body format read after the heads were sent on.
    pub fn capture(&self, captures: &mut Captures) {
        for mutations in &self.response_mutations {
            mutations.capture(captures);
        }
        if let Some(tracing) = &self.tracing {
            tracing.capture(captures);
        }
        if let Action::DirectResponse(response) = &self.action
            && let Some(format) = &response.body_format
        {
            format.capture(captures);
        }
    }
}
