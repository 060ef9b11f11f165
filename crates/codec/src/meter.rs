//! Byte counts and timestamps of one stream. The codec writes them; the connection manager and the access log read
//! them.

use std::cell::Cell;

use outrider_net::clock;
use tokio::time::Instant;

/// The counts of one stream on one connection. "Received" and "sent" are from this process's view.
///
/// The counts only grow, so a caller that wants to know whether there was any activity compares two readings of
/// [`Meter::activity`]. The clock is not read for every frame.
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
    /// Bytes of the fields: of their lines on HTTP/1, of names and values on HTTP/2.
    fields: usize,
    /// Bytes of the fields on the wire: on HTTP/2, of the compressed frames.
    encoded: usize,
    /// All bytes on the wire, including the first line and framing.
    wire: usize,
}

impl HeadSize {
    /// The size of an HTTP/1 head.
    pub(crate) fn http1(fields: usize, wire: usize) -> HeadSize {
        HeadSize {
            fields,
            encoded: fields,
            wire,
        }
    }

    /// The size of HTTP/1 trailers. Their bytes on the wire are counted as framing. Envoy adds them to only one of its
    /// two counts of field bytes.
    pub(crate) fn http1_trailers(fields: usize) -> HeadSize {
        HeadSize {
            fields: 0,
            encoded: fields,
            wire: 0,
        }
    }

    /// The size of an HTTP/2 header block.
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

    /// Bytes of received header and trailer fields before HTTP/2 compression.
    #[must_use]
    pub fn decompressed_header_bytes_received(&self) -> u64 {
        self.decompressed_header_bytes_received.get()
    }

    /// Bytes of sent header and trailer fields before HTTP/2 compression.
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

    /// Bytes received for this stream, including all framing.
    #[must_use]
    pub fn wire_bytes_received(&self) -> u64 {
        self.wire_bytes_received.get()
    }

    /// Bytes sent for this stream, including all framing.
    #[must_use]
    pub fn wire_bytes_sent(&self) -> u64 {
        self.wire_bytes_sent.get()
    }

    /// A number that grows whenever headers, body or trailers pass in either direction, for idle timeouts.
    #[must_use]
    pub fn activity(&self) -> u64 {
        self.activity.get()
    }

    /// When the first byte of the request arrived, if its head arrived in several pieces; otherwise `None`.
    #[must_use]
    pub fn receive_began(&self) -> Option<Instant> {
        self.receive_began.get()
    }

    /// When the peer's message was complete; `None` until then.
    #[must_use]
    pub fn receive_ended(&self) -> Option<Instant> {
        self.receive_ended.get()
    }

    /// When the first byte of this side's message was sent; `None` until then.
    #[must_use]
    pub fn send_began(&self) -> Option<Instant> {
        self.send_began.get()
    }

    /// When this side's message was complete; `None` until then.
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

    /// Adds the bytes that frame a received body: chunk size lines and trailers.
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
