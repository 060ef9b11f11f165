//! Received frames that carry no message (RFC 9113, sections 6.3 to 6.9).

use crate::Reason;
use crate::StreamError;

use super::super::frame;
use super::super::frame::Head;
use super::DEFAULT_WINDOW;
use super::Fault;
use super::SessionState;
use super::data::REMOTE_RESET;
use super::receive::FRAME_SIZE;
use super::receive::PROTOCOL;
use super::receive::USELESS_BYTES;

/// The largest flow-control window (RFC 9113, section 6.9.1).
const MAX_WINDOW: u32 = 0x7fff_ffff;

impl SessionState {
    pub(super) fn priority(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        if head.length != 5 {
            return self.stream_fault(head, Reason::FRAME_SIZE_ERROR);
        }
        let dependency = frame::number(payload, 0).map(|id| id & 0x7fff_ffff);
        // Envoy ignores both errors; RFC 9113, section 6.3, and RFC 7540, section 5.3.1, require an error.
        if head.stream == 0 {
            return Err(PROTOCOL);
        }
        // RFC 9113 no longer requires the error. On clients it is ignored, so that a server's mistake in an unused
        // field fails no request.
        if dependency == Some(head.stream) && self.is_server() {
            return self.stream_fault(head, Reason::PROTOCOL_ERROR);
        }
        self.limits.note_useless(1);
        self.note(head, 0)
    }

    /// Handles an error that concerns one stream only: resets it if it is open. Otherwise there is nothing to reset,
    /// and the connection ends.
    fn stream_fault(&mut self, head: Head, reason: Reason) -> Result<(), Fault> {
        let Some(key) = self.streams.key(head.stream) else {
            return Err(Fault::GoAway(reason));
        };
        self.reset_malformed(key, StreamError::ProtocolError(REMOTE_RESET), reason);
        Ok(())
    }

    pub(super) fn rst_stream(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let code = frame::number(payload, 0).filter(|_| head.length == 4);
        let reason = Reason::from(code.ok_or(FRAME_SIZE)?);
        if self.is_idle(head.stream) {
            return Err(Fault::Close);
        }
        self.note(head, 0)?;
        let Some(key) = self.streams.key(head.stream) else {
            self.limits.note_useless(1);
            return Ok(());
        };
        self.stats.rx_reset.inc();
        let error = if reason == Reason::REFUSED_STREAM {
            StreamError::RemoteRefused
        } else {
            StreamError::RemoteReset(reason)
        };
        if let Some(stream) = self.streams.get(key) {
            stream.fail(error, &mut self.wakers);
        }
        self.streams.remove_if_closed(key);
        Ok(())
    }

