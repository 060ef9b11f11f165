//! `envoy.filters.network.connection_limit`: closes connections beyond a number of open ones.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit;
use outrider_config::duration;
use outrider_config::unpack;
use outrider_http::BuildCx;
use outrider_net::WorkerCx;
use outrider_stats::Counter;
use outrider_stats::Gauge;
use outrider_stats::Scope;
use prost_types::Any;

use super::FilteredConnection;
use super::NetworkFilter;
use super::NetworkFilterConfig;
use super::NetworkFilterFactory;
use super::NetworkFilterStatus;
use super::NetworkFilterWait;
use super::NetworkFilterWorkerCx;

pub(super) const FACTORY: Factory<NetworkFilterFactory> = Factory {
    message: "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
    build: NetworkFilterFactory::Before(build),
};

outrider_stats::group! {
    /// `connection_limit.<stat_prefix>.*`
    pub(super) struct ConnectionLimitStats {
        active_connections: Gauge,
        limited_connections: Counter,
    }
}

fn build(
    any: &Any,
    path: &FieldPath,
    cx: &BuildCx<'_>,
) -> Result<Arc<dyn NetworkFilterConfig>, ConfigErrors> {
    let message: ConnectionLimit = unpack(any, path)?;
    let Some(max) = message.max_connections else {
        let error = ConfigError::new(&path.field("max_connections"), "is required");
        return Err(ConfigErrors::from(error));
    };
    let scope = Scope::new("connection_limit").name(&message.stat_prefix);
    // Listed before the first connection.
    cx.store.register::<ConnectionLimitStats>(scope.clone());
    let flag = message.runtime_enabled.unwrap_or_default();
    Ok(Arc::new(LimitConfig {
        scope,
        max,
        delay: duration::optional(message.delay.as_ref(), &path.field("delay"))?
            .filter(|delay| !delay.is_zero()),
        is_enabled: flag.default_value.unwrap_or(true),
        runtime_key: flag.runtime_key.into(),
        active: Arc::default(),
    }))
}

#[derive(Debug)]
struct LimitConfig {
    scope: Scope,
    /// `max_connections`
    max: u64,
    /// `delay`
    delay: Option<Duration>,
    /// `runtime_enabled`
    is_enabled: bool,
    runtime_key: Box<str>,
    /// The open connections of all workers.
    active: Arc<AtomicU64>,
}

impl NetworkFilterConfig for LimitConfig {
    fn worker(self: Arc<Self>, cx: &NetworkFilterWorkerCx<'_>) -> Rc<dyn NetworkFilter> {
        Rc::new(LimitFilter {
            stats: cx.worker.store.register(self.scope.clone()),
            worker: cx.worker.clone(),
            config: self,
        })
    }
}

struct LimitFilter {
    config: Arc<LimitConfig>,
    stats: Arc<ConnectionLimitStats>,
    worker: Rc<WorkerCx>,
}

/// A connection below the limit, which counts until this is dropped.
struct CountedConnection(Arc<AtomicU64>);

impl LimitFilter {
    fn is_enabled(&self) -> bool {
        let runtime = self.worker.runtime();
        let value = runtime.and_then(|runtime| runtime.flag(&self.config.runtime_key));
        value.unwrap_or(self.config.is_enabled)
    }
}

impl NetworkFilter for LimitFilter {
    fn on_new_connection(&self, connection: &mut FilteredConnection) -> NetworkFilterStatus {
        if !self.is_enabled() {
            return NetworkFilterStatus::Continue;
        }
        // As in Envoy, also for a connection that is closed after the delay.
        connection.hold(self.stats.hold(|stats| &stats.active_connections));
        let LimitConfig { active, max, .. } = &*self.config;
        let counted = active.fetch_update(Relaxed, Relaxed, |now| (now < *max).then(|| now + 1));
        if counted.is_ok() {
            connection.hold(CountedConnection(active.clone()));
            return NetworkFilterStatus::Continue;
        }
        self.stats.limited_connections.inc();
        match self.config.delay {
            Some(_) => NetworkFilterStatus::Wait,
            None => NetworkFilterStatus::Close,
        }
    }

    fn wait_on_new_connection<'a>(
        &'a self,
        _: &'a mut FilteredConnection,
    ) -> NetworkFilterWait<'a> {
        Box::pin(async {
            let delay = self.config.delay.unwrap_or_default();
            self.worker.timers.sleep(delay).await;
            NetworkFilterStatus::Close
        })
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
