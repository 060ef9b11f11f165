//! `exact_balance`: an accepted connection goes to the worker that has fewest of this listener's.

use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;

use crate::Address;

/// A connection on its way from the worker that accepted it to the one that serves it.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) socket: HandedSocket,
    pub(super) remote: Address,
    pub(super) seat: Seat,
}

#[derive(Debug)]
pub(super) enum HandedSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// How many connections each worker has, and the way to it.
#[derive(Debug)]
pub(super) struct Balancer {
    active: Vec<AtomicU64>,
    /// Unbounded, but what waits in it is limited by the process's open files.
    inboxes: Vec<mpsc::UnboundedSender<Handed>>,
}

/// A connection counted to a worker, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    balancer: Arc<Balancer>,
    worker: usize,
}

impl Balancer {
    /// A balancer, and each worker's end of it.
    pub(super) fn new(workers: u32) -> (Arc<Balancer>, Vec<mpsc::UnboundedReceiver<Handed>>) {
        let (inboxes, outboxes) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        let active = (0..workers).map(|_| AtomicU64::new(0)).collect();
        (Arc::new(Balancer { active, inboxes }), outboxes)
    }

    /// A seat with the worker that has fewest connections.
    pub(super) fn seat(self: &Arc<Balancer>) -> Seat {
        let loads = self
            .active
            .iter()
            .map(|active| active.load(Ordering::Relaxed))
            .enumerate();
        let worker = loads
            .min_by_key(|(_, load)| *load)
            .map_or(0, |(worker, _)| worker);
        self.active[worker].fetch_add(1, Ordering::Relaxed);
        Seat {
            balancer: self.clone(),
            worker,
        }
    }

    /// Sends a connection to the worker of its seat. One that is shutting down drops it, which closes it.
    pub(super) fn hand_over(&self, handed: Handed) {
        let _ = self.inboxes[handed.seat.worker].send(handed);
    }
}

impl Seat {
    /// The worker's number.
    pub(super) fn worker(&self) -> usize {
        self.worker
    }
}

impl Drop for Seat {
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
        let mut seats: Vec<Seat> = (0..6).map(|_| balancer.seat()).collect();
        let workers: Vec<usize> = seats.iter().map(Seat::worker).collect();
        assert_eq!(workers, [0, 1, 2, 0, 1, 2]);
        seats.retain(|seat| seat.worker() != 1);
        assert_eq!(balancer.seat().worker(), 1);
    }
}
