//! Key sets that are fetched from a server (`RemoteJwks`).

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::Method;
use http::StatusCode;
use http::uri::Scheme;
use outrider_client::CallFailure;
use outrider_client::CallOptions;
use outrider_client::HttpService;
use outrider_client::InternalClient;
use outrider_client::Response;
use outrider_client::ServiceCx;
use outrider_codec::Body;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderValue;
use outrider_codec::RequestHead;
use outrider_codec::Target;
use outrider_codec::header;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::RetryPolicy;
use outrider_config::api::envoy::extensions::filters::http::jwt_authn::v3 as api;
use outrider_config::duration;
use outrider_net::BackOff;
use outrider_net::WorkerCx;
use outrider_net::clock;

use super::jwks::Jwks;

/// `cache_duration` if it is not set.
const CACHE_DURATION: Duration = Duration::from_secs(600);
/// `failed_refetch_duration` if it is not set.
const FAILED_REFETCH: Duration = Duration::from_secs(1);
/// Keys are fetched again this long before they expire.
const REFETCH_BEFORE_EXPIRY: Duration = Duration::from_secs(5);
/// The first back-off if the policy sets none.
const BASE_BACK_OFF: Duration = Duration::from_secs(1);

/// A key set on a server, shared by all workers.
#[derive(Debug)]
pub(super) struct RemoteJwks {
    service: HttpService,
    scheme: Scheme,
    target: Target,
    /// How long keys are used that were fetched for a request.
    pub(super) cache_duration: Duration,
    retries: Option<Retries>,
    pub(super) prefetch: Option<Prefetch>,
}

/// `async_fetch`: the keys are fetched before requests need them.
#[derive(Debug)]
pub(super) struct Prefetch {
    failed_refetch: Duration,
    /// The keys, for all workers. They do not expire.
    pub(super) keys: ArcSwapOption<Jwks>,
    /// Whether a worker fetches them.
    pub(super) is_running: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct Retries {
    most: u32,
    back_off: BackOff,
}

/// A fetch that failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct FetchFailed;

impl RemoteJwks {
    /// Builds the key set found at `path`.
    pub(super) fn build(
        config: &api::RemoteJwks,
        path: &FieldPath,
        services: &ServiceCx<'_>,
    ) -> Result<RemoteJwks, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let uri_path = path.field("http_uri");
        let default = Default::default();
        let uri = config.http_uri.as_ref().unwrap_or(&default);
        let service = errors.collect(HttpService::build(uri, &uri_path, services));
        let is_https = uri.uri.starts_with("https://");
        let is_http = uri.uri.starts_with("http://");
        if service.is_some() && !is_https && !is_http {
            let text = format!("{:?} has no scheme: expected http:// or https://", uri.uri);
            errors.push(&uri_path.field("uri"), text);
        }
        let target = service.as_ref().map(|service| {
            let target = Target::try_from(service.path.clone());
            target.map_err(|_| ConfigError::new(&uri_path.field("uri"), "no valid path"))
        });
        let target = target.and_then(|target| errors.collect(target));
        let cached = duration::optional(
            config.cache_duration.as_ref(),
            &path.field("cache_duration"),
        );
        let cached = errors.collect(cached).flatten();
        let retries = config.retry_policy.as_ref();
        let retries = retries.map(|policy| Retries::build(policy, &path.field("retry_policy")));
        let retries = retries.and_then(|retries| errors.collect(retries));
        let prefetch = config.async_fetch.as_ref();
        let prefetch =
            prefetch.map(|prefetch| Prefetch::build(prefetch, &path.field("async_fetch")));
        let prefetch = prefetch.and_then(|prefetch| errors.collect(prefetch));
        let (Some(service), Some(target)) = (service, target) else {
            return Err(errors);
        };
        errors.finish(RemoteJwks {
            service,
            scheme: if is_https {
                Scheme::HTTPS
            } else {
                Scheme::HTTP
            },
            target,
            // As in Envoy, only whole seconds count.
            cache_duration: cached
                .map_or(CACHE_DURATION, |time| Duration::from_secs(time.as_secs())),
            retries,
            prefetch,
        })
    }

