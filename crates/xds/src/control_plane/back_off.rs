//! The delays before a stream is opened again.

use std::time::Duration;

use crate::api_source::BackOffSettings;

/// Random delays whose limit doubles each time.
#[derive(Debug)]
pub(super) struct BackOff {
    settings: BackOffSettings,
    limit: Duration,
}

impl BackOff {
    pub(super) fn new(settings: BackOffSettings) -> BackOff {
        BackOff {
            settings,
            limit: settings.base,
        }
    }

    /// Starts again with short delays.
    pub(super) fn reset(&mut self) {
        self.limit = self.settings.base;
    }

    /// The next delay, in whole milliseconds.
    pub(super) fn next(&mut self) -> Duration {
        let limit = u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX);
        self.limit = self.limit.saturating_mul(2).min(self.settings.max);
        Duration::from_millis(fastrand::u64(..limit.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_doubles_up_to_the_maximum() {
        let settings = BackOffSettings {
            base: Duration::from_millis(100),
            max: Duration::from_millis(300),
        };
        let mut back_off = BackOff::new(settings);
        let mut limits = Vec::new();
        for _ in 0..4 {
            limits.push(back_off.limit.as_millis());
            let limit = back_off.limit;
            assert!(back_off.next() < limit);
        }
        assert_eq!(limits, [100, 200, 300, 300]);
        back_off.reset();
        assert_eq!(back_off.limit.as_millis(), 100);
    }
}
