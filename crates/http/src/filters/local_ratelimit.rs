//! Limits requests by tokens of this process (`envoy.filters.http.local_ratelimit`). All workers share the tokens.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::rc::Weak;
use std::sync::Arc;

use http::StatusCode;
use outrider_codec::Body;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::header;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::HeaderValueOption;
use outrider_config::api::envoy::extensions::common::ratelimit::v3::XRateLimitHeadersRfcVersion;
use outrider_config::api::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit as Message;
use outrider_config::unpack;
use outrider_net::DownstreamConnectionInfo;
use outrider_net::TokenBucket;
use outrider_net::TokenBucketSize;
use outrider_runtime::RuntimeFraction;
use outrider_stats::Scope;
use outrider_stats::SharedCounter;
use outrider_stats::Store;
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
use super::RouteFilterConfig;
use super::StreamSlot;
use crate::ResponseFlag;
use crate::Stream;
use crate::local_reply::LocalReply;
use crate::route::HeaderMutations;
use crate::route::RouteCx;

pub(super) const FACTORY: FilterFactory = FilterFactory {
    message: "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
    build,
    routes: Some(&RouteFactory {
        message: "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        build: build_for_routes,
    }),
};

outrider_stats::group! {
    /// `<stat_prefix>.http_local_rate_limit.*`: shared by all workers, as the tokens are.
    pub(super) struct LocalRateLimitStats {
        enabled: SharedCounter,
        enforced: SharedCounter,
        ok: SharedCounter,
        rate_limited: SharedCounter,
    }
}

fn build(
    config: &Any,
    path: &FieldPath,
    cx: &FilterBuildCx<'_>,
) -> Result<Arc<dyn HttpFilterConfig>, ConfigErrors> {
    let message: Message = unpack(config, path)?;
    let limit = RequestLimit::build(&message, path, cx.process.store)?;
    Ok(Arc::new(LocalRateLimitConfig(Arc::new(limit))))
}

fn build_for_routes(
    config: &Any,
    path: &FieldPath,
    cx: &RouteCx<'_>,
) -> Result<RouteFilterConfig, ConfigErrors> {
    let message: Message = unpack(config, path)?;
    if message.token_bucket.is_none() {
        return Err(ConfigErrors::from(ConfigError::new(
            &path.field("token_bucket"),
            "local rate limit token bucket must be set for per filter configs",
        )));
    }
    let limit = RequestLimit::build(&message, path, cx.store)?;
    Ok(Arc::new(RouteLimit(Arc::new(limit))))
}

#[derive(Debug)]
struct LocalRateLimitConfig(Arc<RequestLimit>);

/// The limit of a route.
#[derive(Debug)]
struct RouteLimit(Arc<RequestLimit>);

impl HttpFilterConfig for LocalRateLimitConfig {
    fn worker(self: Arc<Self>, cx: &FilterWorkerCx<'_>) -> Rc<dyn HttpFilter> {
        Rc::new(LocalRateLimitFilter {
            limit: self.0.clone(),
            routes: cx.route_config(),
            connections: RefCell::default(),
            shown: cx.slot(),
        })
    }
}

/// One limit, of the filter or of a route.
#[derive(Debug)]
struct RequestLimit {
    stats: Arc<LocalRateLimitStats>,
    tokens: Tokens,
    status: StatusCode,
    /// `None` for never.
    enabled: Option<RuntimeFraction>,
    /// `None` for never.
    enforced: Option<RuntimeFraction>,
    /// Headers for requests that are over the limit and go on.
    request_headers: Vec<HeaderMutations>,
    /// Headers for replies to requests that are over the limit.
    response_headers: Vec<(HeaderName, HeaderValue)>,
    /// `enable_x_ratelimit_headers`
    shows_limit: bool,
    /// `enable_retry_after_header`
    shows_retry_after: bool,
    /// `rate_limited_as_resource_exhausted`
    is_resource_exhausted: bool,
}

/// The tokens of a limit.
#[derive(Debug)]
enum Tokens {
    Unlimited,
    Shared(Arc<TokenBucket>),
    /// `local_rate_limit_per_downstream_connection`
    OfConnection(TokenBucketSize),
}