    /// Fetches the keys. Dropping the future cancels the call.
    pub(super) async fn fetch(
        &self,
        client: &InternalClient,
        worker: &WorkerCx,
    ) -> Result<Jwks, FetchFailed> {
        let mut retries = self.retries;
        let mut tries = 0;
        let called = loop {
            let called = self.call(client).await;
            match &mut retries {
                Some(retries) if tries < retries.most && is_retried(&called) => {
                    wait(worker, retries.back_off.next_wait()).await;
                }
                _ => break called,
            }
            tries += 1;
        };
        match called {
            Ok(response) if response.head.status == StatusCode::OK => Jwks::parse(&response.body)
                .map_err(|error| {
                    log::debug!(target: "jwt", "{} has no keys: {error}", self.service.path);
                    FetchFailed
                }),
            Ok(response) => {
                let status = response.head.status;
                log::debug!(target: "jwt", "{} answers {status}", self.service.path);
                Err(FetchFailed)
            }
            Err(failure) => {
                log::debug!(target: "jwt", "{} does not answer: {failure}", self.service.path);
                Err(FetchFailed)
            }
        }
    }

    async fn call(&self, client: &InternalClient) -> Result<Response, CallFailure> {
        let mut headers = HeaderMap::new();
        headers.append(&header::USER_AGENT, HeaderValue::from_static("Go-browser")); // as Envoy
        let head = RequestHead {
            method: Method::GET,
            scheme: Some(self.scheme.clone()),
            authority: Some(self.service.authority.clone()),
            path: Some(self.target.clone()),
            headers,
        };
        let timeout = self.service.timeout;
        let options = CallOptions {
            request_end: None,
            timeout: (!timeout.is_zero()).then_some(timeout),
            is_internal: true,
            forwarded_for: true,
        };
        client
            .request(&self.service.cluster, head, Body::Empty, &options)
            .await
    }

    /// Fetches the keys again and again, for all workers. `note` counts each fetch.
    pub(super) async fn keep_fetched(
        &self,
        prefetch: &Prefetch,
        client: &InternalClient,
        worker: &WorkerCx,
        note: impl Fn(bool),
    ) {
        let again = self.cache_duration;
        let again = again
            .checked_sub(REFETCH_BEFORE_EXPIRY)
            .filter(|again| !again.is_zero());
        let again = again.unwrap_or(self.cache_duration);
        loop {
            let fetched = self.fetch(client, worker).await;
            note(fetched.is_ok());
            let pause = match fetched {
                Ok(keys) => {
                    prefetch.keys.store(Some(Arc::new(keys)));
                    again
                }
                Err(FetchFailed) => prefetch.failed_refetch,
            };
            wait(worker, pause).await;
        }
    }
}

async fn wait(worker: &WorkerCx, pause: Duration) {
    let mut timer = worker.timers.timer();
    timer.set(Some(clock::now() + pause));
    timer.elapsed().await;
}

/// Whether a call is made again: without a response, or with one of a broken server.
fn is_retried(called: &Result<Response, CallFailure>) -> bool {
    match called {
        Ok(response) => response.head.status.is_server_error(),
        Err(CallFailure::NoResponse { .. } | CallFailure::Reset { .. }) => true,
        Err(CallFailure::UnknownCluster | CallFailure::TooLarge) => false,
    }
}

impl Retries {
    fn build(config: &RetryPolicy, path: &FieldPath) -> Result<Retries, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let path = path.field("retry_back_off");
        let back_off = config.retry_back_off.unwrap_or_default();
        let base = duration::optional(
            back_off.base_interval.as_ref(),
            &path.field("base_interval"),
        );
        let base = errors.collect(base).flatten().unwrap_or(BASE_BACK_OFF);
        let max = duration::optional(back_off.max_interval.as_ref(), &path.field("max_interval"));
        let max = errors.collect(max).flatten();
        if max.is_some_and(|max| max < base) {
            let text = "max_interval must be greater than or equal to the base_interval";
            errors.push(&path, text);
        }
        errors.finish(Retries {
            most: config.num_retries.unwrap_or(1),
            back_off: BackOff::new(base, max.unwrap_or(base * 10)),
        })
    }
}

impl Prefetch {
    fn build(config: &api::JwksAsyncFetch, path: &FieldPath) -> Result<Prefetch, ConfigErrors> {
        let path = path.field("failed_refetch_duration");
        let failed = duration::optional(config.failed_refetch_duration.as_ref(), &path)?;
        Ok(Prefetch {
            failed_refetch: failed.unwrap_or(FAILED_REFETCH),
            keys: ArcSwapOption::empty(),
            is_running: AtomicBool::new(false),
        })
    }
}
