//! `VirtualHost`: the routes for some domains.

use std::collections::HashMap;
use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::Metadata;
use outrider_config::api::envoy::config::route::v3 as api;
use outrider_config::api::envoy::config::route::v3::virtual_host::TlsRequirementType;
use prost_types::Any;

use crate::Captures;
use crate::RequestHead;
use crate::filters::CorsPolicy;
use crate::filters::RouteFilterConfigs;
use crate::filters::RouteFilterLevel;
use crate::rate_limits::RateLimits;
use crate::route::Action;
use crate::route::BufferLimits;
use crate::route::MirrorPolicy;
use crate::route::RequestView;
use crate::route::RetryPolicy;
use crate::route::Route;
use crate::route::RouteCx;
use crate::route::direct_response::DirectResponse;
use crate::route::forward::ClusterSpecifier;
use crate::route::forward::ForwardAction;
use crate::route::header_mutation::HeaderMutations;
use crate::route::index::RouteIndex;
use crate::route::redirect::Redirect;
use crate::route::rewrite::HostRewrite;
use crate::route::route_match::RouteMatch;
use crate::route::table::TableCx;
use crate::route::virtual_cluster::VirtualClusters;
use crate::route::virtual_cluster::route_stats;
use crate::route::weighted::WeightedRoutes;
use crate::tracing::RouteTracing;

/// The configuration that the routes of a virtual host share.
#[derive(Debug)]
pub struct VirtualHost {
    /// The name, for logs and stats.
    pub name: String,
    /// Requests carry `x-envoy-attempt-count`.
    pub include_request_attempt_count: bool,
    /// Responses carry `x-envoy-attempt-count`.
    pub include_attempt_count_in_response: bool,
    /// Retried requests carry `x-envoy-is-timeout-retry`.
    pub include_is_timeout_retry_header: bool,
    /// `VirtualHost.retry_policy`, for routes without their own.
    pub(crate) retry_policy: Option<Arc<RetryPolicy>>,
    buffer_limits: BufferLimits,
    /// The copies of requests, for routes that name none.
    mirrors: Arc<[MirrorPolicy]>,
    /// `VirtualHost.metadata`.
    pub metadata: Option<Arc<Metadata>>,
    /// `VirtualHost.virtual_clusters`.
    pub(crate) clusters: VirtualClusters,
    /// `VirtualHost.cors`.
    pub(crate) cors: Option<Arc<CorsPolicy>>,
    /// `VirtualHost.rate_limits`.
    pub(crate) rate_limits: RateLimits,
}

/// A virtual host's routes.
#[derive(Debug)]
pub(crate) struct VirtualHostRoutes {
    routes: Box<[RouteEntry]>,
    index: RouteIndex,
    /// The redirect for requests without TLS, if `require_tls` demands it.
    to_https: Option<(TlsRequirementType, Arc<Route>)>,
}

#[derive(Debug)]
struct RouteEntry {
    matches: RouteMatch,
    target: EntryTarget,
}

#[derive(Debug)]
enum EntryTarget {
    Route(Arc<Route>),
    Weighted(WeightedRoutes),
}

/// What one level sets for all the routes below it: a route table, a virtual host, a route or a weighted cluster.
#[derive(Clone, Default)]
pub(crate) struct RouteLevel {
    request: Option<Arc<HeaderMutations>>,
    response: Option<Arc<HeaderMutations>>,
    filters: RouteFilterLevel,
    /// Only of a route.
    tracing: Option<Arc<RouteTracing>>,
}

