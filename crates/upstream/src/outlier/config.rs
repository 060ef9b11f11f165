//! The outlier detection settings of a cluster (`envoy.config.cluster.v3.OutlierDetection`), as the runtime changes it.

use std::sync::Arc;
use std::time::Duration;

use outrider_config::ConfigError;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::cluster::v3::OutlierDetection;
use outrider_config::duration;
use outrider_runtime::Snapshot;

/// `max_ejection_time` when it is not set, unless `base_ejection_time` is longer.
const MAX_EJECTION_TIME: Duration = Duration::from_secs(300);

/// How outliers among the hosts of a cluster are detected.
#[derive(Clone, Debug)]
pub(crate) struct OutlierConfig {
    message: Arc<OutlierDetection>,
    interval: Duration,
    base_ejection_time: Duration,
    max_ejection_time: Duration,
    max_ejection_time_jitter: Duration,
}

/// The numbers of a config, by the names that they have in the runtime (`outlier_detection.<name>`), with their defaults.
macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident = $default:literal;)*) => {
        impl OutlierConfig {
            $(
                $(#[$doc])*
                pub(super) fn $name(&self, runtime: &Snapshot) -> u64 {
                    let configured = self.message.$name.map_or($default, u64::from);
                    let key = concat!("outlier_detection.", stringify!($name));
                    runtime.number(key).unwrap_or(configured)
                }
            )*
        }
    };
}

numbers! {
    /// Responses with 5xx in a row that eject a host.
    consecutive_5xx = 5;
    /// Responses with 502, 503 or 504 in a row that eject a host.
    consecutive_gateway_failure = 5;
    /// Failures of the proxy's own to reach a host, in a row, that eject it.
    consecutive_local_origin_failure = 5;
    /// The most hosts that may be ejected, percent.
    max_ejection_percent = 10;
    /// The chance that a detected host is ejected, percent; likewise for the numbers below.
    enforcing_consecutive_5xx = 100;
    /// See above.
    enforcing_consecutive_gateway_failure = 0;
    /// See above.
    enforcing_consecutive_local_origin_failure = 100;
    /// See above.
    enforcing_success_rate = 100;
    /// See above.
    enforcing_local_origin_success_rate = 100;
    /// See above.
    enforcing_failure_percentage = 0;
    /// See above.
    enforcing_failure_percentage_local_origin = 0;
    /// How many hosts must have enough requests for their success rates to be compared.
    success_rate_minimum_hosts = 5;
    /// How many requests of an interval are enough for that.
    success_rate_request_volume = 100;
    /// How many thousandths of the standard deviation below the mean is too low.
    success_rate_stdev_factor = 1900;
    /// The share of failures that is too high, percent.
    failure_percentage_threshold = 85;
    /// How many hosts must have enough requests for their failures to be looked at.
    failure_percentage_minimum_hosts = 5;
    /// How many requests of an interval are enough for that.
    failure_percentage_request_volume = 50;
}

impl OutlierConfig {
    /// The config in `message`, found at `path`.
    pub(crate) fn build(
        message: Option<&OutlierDetection>,
        path: &FieldPath,
    ) -> Result<Option<OutlierConfig>, ConfigError> {
        let Some(message) = message else {
            return Ok(None);
        };
        let read = |value: &Option<_>, name| duration::optional(value.as_ref(), &path.field(name));
        let base = read(&message.base_ejection_time, "base_ejection_time")?;
        let base = base.unwrap_or(Duration::from_secs(30));
        let max = read(&message.max_ejection_time, "max_ejection_time")?;
        let max = max.unwrap_or(base.max(MAX_EJECTION_TIME));
        if max < base {
            return Err(ConfigError::new(
                &path.field("max_ejection_time"),
                "outlier detector's max_ejection_time cannot be smaller than base_ejection_time",
            ));
        }
        let jitter = read(
            &message.max_ejection_time_jitter,
            "max_ejection_time_jitter",
        )?;
        Ok(Some(OutlierConfig {
            interval: read(&message.interval, "interval")?.unwrap_or(Duration::from_secs(10)),
            base_ejection_time: base,
            max_ejection_time: max,
            max_ejection_time_jitter: jitter.unwrap_or_default(),
            message: Arc::new(message.clone()),
        }))
    }

    /// `interval`: how often success rates are compared and hosts may come back.
    pub(super) fn interval(&self, runtime: &Snapshot) -> Duration {
        time(runtime, "outlier_detection.interval_ms", self.interval)
    }

    /// `base_ejection_time`
    pub(super) fn base_ejection_time(&self, runtime: &Snapshot) -> Duration {
        let key = "outlier_detection.base_ejection_time_ms";
        time(runtime, key, self.base_ejection_time)
    }

    /// `max_ejection_time`
    pub(super) fn max_ejection_time(&self, runtime: &Snapshot) -> Duration {
        let key = "outlier_detection.max_ejection_time_ms";
        time(runtime, key, self.max_ejection_time)
    }

    /// `max_ejection_time_jitter`
    pub(super) fn max_ejection_time_jitter(&self, runtime: &Snapshot) -> Duration {
        let key = "outlier_detection.max_ejection_time_jitter_ms";
        time(runtime, key, self.max_ejection_time_jitter)
    }

    /// `split_external_local_origin_errors`
    pub(super) fn splits_origins(&self) -> bool {
        self.message.split_external_local_origin_errors
    }

    /// `always_eject_one_host`
    pub(super) fn always_ejects_one_host(&self) -> bool {
        self.message.always_eject_one_host.unwrap_or(false)
    }

    /// `successful_active_health_check_uneject_host`
    pub(super) fn check_unejects(&self) -> bool {
        let message = &self.message;
        message
            .successful_active_health_check_uneject_host
            .unwrap_or(true)
    }
}

/// A duration that the runtime gives in milliseconds under `key`, or else the configured one.
fn time(runtime: &Snapshot, key: &str, configured: Duration) -> Duration {
    runtime
        .number(key)
        .map_or(configured, Duration::from_millis)
}
