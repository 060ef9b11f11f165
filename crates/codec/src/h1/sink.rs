//! Sends a body, in either role.

use std::cell::RefCell;
use std::io;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;

use crate::Body;
use crate::Http1Options;
use crate::Meter;
use crate::header::HeaderMap;
use crate::meter::HeadSize;

use super::encode;
use super::encode::BodyCoding;
use super::encode::EncodedHead;
use super::transport::Transport;

/// Writes a body with the framing that its head announced.
#[derive(Debug)]
pub(super) struct BodySink {
    coding: BodyCoding,
    /// The remaining bytes of the announced length.
    left: Option<u64>,
    limit: usize,
    /// Sending is paused, and the body was told.
    paused: bool,
}

impl BodySink {
    pub(super) fn new(head: EncodedHead, limit: u32) -> BodySink {
        BodySink {
            coding: head.coding,
            // A `content-length` without a body describes another response, such as that to GET.
            left: head.length.filter(|_| head.coding != BodyCoding::None),
            limit: limit as usize,
            paused: false,
        }
    }

    /// For a body without framing.
    pub(super) fn plain(limit: u32) -> BodySink {
        BodySink {
            coding: BodyCoding::Plain,
            left: None,
            limit: limit as usize,
            paused: false,
        }
    }

    /// Ready when the queue is not longer than the buffer limit. Otherwise tells `body` that sending is paused, even if
    /// the socket then accepts everything at once, as in Envoy, which only writes at the end of an event loop
    /// iteration.
    pub(super) fn poll_room(
        &mut self,
        transport: &RefCell<Transport>,
        body: &mut Body,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut to = transport.borrow_mut();
        if !self.paused && to.queued() <= self.limit {
            return Poll::Ready(Ok(()));
        }
        let begins = !std::mem::replace(&mut self.paused, true);
        if begins {
            to.counts().writing_paused(true);
        }
        let room = if to.queued() <= self.limit {
            Poll::Ready(Ok(()))
        } else {
            to.poll_drain(cx)
        };
        if room.is_ready() {
            self.paused = false;
            to.counts().writing_paused(false);
        }
        drop(to);
        if begins {
            body.set_paused(true);
        }
        if room.is_ready() {
            body.set_paused(false);
        }
        room
    }

    /// Queues a piece of the body. Bytes beyond the announced length, or of a body that must not be there, are dropped,
    /// because the peer would take them for the next message.
    pub(super) fn write(&mut self, mut bytes: Bytes, transport: &mut Transport, meter: &Meter) {
        if self.coding == BodyCoding::None {
            return;
        }
        if let Some(left) = &mut self.left {
            bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= bytes.len() as u64;
        }
        if bytes.is_empty() {
            return;
        }
        let before = transport.queued();
        let size = bytes.len();
        if self.coding == BodyCoding::Chunked {
            transport.write(|out| encode::push_chunk_line(size, out));
            transport.write_bytes(bytes);
            transport.write(|out| out.extend_from_slice(b"\r\n"));
        } else {
            transport.write_bytes(bytes);
        }
        meter.add_body_sent(size, transport.queued() - before);
    }

    /// Ends the body.
    pub(super) fn end(
        &mut self,
        trailers: Option<&HeaderMap>,
        options: &Http1Options,
        transport: &mut Transport,
        meter: &Meter,
    ) {
        if self.coding == BodyCoding::Chunked {
            let before = transport.queued();
            transport.write(|out| encode::last_chunk(trailers, options, out));
            let size = transport.queued() - before;
            let lines = size - b"0\r\n\r\n".len();
            meter.add_headers_sent(HeadSize::http1(lines, size));
        }
    }

    /// Whether the body ended before its announced length.
    pub(super) fn is_short(&self) -> bool {
        self.left.is_some_and(|left| left > 0)
    }
}
