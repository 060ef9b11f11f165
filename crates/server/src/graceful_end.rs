//! Graceful shutdown on SIGTERM and SIGINT: no request is lost.
//!
//! While requests are open, listeners still accept connections: clients may still have this proxy's address, and an
//! application that shuts down still makes calls. Meanwhile open connections are asked to finish. Once no request is
//! open, the connections that wait in the sockets' queues are accepted and the sockets are closed. Connections that were
//! in use a moment ago then stay open a little longer, because a client may just have sent another request.

use std::time::Duration;
use std::time::Instant;

use crate::control::Control;
use crate::worker_listeners::ListenerSelection;

/// How long open requests may take when `--drain-time-s` is not given: Kubernetes kills after 30 s.
const LONGEST: Duration = Duration::from_secs(25);
/// A client that just got an answer, or has just connected, sends its next request within this time.
const NEXT_REQUEST: Duration = Duration::from_millis(300);
/// When this share of the time is left (1/10), the sockets are closed even if new requests still come.
const LAST_SHARE: u32 = 10;
/// How often the workers' counts are read.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Finishes open requests and serves new ones meanwhile. Returns when the process may end.
pub(crate) async fn finish_requests(control: &Control) {
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
    // A worker that is too busy to confirm this in time still closes its sockets.
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
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

impl Control {
    /// How many connections have an open request.
    fn busy_connections(&self) -> usize {
        self.activity.iter().map(|worker| worker.busy()).sum()
    }

    /// How long ago the last request ended or the last connection came. `None` while a request is open.
    fn idle_for(&self) -> Option<Duration> {
        let workers = self.activity.iter().map(|worker| worker.idle_for());
        workers.min().flatten()
    }
}
