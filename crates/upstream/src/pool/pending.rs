//! Requests that wait for a place on a connection.

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

/// Those who wait, in the order of arrival.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: RefCell<BTreeMap<u64, Waiting>>,
    next: Cell<u64>,
}

/// One who waits, as the pool sees it. Counted as pending while it is in the queue, and no longer.
pub(super) struct Waiting {
    answer: oneshot::Sender<PendingOutcome>,
    host: Arc<Host>,
    _permit: Permit,
    _active: HeldGauge<ClusterStats>,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Joins the end of the queue.
    pub(super) fn join(&self, pool: &Rc<Pool>, permit: Permit) -> Turn {
        let (answer, answered) = oneshot::channel();
        let place = self.next.get();
        self.next.set(place + 1);
        pool.host.stats.rq_pending_active.inc();
        let waiting = Waiting {
            answer,
            host: pool.host.clone(),
            _permit: permit,
            _active: pool
                .cx
                .stats
                .hold(|stats| &stats.upstream_rq_pending_active),
        };
        self.waiting.borrow_mut().insert(place, waiting);
        Turn {
            pool: pool.clone(),
            place,
            answered,
        }
    }

    /// Takes the first out of the queue.
    pub(super) fn pop(&self) -> Option<Waiting> {
        let first = self.waiting.borrow_mut().pop_first();
        first.map(|(_, waiting)| waiting)
    }

    /// Takes all out of the queue.
    pub(super) fn take_all(&self) -> impl Iterator<Item = Waiting> + use<> {
        self.waiting.take().into_values()
    }
}

impl Waiting {
    /// Ends the wait. A request that has just gone gives its place back by being dropped.
    pub(super) fn answer(self, outcome: PendingOutcome) {
        let Waiting { ref host, .. } = self;
        host.stats.rq_pending_active.dec();
        let gone = self.answer.send(outcome);
        drop(gone);
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiting")
    }
}

/// The wait of one request. Dropping it leaves the queue.
pub(super) struct Turn {
    pool: Rc<Pool>,
    place: u64,
    answered: oneshot::Receiver<PendingOutcome>,
}

impl Future for Turn {
    type Output = PendingOutcome;

    /// By hand, because a future that a pool's queue knows by number must also see its own drop.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<PendingOutcome> {
        Pin::new(&mut self.answered).poll(cx).map(|answered| {
            // The queue lives in the pool, which this future holds; it answers whomever it lets go.
            answered.unwrap_or(Err(PoolFailure::Overflow))
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let left = self.pool.queue.waiting.borrow_mut().remove(&self.place);
        if let Some(waiting) = left {
            waiting.host.stats.rq_pending_active.dec();
            self.pool.cx.stats.upstream_rq_cancelled.inc();
            self.pool.close_if_drained();
        }
    }
}
