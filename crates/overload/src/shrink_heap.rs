//! `envoy.overload_actions.shrink_heap`: returns freed memory to the system, at an interval.

use std::sync::Arc;
use std::time::Duration;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::overload::v3 as api;
use outrider_config::api::envoy::config::overload::v3::ShrinkHeapConfig;
use outrider_config::duration;
use outrider_net::OverloadLevel;
use outrider_stats::Counter;
use outrider_stats::Scope;
use outrider_stats::Store;

/// `ShrinkHeapConfig.timer_interval` when it is not set.
const INTERVAL: Duration = Duration::from_secs(10);

outrider_stats::group! {
    /// `overload.envoy.overload_actions.shrink_heap.*`
    pub struct ShrinkHeapStats { shrink_count: Counter }
}

/// The action with its settings.
#[derive(Debug)]
pub(crate) struct ShrinkHeap {
    level: Arc<OverloadLevel>,
    interval: Duration,
    stats: Arc<ShrinkHeapStats>,
}

impl ShrinkHeap {
    /// The action of `message`, found at `path`, whose level is `level`.
    ///
    /// # Errors
    /// All that is wrong with its settings.
    pub(crate) fn build(
        message: &api::OverloadAction,
        path: &FieldPath,
        (level, store): (Arc<OverloadLevel>, &Store),
    ) -> Result<ShrinkHeap, ConfigErrors> {
        let path = path.field("typed_config");
        let config: ShrinkHeapConfig = match &message.typed_config {
            Some(any) => outrider_config::unpack(any, &path)?,
            None => ShrinkHeapConfig::default(),
        };
        let interval = config.timer_interval.as_ref();
        let interval = duration::optional(interval, &path.field("timer_interval"))?;
        Ok(ShrinkHeap {
            level,
            interval: interval.unwrap_or(INTERVAL),
            stats: store.register(Scope::new("overload").name(&message.name)),
        })
    }

    /// Calls `shrink` at each interval while the action is fully in force. Never returns.
    pub(crate) async fn run(self, shrink: impl Fn()) {
        loop {
            tokio::time::sleep(self.interval).await;
            if self.level.is_saturated() {
                shrink();
                self.stats.shrink_count.inc();
            }
        }
    }
}
