//! A worker's timer wheel. Arming, re-arming and dropping a timer is O(1) and allocates nothing.
//!
//! Every stream has timers that almost never fire (15 s route timeout, 5 min idle timeout), so the costs that matter
//! are those of arming and dropping them. One alarm drives the whole wheel. A timer never fires early; it fires late by
//! up to a quarter of a millisecond plus the delay of the alarm.

use std::cell::Cell;
use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use crate::TimeoutScale;
use crate::alarm::Alarm;
use crate::clock;
use crate::scaled;

/// Timers fire at multiples of this time, so that many timers do not wake the thread one by one.
const GRAIN_MICROS: u64 = 250;
const GRAIN_NANOS: u128 = 1000 * GRAIN_MICROS as u128;
/// Deadlines within this many grains (2 ms) share a slot.
const SLOT_GRAINS: u64 = 8;
/// The number of slots, 4 s in all. A timer that is further away stays in its slot and is looked at once per turn of
/// the wheel.
const SLOTS: usize = 2048;
const WORDS: usize = SLOTS / 64;

/// A worker's timers. Clones share one wheel.
#[derive(Clone, Debug)]
pub struct Timers(Rc<SharedTimers>);

#[derive(Debug)]
struct SharedTimers {
    wheel: RefCell<Wheel>,
    origin: Instant,
    /// The grain until which the driver sleeps; `u64::MAX` if no timer is armed.
    sleeping_until: Cell<u64>,
    driver: RefCell<Option<Waker>>,
}

#[derive(Debug)]
struct Wheel {
    entries: Slab<TimerEntry>,
    /// The first entry of each slot's list.
    heads: Vec<Option<u32>>,
    /// One bit per slot, set if the slot has an entry.
    occupied: [u64; WORDS],
    /// The tick that is being handled; all earlier ticks are done. A tick is the time span of a slot.
    now: u64,
}

#[derive(Debug)]
struct TimerEntry {
    /// The grain at which it fires.
    due: u64,
    armed: bool,
    fired: bool,
    /// Fires early when the overload manager changes how timeouts are scaled.
    scaled: bool,
    waker: Option<Waker>,
    previous: Option<u32>,
    next: Option<u32>,
}

/// One timer. It is not armed at first. Dropping it cancels it.
#[derive(Debug)]
pub struct Timer {
    shared: Rc<SharedTimers>,
    key: u32,
}

impl Default for Timers {
    fn default() -> Timers {
        Timers::new()
    }
}

impl Timers {
    /// An empty wheel. Nothing fires until [`Timers::run`] is polled.
    #[must_use]
    pub fn new() -> Timers {
        Timers(Rc::new(SharedTimers {
            wheel: RefCell::new(Wheel {
                entries: Slab::new(),
                heads: vec![None; SLOTS],
                occupied: [0; WORDS],
                now: 0,
            }),
            origin: Instant::now(),
            sleeping_until: Cell::new(u64::MAX),
            driver: RefCell::new(None),
        }))
    }

    /// The time now, from the worker's clock.
    #[must_use]
    pub fn now(&self) -> Instant {
        clock::now()
    }

    /// A timer that is not armed yet.
    #[must_use]
    pub fn timer(&self) -> Timer {
        let key = self.0.wheel.borrow_mut().entries.insert(TimerEntry {
            due: 0,
            armed: false,
            fired: false,
            scaled: false,
            waker: None,
            previous: None,
            next: None,
        });
        Timer {
            shared: self.0.clone(),
            key: u32::try_from(key).unwrap_or(u32::MAX),
        }
    }

    /// A timer like [`timer`](Self::timer) that also fires at each [`recheck`](Self::recheck). Its user must then look
    /// whether its deadline has passed, and set it again otherwise.
    #[must_use]
    pub fn scaled_timer(&self) -> Timer {
        let timer = self.timer();
        self.0.wheel.borrow_mut().entries[timer.key as usize].scaled = true;
        timer
    }

    /// Fires all armed timers whose timeouts are scaled, because the scale has changed.
    pub fn recheck(&self) {
        let woken = self.0.wheel.borrow_mut().fire_scaled();
        for waker in woken {
            waker.wake();
        }
    }