impl RequestLimit {
    fn build(
        message: &Message,
        path: &FieldPath,
        store: &Store,
    ) -> Result<RequestLimit, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let scope = Scope::new(&message.stat_prefix).name("http_local_rate_limit");
        let size = bucket_size(message, path, &mut errors);
        let per_connection = message.local_rate_limit_per_downstream_connection;
        let tokens = match size {
            Some(size) if per_connection => Tokens::OfConnection(size),
            Some(size) => Tokens::Shared(Arc::new(size.bucket())),
            None => Tokens::Unlimited,
        };
        let status = message.status.map_or(0, |status| status.code);
        let status = u16::try_from(status).ok().filter(|status| *status >= 400);
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        let added = path.field("request_headers_to_add_when_not_enforced");
        let request_headers = message.request_headers_to_add_when_not_enforced.iter();
        let request_headers = request_headers.enumerate().filter_map(|(at, option)| {
            errors.collect(HeaderMutations::of(option, &added.index(at)))
        });
        let request_headers = request_headers.collect();
        let added = path.field("response_headers_to_add");
        let response_headers = message.response_headers_to_add.iter().enumerate();
        let response_headers = response_headers
            .filter_map(|(at, option)| errors.collect(constant_header(option, &added.index(at))));
        let response_headers = response_headers.collect();
        let shows_limit =
            message.enable_x_ratelimit_headers() == XRateLimitHeadersRfcVersion::DraftVersion03;
        errors.finish(RequestLimit {
            stats: store.register(scope),
            tokens,
            status: status.unwrap_or(StatusCode::TOO_MANY_REQUESTS),
            enabled: message.filter_enabled.as_ref().map(RuntimeFraction::of),
            enforced: message.filter_enforced.as_ref().map(RuntimeFraction::of),
            request_headers,
            response_headers,
            shows_limit,
            shows_retry_after: message.enable_retry_after_header,
            is_resource_exhausted: message.rate_limited_as_resource_exhausted,
        })
    }

    fn reply(&self, bucket: Option<&TokenBucket>) -> LocalReply {
        let reply = LocalReply::new(self.status, "local_rate_limited").body("local_rate_limited");
        let mut reply = reply.flag(ResponseFlag::RateLimited);
        reply.headers.clone_from(&self.response_headers);
        if self.is_resource_exhausted {
            reply.grpc_status = Some(8); // RESOURCE_EXHAUSTED
        }
        if self.shows_retry_after
            && self.status == StatusCode::TOO_MANY_REQUESTS
            && let Some(bucket) = bucket
        {
            let after = HeaderValue::from(bucket.next_token());
            reply = reply.header(&header::RETRY_AFTER, after);
        }
        reply
    }
}

fn bucket_size(
    message: &Message,
    path: &FieldPath,
    errors: &mut ConfigErrors,
) -> Option<TokenBucketSize> {
    let path = path.field("token_bucket");
    let Some(bucket) = &message.token_bucket else {
        if message.local_rate_limit_per_downstream_connection {
            let text = "local rate limit token bucket must be set for per connection rate limiting";
            errors.push(&path, text);
        }
        return None;
    };
    errors.collect(TokenBucketSize::build(bucket, &path))
}

/// A header of a reply. The reply has no other header yet, so that nothing can be overwritten.
fn constant_header(
    option: &HeaderValueOption,
    path: &FieldPath,
) -> Result<(HeaderName, HeaderValue), ConfigErrors> {
    let mutation = HeaderMutations::of(option, path)?;
    let mut headers = HeaderMap::new();
    if mutation.is_constant() {
        mutation.apply_constants(&mut headers);
    }
    let first = headers.iter().next();
    let first = first.map(|(name, value)| (name.clone(), value.clone()));
    first.ok_or_else(|| {
        let text =
            "not supported: a header that is only overwritten, that is empty, or with a format";
        ConfigErrors::from(ConfigError::new(path, text))
    })
}

/// The buckets of one connection, by the address of their limit.
#[derive(Debug)]
struct ConnectionBuckets {
    connection: Weak<DownstreamConnectionInfo>,
    buckets: HashMap<usize, Arc<TokenBucket>>,
}

/// The connections that have buckets, by their number.
#[derive(Debug, Default)]
struct KnownConnections {
    known: HashMap<u64, ConnectionBuckets>,
    /// How many may be known before those that have closed are removed.
    sweep_at: usize,
}

