//! What is counted of one stream while it flows: the codec writes, the manager and the access log read.

use std::cell::Cell;

use outrider_net::clock;
use tokio::time::Instant;

/// Counts of one stream on one connection. "Received" and "sent" are this process's view.
///
/// The counts only grow, so whoever wants to know whether anything moved compares two readings of [`Meter::activity`];
/// reading the clock for every frame is left to those who must know the time.
#[derive(Debug, Default)]
pub struct Meter {
    header_bytes_received: Cell<u64>,
    header_bytes_sent: Cell<u64>,
    body_bytes_received: Cell<u64>,
    body_bytes_sent: Cell<u64>,
    wire_bytes_received: Cell<u64>,
    wire_bytes_sent: Cell<u64>,
    activity: Cell<u64>,
    receive_began: Cell<Option<Instant>>,
    receive_ended: Cell<Option<Instant>>,
    send_began: Cell<Option<Instant>>,
    send_ended: Cell<Option<Instant>>,
}

impl Meter {
    /// Bytes of header and trailer fields received, as names and values without framing.
    #[must_use]
    pub fn header_bytes_received(&self) -> u64 {
        self.header_bytes_received.get()
    }

    /// Bytes of header and trailer fields sent, as names and values without framing.
    #[must_use]
    pub fn header_bytes_sent(&self) -> u64 {
        self.header_bytes_sent.get()
    }

    /// Bytes of body received, without framing (`%BYTES_RECEIVED%`).
    #[must_use]
    pub fn body_bytes_received(&self) -> u64 {
        self.body_bytes_received.get()
    }

    /// Bytes of body sent, without framing (`%BYTES_SENT%`).
    #[must_use]
    pub fn body_bytes_sent(&self) -> u64 {
        self.body_bytes_sent.get()
    }

    /// Bytes received for this stream with all framing. On HTTP/2 the header fields count at their size before compression.
    #[must_use]
    pub fn wire_bytes_received(&self) -> u64 {
        self.wire_bytes_received.get()
    }

    /// Bytes sent for this stream with all framing. On HTTP/2 the header fields count at their size before compression.
    #[must_use]
    pub fn wire_bytes_sent(&self) -> u64 {
        self.wire_bytes_sent.get()
    }

    /// A number that grows whenever headers, body or trailers pass in either direction.
    #[must_use]
    pub fn activity(&self) -> u64 {
        self.activity.get()
    }

    /// When the first byte of the request came, where its head came in pieces; none where it came at once.
    #[must_use]
    pub fn receive_began(&self) -> Option<Instant> {
        self.receive_began.get()
    }

    /// When the peer's message was complete; none while it is not.
    #[must_use]
    pub fn receive_ended(&self) -> Option<Instant> {
        self.receive_ended.get()
    }

    /// When the first byte of our message went out; none while it has not.
    #[must_use]
    pub fn send_began(&self) -> Option<Instant> {
        self.send_began.get()
    }

    /// When our message was complete; none while it is not.
    #[must_use]
    pub fn send_ended(&self) -> Option<Instant> {
        self.send_ended.get()
    }

    pub(crate) fn add_headers_received(&self, fields: usize, wire: usize) {
        add(&self.header_bytes_received, fields);
        add(&self.wire_bytes_received, wire);
        add(&self.activity, 1);
    }

    pub(crate) fn add_headers_sent(&self, fields: usize, wire: usize) {
        if self.send_began.get().is_none() {
            self.send_began.set(Some(clock::now()));
        }
        add(&self.header_bytes_sent, fields);
        add(&self.wire_bytes_sent, wire);
        add(&self.activity, 1);
    }

    pub(crate) fn add_body_received(&self, body: usize, wire: usize) {
        add(&self.body_bytes_received, body);
        add(&self.wire_bytes_received, wire);
        add(&self.activity, 1);
    }

    pub(crate) fn add_body_sent(&self, body: usize, wire: usize) {
        add(&self.body_bytes_sent, body);
        add(&self.wire_bytes_sent, wire);
        add(&self.activity, 1);
    }

    pub(crate) fn set_receive_began(&self, began: Option<Instant>) {
        self.receive_began.set(began);
    }

    pub(crate) fn end_receive(&self) {
        if self.receive_ended.get().is_none() {
            self.receive_ended.set(Some(clock::now()));
        }
    }

    pub(crate) fn end_send(&self) {
        if self.send_ended.get().is_none() {
            self.send_ended.set(Some(clock::now()));
        }
    }
}

fn add(cell: &Cell<u64>, amount: usize) {
    cell.set(cell.get() + amount as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_bodies_apart_from_framing() {
        let meter = Meter::default();
        let before = meter.activity();
        meter.add_body_received(10, 19);
        meter.add_headers_sent(30, 40);
        assert_eq!(
            (meter.body_bytes_received(), meter.wire_bytes_received()),
            (10, 19)
        );
        assert_eq!(
            (meter.header_bytes_sent(), meter.wire_bytes_sent()),
            (30, 40)
        );
        assert!(meter.activity() > before);
        assert!(meter.send_began().is_some() && meter.send_ended().is_none());
    }
}
