//! Refuses requests that change something and come from another origin (`envoy.filters.http.csrf`).

use std::rc::Rc;
use std::sync::Arc;

use http::Method;
use http::StatusCode;
use http::uri::Authority;
use outrider_codec::Body;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::RequestHead;
use outrider_codec::header;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::http::csrf::v3::CsrfPolicy as Message;
use outrider_config::string_matcher::StringMatcher;
use outrider_config::unpack;
use outrider_runtime::RuntimeFraction;
use outrider_stats::Counter;
use outrider_stats::Scope;
use prost_types::Any;

use super::FilterBuildCx;
use super::FilterCx;
use super::FilterFactory;
use super::FilterStatus;
use super::FilterWorkerCx;
use super::HttpFilter;
use super::HttpFilterConfig;
use super::RouteConfig;
use super::RouteFactory;
use crate::Stream;
use crate::local_reply::LocalReply;

static REFERER: HeaderName = HeaderName::from_static("referer");

pub(super) const FACTORY: FilterFactory = FilterFactory {
    message: "envoy.extensions.filters.http.csrf.v3.CsrfPolicy",
    build,
    routes: Some(&RouteFactory {
        message: "envoy.extensions.filters.http.csrf.v3.CsrfPolicy",
        build: |config, path, _| {
            let message: Message = unpack(config, path)?;
            Ok(Arc::new(CsrfPolicy::build(&message, path)?))
        },
    }),
};

outrider_stats::group! {
    /// `http.<stat_prefix>.csrf.*`
    pub(super) struct CsrfStats {
        missing_source_origin: Counter,
        request_invalid: Counter,
        request_valid: Counter,
    }
}

fn build(
    config: &Any,
    path: &FieldPath,
    cx: &FilterBuildCx<'_>,
) -> Result<Arc<dyn HttpFilterConfig>, ConfigErrors> {
    let message: Message = unpack(config, path)?;
    Ok(Arc::new(CsrfConfig {
        policy: CsrfPolicy::build(&message, path)?,
        scope: cx.scope.clone().name("csrf"),
    }))
}

/// The policy of the filter or of a route.
#[derive(Debug)]
struct CsrfPolicy {
    /// `None` for always.
    enabled: Option<RuntimeFraction>,
    /// `None` for never.
    shadow: Option<RuntimeFraction>,
    additional_origins: Vec<StringMatcher>,
}

impl CsrfPolicy {
    fn build(config: &Message, path: &FieldPath) -> Result<CsrfPolicy, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let origins = config.additional_origins.iter().enumerate();
        let origins = origins.filter_map(|(at, matcher)| {
            let path = path.field("additional_origins").index(at);
            errors.collect(StringMatcher::build(matcher, &path))
        });
        let additional_origins = origins.collect();
        errors.finish(CsrfPolicy {
            enabled: config.filter_enabled.as_ref().map(RuntimeFraction::of),
            shadow: config.shadow_enabled.as_ref().map(RuntimeFraction::of),
            additional_origins,
        })
    }

    fn allows(&self, source: &[u8], request: &RequestHead) -> bool {
        let target = host_and_port(request.authority());
        source == target
            || self
                .additional_origins
                .iter()
                .any(|origin| origin.matches(source))
    }
}

#[derive(Debug)]
struct CsrfConfig {
    policy: CsrfPolicy,
    scope: Scope,
}

impl HttpFilterConfig for CsrfConfig {
    fn worker(self: Arc<Self>, cx: &FilterWorkerCx<'_>) -> Rc<dyn HttpFilter> {
        Rc::new(CsrfFilter {
            stats: cx.worker.store.register(self.scope.clone()),
            routes: cx.route_config(),
            config: self,
        })
    }
}

/// The filter on one worker.
#[derive(Debug)]
struct CsrfFilter {
    config: Arc<CsrfConfig>,
    stats: Arc<CsrfStats>,
    routes: RouteConfig<CsrfPolicy>,
}

impl HttpFilter for CsrfFilter {
    fn on_request(&self, stream: &mut Stream, _: &mut Body, cx: &FilterCx<'_>) -> FilterStatus {
        let policy = self.routes.most_specific(stream.route.as_deref());
        let policy = policy.unwrap_or(&self.config.policy);
        let holds = |share: &RuntimeFraction| share.holds(stream.runtime(), cx.worker.random());
        let is_enabled = policy.enabled.as_ref().is_none_or(holds);
        if !is_enabled && !policy.shadow.as_ref().is_some_and(holds) {
            return FilterStatus::Continue;
        }
        let request = &stream.request;
        let changes = [Method::POST, Method::PUT, Method::DELETE, Method::PATCH];
        if !changes.contains(&request.method) {
            return FilterStatus::Continue;
        }
        let source = source_origin(request);
        if source.is_none() {
            self.stats.missing_source_origin.inc();
        }
        if source.is_some_and(|source| policy.allows(source, request)) {
            self.stats.request_valid.inc();
            return FilterStatus::Continue;
        }
        if source.is_some() {
            self.stats.request_invalid.inc();
        }
        match is_enabled {
            true => FilterStatus::Reply(
                LocalReply::new(StatusCode::FORBIDDEN, "csrf_origin_mismatch")
                    .body("Invalid origin"),
            ),
            false => FilterStatus::Continue,
        }
    }
}

/// Where the request comes from, if the browser tells.
fn source_origin(request: &RequestHead) -> Option<&[u8]> {
    let value = |name| request.headers.get(name).map(HeaderValue::as_bytes);
    let origin = value(&header::ORIGIN);
    // The browser hides the origin: as in Envoy, `referer` does not count then.
    if origin.is_some_and(|origin| origin == b"null") {
        return None;
    }
    let origin = origin
        .map(host_and_port)
        .filter(|origin| !origin.is_empty());
    let referer = value(&REFERER).map(host_and_port);
    origin.or(referer).filter(|origin| !origin.is_empty())
}

/// The host and the port of a URL; the whole text if it is none.
fn host_and_port(url: &[u8]) -> &[u8] {
    authority(url).unwrap_or(url)
}

/// The host and the port of a URL of any scheme.
fn authority(url: &[u8]) -> Option<&[u8]> {
    let is_scheme = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    let scheme = url.iter().take_while(is_scheme).count();
    let rest = url.get(scheme..)?.strip_prefix(b"://")?;
    if !url.first()?.is_ascii_alphabetic() {
        return None;
    }
    let end = rest.iter().position(|byte| b"/?".contains(byte));
    let authority = rest.get(..end.unwrap_or(rest.len()))?;
    let authority = std::str::from_utf8(authority).ok()?;
    let (_, authority) = authority.split_once('@').unwrap_or(("", authority));
    let parsed: Authority = authority.parse().ok()?;
    let is_valid = match authority.strip_prefix(parsed.host())? {
        "" => true,
        port => port.strip_prefix(':')?.parse::<u16>().is_ok(),
    };
    is_valid.then_some(authority.as_bytes())
}
