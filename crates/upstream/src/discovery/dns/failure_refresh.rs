//! The delay after a failed lookup.

use std::time::Duration;

use outrider_config::ConfigError;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::clusters::dns::v3::dns_cluster::RefreshRate;
use outrider_config::duration;
use outrider_net::BackOff;

/// A fixed delay, or a random one below a bound that doubles with each failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FailureRefresh {
    /// The refresh rate, if `dns_failure_refresh_rate` is not set.
    Fixed(Duration),
    Growing(BackOff),
}

impl FailureRefresh {
    pub(crate) fn build(
        message: Option<&RefreshRate>,
        refresh: Duration,
        path: &FieldPath,
    ) -> Result<FailureRefresh, ConfigError> {
        let Some(message) = message else {
            return Ok(FailureRefresh::Fixed(refresh));
        };
        let path_of = |name| path.field(name);
        let base = duration::optional(message.base_interval.as_ref(), &path_of("base_interval"))?
            .unwrap_or(refresh);
        let max = duration::optional(message.max_interval.as_ref(), &path_of("max_interval"))?
            .unwrap_or(base.saturating_mul(10));
        if max < base {
            return Err(ConfigError::new(
                path,
                "dns_failure_refresh_rate must have max_interval greater than or equal to the base_interval",
            ));
        }
        Ok(FailureRefresh::Growing(BackOff::new(base, max)))
    }

    /// The next delay.
    pub(crate) fn next(&mut self) -> Duration {
        match self {
            FailureRefresh::Fixed(wait) => *wait,
            FailureRefresh::Growing(back_off) => back_off.next_wait(),
        }
    }

    /// Resets the bound after a successful lookup.
    pub(crate) fn reset(&mut self) {
        if let FailureRefresh::Growing(back_off) = self {
            back_off.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_up_to_the_maximum_and_falls_back() {
        let seconds = |seconds| prost_types::Duration { seconds, nanos: 0 };
        let message = RefreshRate {
            base_interval: Some(seconds(1)),
            max_interval: Some(seconds(3)),
        };
        let path = FieldPath::root();
        let mut refresh = FailureRefresh::build(Some(&message), Duration::ZERO, &path).unwrap();
        for bound in [1, 2, 3, 3] {
            assert!(refresh.next() < Duration::from_secs(bound));
        }
        refresh.reset();
        let fresh = FailureRefresh::build(Some(&message), Duration::ZERO, &path).unwrap();
        assert_eq!(refresh, fresh);
    }

    #[test]
    fn without_a_rate_of_its_own_it_is_the_refresh_rate() {
        let rate = Duration::from_secs(7);
        let mut refresh = FailureRefresh::build(None, rate, &FieldPath::root()).unwrap();
        assert_eq!((refresh.next(), refresh.next()), (rate, rate));
    }
}
