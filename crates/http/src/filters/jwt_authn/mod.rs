//! Requires JSON Web Tokens of requests (`envoy.filters.http.jwt_authn`).

mod claims;
mod config;
mod jwks;
mod locations;
mod provider;
mod remote;
mod requirement;
mod status;
mod token;
mod token_cache;
mod verification;

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::Method;
use http::StatusCode;
use outrider_client::InternalClient;
use outrider_codec::Body;
use outrider_codec::HeaderValue;
use outrider_codec::header;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::http::jwt_authn::v3 as api;
use outrider_config::unpack;
use outrider_net::clock;
use outrider_stats::Counter;
use outrider_stats::Scope;
use prost_types::Any;
use tokio::task::AbortHandle;
use tokio::task::spawn_local;
use tokio::time::Instant;

use self::config::JwtConfig;
use self::config::RouteSettings;
use self::jwks::Jwks;
use self::provider::KeySource;
use self::provider::Provider;
use self::remote::RemoteJwks;
use self::requirement::Requirement;
use self::status::Status;
use self::token::Token;
use self::token_cache::TokenCache;
use self::verification::Verification;
use crate::RequestHead;
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
use crate::filters::WWW_AUTHENTICATE;
use crate::filters::original_uri;
use crate::filters::route_config::RouteFactory;
use crate::local_reply::LocalReply;

/// The namespace of the filter's dynamic metadata.
const NAMESPACE: &str = "envoy.filters.http.jwt_authn";

pub(super) const FACTORY: FilterFactory = FilterFactory {
    message: "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
    build,
    routes: Some(&RouteFactory {
        message: "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig",
        build: |config, path, _| {
            let message: api::PerRouteConfig = unpack(config, path)?;
            Ok(Arc::new(RouteSettings::build(message, path)?))
        },
    }),
};

outrider_stats::group! {
    /// `http.<stat_prefix>.jwt_authn.*`
    pub(super) struct JwtStats {
        allowed: Counter,
        cors_preflight_bypassed: Counter,
        denied: Counter,
        jwks_fetch_failed: Counter,
        jwks_fetch_success: Counter,
        jwt_cache_hit: Counter,
        jwt_cache_miss: Counter,
    }
}

fn build(
    config: &Any,
    path: &FieldPath,
    cx: &FilterBuildCx<'_>,
) -> Result<Arc<dyn HttpFilterConfig>, ConfigErrors> {
    let message: api::JwtAuthentication = unpack(config, path)?;
    let config = cx.with_services(|services| JwtConfig::build(&message, path, services))?;
    let scope = cx.scope.clone().name("jwt_authn");
    Ok(Arc::new(JwtAuthn {
        config: Arc::new(config),
        scope: match message.stat_prefix.as_str() {
            "" => scope,
            prefix => scope.verbatim(prefix),
        },
        local_address: outrider_net::local_address(cx.process.prefers_ipv6),
    }))
}

/// The filter, shared by all workers.
#[derive(Debug)]
struct JwtAuthn {
    config: Arc<JwtConfig>,
    scope: Scope,
    local_address: IpAddr,
}

impl HttpFilterConfig for JwtAuthn {
    fn worker(self: Arc<Self>, cx: &FilterWorkerCx<'_>) -> Rc<dyn HttpFilter> {
        let mut filter = JwtFilter {
            client: Rc::new(InternalClient::new(cx.clusters, self.local_address)),
            stats: cx.worker.store.register(self.scope.clone()),
            routes: cx.route_config(),
            providers: self.config.providers.iter().map(OnWorker::new).collect(),
            prefetching: Vec::new(),
            shared: self.config.clone(),
        };
        filter.prefetch(cx);
        Rc::new(filter)
    }
}

/// The filter on one worker.
#[derive(Debug)]
struct JwtFilter {
    shared: Arc<JwtConfig>,
    client: Rc<InternalClient>,
    stats: Arc<JwtStats>,
    routes: RouteConfig<RouteSettings>,
    /// In the order of the config's providers.
    providers: Vec<OnWorker>,
    /// The tasks that keep keys fetched.
    prefetching: Vec<AbortHandle>,
}

