//! Resolves the host of a request before the router picks it (`envoy.filters.http.dynamic_forward_proxy`).

use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use outrider_codec::Body;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::http::dynamic_forward_proxy::v3 as api;
use outrider_config::api::envoy::extensions::filters::http::dynamic_forward_proxy::v3::filter_config::ImplementationSpecifier;
use outrider_config::api::envoy::extensions::filters::http::dynamic_forward_proxy::v3::per_route_config::HostRewriteSpecifier;
use outrider_config::unpack;
use outrider_upstream::DnsCache;
use outrider_upstream::DynamicHosts;
use outrider_upstream::LookupFailure;
use outrider_upstream::PendingLookup;
use prost_types::Any;

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
use crate::ResponseFlag;
use crate::Stream;
use crate::dynamic_host;
use crate::local_reply::LocalReply;

pub(super) const FACTORY: FilterFactory = FilterFactory {
    message: "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig",
    build,
    routes: Some(&RouteFactory {
        message: "envoy.extensions.filters.http.dynamic_forward_proxy.v3.PerRouteConfig",
        build: |config, path, _| {
            let message: api::PerRouteConfig = unpack(config, path)?;
            Ok(Arc::new(HostRewrite::build(&message, path)?))
        },
    }),
};

/// What replaces the host before it is resolved.
#[derive(Debug)]
enum HostRewrite {
    Literal(HeaderValue),
    /// The first value of this header, if the request has it.
    Header(HeaderName),
    None,
}

impl HostRewrite {
    fn build(message: &api::PerRouteConfig, path: &FieldPath) -> Result<HostRewrite, ConfigError> {
        match &message.host_rewrite_specifier {
            Some(HostRewriteSpecifier::HostRewriteLiteral(host)) if !host.is_empty() => {
                let value = HeaderValue::try_from(host.clone());
                let path = path.field("host_rewrite_literal");
                value.map(HostRewrite::Literal).map_err(|_| {
                    ConfigError::new(&path, format!("{host:?} is no value of a header"))
                })
            }
            Some(HostRewriteSpecifier::HostRewriteHeader(name)) if !name.is_empty() => {
                let lower = name.to_ascii_lowercase();
                let path = path.field("host_rewrite_header");
                lower
                    .parse()
                    .map(HostRewrite::Header)
                    .map_err(|_| ConfigError::new(&path, format!("{name:?} is no header name")))
            }
            _ => Ok(HostRewrite::None),
        }
    }

    fn apply(&self, stream: &mut Stream) {
        let host = match self {
            HostRewrite::Literal(host) => Some(host.clone()),
            HostRewrite::Header(name) => stream.request.headers.get(name).cloned(),
            HostRewrite::None => None,
        };
        if host.is_some() {
            stream.request.authority = host;
        }
    }
}

fn build(
    config: &Any,
    path: &FieldPath,
    cx: &FilterBuildCx<'_>,
) -> Result<Arc<dyn HttpFilterConfig>, ConfigErrors> {
    let message: api::FilterConfig = unpack(config, path)?;
    let path = path.field("dns_cache_config");
    let Some(ImplementationSpecifier::DnsCacheConfig(cache)) = &message.implementation_specifier
    else {
        let text = "expected the DNS cache of the clusters whose hosts are to be resolved";
        return Err(ConfigErrors::from(ConfigError::new(&path, text)));
    };
    Ok(Arc::new(DynamicForwardProxyConfig {
        cache: cx.process.dns_caches.get(cache, &path)?,
        reads_state: message.allow_dynamic_host_from_filter_state,
    }))
}

#[derive(Debug)]
struct DynamicForwardProxyConfig {
    cache: Arc<DnsCache>,
    /// `allow_dynamic_host_from_filter_state`
    reads_state: bool,
}

impl HttpFilterConfig for DynamicForwardProxyConfig {
    fn worker(self: Arc<Self>, cx: &FilterWorkerCx<'_>) -> Rc<dyn HttpFilter> {
        Rc::new(DynamicForwardProxyFilter {
            route: cx.route_config(),
            config: self,
        })
    }
}

/// The filter on one worker.
#[derive(Debug)]
struct DynamicForwardProxyFilter {
    config: Arc<DynamicForwardProxyConfig>,
    route: RouteConfig<HostRewrite>,
}

impl HttpFilter for DynamicForwardProxyFilter {
    fn on_request(&self, stream: &mut Stream, _: &mut Body, _: &FilterCx<'_>) -> FilterStatus {
        if dynamic_hosts(stream).is_none() {
            return FilterStatus::Continue;
        }
        let route = stream.route.clone();
        if let Some(rewrite) = self.route.most_specific(route.as_deref()) {
            rewrite.apply(stream);
        }
        let Some(hosts) = dynamic_hosts(stream) else {
            return FilterStatus::Continue;
        };
        let name = dynamic_host::of_request(stream, hosts, self.config.reads_state);
        let Some(known) = self.config.cache.known(&name) else {
            return FilterStatus::Wait;
        };
        let result = self.begin(stream).and_then(|_| known.map_err(reply));
        result.map_or_else(FilterStatus::Reply, |_| FilterStatus::Continue)
    }

    fn wait_on_request<'a>(
        &'a self,
        stream: &'a mut Stream,
        body: &'a mut Body,
        cx: &'a FilterCx<'a>,
    ) -> FilterWait<'a> {
        Box::pin(async move {
            let Some(hosts) = dynamic_hosts(stream) else {
                return Ok(());
            };
            let _pending = self.begin(stream)?;
            let name = dynamic_host::of_request(stream, hosts, self.config.reads_state);
            let found = cx.hold_body(body, self.config.cache.look_up(&name)).await;
            found.map(drop).map_err(reply)
        })
    }
}

impl DynamicForwardProxyFilter {
    /// Begins a lookup, unless the circuit breaker is open or the request names no host.
    fn begin(&self, stream: &Stream) -> Result<PendingLookup, LocalReply> {
        let pending = self.config.cache.begin().ok_or_else(|| {
            let details = "dynamic_forward_proxy_pending_request_overflow";
            LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, details)
                .body("Dynamic forward proxy pending request overflow")
        })?;
        if stream.request.host().is_empty() {
            return Err(
                LocalReply::new(StatusCode::BAD_REQUEST, "empty_host_header")
                    .body("Empty host header"),
            );
        }
        Ok(pending)
    }
}

/// Where the hosts of the request's cluster come from, if requests name them. Other clusters resolve their own hosts.
fn dynamic_hosts(stream: &Stream) -> Option<&DynamicHosts> {
    stream.cluster.as_ref()?.info().dynamic_hosts.as_ref()
}

fn reply(failure: LookupFailure) -> LocalReply {
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    match failure {
        LookupFailure::Overflow => {
            LocalReply::new(unavailable, LookupFailure::OVERFLOW).body("DNS cache overflow")
        }
        LookupFailure::Failed(details) => LocalReply::new(unavailable, details.to_string())
            .body("DNS resolution failure")
            .flag(ResponseFlag::DnsResolutionFailed),
    }
}