impl VirtualHostRoutes {
    pub(crate) fn build(
        config: &api::VirtualHost,
        cx: &TableCx<'_>,
        path: &FieldPath,
    ) -> Result<VirtualHostRoutes, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let clusters = VirtualClusters::build(config, cx.cx.store, path);
        #[expect(deprecated, reason = "Envoy still obeys it")]
        let cors = config
            .cors
            .as_ref()
            .and_then(|cors| errors.collect(CorsPolicy::of_route(cors, &path.field("cors"))));
        let retry_policy = config.retry_policy.as_ref().and_then(|policy| {
            errors.collect(RetryPolicy::build(policy, &path.field("retry_policy")))
        });
        let mirrors = match config.request_mirror_policies.as_slice() {
            [] => cx.mirrors.clone(),
            own => {
                let own = MirrorPolicy::list(own, path);
                errors.collect(own).unwrap_or_default()
            }
        };
        #[expect(deprecated, reason = "Envoy still obeys it")]
        let per_request = config.per_request_buffer_limit_bytes;
        let rate_limits = errors.collect(RateLimits::of_routes(&config.rate_limits, path));
        let host = Arc::new(VirtualHost {
            rate_limits: rate_limits.unwrap_or_default(),
            mirrors,
            cors: cors.map(Arc::new),
            include_is_timeout_retry_header: config.include_is_timeout_retry_header,
            retry_policy: retry_policy.map(Arc::new),
            buffer_limits: BufferLimits {
                request_body: config.request_body_buffer_limit,
                per_request,
            },
            clusters: errors.collect(clusters).unwrap_or_default(),
            name: config.name.clone(),
            include_request_attempt_count: config.include_request_attempt_count,
            include_attempt_count_in_response: config.include_attempt_count_in_response,
            metadata: config.metadata.clone().map(Arc::new),
        });
        let level = RouteLevel::build(config, path, &cx.cx);
        let level = errors.collect(level).unwrap_or_default();
        let builder = RouteBuilder {
            cx,
            host: &host,
            level,
        };
        let mut entries = Vec::with_capacity(config.routes.len());
        for (at, route) in config.routes.iter().enumerate() {
            let path = path.field("routes").index(at);
            entries.extend(errors.collect(builder.entry(route, &path)));
        }
        let to_https = match config.require_tls() {
            TlsRequirementType::None => None,
            required => Some((required, Arc::new(https_redirect(&host)))),
        };
        errors.finish(VirtualHostRoutes {
            index: RouteIndex::new(entries.iter().map(|entry| &entry.matches)),
            routes: entries.into(),
            to_https,
        })
    }

    /// The route for a request whose path, without query, is `path`.
    pub(crate) fn find(&self, request: &RequestView<'_>, path: &str) -> Option<&Arc<Route>> {
        if let Some((required, route)) = &self.to_https
            && !is_https(request.head)
            && (*required == TlsRequirementType::All || !is_internal(request.head))
        {
            return Some(route);
        }
        let matches = |at: usize| {
            self.routes
                .get(at)
                .is_some_and(|entry| entry.is_for(request, path))
        };
        let found = self.index.first(request, path, matches)?;
        match &self.routes.get(found)?.target {
            EntryTarget::Route(route) => Some(route),
            EntryTarget::Weighted(routes) => routes.choose(request),
        }
    }
}

impl RouteEntry {
    fn is_for(&self, request: &RequestView<'_>, path: &str) -> bool {
        self.matches.matches(request, path)
            && match &self.target {
                // As in Envoy, if all weights are zero, the request goes on to the next routes.
                EntryTarget::Weighted(routes) if routes.may_have_none() => {
                    routes.choose(request).is_some()
                }
                EntryTarget::Weighted(_) | EntryTarget::Route(_) => true,
            }
    }
}

impl VirtualHostRoutes {
    /// Adds the headers that the routes read after the heads were sent on.
    pub(crate) fn capture(&self, captures: &mut Captures) {
        for entry in &self.routes {
            match &entry.target {
                EntryTarget::Route(route) => route.capture(captures),
                EntryTarget::Weighted(routes) => routes.capture(captures),
            }
        }
    }
}

fn https_redirect(host: &Arc<VirtualHost>) -> Route {
    Route {
        name: String::new(),
        virtual_host: Arc::clone(host),
        action: Action::Redirect(Redirect::to_https()),
        metadata: None,
        stats: None,
        buffer_limits: BufferLimits::default(),
        request_mutations: Box::default(),
        response_mutations: Box::default(),
        filter_configs: RouteFilterConfigs::default(),
        tracing: None,
    }
}

/// Whether the client used https, according to `x-forwarded-proto`.
fn is_https(head: &RequestHead) -> bool {
    head.headers
        .get("x-forwarded-proto")
        .is_some_and(|proto| proto == "https")
}

fn is_internal(head: &RequestHead) -> bool {
    head.headers
        .get("x-envoy-internal")
        .is_some_and(|internal| internal == "true")
}

/// What a message sets for the routes below it; several types of messages have the same fields for that.
pub(crate) trait LevelFields {
    fn request(&self, path: &FieldPath) -> Result<HeaderMutations, ConfigErrors>;
    fn response(&self, path: &FieldPath) -> Result<HeaderMutations, ConfigErrors>;
    fn filters(&self) -> &HashMap<String, Any>;
}

macro_rules! level_fields {
    ($($message:ty,)*) => {
        $(impl LevelFields for $message {
            fn request(&self, path: &FieldPath) -> Result<HeaderMutations, ConfigErrors> {
                let (add, remove) = (&self.request_headers_to_add, &self.request_headers_to_remove);
                HeaderMutations::build("request", add, remove, path)
            }

            fn response(&self, path: &FieldPath) -> Result<HeaderMutations, ConfigErrors> {
                let (add, remove) = (&self.response_headers_to_add, &self.response_headers_to_remove);
                HeaderMutations::build("response", add, remove, path)
            }

            fn filters(&self) -> &HashMap<String, Any> {
                &self.typed_per_filter_config
            }
        })*
    };
}