    /// Waits for `duration`, on the wheel.
    pub async fn sleep(&self, duration: Duration) {
        let mut timer = self.timer();
        timer.set(Some(self.now() + duration));
        timer.elapsed().await;
    }

    /// Drives the wheel by the runtime's timers, which are up to 2 ms late. Never returns.
    pub async fn run(self) {
        self.drive(Alarm::of_runtime()).await;
    }

    /// Drives the wheel by a `timerfd`, if the system gives one. Each worker spawns this once. Never returns.
    pub async fn run_exactly(self) {
        let alarm = Alarm::of_kernel().unwrap_or_else(|error| {
            log::warn!("timers will be up to 2 ms late: {error}");
            Alarm::of_runtime()
        });
        self.drive(alarm).await;
    }

    async fn drive(self, mut alarm: Alarm) {
        poll_fn(|cx| {
            loop {
                let woken = self.0.advance();
                for waker in woken {
                    waker.wake();
                }
                *self.0.driver.borrow_mut() = Some(cx.waker().clone());
                let next = self.0.wheel.borrow().next_wake();
                self.0.sleeping_until.set(next.unwrap_or(u64::MAX));
                let Some(next) = next else {
                    return Poll::Pending;
                };
                if alarm.poll_at(self.0.instant(next), cx).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }
}

impl SharedTimers {
    /// The first grain that is not before `instant`.
    fn grain(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.origin);
        let grain = since.as_nanos().div_ceil(GRAIN_NANOS);
        // The largest number is reserved: it means that no timer is armed.
        u64::try_from(grain).unwrap_or(u64::MAX).min(u64::MAX - 1)
    }

    fn instant(&self, grain: u64) -> Instant {
        self.origin + Duration::from_micros(grain.saturating_mul(GRAIN_MICROS))
    }

    /// Fires the timers that are due and returns the wakers to call, outside the borrow.
    fn advance(&self) -> Vec<Waker> {
        // The tasks that are woken now must not read the time from before.
        clock::expire();
        let elapsed = clock::now().saturating_duration_since(self.origin);
        let grain = elapsed.as_nanos() / GRAIN_NANOS;
        let grain = u64::try_from(grain).unwrap_or(u64::MAX);
        self.wheel.borrow_mut().fire_until(grain)
    }
}

impl Wheel {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the remainder is below SLOTS"
    )]
    fn slot(tick: u64) -> usize {
        (tick % SLOTS as u64) as usize
    }

    fn link(&mut self, key: u32, due: u64) {
        let slot = Wheel::slot(due / SLOT_GRAINS);
        let head = self.heads[slot].replace(key);
        self.occupied[slot / 64] |= 1 << (slot % 64);
        if let Some(head) = head {
            self.entries[head as usize].previous = Some(key);
        }
        let entry = &mut self.entries[key as usize];
        entry.due = due;
        entry.armed = true;
        entry.previous = None;
        entry.next = head;
    }

    fn unlink(&mut self, key: u32) {
        let entry = &mut self.entries[key as usize];
        if !entry.armed {
            return;
        }
        entry.armed = false;
        let (previous, next, slot) = (
            entry.previous.take(),
            entry.next.take(),
            Wheel::slot(entry.due / SLOT_GRAINS),
        );
        if let Some(next) = next {
            self.entries[next as usize].previous = previous;
        }
        match previous {
            Some(previous) => self.entries[previous as usize].next = next,
            None => {
                self.heads[slot] = next;
                if next.is_none() {
                    self.occupied[slot / 64] &= !(1 << (slot % 64));
                }
            }
        }
    }

    /// The next tick whose slot has entries. (They may be due only in a later turn.)
    fn next_tick(&self) -> Option<u64> {
        let start = Wheel::slot(self.now);
        for step in 0..=WORDS {
            let word = (start / 64 + step) % WORDS;
            let mut bits = self.occupied[word];
            if step == 0 {
                bits &= u64::MAX << (start % 64);
            } else if step == WORDS {
                bits &= !(u64::MAX << (start % 64));
            }
            if bits != 0 {
                let slot = word * 64 + bits.trailing_zeros() as usize;
                let distance = (slot + SLOTS - start) % SLOTS;
                return Some(self.now + distance as u64);
            }
        }
        None
    }

