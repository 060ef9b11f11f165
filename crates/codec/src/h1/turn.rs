//! Deferred writes. Between two polls of its sockets, a worker first lets its tasks read all requests, then handles
//! them, and then sends all small responses: running the same code for many connections in a row keeps it in the CPU's
//! caches.
//!
//! It also helps the peer. A peer that waits for a response runs on another core as soon as one is written. If each
//! response were written at once, the peer would come back with one request at a time, and both sides would access the
//! same sockets at once. With all writes in a row, both sides have much to do each time they poll.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use tokio::task::spawn_local;
use tokio::task::unconstrained;

/// The maximum capacity of the list that is kept for reuse.
const KEPT: usize = 1024;

thread_local! {
    static TURN: RefCell<Turn> = const {
        RefCell::new(Turn {
            waiting: Vec::new(),
            ender: Ender::None,
        })
    };
}

/// A connection with deferred writes.
pub(super) trait PutOff {
    /// Writes the queued bytes.
    fn write_now(&self);
}

struct Turn {
    waiting: Vec<Rc<dyn PutOff>>,
    ender: Ender,
}

/// The task that performs the deferred writes. The first deferred write wakes it, so that it runs after all tasks that
/// are ready at that moment.
enum Ender {
    None,
    /// It was spawned and will run without being woken.
    Spawned,
    Asleep(Waker),
}

/// Performs `writes` after all tasks that are ready now have run.
pub(super) fn put_off(writes: Rc<dyn PutOff>) {
    let unended = TURN.with_borrow_mut(|turn| {
        turn.waiting.push(writes);
        match &turn.ender {
            Ender::Asleep(task) if turn.waiting.len() == 1 => task.wake_by_ref(),
            Ender::Spawned | Ender::Asleep(_) => {}
            Ender::None => turn.ender = Ender::Spawned,
        }
        matches!(turn.ender, Ender::Spawned) && turn.waiting.len() == 1
    });
    if unended {
        spawn_local(unconstrained(end_turns(Gone)));
    }
}

/// Lets all other ready tasks run before a request is handled, because they may have to read, too.
pub(super) fn give_way<T>(cx: &Context<'_>) -> Poll<T> {
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Performs deferred writes while the runtime exists.
async fn end_turns(_gone: Gone) {
    poll_fn::<(), _>(|cx| {
        let mut waiting = TURN.with_borrow_mut(|turn| {
            match &mut turn.ender {
                Ender::Asleep(task) => task.clone_from(cx.waker()),
                ender => *ender = Ender::Asleep(cx.waker().clone()),
            }
            std::mem::take(&mut turn.waiting)
        });
        for writes in waiting.drain(..) {
            writes.write_now();
        }
        if waiting.capacity() <= KEPT {
            TURN.with_borrow_mut(|turn| {
                // Writes that were deferred meanwhile have woken this task.
                waiting.append(&mut turn.waiting);
                turn.waiting = waiting;
            });
        }
        Poll::Pending
    })
    .await;
}

/// Resets the state when the runtime ends: another runtime on this thread needs a task of its own.
struct Gone;

impl Drop for Gone {
    fn drop(&mut self) {
        let waiting = TURN.with_borrow_mut(|turn| {
            turn.ender = Ender::None;
            std::mem::take(&mut turn.waiting)
        });
        drop(waiting);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::task::LocalSet;
    use tokio::task::spawn_local;
    use tokio::task::yield_now;

    use super::PutOff;
    use super::put_off;

    /// Appends its letter to a log.
    struct Letter(char, Rc<RefCell<String>>);

    impl PutOff for Letter {
        fn write_now(&self) {
            self.1.borrow_mut().push(self.0);
        }
    }

    /// The log of a runtime in which three tasks defer a write, and one of them a second.
    fn log_of_a_runtime() -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let log = Rc::new(RefCell::new(String::new()));
        let seen = log.clone();
        LocalSet::new().block_on(&runtime.unwrap(), async move {
            let tasks = ['a', 'b', 'c'].map(|letter| {
                let log = log.clone();
                spawn_local(async move {
                    log.borrow_mut().push('.');
                    put_off(Rc::new(Letter(letter, log.clone())));
                    if letter == 'b' {
                        yield_now().await;
                        put_off(Rc::new(Letter('B', log)));
                    }
                })
            });
            for task in tasks {
                task.await.unwrap();
            }
            yield_now().await;
        });
        seen.take()
    }

    #[test]
    fn all_ready_tasks_come_before_the_first_write() {
        assert_eq!(log_of_a_runtime(), "...abcB");
    }

    #[test]
    fn a_second_runtime_on_a_thread_has_turns_of_its_own() {
        assert_eq!(log_of_a_runtime(), log_of_a_runtime());
    }
}
