//! Asks an authorization service about each request (`envoy.filters.http.ext_authz`).

mod answer;
mod apply;
mod check_request;
mod config;
mod http_service;
mod stats;

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::pending;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use outrider_client::InternalClient;
use outrider_codec::Body;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use outrider_config::api::envoy::extensions::filters::http::ext_authz::v3 as api;
use outrider_config::api::envoy::service::auth::v3::CheckRequest;
use outrider_config::api::envoy::service::auth::v3::CheckResponse;
use outrider_config::unpack;
use outrider_net::clock;
use outrider_stats::Scope;
use outrider_stats::WorkerStore;
use prost_types::Any;

use crate::ResponseFlag;
use crate::Stream;
use crate::filters::FilterBuildCx;
use crate::filters::FilterCx;
use crate::filters::FilterFactory;
use crate::filters::FilterStatus;
use crate::filters::FilterWait;
use crate::filters::FilterWorkerCx;
use crate::filters::HttpFilter;
use crate::filters::HttpFilterConfig;
use crate::filters::RouteConfig;
use crate::filters::StreamSlot;
use crate::filters::charge_cluster;
use crate::filters::route_config::RouteFactory;
use crate::local_reply::LocalReply;

use self::answer::AuthzDecision;
use self::answer::Field;
use self::answer::Rejection;
use self::answer::Verdict;
use self::apply::Refused;
use self::check_request::CheckRequestCx;
use self::check_request::CheckedBody;
use self::config::BodySettings;
use self::config::CheckSettings;
use self::config::ExtAuthzConfig;
use self::config::RouteSettings;
use self::config::Service;
use self::stats::ClusterAuthzStats;
use self::stats::ExtAuthzStats;

/// The method of a gRPC service.
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
/// The namespace of the filter's dynamic metadata.
const NAMESPACE: &str = "envoy.filters.http.ext_authz";
/// Tells the upstream that a request was let through although the service failed.
static FAILURE_MODE_ALLOWED: HeaderName =
    HeaderName::from_static("x-envoy-auth-failure-mode-allowed");

pub(super) const FACTORY: FilterFactory = FilterFactory {
    message: "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
    build,
    routes: Some(&RouteFactory {
        message: "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
        build: |config, path, _| {
            let message: api::ExtAuthzPerRoute = unpack(config, path)?;
            Ok(Arc::new(RouteSettings::build(&message, path)?))
        },
    }),
};

fn build(
    config: &Any,
    path: &FieldPath,
    cx: &FilterBuildCx<'_>,
) -> Result<Arc<dyn HttpFilterConfig>, ConfigErrors> {
    let message: api::ExtAuthz = unpack(config, path)?;
    let config = cx.with_services(|services| ExtAuthzConfig::build(&message, path, services))?;
    Ok(Arc::new(ExtAuthz {
        config,
        scope: cx.scope.clone(),
        local_address: outrider_net::local_address(cx.process.prefers_ipv6),
    }))
}

/// The filter, shared by all workers.
#[derive(Debug)]
struct ExtAuthz {
    config: ExtAuthzConfig,
    /// `http.<stat_prefix>`
    scope: Scope,
    local_address: IpAddr,
}

impl ExtAuthz {
    /// The scope of the filter's stats below `scope`.
    fn stats_scope(&self, scope: Scope) -> Scope {
        let scope = scope.name("ext_authz");
        match self.config.stat_prefix.as_str() {
            "" => scope,
            prefix => scope.name(prefix),
        }
    }
}

impl HttpFilterConfig for ExtAuthz {
    fn worker(self: Arc<Self>, cx: &FilterWorkerCx<'_>) -> Rc<dyn HttpFilter> {
        let store = cx.worker.store.clone();
        Rc::new(ExtAuthzFilter {
            client: InternalClient::new(cx.clusters, self.local_address),
            route: cx.route_config(),
            response: cx.slot(),
            stats: store.register(self.stats_scope(self.scope.clone())),
            clusters: RefCell::default(),
            store,
            shared: self,
        })
    }
}

/// Headers to add to the response of a request that was allowed.
type ResponseHeaders = Vec<(Field, HeaderAppendAction)>;

/// The filter on one worker.
#[derive(Debug)]
struct ExtAuthzFilter {
    shared: Arc<ExtAuthz>,
    client: InternalClient,
    route: RouteConfig<RouteSettings>,
    response: StreamSlot<ResponseHeaders>,
    stats: Arc<ExtAuthzStats>,
    /// By cluster.
    clusters: RefCell<HashMap<Rc<str>, Arc<ClusterAuthzStats>>>,
    store: WorkerStore,
}

