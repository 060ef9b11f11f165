//! Requests that are waiting for a connection.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;

use outrider_stats::HeldGauge;
use tokio::sync::oneshot;

use super::Pool;
use super::PoolFailure;
use super::UpstreamStream;
use crate::Host;
use crate::Permit;
use crate::stats::ClusterStats;

type PendingOutcome = Result<UpstreamStream, PoolFailure>;

/// The waiting requests, in the order of arrival.
#[derive(Debug, Default)]
pub(super) struct PendingQueue {
    waiting: RefCell<BTreeMap<u64, QueuedRequest>>,
    next: Cell<u64>,
}

/// A waiting request, as the pool sees it. It counts as pending exactly while it is in the queue.
pub(super) struct QueuedRequest {
    answer: oneshot::Sender<PendingOutcome>,
    host: Arc<Host>,
    _permit: Permit,
    _active: HeldGauge<ClusterStats>,
}

impl PendingQueue {
    pub(super) fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Appends a request to the queue.
    pub(super) fn join(&self, pool: &Rc<Pool>, permit: Permit) -> PendingRequest {
        let (answer, answered) = oneshot::channel();
        let place = self.next.get();
        self.next.set(place + 1);
        pool.host.stats.rq_pending_active.inc();
        let waiting = QueuedRequest {
            answer,
            host: pool.host.clone(),
            _permit: permit,
            _active: pool
                .cx
                .stats
                .hold(|stats| &stats.upstream_rq_pending_active),
        };
        self.waiting.borrow_mut().insert(place, waiting);
        PendingRequest {
            pool: pool.clone(),
            place,
            answered,
        }
    }

    /// Removes the first request from the queue.
    pub(super) fn pop(&self) -> Option<QueuedRequest> {
        let first = self.waiting.borrow_mut().pop_first();
        first.map(|(_, waiting)| waiting)
    }

    /// Removes all requests from the queue.
    pub(super) fn take_all(&self) -> impl Iterator<Item = QueuedRequest> + use<> {
        self.waiting.take().into_values()
    }
}

impl QueuedRequest {
    /// Ends the wait. If the request has just been cancelled, dropping the outcome frees its connection again.
    pub(super) fn answer(self, outcome: PendingOutcome) {
        let QueuedRequest { ref host, .. } = self;
        host.stats.rq_pending_active.dec();
        let gone = self.answer.send(outcome);
        drop(gone);
    }
}

impl fmt::Debug for QueuedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QueuedRequest")
    }
}

/// The wait of one request. Dropping it leaves the queue.
pub(super) struct PendingRequest {
    pool: Rc<Pool>,
    place: u64,
    answered: oneshot::Receiver<PendingOutcome>,
}

impl Future for PendingRequest {
    type Output = PendingOutcome;

    /// Written by hand because the queue refers to the future by a key, and the future must notice its own drop.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<PendingOutcome> {
        Pin::new(&mut self.answered).poll(cx).map(|answered| {
            // The future holds the pool, so the queue exists. The queue answers each request that it removes.
            answered.unwrap_or(Err(PoolFailure::Overflow))
        })
    }
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        let left = self.pool.queue.waiting.borrow_mut().remove(&self.place);
        if let Some(waiting) = left {
            waiting.host.stats.rq_pending_active.dec();
            self.pool.cx.stats.upstream_rq_cancelled.inc();
            self.pool.close_if_drained();
        }
    }
}
