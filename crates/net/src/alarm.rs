//! The clock event that wakes the task that drives a timer wheel.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use rustix::time::Itimerspec;
use rustix::time::TimerfdClockId;
use rustix::time::TimerfdFlags;
use rustix::time::TimerfdTimerFlags;
use rustix::time::Timespec;
use rustix::time::timerfd_create;
use rustix::time::timerfd_settime;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;
use tokio::time::Sleep;

/// Wakes a task at a given time.
#[derive(Debug)]
pub(crate) enum Alarm {
    /// A timer of the tokio runtime. It follows a paused clock (in tests). It is 1 to 2 ms late: the runtime's timers
    /// and its wait for events both count whole milliseconds.
    Runtime(Pin<Box<Sleep>>),
    /// A `timerfd`, which becomes readable when the time has come. It is late only by the time that waking a thread
    /// takes.
    Kernel(AsyncFd<OwnedFd>),
}

impl Alarm {
    pub(crate) fn of_runtime() -> Alarm {
        Alarm::Runtime(Box::pin(tokio::time::sleep(Duration::ZERO)))
    }

    #[expect(
        deprecated,
        reason = "its successor is unsafe, because the descriptor of some types may change; that of an `OwnedFd` does not"
    )]
    pub(crate) fn of_kernel() -> io::Result<Alarm> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        AsyncFd::with_interest(timer, Interest::READABLE).map(Alarm::Kernel)
    }

    /// Sets the alarm to another time. Ready if the alarm has gone off, perhaps for an earlier setting; otherwise the
    /// alarm will wake the task.
    pub(crate) fn poll_at(&mut self, time: Instant, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Alarm::Runtime(sleep) => {
                sleep.as_mut().reset(time);
                sleep.as_mut().poll(cx)
            }
            Alarm::Kernel(timer) => {
                let left = time.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Poll::Ready(());
                }
                if let Err(error) = set(timer.get_ref(), left) {
                    log::error!("cannot set a timer: {error}");
                }
                // Nothing reads from it: setting it again makes it unreadable.
                timer.poll_read_ready(cx).map(|ready| {
                    if let Ok(mut ready) = ready {
                        ready.clear_ready();
                    }
                })
            }
        }
    }
}

/// Sets `timer` to go off once, after a time that is not zero.
fn set(timer: &OwnedFd, after: Duration) -> io::Result<()> {
    let value = Itimerspec {
        it_interval: Timespec::default(),
        it_value: Timespec::try_from(after).unwrap_or(Timespec {
            tv_sec: i64::MAX,
            tv_nsec: 0,
        }),
    };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &value)?;
    Ok(())
}