level_fields! {
    api::RouteConfiguration,
    api::VirtualHost,
    api::Route,
    api::weighted_cluster::ClusterWeight,
}

impl RouteLevel {
    pub(crate) fn build(
        config: &impl LevelFields,
        path: &FieldPath,
        cx: &RouteCx<'_>,
    ) -> Result<RouteLevel, ConfigErrors> {
        let some =
            |mutations: HeaderMutations| (!mutations.is_empty()).then(|| Arc::new(mutations));
        let mut errors = ConfigErrors::new();
        let request = errors.collect(config.request(path)).and_then(some);
        let response = errors.collect(config.response(path)).and_then(some);
        let filters = errors.collect(RouteFilterLevel::build(config.filters(), path, cx));
        errors.finish(RouteLevel {
            request,
            response,
            filters: filters.unwrap_or_default(),
            tracing: None,
        })
    }
}

struct RouteBuilder<'a> {
    cx: &'a TableCx<'a>,
    host: &'a Arc<VirtualHost>,
    level: RouteLevel,
}

impl RouteBuilder<'_> {
    fn entry(&self, config: &api::Route, path: &FieldPath) -> Result<RouteEntry, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let default_match = api::RouteMatch::default();
        let route_match = config.r#match.as_ref().unwrap_or(&default_match);
        let matches = errors.collect(RouteMatch::build(route_match, &path.field("match")));
        let level = errors.collect(RouteLevel::build(config, path, &self.cx.cx));
        let tracing = errors.collect(RouteTracing::build(config, path)).flatten();
        let (Some(matches), Some(level)) = (matches, level) else {
            return Err(errors);
        };
        let level = RouteLevel { tracing, ..level };
        let target = self.target(config, &matches, &level, path)?;
        errors.finish(RouteEntry { matches, target })
    }

    fn target(
        &self,
        config: &api::Route,
        matches: &RouteMatch,
        level: &RouteLevel,
        path: &FieldPath,
    ) -> Result<EntryTarget, ConfigErrors> {
        use api::route::Action as Specifier;
        let mut errors = ConfigErrors::new();
        let action = match &config.action {
            Some(Specifier::Route(action)) => {
                let path = path.field("route");
                return self.forward(config, action, (matches, level), &path);
            }
            Some(Specifier::Redirect(redirect)) => {
                let redirect = Redirect::build(redirect, &matches.path, &path.field("redirect"));
                Action::Redirect(redirect?)
            }
            Some(Specifier::DirectResponse(response)) => {
                let max = self.cx.max_direct_response_body;
                let path = path.field("direct_response");
                Action::DirectResponse(DirectResponse::build(response, max, &path)?)
            }
            Some(Specifier::NonForwardingAction(_)) => Action::NonForwarding,
            Some(Specifier::FilterAction(_)) => {
                errors.push(
                    &path.field("filter_action"),
                    "filter actions are not supported",
                );
                return Err(errors);
            }
            None => {
                errors.push(path, "an action is required");
                return Err(errors);
            }
        };
        Ok(EntryTarget::Route(self.route(config, action, level, None)))
    }

    fn forward(
        &self,
        config: &api::Route,
        action: &api::RouteAction,
        (matches, level): (&RouteMatch, &RouteLevel),
        path: &FieldPath,
    ) -> Result<EntryTarget, ConfigErrors> {
        use api::route_action::ClusterSpecifier as Specifier;
        let mut errors = ConfigErrors::new();
        let cluster = match &action.cluster_specifier {
            Some(Specifier::Cluster(name)) => {
                self.cx
                    .check_cluster(name, "route: unknown cluster", &path.field("cluster"))?;
                ClusterSpecifier::Name(name.as_str().into())
            }
            Some(Specifier::ClusterHeader(name)) => {
                ClusterSpecifier::header(name, &path.field("cluster_header"))?
            }
            // A placeholder, which each weighted cluster replaces by its own name.
            Some(Specifier::WeightedClusters(_)) => ClusterSpecifier::Name("".into()),
            Some(_) => {
                errors.push(path, "cluster specifier plugins are not supported");
                return Err(errors);
            }
            None => {
                errors.push(path, "a cluster specifier is required");
                return Err(errors);
            }
        };
        let mirrors = self.mirrors(action, path)?;
        let forward = ForwardAction::build(action, (cluster, mirrors), &matches.path, path)?;
        let Some(Specifier::WeightedClusters(weighted)) = &action.cluster_specifier else {
            let action = Action::Forward(Box::new(forward));
            return Ok(EntryTarget::Route(self.route(config, action, level, None)));
        };
        let path = path.field("weighted_clusters");
        let mut routes = Vec::with_capacity(weighted.clusters.len());
        for (at, cluster) in weighted.clusters.iter().enumerate() {
            let path = path.field("clusters").index(at);
            let built = self.weighted_action(cluster, &forward, &path);
            let weight_level = errors.collect(RouteLevel::build(cluster, &path, &self.cx.cx));
            if let (Some(action), Some(weight)) = (errors.collect(built), weight_level) {
                routes.push(self.route(config, action, level, Some(&weight)));
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        WeightedRoutes::build(weighted, routes, &config.name, &path).map(EntryTarget::Weighted)
    }

    /// The copies of requests that the route asks for, else those of its virtual host. As in Envoy, their clusters must
    /// exist only where a route uses them.
    fn mirrors(
        &self,
        action: &api::RouteAction,
        path: &FieldPath,
    ) -> Result<Arc<[MirrorPolicy]>, ConfigErrors> {
        let own = &action.request_mirror_policies;
        let mirrors = match own.as_slice() {
            [] => self.host.mirrors.clone(),
            own => MirrorPolicy::list(own, path)?,
        };
        for (at, policy) in mirrors.iter().enumerate() {
            let path = match own.get(at) {
                Some(_) => &path.field("request_mirror_policies").index(at),
                None => path,
            };
            if let Some(cluster) = policy.constant_cluster() {
                let problem = "route: unknown shadow cluster";
                self.cx.check_cluster(cluster, problem, path)?;
            }
        }
        Ok(mirrors)
    }

    fn weighted_action(
        &self,
        config: &api::weighted_cluster::ClusterWeight,
        forward: &ForwardAction,
        path: &FieldPath,
    ) -> Result<Action, ConfigErrors> {
        use api::weighted_cluster::cluster_weight::HostRewriteSpecifier;
        let cluster = match (config.name.as_str(), config.cluster_header.as_str()) {
            ("", "") => {
                let mut errors = ConfigErrors::new();
                errors.push(
                    path,
                    "At least one of name or cluster_header need to be specified",
                );
                return Err(errors);
            }
            (name, "") => {
                let path = path.field("name");
                self.cx
                    .check_cluster(name, "route: unknown weighted cluster", &path)?;
                ClusterSpecifier::Name(name.into())
            }
            ("", header) => ClusterSpecifier::header(header, &path.field("cluster_header"))?,
            _ => {
                let mut errors = ConfigErrors::new();
                errors.push(path, "Only one of name or cluster_header can be specified");
                return Err(errors);
            }
        };
        let host_rewrite = match &config.host_rewrite_specifier {
            Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => Some(HostRewrite::literal(
                host,
                &path.field("host_rewrite_literal"),
            )?),
            None => None,
        };
        let action = forward.with_cluster(cluster, host_rewrite, config.metadata_match.as_ref());
        Ok(Action::Forward(Box::new(action)))
    }

    /// The route's limits; the virtual host's if the route has none.
    fn buffer_limits(&self, config: &api::Route) -> BufferLimits {
        #[expect(deprecated, reason = "Envoy still obeys it")]
        let per_request = config.per_request_buffer_limit_bytes;
        let of_host = self.host.buffer_limits;
        BufferLimits {
            request_body: config.request_body_buffer_limit.or(of_host.request_body),
            per_request: per_request.or(of_host.per_request),
        }
    }

    /// Merges the levels in Envoy's order: a weighted cluster's first, then from the route up to the table. With
    /// `most_specific_header_mutations_wins`, from the table down to the route.
    fn route(
        &self,
        config: &api::Route,
        action: Action,
        level: &RouteLevel,
        weight: Option<&RouteLevel>,
    ) -> Arc<Route> {
        let mut levels = [level, &self.level, &self.cx.level];
        let from_table = levels.into_iter().rev().chain(weight);
        let filter_configs = RouteFilterConfigs::merge(from_table.map(|level| &level.filters));
        if self.cx.most_specific_wins {
            levels.reverse();
        }
        let levels = weight.into_iter().chain(levels);
        Arc::new(Route {
            name: config.name.clone(),
            virtual_host: Arc::clone(self.host),
            action,
            metadata: config.metadata.clone().map(Arc::new),
            stats: route_stats(self.cx.cx.store, &self.host.name, config),
            buffer_limits: self.buffer_limits(config),
            request_mutations: levels
                .clone()
                .filter_map(|level| level.request.clone())
                .collect(),
            response_mutations: levels.filter_map(|level| level.response.clone()).collect(),
            filter_configs,
            tracing: level.tracing.clone(),
        })
    }
}