/// What a worker keeps of a provider.
#[derive(Debug)]
struct OnWorker {
    /// Keys that were fetched for a request, and when they expire.
    fetched: RefCell<Option<(Arc<Jwks>, Instant)>>,
    tokens: Option<RefCell<TokenCache>>,
}

impl OnWorker {
    fn new(provider: &Provider) -> OnWorker {
        let cache = |limits: provider::CacheLimits| {
            RefCell::new(TokenCache::new(limits.tokens, limits.token_length))
        };
        OnWorker {
            fetched: RefCell::default(),
            tokens: provider.cache.map(cache),
        }
    }
}

impl HttpFilter for JwtFilter {
    fn on_request(&self, stream: &mut Stream, _: &mut Body, _: &FilterCx<'_>) -> FilterStatus {
        for name in &self.shared.sanitized {
            stream.request.headers.remove(name);
        }
        if self.shared.bypasses_preflights && is_preflight(&stream.request) {
            self.stats.cors_preflight_bypassed.inc();
            self.stats.allowed.inc();
            return FilterStatus::Continue;
        }
        match self.requirement(stream) {
            Ok(None | Some(Requirement::None)) => {
                self.stats.allowed.inc();
                FilterStatus::Continue
            }
            Ok(Some(_)) => FilterStatus::Wait,
            Err(reply) => {
                self.stats.denied.inc();
                FilterStatus::Reply(reply)
            }
        }
    }

    fn wait_on_request<'a>(
        &'a self,
        stream: &'a mut Stream,
        body: &'a mut Body,
        cx: &'a FilterCx<'a>,
    ) -> FilterWait<'a> {
        Box::pin(async move {
            let Ok(Some(requirement)) = self.requirement(stream) else {
                return Ok(());
            };
            let uri = original_uri(&stream.request);
            let mut verification = Verification::new(self, stream, cx);
            let verified = cx.hold_body(body, verification.check(requirement)).await;
            verification.finish();
            match verified {
                Ok(()) => {
                    self.stats.allowed.inc();
                    Ok(())
                }
                Err(status) => {
                    self.stats.denied.inc();
                    Err(self.denied(status, &uri))
                }
            }
        })
    }
}

impl JwtFilter {
    /// What the request needs; an error is the reply if the route does not say it properly.
    fn requirement(&self, stream: &Stream) -> Result<Option<&Requirement>, LocalReply> {
        let name = match self.routes.most_specific(stream.route.as_deref()) {
            Some(RouteSettings::Disabled) => return Ok(None),
            Some(RouteSettings::Named(name)) => name,
            None => return Ok(self.shared.find(stream)),
        };
        if let Some(requirement) = self.shared.named.get(name) {
            return Ok(Some(requirement));
        }
        let names: Vec<_> = self.shared.named.keys().map(String::as_str).collect();
        let names = names.join(",");
        let error = format!("Wrong requirement_name: {name}. It should be one of [{names}]");
        let reply = LocalReply::new(StatusCode::FORBIDDEN, details(&error));
        Err(match self.shared.strips_reply {
            true => reply,
            false => reply.body(format!("Failed JWT authentication: {error}")),
        })
    }

    fn denied(&self, status: Status, uri: &str) -> LocalReply {
        let code = match status {
            Status::AUDIENCE_NOT_ALLOWED => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        };
        let reply = LocalReply::new(code, details(status.text));
        if self.shared.strips_reply {
            return reply;
        }
        let error = match status {
            Status::MISSING => "",
            _ => ", error=\"invalid_token\"",
        };
        let value = HeaderValue::try_from(format!("Bearer realm=\"{uri}\"{error}"));
        let reply = reply.body(status.text);
        match value {
            Ok(value) => reply.header(&WWW_AUTHENTICATE, value),
            Err(_) => reply,
        }
    }

