//! Asks a rate limit service about each request (`envoy.filters.http.ratelimit`).

mod answer;
mod config;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use outrider_client::InternalClient;
use outrider_codec::Body;
use outrider_codec::HeaderMap;
use outrider_codec::header;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::http::ratelimit::v3 as api;
use outrider_config::api::envoy::service::ratelimit::v3::RateLimitRequest;
use outrider_config::api::envoy::service::ratelimit::v3::RateLimitResponse;
use outrider_config::api::envoy::service::ratelimit::v3::rate_limit_response::Code;
use outrider_config::unpack;
use outrider_net::WorkerCx;
use outrider_stats::Counter;
use outrider_stats::Lazy;
use outrider_stats::Scope;
use outrider_stats::WorkerStore;
use prost_types::Any;
use tokio::task::JoinSet;

use self::answer::LimitAnswer;
use self::config::RateLimitConfig;
use self::config::RateLimitOfRoute;
use super::FilterBuildCx;
use super::FilterCx;
use super::FilterFactory;
use super::FilterStatus;
use super::FilterWait;
use super::FilterWorkerCx;
use super::HttpFilter;
use super::HttpFilterConfig;
use super::RouteConfig;
use super::RouteFactory;
use super::StreamSlot;
use super::charge_cluster;
use crate::Captures;
use crate::ResponseFlag;
use crate::Stream;
use crate::local_reply::LocalReply;
use crate::rate_limits::DescribedRequest;
use crate::rate_limits::LimitDescriptor;
use crate::rate_limits::LimitSelection;
use crate::rate_limits::RateLimits;
use crate::route::Action;
use crate::route::Route;

/// The method of the service.
const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
/// The object in the filter state that tells how many hits a request counts as.
const HITS_ADDEND: &str = "envoy.ratelimit.hits_addend";
/// How many questions about ended streams a worker may have under way for one filter.
const MAX_LATE_QUESTIONS: usize = 1024;

pub(super) const FACTORY: FilterFactory = FilterFactory {
    message: "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
    build,
    routes: Some(&RouteFactory {
        message: "envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute",
        build: |config, path, _| {
            let message: api::RateLimitPerRoute = unpack(config, path)?;
            Ok(Arc::new(RateLimitOfRoute::build(&message, path)?))
        },
    }),
};

outrider_stats::group! {
    /// `cluster.<name>.ratelimit.*`: of the cluster that the request is for. Each is listed from the first request on.
    pub(super) struct ClusterLimitStats {
        error: Lazy<Counter>,
        failure_mode_allowed: Lazy<Counter>,
        ok: Lazy<Counter>,
        over_limit: Lazy<Counter>,
    }
}

fn build(
    config: &Any,
    path: &FieldPath,
    cx: &FilterBuildCx<'_>,
) -> Result<Arc<dyn HttpFilterConfig>, ConfigErrors> {
    let message: api::RateLimit = unpack(config, path)?;
    let config = cx.with_services(|services| RateLimitConfig::build(&message, path, services))?;
    Ok(Arc::new(RateLimitShared {
        config,
        node_cluster: cx.process.node_cluster.to_owned(),
        local_address: outrider_net::local_address(cx.process.prefers_ipv6),
    }))
}

/// The filter, shared by all workers.
#[derive(Debug)]
struct RateLimitShared {
    config: RateLimitConfig,
    node_cluster: String,
    local_address: IpAddr,
}

impl HttpFilterConfig for RateLimitShared {
    fn worker(self: Arc<Self>, cx: &FilterWorkerCx<'_>) -> Rc<dyn HttpFilter> {
        Rc::new(RateLimitFilter {
            client: Rc::new(InternalClient::new(cx.clusters, self.local_address)),
            worker: cx.worker.clone(),
            route: cx.route_config(),
            slot: cx.slot(),
            clusters: RefCell::default(),
            late: RefCell::default(),
            store: cx.worker.store.clone(),
            shared: self,
        })
    }
}

/// The filter on one worker.
#[derive(Debug)]
struct RateLimitFilter {
    shared: Arc<RateLimitShared>,
    client: Rc<InternalClient>,
    worker: Rc<WorkerCx>,
    route: RouteConfig<RateLimitOfRoute>,
    slot: StreamSlot<LimitedStream>,
    /// By cluster.
    clusters: RefCell<HashMap<Rc<str>, Arc<ClusterLimitStats>>>,
    /// Questions about streams that have ended.
    late: RefCell<JoinSet<()>>,
    store: WorkerStore,
}

/// What the filter keeps of a request that it let pass.
#[derive(Debug, Default)]
struct LimitedStream {
    /// Headers for the response.
    headers: RefCell<Option<HeaderMap>>,
    /// The route whose limits applied to the request.
    route: Option<Arc<Route>>,
    /// The headers of the response that are read after its end.
    captured: RefCell<Option<HeaderMap>>,
}

