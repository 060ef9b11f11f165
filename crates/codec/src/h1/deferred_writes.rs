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
const MAX_KEPT_CAPACITY: usize = 1024;

thread_local! {
    static QUEUE: RefCell<Queue> = const {
        RefCell::new(Queue {
            waiting: Vec::new(),
            writer_task: WriterTask::NotSpawned,
        })
    };
}

/// A connection with deferred writes.
pub(super) trait DeferredWrites {
    /// Writes the queued bytes.
    fn write_now(&self);
}

struct Queue {
    waiting: Vec<Rc<dyn DeferredWrites>>,
    writer_task: WriterTask,
}

/// The task that performs the deferred writes. The first deferred write wakes it, so that it runs after all tasks that
/// are ready at that moment.
enum WriterTask {
    NotSpawned,
    /// It was spawned and will run without being woken.
    Spawned,
    Asleep(Waker),
}

/// Performs `writes` after all tasks that are ready now have run.
pub(super) fn defer(writes: Rc<dyn DeferredWrites>) {
    let must_spawn = QUEUE.with_borrow_mut(|queue| {
        queue.waiting.push(writes);
        match &queue.writer_task {
            WriterTask::Asleep(task) if queue.waiting.len() == 1 => task.wake_by_ref(),
            WriterTask::Spawned | WriterTask::Asleep(_) => {}
            WriterTask::NotSpawned => queue.writer_task = WriterTask::Spawned,
        }
        matches!(queue.writer_task, WriterTask::Spawned) && queue.waiting.len() == 1
    });
    if must_spawn {
        spawn_local(unconstrained(write_deferred(ResetOnDrop)));
    }
}

/// Lets all other ready tasks run before a request is handled, because they may have to read, too.
pub(super) fn yield_to_ready_tasks<T>(cx: &Context<'_>) -> Poll<T> {
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Performs deferred writes while the runtime exists.
async fn write_deferred(_reset: ResetOnDrop) {
    poll_fn::<(), _>(|cx| {
        let mut waiting = QUEUE.with_borrow_mut(|queue| {
            match &mut queue.writer_task {
                WriterTask::Asleep(task) => task.clone_from(cx.waker()),
                writer_task => *writer_task = WriterTask::Asleep(cx.waker().clone()),
            }
            std::mem::take(&mut queue.waiting)
        });
        for writes in waiting.drain(..) {
            writes.write_now();
        }
        if waiting.capacity() <= MAX_KEPT_CAPACITY {
            QUEUE.with_borrow_mut(|queue| {
                // Writes that were deferred meanwhile have woken this task.
                waiting.append(&mut queue.waiting);
                queue.waiting = waiting;
            });
        }
        Poll::Pending
    })
    .await;
}

/// Resets the state when the runtime ends: another runtime on this thread needs a task of its own.
struct ResetOnDrop;

impl Drop for ResetOnDrop {
    fn drop(&mut self) {
        let waiting = QUEUE.with_borrow_mut(|queue| {
            queue.writer_task = WriterTask::NotSpawned;
            std::mem::take(&mut queue.waiting)
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

    use super::DeferredWrites;
    use super::defer;

    /// Appends its letter to a log.
    struct Letter(char, Rc<RefCell<String>>);

    impl DeferredWrites for Letter {
        fn write_now(&self) {
            self.1.borrow_mut().push(self.0);
        }
    }

    /// The log of a runtime in which three tasks defer a write, and one of them a second.
    fn log_of_new_runtime() -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let log = Rc::new(RefCell::new(String::new()));
        let seen = log.clone();
        LocalSet::new().block_on(&runtime.unwrap(), async move {
            let tasks = ['a', 'b', 'c'].map(|letter| {
                let log = log.clone();
                spawn_local(async move {
                    log.borrow_mut().push('.');
                    defer(Rc::new(Letter(letter, log.clone())));
                    if letter == 'b' {
                        yield_now().await;
                        defer(Rc::new(Letter('B', log)));
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
        assert_eq!(log_of_new_runtime(), "...abcB");
    }

    #[test]
    fn a_second_runtime_on_a_thread_has_a_task_of_its_own() {
        assert_eq!(log_of_new_runtime(), log_of_new_runtime());
    }
}
