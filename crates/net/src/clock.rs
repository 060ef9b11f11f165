//! A worker's clock. A thread reads the kernel's clock about once per turn of its event loop instead of a dozen times
//! per request.
//!
//! Reading the kernel's clock takes some 40 ns, and a request needs the time in a dozen places. On a thread that called
//! [`share_readings`], [`now`] returns its last reading again until that expires. It expires ([`expire`]) when the
//! thread wakes up, when a socket has returned bytes, and after `MAX_USES` uses. So bytes that arrive are stamped with
//! their time of arrival, and no reading is older than the work of a few requests. The wall clock is derived from the
//! monotonic clock by their last known difference. Other threads, and tests with a paused clock, always get a new
//! reading.

use std::cell::Cell;
use std::time::Duration;
use std::time::SystemTime;

use tokio::time::Instant;

/// How often one reading is used: the uses of about six requests, less than 100 µs.
const MAX_USES: u32 = 64;
/// How long the last known difference between the wall clock and the monotonic clock is used. If someone sets the wall
/// clock, it is noticed this much later.
const WALL_CLOCK_VALIDITY: Duration = Duration::from_millis(10);

struct Clock {
    is_shared: Cell<bool>,
    now: Cell<Option<Instant>>,
    /// The last reading of the wall clock, with the monotonic time of the reading.
    wall: Cell<Option<(SystemTime, Instant)>>,
    uses_left: Cell<u32>,
}

thread_local! {
    static CLOCK: Clock = const {
        Clock {
            is_shared: Cell::new(false),
            now: Cell::new(None),
            wall: Cell::new(None),
            uses_left: Cell::new(0),
        }
    };
}

/// From now on, this thread shares its readings. The caller ensures that [`expire`] is called each time the thread
/// wakes up.
pub fn share_readings() {
    CLOCK.with(|clock| clock.is_shared.set(true));
}

/// The time now, on the monotonic clock.
#[must_use]
#[inline(never)] // one small copy for all callers
pub fn now() -> Instant {
    CLOCK.with(|clock| match clock.now.get() {
        Some(now) if clock.take_use() => now,
        _ => clock.read(),
    })
}

/// The time now, by the wall clock.
#[must_use]
#[inline(never)]
pub fn wall() -> SystemTime {
    let now = now();
    let (wall, read) = CLOCK.with(|clock| match clock.wall.get() {
        Some((wall, read)) if now.saturating_duration_since(read) < WALL_CLOCK_VALIDITY => {
            (wall, read)
        }
        _ => clock.read_wall(),
    });
    // `now` may be a shared reading from before the wall clock was read.
    let told = match now.checked_duration_since(read) {
        Some(since) => wall.checked_add(since),
        None => wall.checked_sub(read - now),
    };
    told.unwrap_or(wall)
}

/// The time that has passed since `before`.
#[must_use]
pub fn since(before: Instant) -> Duration {
    now().saturating_duration_since(before)
}

/// Drops the last reading, so that the next call reads the kernel's clock.
pub fn expire() {
    CLOCK.with(|clock| clock.uses_left.set(0));
}

impl Clock {
    fn take_use(&self) -> bool {
        let uses_left = self.uses_left.get();
        self.uses_left.set(uses_left.saturating_sub(1));
        uses_left > 0
    }

    #[cold]
    fn read(&self) -> Instant {
        let now = Instant::now();
        if self.is_shared.get() {
            self.now.set(Some(now));
            self.uses_left.set(MAX_USES);
        }
        now
    }

    #[cold]
    fn read_wall(&self) -> (SystemTime, Instant) {
        let both = (SystemTime::now(), Instant::now());
        if self.is_shared.get() {
            self.wall.set(Some(both));
        }
        both
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass_time() {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(1) {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn a_reading_is_shared_until_it_expires() {
        let (first, wall_first) = (now(), wall());
        pass_time();
        assert!(now() > first && wall() > wall_first);
        share_readings();
        let (first, wall_first) = (now(), wall());
        pass_time();
        assert_eq!((now(), wall()), (first, wall_first));
        expire();
        assert!(since(first) >= Duration::from_millis(1));
        assert!(wall() > wall_first);
    }

    #[test]
    fn the_wall_clock_goes_on_as_time_does() {
        share_readings();
        let (begin, first) = (Instant::now(), wall());
        for _ in 0..30 {
            pass_time();
        }
        expire();
        let told = wall().duration_since(first).unwrap();
        let passed = begin.elapsed();
        assert!(told > Duration::from_millis(15) && told < passed + Duration::from_secs(1));
    }

    #[test]
    fn a_reading_is_given_out_only_so_often() {
        share_readings();
        let first = now();
        let same = (0..10 * MAX_USES).take_while(|_| now() == first).count();
        assert_eq!(same, MAX_USES as usize);
    }
}