impl HttpFilter for ExtAuthzFilter {
    fn on_request(&self, stream: &mut Stream, _: &mut Body, cx: &FilterCx<'_>) -> FilterStatus {
        let route = stream.route.as_deref();
        let specific = self.route.most_specific(route);
        if route.is_none() || matches!(specific, Some(RouteSettings::Disabled)) {
            return FilterStatus::Continue;
        }
        let config = &self.shared.config;
        let enabled = config.enabled.as_ref();
        if enabled.is_none_or(|share| share.holds(stream.runtime(), cx.worker.random())) {
            return FilterStatus::Wait;
        }
        self.stats.disabled.inc();
        let denies = config.deny_at_disable.as_ref();
        if denies.is_some_and(|flag| flag.is_set(stream.runtime())) {
            return FilterStatus::Reply(unauthorized(config.status_on_error, "ext_authz_error"));
        }
        FilterStatus::Continue
    }

    fn wait_on_request<'a>(
        &'a self,
        stream: &'a mut Stream,
        body: &'a mut Body,
        cx: &'a FilterCx<'a>,
    ) -> FilterWait<'a> {
        Box::pin(async move {
            let held = self.hold_body(stream, body, cx).await?;
            let check = self.question(stream, held, cx);
            let service = self
                .settings(stream)
                .and_then(|settings| settings.service.as_ref());
            let asked = self.ask(service.unwrap_or(&self.shared.config.service), check);
            let began = clock::now();
            let mut answer = cx.hold_body(body, asked).await;
            answer.note_duration(clock::since(began));
            self.decide(stream, answer, cx)
        })
    }

    fn on_response(&self, stream: &mut Stream, _: &mut Body, _: &FilterCx<'_>) -> FilterStatus {
        if let Some(headers) = self.response.share(stream)
            && let Some(response) = &mut stream.response
        {
            apply::to_response(&headers, &mut response.headers);
        }
        FilterStatus::Continue
    }
}

