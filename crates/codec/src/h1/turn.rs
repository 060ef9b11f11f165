//! A worker's turn: what its tasks do between two looks at its sockets. Requests are read before the first of them is
//! handled, and small writes are put off to its end: each kind of work finds its code in the caches.
//!
//! A peer that waits runs as soon as something was written to it, beside us. Writing after each message has every peer come
//! back with one answer at a time, and both sides touch the same sockets at once; with one write after the other, both
//! find much to do each time they look.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use tokio::task::spawn_local;
use tokio::task::unconstrained;

/// How many places of a list are kept from one turn to the next.
const KEPT: usize = 1024;

thread_local! {
    static TURN: RefCell<Turn> = const {
        RefCell::new(Turn {
            waiting: Vec::new(),
            ender: Ender::None,
        })
    };
}

/// Something with writes that were put off.
pub(super) trait PutOff {
    /// Makes them.
    fn write_now(&self);
}

struct Turn {
    waiting: Vec<Rc<dyn PutOff>>,
    ender: Ender,
}

/// The task that ends turns. Woken by the first who waits, it runs when all tasks had their turn that were ready then.
enum Ender {
    None,
    /// It will run without being woken.
    Spawned,
    Asleep(Waker),
}

/// Has `writes` made once all tasks that are ready now had their turn.
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

/// Lets all other ready tasks come first before a request is handled: they may have to read, too.
pub(super) fn give_way<T>(cx: &Context<'_>) -> Poll<T> {
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Ends turn after turn, for as long as the runtime lives.
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
                // Whoever came meanwhile has woken this task.
                waiting.append(&mut turn.waiting);
                turn.waiting = waiting;
            });
        }
        Poll::Pending
    })
    .await;
}

/// Forgets the ender when its runtime ends: another one on this thread needs its own.
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

    /// Writes its letter into a log.
    struct Letter(char, Rc<RefCell<String>>);

    impl PutOff for Letter {
        fn write_now(&self) {
            self.1.borrow_mut().push(self.0);
        }
    }

    /// What a runtime of its own comes to if three tasks put something off, one of them twice.
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