impl HttpFilter for RateLimitFilter {
    fn on_request(&self, stream: &mut Stream, _: &mut Body, _: &FilterCx<'_>) -> FilterStatus {
        let config = &self.shared.config;
        let is_enabled = config.enabled.holds(stream.runtime(), self.worker.random());
        if !is_enabled || !config.requests.include(&stream.request) {
            return FilterStatus::Continue;
        }
        let route = stream.route.as_ref().filter(|_| stream.cluster.is_some());
        let Some(route) = route.filter(|route| matches!(route.action, Action::Forward(_))) else {
            return FilterStatus::Continue;
        };
        let route = route.clone();
        if counted(self.describe(stream, Some(&route), false), stream).is_empty() {
            if self.follows(&route) {
                self.remember(stream, None);
            }
            return FilterStatus::Continue;
        }
        FilterStatus::Wait
    }

    fn wait_on_request<'a>(
        &'a self,
        stream: &'a mut Stream,
        body: &'a mut Body,
        cx: &'a FilterCx<'a>,
    ) -> FilterWait<'a> {
        Box::pin(async move {
            let route = stream.route.clone();
            let descriptors = counted(self.describe(stream, route.as_deref(), false), stream);
            let question = self.question(stream, route.as_deref(), &descriptors);
            let config = &self.shared.config;
            let asked = (self.client).unary(
                &config.service,
                SHOULD_RATE_LIMIT,
                &question,
                config.timeout,
            );
            let answer = cx.hold_body(body, asked).await;
            match answer {
                Ok::<RateLimitResponse, _>(response) => self.decide(stream, response, &descriptors),
                Err(status) => {
                    log::debug!(target: "ratelimit", "no answer: {status}");
                    self.fail(stream)
                }
            }
        })
    }

    fn on_response(&self, stream: &mut Stream, _: &mut Body, _: &FilterCx<'_>) -> FilterStatus {
        let Some(kept) = self.slot.share(stream) else {
            return FilterStatus::Continue;
        };
        let Some(response) = &mut stream.response else {
            return FilterStatus::Continue;
        };
        if let Some(added) = kept.headers.take() {
            for (name, value) in &added {
                response.headers.append(name.clone(), value.clone());
            }
            response.headers.join(header::JOINED_IN_RESPONSES);
        }
        if let Some(route) = kept.route.as_deref() {
            let mut captures = Captures::default();
            for limits in self.lists(route) {
                limits.capture(&mut captures);
            }
            let captured = captures.response.from(&response.headers);
            kept.captured.replace(Some(captured));
        }
        FilterStatus::Continue
    }

    fn follows_end(&self) -> bool {
        true
    }

    fn on_stream_end(&self, stream: &mut Stream) {
        let Some(kept) = self.slot.share(stream) else {
            return;
        };
        let Some(route) = kept.route.clone() else {
            return;
        };
        // Actions do not see the response's headers.
        let printed = stream.response.as_mut();
        let printed = printed.map(|response| std::mem::take(&mut response.headers));
        let described = self.describe(stream, Some(&route), true);
        if let Some(response) = &mut stream.response {
            response.headers = kept.captured.take().or(printed).unwrap_or_default();
        }
        let descriptors = counted(described, stream);
        if !descriptors.is_empty() {
            self.ask_late(self.question(stream, Some(&route), &descriptors));
        }
    }
}

