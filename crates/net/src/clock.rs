//! A worker's clock, read about once a turn instead of a dozen times a request.
//!
//! Asking the kernel's clock takes some 40 ns, and a request wants to know the time at a dozen places. On a thread that
//! called [`share_readings`], [`now`] gives the last reading again, which is let go of ([`expire`]) when the thread wakes
//! up, when a socket gave bytes, and after [`USES`] uses. So what has just come in gets the time at which it came, and
//! no reading is older than a few requests' work. Other threads, tests with a paused clock among them, get the true time.

use std::cell::Cell;
use std::time::Duration;
use std::time::SystemTime;

use tokio::time::Instant;

/// How often a reading is given out: some six requests' worth, less than 100 µs.
const USES: u32 = 64;

struct Clock {
    shares: Cell<bool>,
    now: Cell<Option<Instant>>,
    wall: Cell<Option<SystemTime>>,
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
pub fn now() -> Instant {
    CLOCK.with(|clock| match clock.now.get() {
        Some(now) if clock.take_use() => now,
        _ => clock.read(),
    })
}

/// The time now, by the wall clock.
#[must_use]
pub fn wall() -> SystemTime {
    CLOCK.with(|clock| match clock.wall.get() {
        Some(wall) if clock.take_use() => wall,
        _ => clock.read_wall(),
    })
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
            self.wall.set(None);
            self.left.set(USES);
        }
        now
    }

    #[cold]
    fn read_wall(&self) -> SystemTime {
        if self.left.get() == 0 {
            self.read();
        }
        let wall = SystemTime::now();
        if self.shares.get() {
            self.wall.set(Some(wall));
        }
        wall
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
    fn a_reading_is_given_out_only_so_often() {
        share_readings();
        let first = now();
        let same = (0..10 * USES).take_while(|_| now() == first).count();
        assert_eq!(same, USES as usize);
    }
}
