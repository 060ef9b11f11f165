//! `exact_balance`: an accepted connection goes to the worker that has the fewest of this listener's connections.

use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;

use crate::Address;

/// A connection on its way from the worker that accepted it to the worker that will serve it.
#[derive(Debug)]
pub(super) struct HandedOverConnection {
    pub(super) socket: HandedOverSocket,
    pub(super) remote: Address,
    pub(super) counted: CountedConnection,
}

#[derive(Debug)]
pub(super) enum HandedOverSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The number of connections of each worker, and a channel to it.
#[derive(Debug)]
pub(super) struct Balancer {
    active: Vec<AtomicU64>,
    /// The channel is unbounded, but the process's limit of open files bounds what waits in it.
    inboxes: Vec<mpsc::UnboundedSender<HandedOverConnection>>,
}

/// A connection that counts for a worker until it is dropped.
#[derive(Debug)]
pub(super) struct CountedConnection {
    balancer: Arc<Balancer>,
    worker: usize,
}

impl Balancer {
    /// A balancer, and each worker's receiving end.
    pub(super) fn new(
        workers: u32,
    ) -> (
        Arc<Balancer>,
        Vec<mpsc::UnboundedReceiver<HandedOverConnection>>,
    ) {
        let (inboxes, outboxes) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        let active = (0..workers).map(|_| AtomicU64::new(0)).collect();
        (Arc::new(Balancer { active, inboxes }), outboxes)
    }

    /// Counts a connection for the worker that has the fewest, which must then serve it.
    pub(super) fn assign_connection(self: &Arc<Balancer>) -> CountedConnection {
        let loads = self
            .active
            .iter()
            .map(|active| active.load(Ordering::Relaxed))
            .enumerate();
        let worker = loads
            .min_by_key(|(_, load)| *load)
            .map_or(0, |(worker, _)| worker);
        self.active[worker].fetch_add(1, Ordering::Relaxed);
        CountedConnection {
            balancer: self.clone(),
            worker,
        }
    }

    /// Sends a connection to the worker for which it counts. A worker that is shutting down drops it, which closes it.
    pub(super) fn hand_over(&self, handed: HandedOverConnection) {
        let _ = self.inboxes[handed.counted.worker].send(handed);
    }
}

impl CountedConnection {
    /// The worker's index.
    pub(super) fn worker(&self) -> usize {
        self.worker
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.balancer.active[self.worker].fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_emptiest_worker_is_next() {
        let (balancer, _inboxes) = Balancer::new(3);
        let mut held: Vec<CountedConnection> =
            (0..6).map(|_| balancer.assign_connection()).collect();
        let workers: Vec<usize> = held.iter().map(CountedConnection::worker).collect();
        assert_eq!(workers, [0, 1, 2, 0, 1, 2]);
        held.retain(|counted| counted.worker() != 1);
        assert_eq!(balancer.assign_connection().worker(), 1);
    }
}