impl ExtAuthzFilter {
    /// The settings of the most specific level of the route.
    fn settings<'s>(&self, stream: &'s Stream) -> Option<&'s CheckSettings> {
        match self.route.most_specific(stream.route.as_deref()) {
            Some(RouteSettings::Check(settings)) => Some(settings),
            Some(RouteSettings::Disabled) | None => None,
        }
    }

    /// Reads the body as far as the service gets it.
    async fn hold_body(
        &self,
        stream: &Stream,
        body: &mut Body,
        cx: &FilterCx<'_>,
    ) -> Result<Option<CheckedBody>, LocalReply> {
        let settings = self.settings(stream);
        let own = settings.and_then(|settings| settings.body);
        let buffering = own.or(self.shared.config.body);
        let skips = settings.is_some_and(|settings| settings.without_body);
        let Some(BodySettings { limit, allows_part }) = buffering.filter(|_| !skips) else {
            return Ok(None);
        };
        if body.is_end_stream() || stream.is_upgrade {
            return Ok(None);
        }
        let held = if allows_part {
            // A part is enough once it has `limit` bytes.
            let Ok(held) = cx.buffer_body(body, limit - 1).await else {
                // The client has left or broke the protocol, and the stream ends for that.
                return pending().await;
            };
            held
        } else {
            cx.buffer_request(body, limit).await?
        };
        let is_partial = held.data.len() > limit;
        let data = held.data.slice(..held.data.len().min(limit));
        Ok(Some(CheckedBody { data, is_partial }))
    }

    fn question(
        &self,
        stream: &Stream,
        body: Option<CheckedBody>,
        cx: &FilterCx<'_>,
    ) -> CheckRequest {
        let mut context = HashMap::new();
        for settings in self.route.all(stream.route.as_deref()) {
            if let RouteSettings::Check(settings) = settings {
                let extensions = settings.context.iter();
                context.extend(extensions.map(|(key, value)| (key.clone(), value.clone())));
            }
        }
        let facts = CheckRequestCx {
            body,
            context,
            received: cx.meter.body_bytes_received(),
        };
        check_request::build(&self.shared.config, stream, facts)
    }

    async fn ask(&self, service: &Service, check: CheckRequest) -> AuthzDecision {
        match service {
            Service::Grpc { service, timeout } => {
                let timeout = (!timeout.is_zero()).then_some(*timeout);
                let answer = self.client.unary(service, CHECK, &check, timeout).await;
                match answer {
                    Ok::<CheckResponse, _>(response) => response.into(),
                    Err(status) => {
                        log::debug!(target: "ext_authz", "no answer: {status}");
                        AuthzDecision::default()
                    }
                }
            }
            Service::Http(service) => {
                let request = check.attributes.and_then(|attributes| attributes.request);
                let request = request.and_then(|request| request.http).unwrap_or_default();
                http_service::ask(service, &self.client, request).await
            }
        }
    }

    /// Applies the answer to the request, or replies to it.
    fn decide(
        &self,
        stream: &mut Stream,
        answer: AuthzDecision,
        cx: &FilterCx<'_>,
    ) -> Result<(), LocalReply> {
        let config = &self.shared.config;
        let cluster = self.cluster_stats(stream);
        let cluster = cluster.as_deref();
        if !answer.metadata.fields.is_empty() {
            match config.ingests_metadata {
                true => stream.dynamic_metadata.merge(NAMESPACE, answer.metadata),
                false => self.stats.ignored_dynamic_metadata.inc(),
            }
        }
        match answer.verdict {
            Verdict::Ok(changes) => {
                let clears = config.clears_route_cache && changes.touch_request();
                let applied = apply::to_request(config, &changes, &mut stream.request);
                applied.map_err(|Refused| self.invalid(cluster))?;
                if !changes.response.is_empty() {
                    apply::check_response(config, &changes.response)
                        .map_err(|Refused| self.invalid(cluster))?;
                    self.response.set(stream, Rc::new(changes.response));
                }
                if clears {
                    cx.clear_route_cache(stream);
                }
                self.stats.ok.inc();
                if let Some(cluster) = cluster {
                    cluster.ok.get().inc();
                }
                Ok(())
            }
            Verdict::Denied(rejection) => {
                self.stats.denied.inc();
                if let Some(cluster) = cluster {
                    cluster.denied.get().inc();
                }
                let status = rejection.status(StatusCode::FORBIDDEN);
                if config.charges_cluster {
                    charge_cluster(stream, status);
                }
                let reply = unauthorized(status, "ext_authz_denied");
                Err(self.rejected(rejection, reply, cluster))
            }
            Verdict::Error(rejection) => {
                self.stats.error.inc();
                if let Some(cluster) = cluster {
                    cluster.error.get().inc();
                }
                if !config.failure_mode_allow {
                    let status = rejection.status(config.status_on_error);
                    let reply = unauthorized(status, "ext_authz_error");
                    return Err(self.rejected(rejection, reply, cluster));
                }
                self.stats.failure_mode_allowed.inc();
                if let Some(cluster) = cluster {
                    cluster.failure_mode_allowed.get().inc();
                }
                if config.adds_failure_header {
                    let value = HeaderValue::from_static("true");
                    stream.request.headers.append(&FAILURE_MODE_ALLOWED, value);
                }
                Ok(())
            }
        }
    }

    /// Completes the reply to a request that the service does not allow; another one if its headers are not valid and are
    /// checked.
    fn rejected(
        &self,
        rejection: Rejection,
        mut reply: LocalReply,
        cluster: Option<&ClusterAuthzStats>,
    ) -> LocalReply {
        let config = &self.shared.config;
        // A header may be there several times.
        reply.keeps_route_headers = true;
        for (name, value) in &rejection.headers {
            match apply::field(name, value) {
                Some((name, value)) => reply.headers.push((name, value)),
                None if config.validates_mutations => return self.invalid(cluster),
                None => {}
            }
        }
        reply.body = rejection.body;
        if config.max_denied_body != 0 {
            reply.body.truncate(config.max_denied_body);
        }
        reply
    }

    fn invalid(&self, cluster: Option<&ClusterAuthzStats>) -> LocalReply {
        self.stats.invalid.inc();
        if let Some(cluster) = cluster {
            cluster.invalid.get().inc();
        }
        unauthorized(StatusCode::INTERNAL_SERVER_ERROR, "ext_authz_invalid")
    }

    /// `cluster.<name>.ext_authz.*` of the request's cluster.
    fn cluster_stats(&self, stream: &Stream) -> Option<Arc<ClusterAuthzStats>> {
        let name = stream.cluster.as_ref()?.observability_name();
        let mut clusters = self.clusters.borrow_mut();
        if let Some(stats) = clusters.get(name) {
            return Some(stats.clone());
        }
        let scope = self.shared.stats_scope(Scope::new("cluster").name(name));
        let stats: Arc<ClusterAuthzStats> = self.store.register(scope);
        clusters.insert(name.clone(), stats.clone());
        Some(stats)
    }
}

fn unauthorized(status: StatusCode, details: &'static str) -> LocalReply {
    LocalReply::new(status, details).flag(ResponseFlag::UnauthorizedExternalService)
}