    pub(super) fn settings(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let (values, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() || head.has(frame::ACK) && !payload.is_empty() {
            return Err(FRAME_SIZE);
        }
        if head.stream != 0 {
            return Err(Fault::Close);
        }
        if head.has(frame::ACK) {
            return self.settings_acknowledged();
        }
        self.limits.note_useless(1 + payload.len() / USELESS_BYTES);
        // RFC 9113, section 6.5.3: of several values the last one counts. To apply it visits all streams.
        let mut window = None;
        for [a, b, value @ ..] in values {
            let value = u32::from_be_bytes(*value);
            match u16::from_be_bytes([*a, *b]) {
                frame::INITIAL_WINDOW_SIZE if value <= MAX_WINDOW => window = Some(value),
                id => self.setting(id, value)?,
            }
        }
        if let Some(size) = window
            && size != self.settings.peer_window
        {
            self.note_visit();
            self.resize_send_windows(size);
        }
        self.settings.peer_seen = true;
        self.output.frame(&frame::settings_ack(), true);
        self.wake_task();
        Ok(())
    }

    pub(super) fn settings_acknowledged(&mut self) -> Result<(), Fault> {
        if self.settings.acknowledged {
            return Err(Fault::Close);
        }
        self.settings.acknowledged = true;
        self.decoder.settings_acknowledged();
        let window = self.settings.window;
        if window < DEFAULT_WINDOW {
            for stream in self.streams.iter_mut() {
                stream.window.resize(window);
            }
        }
        Ok(())
    }

    /// Applies one value of the peer's SETTINGS, other than a valid `INITIAL_WINDOW_SIZE`.
    fn setting(&mut self, id: u16, value: u32) -> Result<(), Fault> {
        let good = match id {
            frame::HEADER_TABLE_SIZE => {
                self.encoder.set_peer_table_size(value);
                true
            }
            frame::ENABLE_PUSH => value == 0 || value == 1 && self.is_server(),
            frame::MAX_CONCURRENT_STREAMS => {
                self.settings.peer_max_streams = value;
                true
            }
            frame::INITIAL_WINDOW_SIZE => false,
            frame::MAX_FRAME_SIZE => (16_384..=0xff_ffff).contains(&value),
            frame::ENABLE_CONNECT_PROTOCOL | frame::NO_RFC7540_PRIORITIES => value <= 1,
            _ => true,
        };
        if good { Ok(()) } else { Err(Fault::Close) }
    }

    /// The peer changed the initial window size of its streams.
    pub(super) fn resize_send_windows(&mut self, size: u32) {
        let change = i64::from(size) - i64::from(self.settings.peer_window);
        self.settings.peer_window = size;
        let mut overflown = Vec::new();
        let mut grown = Vec::new();
        for (key, stream) in self.streams.iter_keys() {
            stream.send_window += change;
            if stream.send_window > i64::from(MAX_WINDOW) {
                overflown.push(key);
            } else if change > 0 {
                grown.push(key);
            }
        }
        for key in grown {
            self.flush_backlog(key);
        }
        for key in overflown {
            let error = StreamError::ProtocolError(REMOTE_RESET);
            self.reset_malformed(key, error, Reason::FLOW_CONTROL_ERROR);
        }
    }

    pub(super) fn ping(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let opaque: [u8; 8] = payload.try_into().map_err(|_| FRAME_SIZE)?;
        if head.stream != 0 {
            return Err(Fault::Close);
        }
        self.limits.note_useless(1);
        if head.has(frame::ACK) {
            self.pongs_received += 1;
        } else {
            self.output.frame(&frame::ping(true, opaque), true);
        }
        self.wake_task();
        Ok(())
    }

    pub(super) fn goaway(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let last = frame::number(payload, 0).filter(|_| head.length >= 8);
        let last = last.ok_or(FRAME_SIZE)? & 0x7fff_ffff;
        if head.stream != 0 {
            return Err(Fault::Close);
        }
        // The number must be one of this side's streams, and not higher than in an earlier GOAWAY.
        let is_ours = last == 0 || last.is_multiple_of(2) == self.is_server();
        if !is_ours || last > self.goaway_received.unwrap_or(u32::MAX) {
            return Err(Fault::Close);
        }
        self.goaway_received = Some(last);
        self.wake_task();
        self.note_visit();
        if self.is_server() {
            return Ok(());
        }
        let mut closed = Vec::new();
        for (key, stream) in self.streams.iter_keys() {
            if stream.id > last && (stream.receiving || stream.sending) {
                stream.fail(StreamError::RemoteRefused, &mut self.wakers);
                closed.push(key);
            }
        }
        for key in closed {
            self.streams.remove_if_closed(key);
        }
        Ok(())
    }

    pub(super) fn window_update(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let increment = frame::number(payload, 0).filter(|_| head.length == 4);
        let increment = i64::from(increment.ok_or(FRAME_SIZE)? & 0x7fff_ffff);
        self.note(head, 0)?;
        if head.stream == 0 {
            self.send_window += increment;
            // Envoy closes the connection without a GOAWAY; RFC 9113, section 6.9, names the errors.
            if increment == 0 {
                return Err(PROTOCOL);
            }
            if self.send_window > i64::from(MAX_WINDOW) {
                return Err(Fault::GoAway(Reason::FLOW_CONTROL_ERROR));
            }
            self.resume_blocked();
            return Ok(());
        }
        let key = self.streams.key(head.stream);
        let Some(stream) = key.and_then(|key| self.streams.get(key)) else {
            if self.is_idle(head.stream) || increment == 0 {
                return Err(Fault::Close);
            }
            self.limits.note_useless(1);
            return Ok(());
        };
        stream.send_window += increment;
        let overflows = stream.send_window > i64::from(MAX_WINDOW);
        // Envoy ends the connection; RFC 9113, section 6.9, requires a stream error.
        if increment == 0 {
            return self.stream_fault(head, Reason::PROTOCOL_ERROR);
        }
        if overflows {
            return self.stream_fault(head, Reason::FLOW_CONTROL_ERROR);
        }
        if let Some(key) = key {
            self.flush_backlog(key);
        }
        Ok(())
    }
}
