//! The delay after a failed lookup.

use std::time::Duration;

use outrider_config::ConfigError;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::clusters::dns::v3::dns_cluster::RefreshRate;
use outrider_config::duration;

/// A fixed delay, or a random one below a bound that doubles with each failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Backoff {
    /// The refresh rate, if `dns_failure_refresh_rate` is not set.
    Fixed(Duration),
    Growing {
        base: Duration,
        max: Duration,
        bound: Duration,
    },
}

impl Backoff {
    pub(super) fn build(
        message: Option<&RefreshRate>,
        refresh: Duration,
        path: &FieldPath,
    ) -> Result<Backoff, ConfigError> {
        let Some(message) = message else {
            return Ok(Backoff::Fixed(refresh));
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
        Ok(Backoff::Growing {
            base,
            max,
            bound: base,
        })
    }

    /// The next delay.
    pub(super) fn next(&mut self) -> Duration {
        match self {
            Backoff::Fixed(wait) => *wait,
            Backoff::Growing { max, bound, .. } => {
                let below = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX).max(1);
                *bound = bound.saturating_mul(2).min(*max);
                Duration::from_millis(fastrand::u64(0..below))
            }
        }
    }

    /// Resets the bound after a successful lookup.
    pub(super) fn reset(&mut self) {
        if let Backoff::Growing { base, bound, .. } = self {
            *bound = *base;
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
        let mut backoff = Backoff::build(Some(&message), Duration::ZERO, &path).unwrap();
        for bound in [1, 2, 3, 3] {
            assert!(backoff.next() < Duration::from_secs(bound));
        }
        backoff.reset();
        let fresh = Backoff::build(Some(&message), Duration::ZERO, &path).unwrap();
        assert_eq!(backoff, fresh);
    }

    #[test]
    fn without_a_rate_of_its_own_it_is_the_refresh_rate() {
        let refresh = Duration::from_secs(7);
        let mut backoff = Backoff::build(None, refresh, &FieldPath::root()).unwrap();
        assert_eq!((backoff.next(), backoff.next()), (refresh, refresh));
    }
}
