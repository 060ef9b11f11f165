//! Cross-origin resource sharing (`envoy.filters.http.cors`): answers preflight requests, and adds headers to responses.
//!
//! Routes and virtual hosts hold the policies. Their older field `cors` counts only where no policy is in
//! `typed_per_filter_config`.

use std::rc::Rc;
use std::sync::Arc;

use http::Method;
use http::StatusCode;
use outrider_codec::Body;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderValue;
use outrider_codec::header;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::RuntimeFractionalPercent;
use outrider_config::api::envoy::config::route::v3 as route;
use outrider_config::api::envoy::config::route::v3::cors_policy::EnabledSpecifier;
use outrider_config::api::envoy::extensions::filters::http::cors::v3 as filter;
use outrider_config::api::envoy::r#type::matcher::v3::StringMatcher as StringMatcherMessage;
use outrider_config::string_matcher::StringMatcher;
use outrider_config::unpack;
use outrider_runtime::RuntimeFraction;
use outrider_stats::Counter;
use outrider_stats::Scope;
use prost_types::Any;
use smallvec::SmallVec;

use super::FilterBuildCx;
use super::FilterCx;
use super::FilterFactory;
use super::FilterStatus;
use super::FilterWorkerCx;
use super::HttpFilter;
use super::HttpFilterConfig;
use super::RouteConfig;
use super::RouteFactory;
use super::RouteFilterConfig;
use super::StreamSlot;
use crate::Stream;
use crate::local_reply::LocalReply;
use crate::route::Action;
use crate::route::RouteCx;

pub(super) const FACTORY: FilterFactory = FilterFactory {
    message: "envoy.extensions.filters.http.cors.v3.Cors",
    build,
    routes: Some(&RouteFactory {
        message: "envoy.extensions.filters.http.cors.v3.CorsPolicy",
        build: build_for_routes,
    }),
};

outrider_stats::group! {
    /// `http.<stat_prefix>.cors.*`
    pub(super) struct CorsStats {
        origin_invalid: Counter,
        origin_valid: Counter,
    }
}

fn build(
    config: &Any,
    path: &FieldPath,
    cx: &FilterBuildCx<'_>,
) -> Result<Arc<dyn HttpFilterConfig>, ConfigErrors> {
    let _: filter::Cors = unpack(config, path)?;
    let scope = cx.scope.clone().name("cors");
    Ok(Arc::new(CorsConfig { scope }))
}

fn build_for_routes(
    config: &Any,
    path: &FieldPath,
    _: &RouteCx<'_>,
) -> Result<RouteFilterConfig, ConfigErrors> {
    let message: filter::CorsPolicy = unpack(config, path)?;
    let policy = CorsPolicy::build(&PolicyFields::from(&message), path)?;
    Ok(Arc::new(policy))
}

#[derive(Debug)]
struct CorsConfig {
    scope: Scope,
}

impl HttpFilterConfig for CorsConfig {
    fn worker(self: Arc<Self>, cx: &FilterWorkerCx<'_>) -> Rc<dyn HttpFilter> {
        Rc::new(CorsFilter {
            stats: cx.worker.store.register(self.scope.clone()),
            routes: cx.route_config(),
            allowed: cx.slot(),
        })
    }
}

/// A policy of a route or a virtual host (`CorsPolicy`).
#[derive(Debug)]
pub(crate) struct CorsPolicy {
    allow_origin: Box<[StringMatcher]>,
    allow_methods: Option<HeaderValue>,
    allow_headers: Option<HeaderValue>,
    expose_headers: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    allow_credentials: Option<bool>,
    allow_private_network_access: Option<bool>,
    forward_not_matching_preflights: Option<bool>,
    /// `None` for always.
    filter_enabled: Option<RuntimeFraction>,
    /// `None` for never.
    shadow_enabled: Option<RuntimeFraction>,
}

/// The fields of both messages of this name.
struct PolicyFields<'m> {
    allow_origin: &'m [StringMatcherMessage],
    allow_methods: &'m str,
    allow_headers: &'m str,
    expose_headers: &'m str,
    max_age: &'m str,
    allow_credentials: Option<bool>,
    allow_private_network_access: Option<bool>,
    forward_not_matching_preflights: Option<bool>,
    filter_enabled: Option<&'m RuntimeFractionalPercent>,
    shadow_enabled: Option<&'m RuntimeFractionalPercent>,
}

