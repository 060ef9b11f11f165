//! `envoy.filters.listener.local_ratelimit`: closes connections that exceed a rate.

use std::sync::Arc;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::listener::local_ratelimit::v3::LocalRateLimit;
use outrider_config::unpack;
use outrider_stats::Counter;
use outrider_stats::Scope;
use prost_types::Any;

use super::BuildListenerFilter;
use super::InspectedConnection;
use super::ListenerFilter;
use super::ListenerFilterConfig;
use super::ListenerFilterStatus;
use crate::NetworkStream;
use crate::TokenBucket;
use crate::TokenBucketSize;
use crate::WorkerCx;

pub(super) const FACTORY: Factory<BuildListenerFilter> = Factory {
    message: "envoy.extensions.filters.listener.local_ratelimit.v3.LocalRateLimit",
    build,
};

outrider_stats::group! {
    /// `listener_local_ratelimit.<stat_prefix>.*`
    pub(super) struct ListenerRateLimitStats { rate_limited: Counter }
}

fn build(any: &Any, path: &FieldPath) -> Result<Arc<dyn ListenerFilterConfig>, ConfigErrors> {
    let message: LocalRateLimit = unpack(any, path)?;
    let path = path.field("token_bucket");
    let Some(bucket) = &message.token_bucket else {
        return Err(ConfigErrors::from(ConfigError::new(&path, "is required")));
    };
    let flag = message.runtime_enabled.unwrap_or_default();
    Ok(Arc::new(RateLimitConfig {
        scope: Scope::new("listener_local_ratelimit").name(&message.stat_prefix),
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

impl ListenerFilterConfig for RateLimitConfig {
    fn worker(self: Arc<Self>, cx: &WorkerCx) -> Box<dyn ListenerFilter> {
        Box::new(RateLimitFilter {
            stats: cx.store.register(self.scope.clone()),
            config: self,
        })
    }
}

struct RateLimitFilter {
    config: Arc<RateLimitConfig>,
    stats: Arc<ListenerRateLimitStats>,
}

impl ListenerFilter for RateLimitFilter {
    fn on_accept(
        &self,
        _: &NetworkStream,
        _: &mut InspectedConnection,
        cx: &WorkerCx,
    ) -> ListenerFilterStatus {
        let runtime = cx.runtime();
        let value = runtime.and_then(|runtime| runtime.flag(&self.config.runtime_key));
        if !value.unwrap_or(self.config.is_enabled) || self.config.bucket.take() {
            return ListenerFilterStatus::Continue;
        }
        self.stats.rate_limited.inc();
        ListenerFilterStatus::Close
    }
}