impl RateLimitFilter {
    /// The filter's configuration for this route.
    fn of_route<'r>(&self, route: Option<&'r Route>) -> Option<&'r RateLimitOfRoute> {
        self.route.most_specific(route)
    }

    /// The lists of limits that apply to the requests of a route.
    fn lists<'r>(&'r self, route: &'r Route) -> impl Iterator<Item = &'r RateLimits> {
        let of_route = self.of_route(Some(route));
        let own = of_route.map(|config| &config.limits);
        let own = own.filter(|limits| !limits.is_empty());
        let own =
            own.or_else(|| Some(&self.shared.config.limits).filter(|limits| !limits.is_empty()));
        let shared = match own {
            Some(_) => [None, None],
            None => route.rate_limits(of_route.map(|config| config.of_host)),
        };
        own.into_iter().chain(shared.into_iter().flatten())
    }

    /// Whether limits of the route apply when the response has ended.
    fn follows(&self, route: &Route) -> bool {
        self.lists(route).any(RateLimits::follow_end)
    }

    /// What the service is told of the request, apart from hits.
    fn describe<'r>(
        &'r self,
        stream: &Stream,
        route: Option<&'r Route>,
        on_stream_done: bool,
    ) -> Vec<DescribedRequest<'r>> {
        let selection = LimitSelection {
            stage: self.shared.config.stage,
            on_stream_done,
            node_cluster: &self.shared.node_cluster,
            random: stream.id,
        };
        let mut described = Vec::new();
        for limits in route.into_iter().flat_map(|route| self.lists(route)) {
            limits.describe(stream, &selection, &mut described);
        }
        described
    }

    fn question(
        &self,
        stream: &Stream,
        route: Option<&Route>,
        descriptors: &[LimitDescriptor],
    ) -> RateLimitRequest {
        let domain = self.of_route(route).map_or("", |config| &config.domain);
        let hits = stream.filter_state.get(HITS_ADDEND);
        let hits = hits.and_then(|hits| hits.text()?.parse().ok());
        RateLimitRequest {
            domain: match domain {
                "" => self.shared.config.domain.clone(),
                domain => domain.to_owned(),
            },
            descriptors: descriptors.iter().map(answer::descriptor).collect(),
            hits_addend: hits.unwrap_or(0),
        }
    }

    /// Asks about a stream that has ended. The answer changes nothing.
    fn ask_late(&self, question: RateLimitRequest) {
        let mut late = self.late.borrow_mut();
        while late.try_join_next().is_some() {}
        if late.len() >= MAX_LATE_QUESTIONS {
            log::debug!(target: "ratelimit", "too many questions about ended streams");
            return;
        }
        let (client, shared) = (self.client.clone(), self.shared.clone());
        late.spawn_local(async move {
            let config = &shared.config;
            let (service, timeout) = (&config.service, config.timeout);
            let asked = client.unary(service, SHOULD_RATE_LIMIT, &question, timeout);
            if let Err::<RateLimitResponse, _>(status) = asked.await {
                log::debug!(target: "ratelimit", "no answer: {status}");
            }
        });
    }

    /// Keeps what the end of the stream, or the response, needs.
    fn remember(&self, stream: &mut Stream, headers: Option<HeaderMap>) {
        let route = stream.route.clone().filter(|route| self.follows(route));
        let kept = LimitedStream {
            headers: RefCell::new(headers),
            route,
            captured: RefCell::default(),
        };
        self.slot.set(stream, Rc::new(kept));
    }

    /// Applies the answer to the request, or replies to it.
    fn decide(
        &self,
        stream: &mut Stream,
        response: RateLimitResponse,
        descriptors: &[LimitDescriptor],
    ) -> Result<(), LocalReply> {
        let config = &self.shared.config;
        let is_over = response.overall_code() == Code::OverLimit;
        let mut answer = LimitAnswer::new(config, response, descriptors);
        if !answer.metadata.fields.is_empty() {
            let namespace = &config.metadata_namespace;
            let metadata = std::mem::take(&mut answer.metadata);
            stream.dynamic_metadata.merge(namespace, metadata);
        }
        if let Some(stats) = self.cluster_stats(stream) {
            match is_over {
                true => stats.over_limit.get().inc(),
                false => stats.ok.get().inc(),
            }
        }
        if is_over {
            charge_cluster(stream, config.limited_status);
        }
        if is_over
            && config
                .enforced
                .holds(stream.runtime(), self.worker.random())
        {
            self.remember(stream, None);
            let status = config.limited_status;
            let mut reply = LocalReply::new(status, "request_rate_limited")
                .flag(ResponseFlag::RateLimited)
                .body(std::mem::take(&mut answer.body));
            reply.keeps_route_headers = true;
            reply.headers = answer.into_reply_headers();
            reply.mutations.clone_from(&config.response_headers);
            reply.grpc_status = config.grpc_status;
            return Err(reply);
        }
        for (name, value) in &answer.request_headers {
            stream.request.headers.append(name.clone(), value.clone());
        }
        stream.request.headers.join(header::JOINED_IN_REQUESTS);
        self.remember(stream, Some(answer.response_headers));
        Ok(())
    }

    /// Lets a request pass, or replies to it, because the service has failed.
    fn fail(&self, stream: &mut Stream) -> Result<(), LocalReply> {
        let config = &self.shared.config;
        let stats = self.cluster_stats(stream);
        if let Some(stats) = &stats {
            stats.error.get().inc();
        }
        self.remember(stream, None);
        if config.denies_on_failure(stream.runtime(), self.worker.random()) {
            let reply = LocalReply::new(config.status_on_error, "rate_limiter_error");
            return Err(reply.flag(ResponseFlag::RateLimitServiceError));
        }
        if let Some(stats) = &stats {
            stats.failure_mode_allowed.get().inc();
        }
        Ok(())
    }

    /// `cluster.<name>.ratelimit.*` of the request's cluster.
    fn cluster_stats(&self, stream: &Stream) -> Option<Arc<ClusterLimitStats>> {
        let name = stream.cluster.as_ref()?.observability_name();
        let mut clusters = self.clusters.borrow_mut();
        if let Some(stats) = clusters.get(name) {
            return Some(stats.clone());
        }
        let scope = Scope::new("cluster").name(name).name("ratelimit");
        let scope = match self.shared.config.stat_prefix.as_str() {
            "" => scope,
            prefix => scope.name(prefix),
        };
        let stats: Arc<ClusterLimitStats> = self.store.register(scope);
        clusters.insert(name.clone(), stats.clone());
        Some(stats)
    }
}

/// The whole descriptors.
fn counted(described: Vec<DescribedRequest<'_>>, stream: &Stream) -> Vec<LimitDescriptor> {
    let described = described.into_iter();
    described.filter_map(|one| one.counted(stream)).collect()
}