impl KnownConnections {
    /// The buckets of a connection. Closed connections are removed when their share may have grown to half of all, so
    /// that a new connection costs the same however many are open.
    fn buckets(
        &mut self,
        connection: &Rc<DownstreamConnectionInfo>,
    ) -> &mut HashMap<usize, Arc<TokenBucket>> {
        const LEAST: usize = 64;
        if self.known.len() >= self.sweep_at.max(LEAST) {
            self.known
                .retain(|_, known| known.connection.strong_count() > 0);
            self.sweep_at = 2 * self.known.len();
        }
        let known = self.known.entry(connection.id);
        let known = known.or_insert_with(|| ConnectionBuckets {
            connection: Rc::downgrade(connection),
            buckets: HashMap::new(),
        });
        &mut known.buckets
    }
}

/// The filter on one worker.
struct LocalRateLimitFilter {
    limit: Arc<RequestLimit>,
    routes: RouteConfig<RouteLimit>,
    connections: RefCell<KnownConnections>,
    /// The bucket that the response's headers describe.
    shown: StreamSlot<Arc<TokenBucket>>,
}

impl LocalRateLimitFilter {
    fn bucket(&self, limit: &Arc<RequestLimit>, stream: &Stream) -> Option<Arc<TokenBucket>> {
        let size = match &limit.tokens {
            Tokens::Unlimited => return None,
            Tokens::Shared(bucket) => return Some(bucket.clone()),
            Tokens::OfConnection(size) => *size,
        };
        let mut connections = self.connections.borrow_mut();
        let buckets = connections.buckets(&stream.connection);
        let bucket = buckets.entry(Arc::as_ptr(limit).addr());
        Some(bucket.or_insert_with(|| Arc::new(size.bucket())).clone())
    }
}

impl HttpFilter for LocalRateLimitFilter {
    fn on_request(&self, stream: &mut Stream, _: &mut Body, cx: &FilterCx<'_>) -> FilterStatus {
        let of_route = self.routes.most_specific(stream.route.as_deref());
        let limit = of_route.map_or(&self.limit, |route| &route.0);
        let holds = |share: &Option<RuntimeFraction>| {
            let share = share.as_ref();
            share.is_some_and(|share| share.holds(stream.runtime(), cx.worker.random()))
        };
        if !holds(&limit.enabled) {
            return FilterStatus::Continue;
        }
        let is_enforced = || holds(&limit.enforced);
        limit.stats.enabled.inc();
        let bucket = self.bucket(limit, stream);
        let is_allowed = bucket.as_ref().is_none_or(|bucket| bucket.take());
        let reply = match is_allowed {
            true => {
                limit.stats.ok.inc();
                None
            }
            false => {
                limit.stats.rate_limited.inc();
                is_enforced().then(|| limit.reply(bucket.as_deref()))
            }
        };
        let limit = limit.clone();
        if let Some(bucket) = bucket.filter(|_| limit.shows_limit) {
            self.shown.set(stream, Rc::new(bucket));
        }
        match reply {
            Some(reply) => {
                limit.stats.enforced.inc();
                FilterStatus::Reply(reply)
            }
            None => {
                if !is_allowed {
                    for mutation in &limit.request_headers {
                        mutation.apply_to_request(stream);
                    }
                }
                FilterStatus::Continue
            }
        }
    }

    fn on_response(&self, stream: &mut Stream, _: &mut Body, _: &FilterCx<'_>) -> FilterStatus {
        if let Some(bucket) = self.shown.share(stream)
            && let Some(response) = &mut stream.response
        {
            for (name, value) in [
                ("x-ratelimit-limit", bucket.max_tokens()),
                ("x-ratelimit-remaining", bucket.remaining()),
                ("x-ratelimit-reset", bucket.next_token()),
            ] {
                let name = HeaderName::from_static(name);
                response.headers.insert(name, HeaderValue::from(value));
            }
        }
        FilterStatus::Continue
    }
}

impl std::fmt::Debug for LocalRateLimitFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalRateLimitFilter")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn closed_connections_are_forgotten_and_open_ones_are_not() {
        let address = "127.0.0.1:1".parse().unwrap();
        let connection = |id| {
            Rc::new(DownstreamConnectionInfo {
                id,
                ..testing::connection(address, address)
            })
        };
        let mut connections = KnownConnections::default();
        let open: Vec<_> = (0..100).map(connection).collect();
        for connection in &open {
            connections.buckets(connection);
        }
        for id in 1_000..11_000 {
            connections.buckets(&connection(id));
            assert!(
                connections.known.len() <= 400,
                "{}",
                connections.known.len()
            );
        }
        assert!(
            open.iter()
                .all(|one| connections.known.contains_key(&one.id))
        );
    }
}