macro_rules! policy_fields {
    ($message:ty, $enabled:expr) => {
        impl<'m> From<&'m $message> for PolicyFields<'m> {
            fn from(message: &'m $message) -> PolicyFields<'m> {
                let enabled: fn(&$message) -> Option<&RuntimeFractionalPercent> = $enabled;
                PolicyFields {
                    allow_origin: &message.allow_origin_string_match,
                    allow_methods: &message.allow_methods,
                    allow_headers: &message.allow_headers,
                    expose_headers: &message.expose_headers,
                    max_age: &message.max_age,
                    allow_credentials: message.allow_credentials,
                    allow_private_network_access: message.allow_private_network_access,
                    forward_not_matching_preflights: message.forward_not_matching_preflights,
                    filter_enabled: enabled(message),
                    shadow_enabled: message.shadow_enabled.as_ref(),
                }
            }
        }
    };
}

policy_fields!(filter::CorsPolicy, |message| message
    .filter_enabled
    .as_ref());
policy_fields!(route::CorsPolicy, |message| message
    .enabled_specifier
    .as_ref()
    .map(|EnabledSpecifier::FilterEnabled(enabled)| enabled));

impl CorsPolicy {
    /// The policy in the older field `cors` of a route or a virtual host.
    pub(crate) fn of_route(
        message: &route::CorsPolicy,
        path: &FieldPath,
    ) -> Result<CorsPolicy, ConfigErrors> {
        CorsPolicy::build(&PolicyFields::from(message), path)
    }

    fn build(message: &PolicyFields<'_>, path: &FieldPath) -> Result<CorsPolicy, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let origins = path.field("allow_origin_string_match");
        let allow_origin = message.allow_origin.iter().enumerate();
        let allow_origin = allow_origin.filter_map(|(at, matcher)| {
            errors.collect(StringMatcher::build(matcher, &origins.index(at)))
        });
        let allow_origin = allow_origin.collect();
        let mut value = |text: &str, field: &'static str| {
            let value = Some(text).filter(|text| !text.is_empty());
            let value = HeaderValue::try_from(value?);
            if value.is_err() {
                errors.push(&path.field(field), "not a header value");
            }
            value.ok()
        };
        let policy = CorsPolicy {
            allow_origin,
            allow_methods: value(message.allow_methods, "allow_methods"),
            allow_headers: value(message.allow_headers, "allow_headers"),
            expose_headers: value(message.expose_headers, "expose_headers"),
            max_age: value(message.max_age, "max_age"),
            allow_credentials: message.allow_credentials,
            allow_private_network_access: message.allow_private_network_access,
            forward_not_matching_preflights: message.forward_not_matching_preflights,
            filter_enabled: message.filter_enabled.map(RuntimeFraction::of),
            shadow_enabled: message.shadow_enabled.map(RuntimeFraction::of),
        };
        errors.finish(policy)
    }
}

/// The policies of a request, the most specific one first. The first that sets a field decides it.
struct CorsPolicies<'r>(SmallVec<[&'r CorsPolicy; 4]>);

