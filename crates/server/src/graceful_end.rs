//! The end that SIGTERM and SIGINT ask for: no request is lost.
//!
//! Listeners go on accepting while requests are under way: who is told to stop is not yet out of everybody's list of
//! addresses, and an application that shuts down still makes calls. Connections are asked to finish meanwhile. Once
//! nothing is under way, sockets are closed, with what waits in their queues accepted; then connections that were in use
//! a moment ago get the time for the request that may be on its way.

use std::time::Duration;
use std::time::Instant;

use crate::control::Control;
use crate::worker_listeners::ListenerSelection;

/// The longest that requests are waited for without `--drain-time-s`: Kubernetes kills after 30 s.
const LONGEST: Duration = Duration::from_secs(25);
/// A client that just got an answer, or has just connected, sends its next request within this time.
const NEXT_REQUEST: Duration = Duration::from_millis(300);
/// Sockets are closed by then, however many requests still come: that is the share of the time for those under way.
const LAST_SHARE: u32 = 10;
/// How often workers are looked at.
const LOOK: Duration = Duration::from_millis(2);

/// Serves what is under way, and what still comes, to its end; returns when the process may end.
pub(crate) async fn serve_rest(control: &Control) {
    let began = Instant::now();
    let longest = control.options.drain_time.unwrap_or(LONGEST);
    let idle_time = control.options.drain_idle_time;
    control.ending.set(true);
    control.refresh_stats();
    control.listeners.begin_shutdown();
    let busy = control.busy_connections();
    log::info!(target: "main", "draining: connections with requests under way: {busy}");
    let accepting = longest - longest / LAST_SHARE;
    until(began + accepting, || {
        control.idle_for().is_some_and(|idle| idle >= idle_time)
    })
    .await;
    let closed = control.listeners.stop(ListenerSelection::All).ended();
    // A worker that is that busy closes them all the same.
    let _ = tokio::time::timeout_at((began + longest).into(), closed).await;
    until(began + longest, || {
        let is_open = control.listener_factory.connections.active() > 0;
        control
            .idle_for()
            .is_some_and(|idle| !is_open || idle >= NEXT_REQUEST)
    })
    .await;
    let busy = control.busy_connections();
    if busy > 0 {
        let seconds = longest.as_secs();
        log::warn!(target: "main", "not drained after {seconds} s: cutting {busy} connections with requests under way");
    }
}

/// Waits until `is_done`, at most until `end`.
async fn until(end: Instant, is_done: impl Fn() -> bool) {
    while !is_done() && Instant::now() < end {
        tokio::time::sleep(LOOK).await;
    }
}

impl Control {
    /// How many connections have a request under way.
    fn busy_connections(&self) -> usize {
        self.activity.iter().map(|worker| worker.busy()).sum()
    }

    /// For how long no request has been under way, and no connection came; `None` while there is one.
    fn idle_for(&self) -> Option<Duration> {
        let workers = self.activity.iter().map(|worker| worker.idle_for());
        workers.min().flatten()
    }
}