    /// The provider at this place.
    fn provider(&self, index: usize) -> Result<&Provider, Status> {
        let provider = self.shared.providers.get(index);
        provider.ok_or(Status::UNKNOWN_ISSUER)
    }

    /// A token of this provider whose signature need not be checked again.
    fn cached(&self, index: usize, text: &[u8], now: u64) -> Option<Rc<Token>> {
        let cache = self.providers.get(index).and_then(|on| on.tokens.as_ref());
        let mut cache = cache.map(RefCell::borrow_mut);
        let mut token = cache.as_mut().and_then(|cache| cache.get(text));
        let is_expired =
            |token: &Rc<Token>| token.check_time(now, provider::CLOCK_SKEW) == Err(Status::EXPIRED);
        if token.as_ref().is_some_and(is_expired) {
            cache.into_iter().for_each(|mut cache| cache.remove(text));
            token = None;
        }
        match token {
            Some(_) => self.stats.jwt_cache_hit.inc(),
            None => self.stats.jwt_cache_miss.inc(),
        }
        token
    }

    fn keep(&self, index: usize, text: &[u8], token: Rc<Token>) {
        let cache = self.providers.get(index).and_then(|on| on.tokens.as_ref());
        if let Some(cache) = cache {
            cache.borrow_mut().insert(text, token);
        }
    }

    /// The keys of a provider, if they were fetched and have not expired.
    fn current_keys(&self, index: usize, remote: &RemoteJwks) -> Option<Arc<Jwks>> {
        let prefetched = remote.prefetch.as_ref();
        if let Some(keys) = prefetched.and_then(|prefetch| prefetch.keys.load_full()) {
            return Some(keys);
        }
        let fetched = self.providers.get(index)?.fetched.borrow();
        let (keys, expiry) = fetched.as_ref()?;
        (clock::now() < *expiry).then(|| keys.clone())
    }

    fn set_keys(&self, index: usize, remote: &RemoteJwks, keys: &Arc<Jwks>) {
        if let Some(on) = self.providers.get(index) {
            let expiry = clock::now() + remote.cache_duration;
            *on.fetched.borrow_mut() = Some((keys.clone(), expiry));
        }
    }

    /// Starts to fetch keys before requests need them, unless another worker does.
    fn prefetch(&mut self, cx: &FilterWorkerCx<'_>) {
        for (index, provider) in self.shared.providers.iter().enumerate() {
            let KeySource::Remote(remote) = &provider.keys else {
                continue;
            };
            let Some(prefetch) = &remote.prefetch else {
                continue;
            };
            if prefetch.is_running.swap(true, Ordering::Relaxed) {
                continue;
            }
            let (shared, client) = (self.shared.clone(), self.client.clone());
            let (worker, stats) = (cx.worker.clone(), self.stats.clone());
            let task = spawn_local(async move {
                let provider = shared.providers.get(index);
                if let Some(KeySource::Remote(remote)) = provider.map(|provider| &provider.keys)
                    && let Some(prefetch) = &remote.prefetch
                {
                    let note = |is_success| match is_success {
                        true => stats.jwks_fetch_success.inc(),
                        false => stats.jwks_fetch_failed.inc(),
                    };
                    let fetching = remote.keep_fetched(prefetch, &client, &worker, note);
                    fetching.await;
                }
            });
            self.prefetching.push(task.abort_handle());
        }
    }
}

impl Drop for JwtFilter {
    fn drop(&mut self) {
        for task in &self.prefetching {
            task.abort();
        }
    }
}

/// The response code details. White space would split a field of an access log.
fn details(error: &str) -> String {
    let error = error.replace(|letter: char| letter.is_ascii_whitespace(), "_");
    format!("jwt_authn_access_denied{{{error}}}")
}

/// Whether a browser asks which requests it may send.
fn is_preflight(request: &RequestHead) -> bool {
    let has = |name| {
        request
            .headers
            .get(name)
            .is_some_and(|value| !value.is_empty())
    };
    request.method == Method::OPTIONS
        && has(&header::ORIGIN)
        && has(&header::ACCESS_CONTROL_REQUEST_METHOD)
}
