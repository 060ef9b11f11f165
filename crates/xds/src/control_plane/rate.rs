//! `rate_limit_settings`: the limit of the requests on a stream.

use std::time::Duration;

use tokio::time::Instant;

use crate::api_source::RateLimit;

/// A token bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    limit: RateLimit,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub(super) fn new(limit: RateLimit) -> Bucket {
        Bucket {
            limit,
            tokens: f64::from(limit.burst),
            filled: Instant::now(),
        }
    }

    /// Takes a token.
    ///
    /// # Errors
    /// There is none before that time.
    pub(super) fn take(&mut self) -> Result<(), Instant> {
        let now = Instant::now();
        let added = now.duration_since(self.filled).as_secs_f64() * self.limit.rate;
        self.tokens = (self.tokens + added).min(f64::from(self.limit.burst));
        self.filled = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        // The API's rules have a rate above zero; a very small one waits for a very long time.
        let missing = (1.0 - self.tokens) / self.limit.rate;
        let wait = Duration::try_from_secs_f64(missing).unwrap_or(Duration::from_secs(1 << 30));
        Err(now + wait.max(Duration::from_millis(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tokens_come_back_at_the_rate() {
        let mut bucket = Bucket::new(RateLimit {
            burst: 2,
            rate: 4.0,
        });
        assert!(bucket.take().is_ok() && bucket.take().is_ok());
        let at = bucket.take().unwrap_err();
        assert_eq!(at - Instant::now(), Duration::from_millis(250));
        tokio::time::advance(Duration::from_millis(250)).await;
        assert!(bucket.take().is_ok() && bucket.take().is_err());
    }
}