    /// The grain at which to look again: when the first timer of the next used slot is due, or when that slot is over.
    fn next_wake(&self) -> Option<u64> {
        let tick = self.next_tick()?;
        let mut wake = (tick + 1).saturating_mul(SLOT_GRAINS);
        let mut at = self.heads[Wheel::slot(tick)];
        while let Some(key) = at {
            let entry = &self.entries[key as usize];
            wake = wake.min(entry.due);
            at = entry.next;
        }
        Some(wake)
    }

    /// Fires the armed timers that are scaled.
    fn fire_scaled(&mut self) -> Vec<Waker> {
        let scaled = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.scaled && entry.armed);
        let keys: Vec<u32> = scaled
            .filter_map(|(key, _)| u32::try_from(key).ok())
            .collect();
        let mut wakers = Vec::new();
        for key in keys {
            self.unlink(key);
            let entry = &mut self.entries[key as usize];
            entry.fired = true;
            wakers.extend(entry.waker.take());
        }
        wakers
    }

    fn fire_until(&mut self, grain: u64) -> Vec<Waker> {
        let until = grain / SLOT_GRAINS;
        let mut wakers = Vec::new();
        while let Some(tick) = self.next_tick() {
            if tick > until {
                break;
            }
            let mut at = self.heads[Wheel::slot(tick)];
            while let Some(key) = at {
                let entry = &mut self.entries[key as usize];
                at = entry.next;
                if entry.due <= grain {
                    entry.fired = true;
                    wakers.extend(entry.waker.take());
                    self.unlink(key);
                }
            }
            if tick == until {
                // Other entries of this slot may be due later within its time span.
                break;
            }
            self.now = tick + 1;
        }
        self.now = self.now.max(until);
        wakers
    }
}

/// The deadline of a timeout that the overload manager may shorten while it runs.
#[derive(Debug)]
pub(crate) struct ScaledDeadline {
    timer: Timer,
    began: Instant,
    timeout: Duration,
    scale: Option<TimeoutScale>,
}

impl ScaledDeadline {
    /// A deadline `timeout` from now.
    pub(crate) fn new(
        timers: &Timers,
        timeout: Duration,
        scale: Option<TimeoutScale>,
    ) -> ScaledDeadline {
        let timer = match &scale {
            Some(_) => timers.scaled_timer(),
            None => timers.timer(),
        };
        let mut deadline = ScaledDeadline {
            timer,
            began: timers.now(),
            timeout,
            scale,
        };
        deadline.timer.set(Some(deadline.passes_at()));
        deadline
    }

    fn passes_at(&self) -> Instant {
        self.began + scaled(self.timeout, self.scale.as_ref())
    }

    /// Ready once the deadline has passed.
    pub(crate) fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.timer.poll_elapsed(cx).is_ready() {
            let passes_at = self.passes_at();
            if passes_at <= clock::now() {
                return Poll::Ready(());
            }
            self.timer.set(Some(passes_at));
        }
        Poll::Pending
    }
}

impl Timer {
    /// Arms the timer for `deadline`, or disarms it. A deadline in the past fires at once.
    pub fn set(&mut self, deadline: Option<Instant>) {
        let mut wheel = self.shared.wheel.borrow_mut();
        wheel.unlink(self.key);
        wheel.entries[self.key as usize].fired = false;
        let Some(deadline) = deadline else {
            return;
        };
        let handled = wheel.now.saturating_mul(SLOT_GRAINS);
        let due = self.shared.grain(deadline).max(handled);
        wheel.link(self.key, due);
        if due < self.shared.sleeping_until.get() {
            self.shared.sleeping_until.set(due);
            drop(wheel);
            if let Some(driver) = self.shared.driver.borrow_mut().take() {
                driver.wake();
            }
        }
    }

