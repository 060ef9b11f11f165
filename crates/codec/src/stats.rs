//! The stats of connections, under Envoy's names. The owner of the connections chooses their scopes.

use std::fmt;

use outrider_stats::Counter;
use outrider_stats::Gauge;
use outrider_stats::Histogram;
pub use outrider_stats::http::ConnectionStats;
pub use outrider_stats::http::Http1Stats;

outrider_stats::group! {
    /// `http2.*` of a cluster, or of all listeners together.
    pub struct Http2Stats {
        cookies_total_bytes_too_large: Counter,
        deferred_stream_close: Gauge,
        dropped_headers_with_underscores: Counter,
        goaway_sent: Counter,
        header_list_size_too_large: Counter,
        header_overflow: Counter,
        headers_cb_no_stream: Counter,
        inbound_empty_frames_flood: Counter,
        inbound_priority_frames_flood: Counter,
        inbound_window_update_frames_flood: Counter,
        keepalive_timeout: Counter,
        metadata_empty_frames: Counter,
        nghttp2_downstream_connections: Counter,
        nghttp2_upstream_connections: Counter,
        oghttp2_downstream_connections: Counter,
        oghttp2_upstream_connections: Counter,
        outbound_control_flood: Counter,
        outbound_control_frames_active: Gauge,
        outbound_flood: Counter,
        outbound_frames_active: Gauge,
        pending_send_bytes: Gauge,
        requests_rejected_with_underscores_in_headers: Counter,
        rx_messaging_error: Counter,
        rx_reset: Counter,
        stream_refused_errors: Counter,
        streams_active: Gauge,
        trailers: Counter,
        tx_flush_timeout: Counter,
        tx_reset: Counter,
        cookie_count: Histogram,
        cookie_size: Histogram,
        header_count: Histogram,
        header_list_size: Histogram,
    }
}

/// Counts the bytes of connections: implemented by the stats of a connection manager and of a cluster
/// (`…_cx_rx_bytes_total` and others).
pub trait ByteCounts: fmt::Debug {
    /// Bytes were read from the socket.
    fn received(&self, bytes: u64);
    /// Bytes were written to the socket.
    fn sent(&self, bytes: u64);
    /// The number of bytes read but not yet parsed went from `before` to `after`.
    fn receive_buffered(&self, before: u64, after: u64);
    /// The number of bytes queued for the socket went from `before` to `after`.
    fn send_buffered(&self, before: u64, after: u64);
    /// Reading a message was paused because its consumer has no room, or was resumed.
    fn reading_paused(&self, paused: bool);
    /// Sending a message was paused because the peer does not read, or was resumed.
    fn writing_paused(&self, writing_paused: bool);
}

impl ByteCounts for ConnectionStats {
    fn received(&self, bytes: u64) {
        self.downstream_cx_rx_bytes_total.add(bytes);
        self.downstream_cx_rx_bytes_buffered.mark_used();
    }

    fn sent(&self, bytes: u64) {
        self.downstream_cx_tx_bytes_total.add(bytes);
    }

    fn receive_buffered(&self, before: u64, after: u64) {
        move_gauge(&self.downstream_cx_rx_bytes_buffered, before, after);
    }

    fn send_buffered(&self, before: u64, after: u64) {
        move_gauge(&self.downstream_cx_tx_bytes_buffered, before, after);
    }

    fn reading_paused(&self, paused: bool) {
        if paused {
            self.downstream_flow_control_paused_reading_total.inc();
        } else {
            self.downstream_flow_control_resumed_reading_total.inc();
        }
    }

    // The cluster counts it as a pause of reading from the upstream host.
    fn writing_paused(&self, _: bool) {}
}

/// Adjusts a gauge by the change of one connection's contribution to it.
pub fn move_gauge(gauge: &Gauge, before: u64, after: u64) {
    if after > before {
        gauge.add(after - before);
    } else if before > after {
        gauge.sub(before - after);
    }
}
