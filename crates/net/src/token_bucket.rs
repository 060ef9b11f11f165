//! A token bucket that all workers share without a lock.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::r#type::v3 as api;
use outrider_config::duration;
use tokio::time::Instant;

use crate::clock;

/// `fill_interval` is not less.
const MIN_FILL_INTERVAL: Duration = Duration::from_millis(50);

/// Tokens that are refilled continuously, up to a maximum (`TokenBucket`).
#[derive(Debug)]
pub struct TokenBucket {
    max_tokens: f64,
    /// Tokens per second.
    rate: f64,
    began: Instant,
    /// When the bucket was empty, in seconds since `began`, as the bits of an `f64`. It tells how many tokens there are.
    empty_at: AtomicU64,
}

/// The size of a bucket (`envoy.type.v3.TokenBucket`).
#[derive(Clone, Copy, Debug)]
pub struct TokenBucketSize {
    max_tokens: u32,
    tokens_per_fill: u32,
    fill_interval: Duration,
}

impl TokenBucketSize {
    /// Reads the size found at `path`.
    ///
    /// # Errors
    /// The interval is missing, or shorter than Envoy allows.
    pub fn build(
        bucket: &api::TokenBucket,
        path: &FieldPath,
    ) -> Result<TokenBucketSize, ConfigErrors> {
        let path = path.field("fill_interval");
        let interval = duration::optional(bucket.fill_interval.as_ref(), &path)?;
        let interval = interval.unwrap_or_default();
        let mut errors = ConfigErrors::new();
        if interval < MIN_FILL_INTERVAL {
            let text = "local rate limit token bucket fill timer must be >= 50ms";
            errors.push(&path, text);
        }
        errors.finish(TokenBucketSize {
            max_tokens: bucket.max_tokens,
            tokens_per_fill: bucket.tokens_per_fill.unwrap_or(1),
            fill_interval: interval,
        })
    }

    /// A full bucket of this size.
    #[must_use]
    pub fn bucket(self) -> TokenBucket {
        TokenBucket::new(self.max_tokens, self.tokens_per_fill, self.fill_interval)
    }
}

impl TokenBucket {
    /// A full bucket. `interval` is not zero.
    #[must_use]
    pub fn new(max_tokens: u32, tokens_per_fill: u32, interval: Duration) -> TokenBucket {
        let max_tokens = f64::from(max_tokens);
        let rate = f64::from(tokens_per_fill) / interval.as_secs_f64();
        TokenBucket {
            max_tokens,
            rate,
            began: clock::now(),
            empty_at: AtomicU64::new((-max_tokens / rate).to_bits()),
        }
    }

    /// Takes a token, if there is one.
    #[must_use]
    pub fn take(&self) -> bool {
        let now = self.now();
        let taken = self
            .empty_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |empty_at| {
                let rest = self.tokens(f64::from_bits(empty_at), now) - 1.0;
                (rest >= 0.0).then(|| (now - rest / self.rate).to_bits())
            });
        taken.is_ok()
    }

    /// The most tokens that the bucket holds.
    #[must_use]
    pub fn max_tokens(&self) -> u64 {
        self.max_tokens as u64
    }

    /// How many whole tokens there are.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.left() as u64
    }

    /// How many seconds it takes until there is a token.
    #[must_use]
    pub fn next_token(&self) -> u64 {
        let missing = 1.0 - self.left();
        (missing.max(0.0) / self.rate).ceil() as u64
    }

    fn left(&self) -> f64 {
        let empty_at = self.empty_at.load(Ordering::Relaxed);
        self.tokens(f64::from_bits(empty_at), self.now())
    }

    fn tokens(&self, empty_at: f64, now: f64) -> f64 {
        ((now - empty_at) * self.rate).clamp(0.0, self.max_tokens)
    }

    fn now(&self) -> f64 {
        clock::since(self.began).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_its_tokens_once() {
        let bucket = TokenBucket::new(2, 1, Duration::from_secs(3600));
        assert_eq!((bucket.remaining(), bucket.next_token()), (2, 0));
        assert!(bucket.take() && bucket.take() && !bucket.take());
        assert_eq!((bucket.remaining(), bucket.max_tokens()), (0, 2));
        assert!((3590..=3600).contains(&bucket.next_token()));
    }

    #[test]
    fn tokens_come_back() {
        let bucket = TokenBucket::new(1, 1000, Duration::from_secs(1));
        assert!(bucket.take());
        std::thread::sleep(Duration::from_millis(5));
        clock::expire();
        assert!(bucket.take());
    }
}
