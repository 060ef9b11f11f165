//! Answers health checks of this proxy (`envoy.filters.http.health_check`), from its own state, from that of clusters, or
//! from the last answer of the service behind it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::StatusCode;
use outrider_codec::Body;
use outrider_codec::HeaderValue;
use outrider_codec::header;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::http::health_check::v3::HealthCheck as Message;
use outrider_config::duration;
use outrider_config::unpack;
use outrider_net::clock;
use outrider_upstream::Clusters;
use prost_types::Any;
use tokio::time::Instant;

use super::FilterBuildCx;
use super::FilterCx;
use super::FilterFactory;
use super::FilterStatus;
use super::FilterWait;
use super::FilterWorkerCx;
use super::HttpFilter;
use super::HttpFilterConfig;
use super::StreamSlot;
use crate::ResponseFlag;
use crate::Stream;
use crate::local_reply::LocalReply;
use outrider_matching::HeaderMatcher;

pub(super) const FACTORY: FilterFactory = FilterFactory {
    message: "envoy.extensions.filters.http.health_check.v3.HealthCheck",
    build,
    routes: None,
};

fn build(
    config: &Any,
    path: &FieldPath,
    cx: &FilterBuildCx<'_>,
) -> Result<Arc<dyn HttpFilterConfig>, ConfigErrors> {
    let message: Message = unpack(config, path)?;
    let mut errors = ConfigErrors::new();
    let pass_through = message.pass_through_mode.unwrap_or_default();
    let cache_path = path.field("cache_time");
    let cache_time = duration::optional(message.cache_time.as_ref(), &cache_path);
    let cache_time = errors.collect(cache_time).flatten();
    let cache_time = cache_time.filter(|time| !time.is_zero());
    if !pass_through && cache_time.is_some() {
        errors.push(&cache_path, "cache_time requires pass_through_mode");
    }
    let headers_path = path.field("headers");
    let headers = message.headers.iter().enumerate();
    let headers = headers.filter_map(|(at, matcher)| {
        errors.collect(HeaderMatcher::build(matcher, &headers_path.index(at)))
    });
    let headers = headers.collect();
    let clusters = message.cluster_min_healthy_percentages.iter();
    let mut clusters: Vec<(Box<str>, u64)> = clusters
        // As in Envoy, only whole percents count.
        .map(|(name, percent)| (name.as_str().into(), percent.value as u64))
        .collect();
    clusters.sort();
    let Ok(local_cluster) = HeaderValue::try_from(cx.process.node_cluster) else {
        errors.push(path, "the node's cluster is not a header value");
        return Err(errors);
    };
    errors.finish(Arc::new(HealthCheckFilterConfig {
        headers,
        pass_through,
        cache: cache_time.map(AnswerCache::new),
        clusters,
        local_cluster,
    }))
}

#[derive(Debug)]
struct HealthCheckFilterConfig {
    /// Which requests are health checks.
    headers: Vec<HeaderMatcher>,
    /// `pass_through_mode`: the service behind answers.
    pass_through: bool,
    cache: Option<AnswerCache>,
    /// `cluster_min_healthy_percentages`: how many percent of a cluster's hosts must be healthy.
    clusters: Vec<(Box<str>, u64)>,
    /// `node.cluster`, which answers carry.
    local_cluster: HeaderValue,
}

impl HttpFilterConfig for HealthCheckFilterConfig {
    fn worker(self: Arc<Self>, cx: &FilterWorkerCx<'_>) -> Rc<dyn HttpFilter> {
        Rc::new(HealthCheckFilter {
            config: self,
            is_check: cx.slot(),
        })
    }
}

/// The last answer of the service. All workers share it. As in Envoy, it is forgotten at the end of fixed periods.
#[derive(Debug)]
struct AnswerCache {
    began: Instant,
    period: Duration,
    /// The number of the period, plus one; then 16 bits of the status, and a bit for "degraded".
    answer: AtomicU64,
}

impl AnswerCache {
    fn new(period: Duration) -> AnswerCache {
        AnswerCache {
            began: clock::now(),
            period,
            answer: AtomicU64::new(0),
        }
    }

    fn period(&self) -> u64 {
        let periods = clock::since(self.began).as_nanos() / self.period.as_nanos().max(1);
        1 + u64::try_from(periods).unwrap_or(u64::MAX) % (1 << 40)
    }

    fn set(&self, status: StatusCode, degraded: bool) {
        let answer = u64::from(status.as_u16()) << 1 | u64::from(degraded);
        self.answer
            .store(self.period() << 17 | answer, Ordering::Relaxed);
    }

    fn get(&self) -> Option<(StatusCode, bool)> {
        let answer = self.answer.load(Ordering::Relaxed);
        if answer >> 17 != self.period() {
            return None;
        }
        let status = StatusCode::from_u16((answer >> 1) as u16).ok()?;
        Some((status, answer & 1 == 1))
    }
}

