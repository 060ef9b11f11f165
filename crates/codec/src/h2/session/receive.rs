//! Frames that come in (RFC 9113, section 6), judged as Envoy judges them: what ends the connection with a GOAWAY, what
//! without a word, what only a stream, and what is ignored.

use std::rc::Rc;

use bytes::Buf;
use bytes::Bytes;
use bytes::BytesMut;
use http::Response;
use http::StatusCode;

use crate::Meter;
use crate::Reason;
use crate::StreamError;

use super::super::frame;
use super::super::frame::HEAD;
use super::super::frame::Head;
use super::super::input::Block;
use super::super::input::DataRest;
use super::super::limits::Flood;
use super::super::message::Fields;
use super::super::message::Flaw;
use super::super::message::Kind;
use super::super::stream::StreamState;
use super::super::window::Window;
use super::Accepted;
use super::DEFAULT_WINDOW;
use super::Fault;
use super::State;
use super::StreamRef;

/// Pieces of data from this size on are not copied, bytes.
const SHARED: usize = 2048;
/// CONTINUATION frames of one header block, as nghttp2 limits them.
const MAX_CONTINUATIONS: usize = 8;
/// Interim answers that wait to be read; what comes beyond is dropped.
const MAX_INTERIM: usize = 16;

const PROTOCOL: Fault = Fault::GoAway(Reason::PROTOCOL_ERROR);
const FRAME_SIZE: Fault = Fault::GoAway(Reason::FRAME_SIZE_ERROR);

impl From<Flood> for Fault {
    fn from(flood: Flood) -> Fault {
        Fault::Flood(flood)
    }
}

impl State {
    /// Takes all of `chunk`.
    pub(super) fn feed(&mut self, chunk: &mut BytesMut) -> Result<(), Fault> {
        self.feed_preface(chunk)?;
        while !chunk.is_empty() {
            if let Some(rest) = self.input.data.take() {
                self.feed_data(rest, chunk)?;
            } else if self.input.partial.is_empty() {
                let Some(head) = chunk.first_chunk().map(Head::parse) else {
                    self.input.partial.extend_from_slice(chunk);
                    chunk.clear();
                    break;
                };
                self.check_head(head)?;
                let whole = HEAD + needed(head);
                match chunk.get(HEAD..whole) {
                    Some(payload) => {
                        self.frame(head, payload)?;
                        chunk.advance(whole);
                    }
                    None => {
                        self.input.partial.extend_from_slice(chunk);
                        chunk.clear();
                    }
                }
            } else if !self.feed_partial(chunk)? {
                break;
            }
        }
        Ok(())
    }

    fn feed_preface(&mut self, chunk: &mut BytesMut) -> Result<(), Fault> {
        if self.input.preface == 0 {
            return Ok(());
        }
        let expected = frame::PREFACE;
        let at = expected.len() - self.input.preface;
        let count = self.input.preface.min(chunk.len());
        if chunk.get(..count) != expected.get(at..at + count) {
            return Err(Fault::Silent);
        }
        self.input.preface -= count;
        chunk.advance(count);
        Ok(())
    }

    /// Goes on with a frame that did not come in one piece; false if it still is not complete.
    fn feed_partial(&mut self, chunk: &mut BytesMut) -> Result<bool, Fault> {
        let partial = &mut self.input.partial;
        let had_head = partial.len() >= HEAD;
        if !fill(partial, chunk, HEAD) {
            return Ok(false);
        }
        let Some(head) = partial.first_chunk().map(Head::parse) else {
            return Ok(false);
        };
        if !had_head {
            self.check_head(head)?;
        }
        let whole = HEAD + needed(head);
        if !fill(&mut self.input.partial, chunk, whole) {
            return Ok(false);
        }
        let bytes = std::mem::take(&mut self.input.partial);
        self.frame(head, bytes.get(HEAD..).unwrap_or_default())?;
        Ok(true)
    }

    /// What can be said of a frame by its head.
    fn check_head(&mut self, head: Head) -> Result<(), Fault> {
        if head.length > frame::MAX_PAYLOAD {
            return Err(FRAME_SIZE);
        }
        if !self.input.begun {
            if head.kind != frame::SETTINGS || head.has(frame::ACK) {
                return Err(PROTOCOL);
            }
            self.input.begun = true;
        }
        let continues = head.kind == frame::CONTINUATION;
        match &self.input.block {
            Some(block) if !continues || block.stream != head.stream => return Err(PROTOCOL),
            None if continues => return Err(PROTOCOL),
            _ => {}
        }
        if head.kind != frame::PING || !head.has(frame::ACK) {
            self.frames_received += 1;
        }
        Ok(())
    }

