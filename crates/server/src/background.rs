//! Work that takes long, on a thread of its own whose priority is low: requests, DNS, the admin port and signals do not
//! wait for it.

use std::io;
use std::thread;

use outrider_config::re2::SizeLimits;
use rustix::process::setpriority_process;
use rustix::thread::gettid;
use tokio::sync::oneshot;

use crate::allocator;

/// The thread's `nice(2)` value: on a busy CPU it gets about a quarter of a worker's time. It must not starve, because it
/// briefly locks the list of stats, which a worker may need.
const NICE: i32 = 5;

/// The stack of threads that may run scripts: as much as Envoy's have, in bytes. Calls that are nested in C functions, such
/// as `string.gsub` in its own replacement, use it. Only what is used takes memory.
pub(crate) const SCRIPT_STACK: usize = 8 << 20;

/// Runs `work`, and waits for its result without blocking this thread. Regular expressions that `work` compiles have
/// the size limits of the calling thread.
///
/// # Errors
/// If no thread can be started, or `work` panicked; the log has its message.
pub(crate) async fn run<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (send, result) = oneshot::channel();
    let limits = SizeLimits::applied();
    let thread = thread::Builder::new()
        .name(name.to_owned())
        .stack_size(SCRIPT_STACK);
    thread.spawn(move || {
        if let Err(error) = setpriority_process(Some(gettid()), NICE) {
            log::debug!(target: "main", "cannot lower the priority of a background thread: {error}");
        }
        limits.apply();
        let done = work();
        allocator::return_freed_memory();
        // The receiver is gone only when the process ends.
        let _ = send.send(done);
    })?;
    let panicked = |_| io::Error::other(format!("the thread '{name}' failed; see the log"));
    result.await.map_err(panicked)
}
