//! Slow start: a new host gets few requests at first and its full share after a window of time.

use std::sync::Arc;
use std::time::Duration;

use outrider_config::ConfigError;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::cluster::v3::cluster::SlowStartConfig as LegacySlowStart;
use outrider_config::api::envoy::extensions::load_balancing_policies::common::v3::SlowStartConfig;
use outrider_config::duration;
use outrider_net::clock;
use outrider_runtime::RuntimeDouble;
use outrider_runtime::Snapshot;

use crate::Health;
use crate::Host;

/// The default of `min_weight_percent`.
const MINIMUM_PERCENT: f64 = 10.0;

/// `SlowStartConfig`
#[derive(Clone, Debug)]
pub(super) struct SlowStart {
    /// `slow_start_window`; never zero.
    window: Duration,
    /// `aggression`: above 1, the share grows fast at first; below 1, it grows fast towards the end.
    aggression: Option<RuntimeDouble>,
    /// `min_weight_percent`, as a fraction.
    minimum: f64,
}

impl SlowStart {
    /// Reads `slow_start_config` of a cluster, at `path`; `None` without a window.
    pub(super) fn of_cluster(
        config: Option<&LegacySlowStart>,
        path: &FieldPath,
    ) -> Result<Option<SlowStart>, ConfigError> {
        let config = config.map(|config| SlowStartConfig {
            slow_start_window: config.slow_start_window,
            aggression: config.aggression.clone(),
            min_weight_percent: config.min_weight_percent,
        });
        SlowStart::of_policy(config.as_ref(), path)
    }

    /// Reads `slow_start_config` of a policy, at `path`; `None` without a window.
    pub(super) fn of_policy(
        config: Option<&SlowStartConfig>,
        path: &FieldPath,
    ) -> Result<Option<SlowStart>, ConfigError> {
        let Some(config) = config else {
            return Ok(None);
        };
        let path = path.field("slow_start_window");
        let window = duration::optional(config.slow_start_window.as_ref(), &path)?;
        Ok(window
            .filter(|window| !window.is_zero())
            .map(|window| SlowStart {
                window,
                aggression: config.aggression.as_ref().map(RuntimeDouble::of),
                minimum: config
                    .min_weight_percent
                    .map_or(MINIMUM_PERCENT, |percent| percent.value)
                    / 100.0,
            }))
    }

    /// Whether any of these hosts is in slow start.
    pub(super) fn concerns(&self, hosts: &[Arc<Host>]) -> bool {
        let is_new = |host: &Arc<Host>| {
            host.health() == Health::Healthy && clock::since(host.healthy_since()) <= self.window
        };
        hosts.len() > 1 && hosts.iter().any(is_new)
    }

    /// The fraction of its weight that a host has at the moment.
    pub(super) fn share(&self, host: &Host, runtime: Option<&Snapshot>) -> f64 {
        let age = clock::since(host.healthy_since());
        if age >= self.window || host.health() != Health::Healthy {
            return 1.0;
        }
        let aggression = self.aggression.as_ref();
        let aggression = aggression.map_or(1.0, |aggression| aggression.value(runtime));
        // As in Envoy, an aggression that is not a positive number counts as 1.
        let aggression = if aggression > 0.0 { aggression } else { 1.0 };
        let age = age.max(Duration::from_millis(1));
        let part = age.as_secs_f64() / self.window.as_secs_f64();
        part.powf(1.0 / aggression).max(self.minimum)
    }
}

#[cfg(test)]
mod tests {
    use outrider_config::api::envoy::config::core::v3::RuntimeDouble as RuntimeDoubleMessage;
    use outrider_config::api::envoy::r#type::v3::Percent;
    use outrider_net::Address;
    use prost_types::Duration as DurationMessage;

    use super::*;

    fn slow_start(aggression: f64) -> SlowStart {
        let config = SlowStartConfig {
            slow_start_window: Some(DurationMessage {
                seconds: 10,
                nanos: 0,
            }),
            aggression: Some(RuntimeDoubleMessage {
                default_value: aggression,
                ..RuntimeDoubleMessage::default()
            }),
            min_weight_percent: Some(Percent { value: 5.0 }),
        };
        let path = FieldPath::root();
        SlowStart::of_policy(Some(&config), &path).unwrap().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_share_of_a_new_host_grows() {
        let address = Address::Ip(([127, 0, 0, 1], 1).into());
        let host = Host::new(vec![address], Arc::default(), Arc::default());
        let hosts = [host.clone(), host.clone()];
        let shares =
            || [1.0, 2.0, 0.5, -1.0].map(|aggression| slow_start(aggression).share(&host, None));
        assert_eq!(
            shares(),
            [0.05, 0.05, 0.05, 0.05].map(|least: f64| least.max(0.0))
        );
        assert!(slow_start(1.0).concerns(&hosts));
        tokio::time::advance(Duration::from_millis(2500)).await;
        assert_eq!(shares(), [0.25, 0.5, 0.0625, 0.25]);
        tokio::time::advance(Duration::from_millis(7501)).await;
        assert_eq!(shares(), [1.0; 4]);
        assert!(!slow_start(1.0).concerns(&hosts));
    }
}