    /// A whole frame, or the beginning of a DATA frame.
    fn frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let result = self.dispatch(head, payload);
        if result == Err(Fault::Silent)
            && let Some(key) = self.streams.key(head.stream)
            && let Some(stream) = self.streams.get(key)
        {
            // The stream that is to blame, unless more is known of it already.
            let error = StreamError::ProtocolError("http2.unknown.nghttp2.error");
            stream.fail(error, &mut self.wakers);
        }
        result
    }

    fn dispatch(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        match head.kind {
            frame::DATA => self.begin_data(head, payload.first().copied()),
            frame::HEADERS => self.headers(head, payload),
            frame::PRIORITY => self.priority(head),
            frame::RST_STREAM => self.rst_stream(head, payload),
            frame::SETTINGS => self.settings(head, payload),
            frame::PUSH_PROMISE => Err(Fault::Silent),
            frame::PING => self.ping(head, payload),
            frame::GOAWAY => self.goaway(head, payload),
            frame::WINDOW_UPDATE => self.window_update(head, payload),
            frame::CONTINUATION => self.continuation(head, payload),
            _ => Ok(()),
        }
    }

    /// Whether no frame of the stream with this number was sent or received yet.
    fn is_idle(&self, id: u32) -> bool {
        let is_clients = id % 2 == 1;
        match (self.is_server(), is_clients) {
            (true, true) => id > self.newest_stream,
            (false, true) => id >= self.next_stream,
            // Nobody pushes.
            (_, false) => true,
        }
    }

    fn note(&mut self, head: Head, padding: usize) -> Result<(), Fault> {
        self.limits.note_frame(head, padding).map_err(|flood| {
            flood.count(&self.stats);
            Fault::Flood(flood)
        })
    }

    fn begin_data(&mut self, head: Head, first: Option<u8>) -> Result<(), Fault> {
        let (pad_field, padding) = match (head.has(frame::PADDED), first) {
            (false, _) => (0, 0),
            (true, Some(padding)) => (1, usize::from(padding)),
            (true, None) => return Err(PROTOCOL),
        };
        let left = (head.length - pad_field)
            .checked_sub(padding)
            .ok_or(PROTOCOL)?;
        let rest = DataRest {
            stream: head.stream,
            left,
            padding,
            ends: head.has(frame::END_STREAM),
        };
        if head.stream == 0 {
            return Err(PROTOCOL);
        }
        if !self.window.receive(head.length) {
            return Err(Fault::GoAway(Reason::FLOW_CONTROL_ERROR));
        }
        let waste = pad_field + padding;
        let Some(key) = self.streams.key(head.stream) else {
            if self.is_idle(head.stream) {
                return Err(PROTOCOL);
            }
            // The stream was closed while this was on its way.
            self.release_connection(waste);
            return self.go_on_with_data(rest);
        };
        let is_client = !self.is_server();
        let Some(stream) = self.streams.get(key) else {
            return Ok(());
        };
        if !stream.receiving {
            return Err(Fault::GoAway(Reason::STREAM_CLOSED));
        }
        if is_client && !stream.heads.complete {
            return Err(PROTOCOL);
        }
        stream.meter.add_body_received(0, HEAD + waste);
        let allowed = stream.window.receive(head.length);
        self.note(head, waste)?;
        if !allowed {
            let error = StreamError::ProtocolError("http2.remote_reset");
            self.break_stream(key, error, Reason::FLOW_CONTROL_ERROR);
        }
        self.release(key, waste);
        self.go_on_with_data(rest)
    }

    /// Ends a DATA frame of which nothing more will come, or waits for the rest.
    fn go_on_with_data(&mut self, rest: DataRest) -> Result<(), Fault> {
        if rest.left == 0 && rest.ends {
            self.end_data(rest.stream);
        }
        if rest.left + rest.padding > 0 {
            self.input.data = Some(rest);
        }
        Ok(())
    }

    fn feed_data(&mut self, mut rest: DataRest, chunk: &mut BytesMut) -> Result<(), Fault> {
        if rest.left == 0 {
            let count = rest.padding.min(chunk.len());
            chunk.advance(count);
            rest.padding -= count;
            rest.ends = false;
            return self.go_on_with_data(rest);
        }
        let count = rest.left.min(chunk.len());
        rest.left -= count;
        match self.streams.key(rest.stream) {
            Some(key) => self.take_data(key, count, chunk),
            None => {
                chunk.advance(count);
                self.release_connection(count);
            }
        }
        self.go_on_with_data(rest)
    }

    /// Hands the next `count` bytes of `chunk` to a stream.
    fn take_data(&mut self, key: usize, count: usize, chunk: &mut BytesMut) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        stream.meter.add_body_received(count, count);
        if let Some(left) = &mut stream.content_left {
            match left.checked_sub(count as u64) {
                Some(now) => *left = now,
                None => {
                    chunk.advance(count);
                    self.release_connection(count);
                    return self.break_content_length(key);
                }
            }
        }
        if stream.unread || !stream.receiving {
            chunk.advance(count);
            return self.release(key, count);
        }
        let bytes = if count < SHARED {
            let bytes = Bytes::copy_from_slice(chunk.get(..count).unwrap_or_default());
            chunk.advance(count);
            bytes
        } else {
            chunk.split_to(count).freeze()
        };
        stream.data.push(bytes);
        stream.wake_reader(&mut self.wakers);
    }

    /// The body's last DATA frame was the message's end.
    fn end_data(&mut self, id: u32) {
        let Some(key) = self.streams.key(id) else {
            return;
        };
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        if stream.content_left.is_some_and(|left| left > 0) {
            return self.break_content_length(key);
        }
        self.end_receiving(key);
    }

    fn end_receiving(&mut self, key: usize) {
        if let Some(stream) = self.streams.get(key) {
            stream.receiving = false;
            if stream.begun && stream.trailers.is_none() && stream.data.is_empty() {
                stream.meter.end_receive();
            }
            stream.wake_reader(&mut self.wakers);
        }
        self.streams.settle(key);
    }

    /// The body is not as long as `content-length` says.
    fn break_content_length(&mut self, key: usize) {
        let error = StreamError::ProtocolError("http2.remote_reset");
        self.break_stream(key, error, Reason::PROTOCOL_ERROR);
    }

    /// Resets a stream for the peer's fault.
    fn break_stream(&mut self, key: usize, error: StreamError, reason: Reason) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        let id = stream.id;
        let unread = stream.data.clear();
        stream.fail(error, &mut self.wakers);
        self.release_connection(unread);
        self.queue_reset(id, reason);
        self.streams.settle(key);
    }

    fn headers(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let unpadded = frame::unpad(head, payload).ok_or(PROTOCOL)?;
        let padding = payload.len() - unpadded.len();
        let mut fragment = unpadded;
        let mut dependency = None;
        if head.has(frame::WITH_PRIORITY) {
            dependency = frame::number(unpadded, 0).map(|id| id & 0x7fff_ffff);
            fragment = unpadded.get(5..).ok_or(FRAME_SIZE)?;
        }
        let kind = if self.is_server() {
            self.request_kind(head, dependency)?
        } else {
            self.response_kind(head)?
        };
        if kind.is_some() {
            self.note(head, padding)?;
        }
        let block = Block {
            stream: head.stream,
            ends: head.has(frame::END_STREAM),
            kind,
            bytes: Vec::new(),
            continuations: 0,
            wire: HEAD + head.length,
        };
        if head.has(frame::END_HEADERS) {
            return self.decode(&block, fragment);
        }
        self.input.block = Some(Block {
            bytes: fragment.to_vec(),
            ..block
        });
        Ok(())
    }

    /// What a client's HEADERS frame begins.
    fn request_kind(&mut self, head: Head, dependency: Option<u32>) -> Result<Option<Kind>, Fault> {
        let id = head.stream;
        if id.is_multiple_of(2) {
            return Err(Fault::Silent);
        }
        if id <= self.newest_stream {
            let key = self.streams.key(id);
            return match key.and_then(|key| self.streams.get(key)) {
                Some(stream) if stream.receiving => {
                    self.stats.trailers.inc();
                    Ok(Some(Kind::Trailers))
                }
                Some(_) => Err(Fault::Silent),
                None => Ok(None),
            };
        }
        self.newest_stream = id;
        if self.goaway_sent.is_some_and(|last| id > last) {
            return Ok(None);
        }
        let full = self.streams.open() >= self.settings.max_streams as usize;
        if full && self.settings.acknowledged || dependency == Some(id) {
            return Err(Fault::Silent);
        }
        if full {
            self.stats.stream_refused_errors.inc();
            self.queue_reset(id, Reason::REFUSED_STREAM);
            return Ok(None);
        }
        self.limits.note_stream();
        Ok(Some(Kind::Request))
    }

    /// What a server's HEADERS frame begins.
    fn response_kind(&mut self, head: Head) -> Result<Option<Kind>, Fault> {
        let key = self.streams.key(head.stream);
        let is_idle = self.is_idle(head.stream);
        match key.and_then(|key| self.streams.get(key)) {
            Some(stream) if !stream.receiving => Err(Fault::Silent),
            Some(stream) if stream.heads.complete => Ok(Some(Kind::Trailers)),
            Some(_) => Ok(Some(Kind::Response)),
            None if is_idle => Err(Fault::Silent),
            None => Ok(None),
        }
    }

    fn continuation(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let Some(mut block) = self.input.block.take() else {
            return Err(PROTOCOL);
        };
        self.note(head, 0)?;
        block.wire += HEAD + head.length;
        block.bytes.extend_from_slice(payload);
        if head.has(frame::END_HEADERS) {
            let bytes = std::mem::take(&mut block.bytes);
            return self.decode(&block, &bytes);
        }
        block.continuations += 1;
        let too_many = block.continuations >= MAX_CONTINUATIONS;
        self.input.block = Some(block);
        if too_many { Err(Fault::Silent) } else { Ok(()) }
    }

    /// Decodes a whole header block, and does what it says.
    fn decode(&mut self, block: &Block, bytes: &[u8]) -> Result<(), Fault> {
        let failed = Fault::GoAway(Reason::COMPRESSION_ERROR);
        let Some(kind) = block.kind else {
            return self.decoder.decode(bytes, |_, _, _| ()).map_err(|_| failed);
        };
        let mut fields = Fields::new(kind);
        let (rules, stats) = (&self.rules, &self.stats);
        let decoded = self.decoder.decode(bytes, |name, value, size| {
            fields.add(name, value, size, rules, stats);
        });
        if decoded.is_err() {
            self.unfinished_request = kind == Kind::Request;
            return Err(failed);
        }
        match (kind, self.streams.key(block.stream)) {
            (Kind::Request, _) => self.begin_request(block, fields),
            (Kind::Response, Some(key)) => self.response(key, block, fields),
            (Kind::Trailers, Some(key)) => self.trailers(key, block, fields),
            (_, None) => Ok(()),
        }
    }

    fn begin_request(&mut self, block: &Block, fields: Fields) -> Result<(), Fault> {
        let (bytes, content_length) = (fields.bytes, fields.content_length);
        let head = match fields.request(block.ends) {
            Ok(head) => head,
            Err(flaw) => {
                self.accepted.push(Accepted::Refused(flaw.into()));
                return self.refuse(block.stream, flaw);
            }
        };
        let meter = Rc::new(Meter::default());
        meter.add_headers_received(bytes, block.wire);
        let stream = self.begin_stream(block.stream, meter.clone(), |stream| {
            if block.ends {
                stream.receiving = false;
                stream.meter.end_receive();
            } else {
                stream.content_left = content_length;
            }
        });
        if let Some(stream) = stream {
            self.accepted.push(Accepted::Request {
                stream,
                head: Box::new(head),
                ends: block.ends,
                meter,
            });
        }
        Ok(())
    }

    /// Stores a stream that the peer opened, as `prepare` leaves it, with a first hold on it.
    pub(super) fn begin_stream(
        &mut self,
        id: u32,
        meter: Rc<Meter>,
        prepare: impl FnOnce(&mut StreamState),
    ) -> Option<StreamRef> {
        let window = Window::new(self.settings.window_now());
        let send_window = self.settings.peer_window.into();
        let mut stream = StreamState::new(id, meter, window, send_window);
        prepare(&mut stream);
        let key = self.streams.insert(stream);
        Some(self.streams.get(key)?.hold(key))
    }

    /// Turns a stream away that does not exist yet.
    fn refuse(&mut self, id: u32, flaw: Flaw) -> Result<(), Fault> {
        if !flaw.is_violation() {
            self.queue_reset(id, Reason::INTERNAL_ERROR);
            return Ok(());
        }
        self.stats.rx_messaging_error.inc();
        if !self.stream_error {
            return Err(Fault::Silent);
        }
        self.queue_reset(id, Reason::PROTOCOL_ERROR);
        Ok(())
    }

    fn response(&mut self, key: usize, block: &Block, fields: Fields) -> Result<(), Fault> {
        let (bytes, content_length) = (fields.bytes, fields.content_length);
        let (status, headers) = match fields.response(block.ends) {
            Ok(head) => head,
            Err(flaw) => return self.flaw(key, flaw),
        };
        let Some(stream) = self.streams.get(key) else {
            return Ok(());
        };
        stream.meter.add_headers_received(bytes, block.wire);
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        if status.is_informational() {
            if stream.heads.interim.len() < MAX_INTERIM {
                stream.heads.interim.push(response);
            }
            stream.wake_reader(&mut self.wakers);
            return Ok(());
        }
        let no_body = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        stream.content_left = if stream.bodiless || no_body {
            Some(0)
        } else {
            content_length
        };
        stream.heads.complete = true;
        stream.heads.last = Some(response);
        stream.wake_reader(&mut self.wakers);
        stream.begun = block.ends;
        if block.ends {
            if stream.content_left.is_some_and(|left| left > 0) {
                return self.flaw(key, Flaw::Message);
            }
            self.end_receiving(key);
        }
        Ok(())
    }

    fn trailers(&mut self, key: usize, block: &Block, fields: Fields) -> Result<(), Fault> {
        let bytes = fields.bytes;
        let trailers = match fields.trailers(block.ends) {
            Ok(trailers) => trailers,
            Err(flaw) => return self.flaw(key, flaw),
        };
        let Some(stream) = self.streams.get(key) else {
            return Ok(());
        };
        stream.meter.add_headers_received(bytes, block.wire);
        if stream.content_left.is_some_and(|left| left > 0) {
            self.break_content_length(key);
            return Ok(());
        }
        if !stream.unread {
            stream.trailers = Some(trailers);
        }
        self.end_receiving(key);
        Ok(())
    }

    /// A head or trailers that are none, on a stream that exists.
    fn flaw(&mut self, key: usize, flaw: Flaw) -> Result<(), Fault> {
        let ends_connection = !self.stream_error || !flaw.is_violation() && !self.is_server();
        let reason = if flaw.is_violation() {
            self.stats.rx_messaging_error.inc();
            Reason::PROTOCOL_ERROR
        } else {
            Reason::INTERNAL_ERROR
        };
        let error = StreamError::ProtocolError(flaw.details());
        if ends_connection && (flaw.is_violation() || !self.is_server()) {
            if let Some(stream) = self.streams.get(key) {
                stream.fail(error, &mut self.wakers);
            }
            self.streams.settle(key);
            return Err(Fault::Silent);
        }
        self.break_stream(key, error, reason);
        Ok(())
    }

    fn priority(&mut self, head: Head) -> Result<(), Fault> {
        if head.length != 5 {
            return Err(FRAME_SIZE);
        }
        self.note(head, 0)
    }

    fn rst_stream(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let code = frame::number(payload, 0).filter(|_| head.length == 4);
        let reason = Reason::from(code.ok_or(FRAME_SIZE)?);
        if self.is_idle(head.stream) {
            return Err(Fault::Silent);
        }
        self.note(head, 0)?;
        let Some(key) = self.streams.key(head.stream) else {
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
        self.streams.settle(key);
        Ok(())
    }

    fn settings(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let (values, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() || head.has(frame::ACK) && !payload.is_empty() {
            return Err(FRAME_SIZE);
        }
        if head.stream != 0 {
            return Err(Fault::Silent);
        }
        if head.has(frame::ACK) {
            return self.settings_acknowledged();
        }
        for [a, b, value @ ..] in values {
            self.setting(u16::from_be_bytes([*a, *b]), u32::from_be_bytes(*value))?;
        }
        self.settings.peer_seen = true;
        self.output.frame(&frame::settings_ack(), true);
        self.wake_task();
        Ok(())
    }

    fn settings_acknowledged(&mut self) -> Result<(), Fault> {
        if self.settings.acknowledged {
            return Err(Fault::Silent);
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

    /// One value of the peer's SETTINGS.
    fn setting(&mut self, id: u16, value: u32) -> Result<(), Fault> {
        const MAX_WINDOW: u32 = 0x7fff_ffff;
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
            frame::INITIAL_WINDOW_SIZE if value <= MAX_WINDOW => {
                self.resize_send_windows(value);
                true
            }
            frame::INITIAL_WINDOW_SIZE => false,
            frame::MAX_FRAME_SIZE => (16_384..=0xff_ffff).contains(&value),
            frame::ENABLE_CONNECT_PROTOCOL | frame::NO_RFC7540_PRIORITIES => value <= 1,
            _ => true,
        };
        if good { Ok(()) } else { Err(Fault::Silent) }
    }

    /// The peer has changed the window that each of its streams begins with.
    fn resize_send_windows(&mut self, size: u32) {
        let change = i64::from(size) - i64::from(self.settings.peer_window);
        self.settings.peer_window = size;
        let mut overflown = Vec::new();
        let mut grown = Vec::new();
        for (key, stream) in self.streams.iter_keys() {
            stream.send_window += change;
            if stream.send_window > i64::from(i32::MAX) {
                overflown.push(key);
            } else if change > 0 {
                grown.push(key);
            }
        }
        for key in grown {
            self.flush_backlog(key);
        }
        for key in overflown {
            let error = StreamError::ProtocolError("http2.remote_reset");
            self.break_stream(key, error, Reason::FLOW_CONTROL_ERROR);
        }
    }

    fn ping(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let opaque: [u8; 8] = payload.try_into().map_err(|_| FRAME_SIZE)?;
        if head.stream != 0 {
            return Err(Fault::Silent);
        }
        if head.has(frame::ACK) {
            self.pongs_received += 1;
        } else {
            self.output.frame(&frame::ping(true, opaque), true);
        }
        self.wake_task();
        Ok(())
    }

    fn goaway(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let last = frame::number(payload, 0).filter(|_| head.length >= 8);
        let last = last.ok_or(FRAME_SIZE)? & 0x7fff_ffff;
        if head.stream != 0 {
            return Err(Fault::Silent);
        }
        self.goaway_received = true;
        self.wake_task();
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
            self.streams.settle(key);
        }
        Ok(())
    }

    fn window_update(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let increment = frame::number(payload, 0).filter(|_| head.length == 4);
        let increment = i64::from(increment.ok_or(FRAME_SIZE)? & 0x7fff_ffff);
        self.note(head, 0)?;
        if increment == 0 {
            return Err(Fault::Silent);
        }
        if head.stream == 0 {
            self.send_window += increment;
            if self.send_window > i64::from(i32::MAX) {
                return Err(Fault::Silent);
            }
            self.unblock();
            return Ok(());
        }
        let key = self.streams.key(head.stream);
        let Some(stream) = key.and_then(|key| self.streams.get(key)) else {
            return if self.is_idle(head.stream) {
                Err(Fault::Silent)
            } else {
                Ok(())
            };
        };
        stream.send_window += increment;
        if stream.send_window > i64::from(i32::MAX) {
            return Err(Fault::Silent);
        }
        if let Some(key) = key {
            self.flush_backlog(key);
        }
        Ok(())
    }
}

/// The bytes after a frame's head that must be there before it is looked at: all of them, but of DATA only what tells of
/// the padding.
fn needed(head: Head) -> usize {
    match head.kind {
        frame::DATA => usize::from(head.has(frame::PADDED) && head.length > 0),
        _ => head.length,
    }
}

/// Moves bytes until `partial` has `wanted`; false if there were not enough.
fn fill(partial: &mut Vec<u8>, chunk: &mut BytesMut, wanted: usize) -> bool {
    let count = wanted.saturating_sub(partial.len()).min(chunk.len());
    partial.extend_from_slice(chunk.get(..count).unwrap_or_default());
    chunk.advance(count);
    partial.len() >= wanted
}