impl<'r> CorsPolicies<'r> {
    fn first<T>(&self, field: impl Fn(&'r CorsPolicy) -> Option<T>) -> Option<T> {
        self.0.iter().find_map(|policy| field(policy))
    }

    fn allows_origin(&self, origin: &[u8]) -> bool {
        let matchers =
            self.first(|policy| Some(&policy.allow_origin).filter(|list| !list.is_empty()));
        let mut matchers = matchers.into_iter().flatten();
        // As in Envoy, a matcher that matches `*` allows all origins.
        matchers.any(|matcher| matcher.matches(b"*") || matcher.matches(origin))
    }

    fn allows_credentials(&self) -> bool {
        self.first(|policy| policy.allow_credentials)
            .unwrap_or(false)
    }

    /// The headers of the answer to a preflight request.
    fn answer(&self, request: &HeaderMap, origin: Option<&HeaderValue>) -> LocalReply {
        let mut reply = LocalReply::response(StatusCode::OK, "cors_response");
        if let Some(origin) = origin {
            reply = reply.header(&header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        }
        if self.allows_credentials() {
            reply = reply.header(&header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        // `*` allows what the client asks for.
        let asked_or = |value: &HeaderValue, asked| match value == "*" {
            true => request.get(asked).cloned().unwrap_or(EMPTY),
            false => value.clone(),
        };
        if let Some(methods) = self.first(|policy| policy.allow_methods.as_ref()) {
            let methods = asked_or(methods, &header::ACCESS_CONTROL_REQUEST_METHOD);
            reply = reply.header(&header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        }
        if let Some(headers) = self.first(|policy| policy.allow_headers.as_ref()) {
            let headers = asked_or(headers, &header::ACCESS_CONTROL_REQUEST_HEADERS);
            reply = reply.header(&header::ACCESS_CONTROL_ALLOW_HEADERS, headers);
        }
        if let Some(max_age) = self.first(|policy| policy.max_age.as_ref()) {
            reply = reply.header(&header::ACCESS_CONTROL_MAX_AGE, max_age.clone());
        }
        let asks_private = request.get(&header::ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK);
        if asks_private.is_some_and(|asks| asks == "true")
            && self.first(|policy| policy.allow_private_network_access) == Some(true)
        {
            reply = reply.header(&header::ACCESS_CONTROL_ALLOW_PRIVATE_NETWORK, TRUE);
        }
        reply
    }
}

const TRUE: HeaderValue = HeaderValue::from_static("true");
const EMPTY: HeaderValue = HeaderValue::from_static("");

/// The headers for the response to an allowed request.
#[derive(Debug)]
struct AllowedOrigin {
    origin: HeaderValue,
    allow_credentials: bool,
    expose_headers: Option<HeaderValue>,
}

/// The filter on one worker.
#[derive(Debug)]
struct CorsFilter {
    stats: Arc<CorsStats>,
    routes: RouteConfig<CorsPolicy>,
    allowed: StreamSlot<AllowedOrigin>,
}

impl CorsFilter {
    fn policies<'r>(&self, stream: &'r Stream) -> Option<CorsPolicies<'r>> {
        let route = stream.route.as_deref()?;
        let Action::Forward(forward) = &route.action else {
            return None;
        };
        let typed: SmallVec<_> = self.routes.all(Some(route)).rev().collect();
        if !typed.is_empty() {
            return Some(CorsPolicies(typed));
        }
        let of_host = route.virtual_host.cors.as_deref();
        let older = forward.cors.as_deref().into_iter().chain(of_host);
        Some(CorsPolicies(older.collect()))
    }
}

/// What the filter makes of a request: what its response gets, and the answer to a preflight request.
#[derive(Debug, Default)]
struct Outcome {
    allowed: Option<AllowedOrigin>,
    answer: Option<LocalReply>,
}

impl CorsFilter {
    fn outcome(&self, stream: &Stream, cx: &FilterCx<'_>) -> Option<Outcome> {
        let headers = &stream.request.headers;
        let origin = headers.get(&header::ORIGIN);
        let origin = origin.filter(|origin| !origin.is_empty())?;
        let policies = self.policies(stream)?;
        let first = policies.0.first()?;
        let holds = |share: &RuntimeFraction| share.holds(stream.runtime(), cx.worker.random());
        let enabled = first.filter_enabled.as_ref().is_none_or(holds);
        if !enabled && !first.shadow_enabled.as_ref().is_some_and(holds) {
            return None;
        }
        let is_allowed = policies.allows_origin(origin.as_bytes());
        match is_allowed {
            true => self.stats.origin_valid.inc(),
            false => self.stats.origin_invalid.inc(),
        }
        if !enabled {
            return None;
        }
        let asked = headers.get(&header::ACCESS_CONTROL_REQUEST_METHOD);
        let is_preflight = stream.request.method == Method::OPTIONS
            && asked.is_some_and(|asked| !asked.is_empty());
        let forwards = || {
            let forwards = policies.first(|policy| policy.forward_not_matching_preflights);
            forwards.unwrap_or(true)
        };
        let answers = is_preflight && (is_allowed || !forwards());
        let expose_headers = policies.first(|policy| policy.expose_headers.as_ref());
        Some(Outcome {
            allowed: is_allowed.then(|| AllowedOrigin {
                origin: origin.clone(),
                allow_credentials: policies.allows_credentials(),
                expose_headers: expose_headers.cloned(),
            }),
            answer: answers.then(|| policies.answer(headers, Some(origin).filter(|_| is_allowed))),
        })
    }
}

impl HttpFilter for CorsFilter {
    fn on_request(&self, stream: &mut Stream, _: &mut Body, cx: &FilterCx<'_>) -> FilterStatus {
        let outcome = self.outcome(stream, cx).unwrap_or_default();
        if let Some(allowed) = outcome.allowed {
            self.allowed.set(stream, Rc::new(allowed));
        }
        match outcome.answer {
            Some(answer) => FilterStatus::Reply(answer),
            None => FilterStatus::Continue,
        }
    }

    fn on_response(&self, stream: &mut Stream, _: &mut Body, _: &FilterCx<'_>) -> FilterStatus {
        if let Some(allowed) = self.allowed.share(stream)
            && let Some(response) = &mut stream.response
        {
            let headers = &mut response.headers;
            headers.insert(&header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed.origin.clone());
            if allowed.allow_credentials {
                headers.insert(&header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
            }
            if let Some(expose) = &allowed.expose_headers {
                headers.insert(&header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
            }
        }
        FilterStatus::Continue
    }
}
