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
    decompressed_header_bytes_received: Cell<u64>,
    decompressed_header_bytes_sent: Cell<u64>,
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

/// The size of a head, or of trailers, as Envoy counts it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadSize {
    /// The fields: on HTTP/1 their lines, on HTTP/2 names and values.
    fields: usize,
    /// The fields as they are on the wire: on HTTP/2 compressed, in their frames.
    encoded: usize,
    /// All bytes.
    wire: usize,
}

impl HeadSize {
    /// Of HTTP/1.
    pub(crate) fn http1(fields: usize, wire: usize) -> HeadSize {
        HeadSize {
            fields,
            encoded: fields,
            wire,
        }
    }

    /// Of trailers of HTTP/1, whose bytes on the wire are counted elsewhere. Envoy has them in one of its two counts of
    /// fields only.
    pub(crate) fn http1_trailers(fields: usize) -> HeadSize {
        HeadSize {
            fields: 0,
            encoded: fields,
            wire: 0,
        }
    }

    /// Of HTTP/2.
    pub(crate) fn http2(fields: usize, wire: usize) -> HeadSize {
        HeadSize {
            fields,
            encoded: wire,
            wire,
        }
    }
}

impl Meter {
    /// Bytes of header and trailer fields received: on HTTP/1 without the first line, on HTTP/2 compressed.
    #[must_use]
    pub fn header_bytes_received(&self) -> u64 {
        self.header_bytes_received.get()
    }

    /// Bytes of header and trailer fields sent: on HTTP/1 without the first line, on HTTP/2 compressed.
    #[must_use]
    pub fn header_bytes_sent(&self) -> u64 {
        self.header_bytes_sent.get()
    }

    /// The same of fields received, before HTTP/2 compressed them.
    #[must_use]
    pub fn decompressed_header_bytes_received(&self) -> u64 {
        self.decompressed_header_bytes_received.get()
    }

    /// The same of fields sent, before HTTP/2 compressed them.
    #[must_use]
    pub fn decompressed_header_bytes_sent(&self) -> u64 {
        self.decompressed_header_bytes_sent.get()
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

    /// Bytes received for this stream with all framing.
    #[must_use]
    pub fn wire_bytes_received(&self) -> u64 {
        self.wire_bytes_received.get()
    }

    /// Bytes sent for this stream with all framing.
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

    pub(crate) fn add_headers_received(&self, size: HeadSize) {
        add(&self.header_bytes_received, size.encoded);
        add(&self.decompressed_header_bytes_received, size.fields);
        add(&self.wire_bytes_received, size.wire);
        add(&self.activity, 1);
    }

    pub(crate) fn add_headers_sent(&self, size: HeadSize) {
        if self.send_began.get().is_none() {
            self.send_began.set(Some(clock::now()));
        }
        add(&self.header_bytes_sent, size.encoded);
        add(&self.decompressed_header_bytes_sent, size.fields);
        add(&self.wire_bytes_sent, size.wire);
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

    /// Bytes that frame a body that is received: chunk sizes and what comes with them.
    pub(crate) fn add_framing_received(&self, wire: usize) {
        add(&self.wire_bytes_received, wire);
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
        meter.add_headers_sent(HeadSize::http2(45, 30));
        meter.add_headers_received(HeadSize::http1(20, 40));
        meter.add_framing_received(3);
        assert_eq!(
            (meter.body_bytes_received(), meter.wire_bytes_received()),
            (10, 62)
        );
        let sent = (
            meter.header_bytes_sent(),
            meter.decompressed_header_bytes_sent(),
            meter.wire_bytes_sent(),
        );
        assert_eq!(sent, (30, 45, 30));
        let received = (
            meter.header_bytes_received(),
            meter.decompressed_header_bytes_received(),
        );
        assert_eq!(received, (20, 20));
        assert!(meter.activity() > before);
        assert!(meter.send_began().is_some() && meter.send_ended().is_none());
    }
}
