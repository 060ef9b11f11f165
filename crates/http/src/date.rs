//! The `date` header, formatted once a second.

use std::cell::Cell;
use std::cell::RefCell;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use outrider_codec::HeaderValue;

/// A worker's cache of the current date.
#[derive(Debug)]
pub(crate) struct DateCache {
    second: Cell<u64>,
    value: RefCell<HeaderValue>,
}

impl DateCache {
    pub(crate) fn new() -> DateCache {
        DateCache {
            second: Cell::new(0),
            value: RefCell::new(format(0)),
        }
    }

    /// The value of `date` for an answer sent at `now`.
    pub(crate) fn value(&self, now: SystemTime) -> HeaderValue {
        let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if second != self.second.get() {
            self.second.set(second);
            self.value.replace(format(second));
        }
        self.value.borrow().clone()
    }
}

fn format(second: u64) -> HeaderValue {
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
    HeaderValue::try_from(date).unwrap_or_else(|_| HeaderValue::from_static("")) // a date is plain ASCII
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_clock() {
        let dates = DateCache::new();
        let at = |millis| dates.value(UNIX_EPOCH + Duration::from_millis(millis));
        assert_eq!(at(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(at(784_111_777_999), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(784_111_778_000), "Sun, 06 Nov 1994 08:49:38 GMT");
    }
}
