//! A worker's clock, read about once a turn instead of a dozen times a request.
//!
//! Asking the kernel's clock takes some 40 ns, and a request wants to know the time at a dozen places. On a thread that
//! called [`share_readings`], [`now`] gives the last reading again, which is let go of ([`expire`]) when the thread wakes
//! up, when a socket gave bytes, and after `USES` uses. So what has just come in gets the time at which it came, and
//! no reading is older than a few requests' work. The wall clock is the monotonic one and what lay between both a moment
//! ago. Other threads, tests with a paused clock among them, get the true time.

use std::cell::Cell;
use std::time::Duration;
use std::time::SystemTime;

use tokio::time::Instant;

/// How often a reading is given out: some six requests' worth, less than 100 µs.
const USES: u32 = 64;
/// For how long the wall clock is taken to go as the monotonic one does: when somebody sets it, that shows so much later.
const WALL: Duration = Duration::from_millis(10);

struct Clock {
    shares: Cell<bool>,
    now: Cell<Option<Instant>>,
    /// What the wall clock said, and when that was.
    wall: Cell<Option<(SystemTime, Instant)>>,
    left: Cell<u32>,
}

thread_local! {
    static CLOCK: Clock = const {
        Clock {
            shares: Cell::new(false),
            now: Cell::new(None),
            wall: Cell::new(None),
            left: Cell::new(0),
        }
    };
}

/// From now on this thread's readings are shared. Whoever calls this has [`expire`] called whenever the thread wakes up.
pub fn share_readings() {
    CLOCK.with(|clock| clock.shares.set(true));
}

/// The time now, on the monotonic clock.
#[must_use]
#[inline(never)] // one small copy for all who ask
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
        Some((wall, read)) if now.saturating_duration_since(read) < WALL => (wall, read),
        _ => clock.read_wall(),
    });
    // The reading that is given out may have been made before that.
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

/// Lets go of the last reading.
pub fn expire() {
    CLOCK.with(|clock| clock.left.set(0));
}

impl Clock {
    fn take_use(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }

    #[cold]
    fn read(&self) -> Instant {
        let now = Instant::now();
        if self.shares.get() {
            self.now.set(Some(now));
            self.left.set(USES);
        }
        now
    }

    #[cold]
    fn read_wall(&self) -> (SystemTime, Instant) {
        let both = (SystemTime::now(), Instant::now());
        if self.shares.get() {
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
        let same = (0..10 * USES).take_while(|_| now() == first).count();
        assert_eq!(same, USES as usize);
    }
}