    /// Ready once the deadline has passed, until the timer is set again. Pending while it is not armed.
    pub fn poll_elapsed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut wheel = self.shared.wheel.borrow_mut();
        let entry = &mut wheel.entries[self.key as usize];
        if entry.fired {
            return Poll::Ready(());
        }
        let replaced = match &entry.waker {
            Some(waker) if waker.will_wake(cx.waker()) => None,
            _ => entry.waker.replace(cx.waker().clone()),
        };
        // The waker may be the last reference to a task with timers of its own, so it is dropped outside the borrow.
        drop(wheel);
        drop(replaced);
        Poll::Pending
    }

    /// Waits until the deadline has passed.
    pub async fn elapsed(&mut self) {
        poll_fn(|cx| self.poll_elapsed(cx)).await;
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut wheel = self.shared.wheel.borrow_mut();
        wheel.unlink(self.key);
        let entry = wheel.entries.remove(self.key as usize);
        // As in `poll_elapsed`, the waker is dropped outside the borrow.
        drop(wheel);
        drop(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn with_wheel<F: Future<Output = ()> + 'static>(test: impl FnOnce(Timers) -> F) {
        let timers = Timers::new();
        let local = tokio::task::LocalSet::new();
        local.spawn_local(timers.clone().run());
        local.run_until(test(timers)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn fires_in_time_and_never_early() {
        with_wheel(|timers| async move {
            for millis in [0, 1, 2, 3, 100, 4095, 4096, 4097, 15_000, 3_600_000] {
                let start = Instant::now();
                timers.sleep(Duration::from_millis(millis)).await;
                let waited = start.elapsed();
                assert!(
                    waited >= Duration::from_millis(millis),
                    "{millis} ms came after {waited:?}"
                );
                assert!(
                    waited <= Duration::from_millis(millis + 2),
                    "{millis} ms took {waited:?}"
                );
            }
        })
        .await;
    }

    #[tokio::test]
    async fn the_kernel_timer_is_exact() {
        let timers = Timers::new();
        let local = tokio::task::LocalSet::new();
        local.spawn_local(timers.clone().run_exactly());
        let shortest = local.run_until(async {
            let mut late = Vec::new();
            for micros in [0, 300, 1_000, 1_700, 2_000, 3_300, 9_900] {
                for _ in 0..5 {
                    let wanted = Duration::from_micros(micros);
                    let start = Instant::now();
                    timers.sleep(wanted).await;
                    let waited = start.elapsed();
                    assert!(waited >= wanted, "{wanted:?} came after {waited:?}");
                    late.push(waited - wanted);
                }
            }
            late.sort();
            late[late.len() / 4]
        });
        // On a busy machine some timers are late, but not most.
        let shortest = shortest.await;
        assert!(shortest < Duration::from_millis(1), "late by {shortest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_of_many_comes_first() {
        with_wheel(|timers| async move {
            let start = Instant::now();
            let order = Rc::new(RefCell::new(Vec::new()));
            let mut tasks = Vec::new();
            for millis in [900, 20, 5_000, 300, 4_200, 20] {
                let (timers, order) = (timers.clone(), order.clone());
                tasks.push(tokio::task::spawn_local(async move {
                    timers.sleep(Duration::from_millis(millis)).await;
                    order.borrow_mut().push(millis);
                }));
            }
            for task in tasks {
                task.await.unwrap();
            }
            assert_eq!(*order.borrow(), [20, 20, 300, 900, 4_200, 5_000]);
            assert!(start.elapsed() < Duration::from_millis(5_010));
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_is_set_again_forgets_its_first_deadline() {
        with_wheel(|timers| async move {
            let start = Instant::now();
            let mut timer = timers.timer();
            timer.set(Some(start + Duration::from_secs(1)));
            timer.set(Some(start + Duration::from_secs(9)));
            timer.elapsed().await;
            assert!(start.elapsed() >= Duration::from_secs(9));
            timer.set(None);
            let mut other = timers.timer();
            other.set(Some(timers.now() + Duration::from_secs(1)));
            tokio::select! {
                () = timer.elapsed() => panic!("a disarmed timer fired"),
                () = other.elapsed() => {}
            }
        })
        .await;
    }

    #[test]
    fn a_dropped_timer_leaves_its_slot_empty() {
        let timers = Timers::new();
        let mut kept = timers.timer();
        let mut dropped = timers.timer();
        kept.set(Some(timers.now() + Duration::from_secs(1)));
        dropped.set(Some(timers.now() + Duration::from_millis(10)));
        drop(dropped);
        let wheel = timers.0.wheel.borrow();
        assert_eq!(wheel.entries.len(), 1);
        assert_eq!(
            wheel
                .occupied
                .iter()
                .map(|word| word.count_ones())
                .sum::<u32>(),
            1
        );
    }
}
