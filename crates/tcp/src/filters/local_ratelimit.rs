//! `envoy.filters.network.local_ratelimit`: closes connections that exceed a rate.

use std::rc::Rc;
use std::sync::Arc;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::network::local_ratelimit::v3::LocalRateLimit;
use outrider_config::unpack;
use outrider_http::BuildCx;
use outrider_http::ResponseFlag;
use outrider_net::TokenBucket;
use outrider_net::TokenBucketSize;
use outrider_net::WorkerCx;
use outrider_stats::Counter;
use outrider_stats::Scope;
use prost_types::Any;

use super::FilteredConnection;
use super::NetworkFilter;
use super::NetworkFilterConfig;
use super::NetworkFilterFactory;
use super::NetworkFilterStatus;
use super::NetworkFilterWorkerCx;

pub(super) const FACTORY: Factory<NetworkFilterFactory> = Factory {
    message: "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit",
    build: NetworkFilterFactory::Before(build),
};

outrider_stats::group! {
    /// `local_rate_limit.<stat_prefix>.*`
    pub(super) struct ConnectionRateLimitStats { rate_limited: Counter }
}

fn build(
    any: &Any,
    path: &FieldPath,
    cx: &BuildCx<'_>,
) -> Result<Arc<dyn NetworkFilterConfig>, ConfigErrors> {
    let message: LocalRateLimit = unpack(any, path)?;
    let path = path.field("token_bucket");
    let Some(bucket) = &message.token_bucket else {
        return Err(ConfigErrors::from(ConfigError::new(&path, "is required")));
    };
    let scope = Scope::new("local_rate_limit").name(&message.stat_prefix);
    // Listed before the first connection.
    cx.store.register::<ConnectionRateLimitStats>(scope.clone());
    let flag = message.runtime_enabled.unwrap_or_default();
    Ok(Arc::new(RateLimitConfig {
        scope,
        bucket: TokenBucketSize::build(bucket, &path)?.bucket(),
        is_enabled: flag.default_value.unwrap_or(true),
        runtime_key: flag.runtime_key.into(),
    }))
}

#[derive(Debug)]
struct RateLimitConfig {
    scope: Scope,
    bucket: TokenBucket,
    /// `runtime_enabled`
    is_enabled: bool,
    runtime_key: Box<str>,
}

impl NetworkFilterConfig for RateLimitConfig {
    fn worker(self: Arc<Self>, cx: &NetworkFilterWorkerCx<'_>) -> Rc<dyn NetworkFilter> {
        Rc::new(RateLimitFilter {
            stats: cx.worker.store.register(self.scope.clone()),
            worker: cx.worker.clone(),
            config: self,
        })
    }
}

struct RateLimitFilter {
    config: Arc<RateLimitConfig>,
    stats: Arc<ConnectionRateLimitStats>,
    worker: Rc<WorkerCx>,
}

impl NetworkFilter for RateLimitFilter {
    fn on_new_connection(&self, connection: &mut FilteredConnection) -> NetworkFilterStatus {
        let runtime = self.worker.runtime();
        let value = runtime.and_then(|runtime| runtime.flag(&self.config.runtime_key));
        if !value.unwrap_or(self.config.is_enabled) || self.config.bucket.take() {
            return NetworkFilterStatus::Continue;
        }
        self.stats.rate_limited.inc();
        connection.flag = Some(ResponseFlag::UpstreamRetryLimitExceeded);
        NetworkFilterStatus::Close
    }
}