/// The filter on one worker.
#[derive(Debug)]
struct HealthCheckFilter {
    config: Arc<HealthCheckFilterConfig>,
    /// Set for requests that are health checks by this filter.
    is_check: StreamSlot<()>,
}

impl HealthCheckFilter {
    fn cached(&self) -> Option<(StatusCode, bool)> {
        self.config.cache.as_ref()?.get()
    }

    fn reply(&self, cx: &FilterCx<'_>) -> LocalReply {
        let (status, degraded, details) = if cx.worker.health_checks_fail() {
            (
                StatusCode::SERVICE_UNAVAILABLE,
                false,
                "health_check_failed",
            )
        } else if let Some((status, degraded)) = self.cached() {
            (status, degraded, "health_check_cached")
        } else {
            match self.failing_cluster(cx.clusters) {
                Some(details) => (StatusCode::SERVICE_UNAVAILABLE, false, details),
                None if self.config.clusters.is_empty() => {
                    (StatusCode::OK, false, "health_check_ok")
                }
                None => (StatusCode::OK, false, "health_check_ok_cluster_healthy"),
            }
        };
        let mut reply = LocalReply::new(status, details);
        if !status.is_success() {
            reply = reply.flag(ResponseFlag::FailedLocalHealthCheck);
        }
        if degraded {
            reply = reply.header(&header::X_ENVOY_DEGRADED, HeaderValue::from_static(""));
        }
        reply
    }

    /// Why the clusters are not healthy enough, if they are not.
    fn failing_cluster(&self, clusters: &Clusters) -> Option<&'static str> {
        self.config.clusters.iter().find_map(|(name, percent)| {
            let Some(cluster) = clusters.get(name) else {
                return Some("health_check_failed_no_cluster_found");
            };
            let stats = cluster.membership();
            let total = stats.membership_total.value().unsigned_abs();
            if total == 0 {
                return (*percent > 0).then_some("health_check_failed_cluster_empty");
            }
            let healthy = stats.membership_healthy.value() + stats.membership_degraded.value();
            let is_unhealthy = 100 * healthy.unsigned_abs() < total * percent;
            is_unhealthy.then_some("health_check_failed_cluster_unhealthy")
        })
    }
}

impl HttpFilter for HealthCheckFilter {
    fn on_request(&self, stream: &mut Stream, body: &mut Body, cx: &FilterCx<'_>) -> FilterStatus {
        let mut matchers = self.config.headers.iter();
        if !matchers.all(|matcher| matcher.matches(&stream.request)) {
            return FilterStatus::Continue;
        }
        stream.is_health_check = true;
        self.is_check.set(stream, Rc::new(()));
        let answers =
            !self.config.pass_through || cx.worker.health_checks_fail() || self.cached().is_some();
        match (answers, body.is_end_stream()) {
            (false, _) => FilterStatus::Continue,
            (true, true) => FilterStatus::Reply(self.reply(cx)),
            (true, false) => FilterStatus::Wait,
        }
    }

    fn wait_on_request<'a>(
        &'a self,
        _: &'a mut Stream,
        body: &'a mut Body,
        cx: &'a FilterCx<'a>,
    ) -> FilterWait<'a> {
        Box::pin(async move {
            // Answers only once the whole request has arrived.
            while let Some(Ok(_)) = body.frame().await {}
            Err(self.reply(cx))
        })
    }

    fn on_response(&self, stream: &mut Stream, _: &mut Body, cx: &FilterCx<'_>) -> FilterStatus {
        let is_check = self.is_check.get(stream).is_some();
        let Some(response) = &mut stream.response else {
            return FilterStatus::Continue;
        };
        let headers = &mut response.headers;
        if is_check {
            if let Some(cache) = &self.config.cache {
                let degraded = headers.contains_key(&header::X_ENVOY_DEGRADED);
                cache.set(response.status, degraded);
            }
            headers.insert(
                &header::X_ENVOY_UPSTREAM_HEALTHCHECKED_CLUSTER,
                self.config.local_cluster.clone(),
            );
        }
        if cx.worker.health_checks_fail() {
            let fail = HeaderValue::from_static("true");
            headers.insert(&header::X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL, fail);
        }
        FilterStatus::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_keeps_an_answer_within_its_period() {
        let cache = AnswerCache::new(Duration::from_secs(3600));
        assert_eq!(cache.get(), None);
        cache.set(StatusCode::NOT_FOUND, true);
        assert_eq!(cache.get(), Some((StatusCode::NOT_FOUND, true)));
        let cache = AnswerCache::new(Duration::from_nanos(1));
        cache.set(StatusCode::OK, false);
        std::thread::sleep(Duration::from_micros(10));
        assert_eq!(cache.get(), None);
    }
}
