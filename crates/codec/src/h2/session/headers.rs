//! Received header blocks (RFC 9113, sections 6.2 and 6.10): requests, responses and trailers.

use std::rc::Rc;

use http::StatusCode;

use crate::Meter;
use crate::Reason;
use crate::Refused;
use crate::RequestHead;
use crate::ResponseHead;
use crate::StreamError;
use crate::header::Kind;
use crate::meter::HeadSize;

use super::super::frame;
use super::super::frame::HEAD;
use super::super::frame::Head;
use super::super::input::Block;
use super::super::message::Fields;
use super::super::message::Flaw;
use super::super::message::Judge;
use super::super::stream::AnswerTo;
use super::super::stream::StreamState;
use super::super::window::Window;
use super::Fault;
use super::Role;
use super::State;
use super::StreamRef;
use super::data::REMOTE_RESET;
use super::receive::FRAME_SIZE;
use super::receive::PROTOCOL;

/// The maximum number of CONTINUATION frames in one header block, as in nghttp2.
const MAX_CONTINUATIONS: usize = 8;
/// The maximum number of unread interim responses; further ones are dropped.
const MAX_INTERIM: usize = 16;

/// A request that arrived, or the outcome of one that cannot be served.
#[derive(Debug)]
pub(in crate::h2) enum Accepted {
    Request {
        stream: StreamRef,
        head: Box<RequestHead>,
        /// The request has no body.
        ends: bool,
        meter: Rc<Meter>,
    },
    Refused(Refused),
}

impl From<Flaw> for Refused {
    fn from(flaw: Flaw) -> Refused {
        if flaw.is_violation() {
            Refused::Error(StreamError::ProtocolError(flaw.details()))
        } else {
            Refused::Limit(flaw.details())
        }
    }
}

impl State {
    pub(super) fn headers(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let unpadded = frame::unpad(head, payload).ok_or(PROTOCOL)?;
        let padding = payload.len() - unpadded.len();
        let mut fragment = unpadded;
        let mut dependency = None;
        if head.has(frame::WITH_PRIORITY) {
            dependency = frame::number(unpadded, 0).map(|id| id & 0x7fff_ffff);
            fragment = unpadded.get(5..).ok_or(FRAME_SIZE)?;
        }
        let given_up = self.input.given_up.take() == Some(head.stream);
        let kind = if given_up {
            None
        } else if self.is_server() {
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

    /// Which part of a message a client's HEADERS frame begins; `None` if it is to be ignored.
    pub(super) fn request_kind(
        &mut self,
        head: Head,
        dependency: Option<u32>,
    ) -> Result<Option<Kind>, Fault> {
        let id = head.stream;
        if id.is_multiple_of(2) {
            return Err(Fault::Silent);
        }
        if id <= self.newest_stream {
            let key = self.streams.key(id);
            let has_ended = self.streams.has_ended(id);
            return match key.and_then(|key| self.streams.get(key)) {
                Some(stream) if stream.receiving => {
                    self.stats.trailers.inc();
                    Ok(Some(Kind::Trailers))
                }
                Some(_) => self.headers_after_end(key),
                // Envoy ignores frames for streams that are gone. RFC 9113, sections 5.1 and 5.1.1, requires an error
                // where the peer is certainly wrong.
                None if has_ended => Err(Fault::GoAway(Reason::STREAM_CLOSED)),
                None if (self.skipped.0..=self.skipped.1).contains(&id) => Err(PROTOCOL),
                None => Ok(None),
            };
        }
        self.note_newest(id);
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

    /// Handles HEADERS on a stream whose message the peer has ended: RFC 9113, section 5.1, makes it a stream error.
    /// The block is still decoded to keep the compression table in step.
    fn headers_after_end(&mut self, key: Option<usize>) -> Result<Option<Kind>, Fault> {
        if let Some(key) = key {
            let error = StreamError::ProtocolError(REMOTE_RESET);
            self.break_stream(key, error, Reason::STREAM_CLOSED);
        }
        Ok(None)
    }

    fn note_newest(&mut self, id: u32) {
        if id > self.newest_stream + 2 {
            self.skipped = (self.newest_stream + 1, id - 1);
        }
        self.newest_stream = id;
    }

    /// The stream of a request whose head is incomplete: CONTINUATION frames are missing, or its HEADERS frame is
    /// incomplete.
    pub(super) fn open_request(&self) -> Option<u32> {
        self.input.open_block().or_else(|| {
            let id = self.input.partial_headers()?.stream;
            let is_new = self.is_server() && id > self.newest_stream && !id.is_multiple_of(2);
            let is_let_in = self.goaway_sent.is_none_or(|last| id <= last)
                && self.streams.open() < self.settings.max_streams as usize;
            (is_new && is_let_in).then_some(id)
        })
    }

    /// Stops waiting for the rest of that head.
    pub(super) fn give_up_request(&mut self, id: u32) {
        self.input.give_up(id);
        if id > self.newest_stream {
            self.note_newest(id);
            self.limits.note_stream();
        }
    }

    /// Which part of a message a server's HEADERS frame begins; `None` if it is to be ignored.
    pub(super) fn response_kind(&mut self, head: Head) -> Result<Option<Kind>, Fault> {
        let key = self.streams.key(head.stream);
        let is_idle = self.is_idle(head.stream);
        match key.and_then(|key| self.streams.get(key)) {
            Some(stream) if !stream.receiving => self.headers_after_end(key),
            Some(stream) if stream.heads.complete => Ok(Some(Kind::Trailers)),
            Some(_) => Ok(Some(Kind::Response)),
            None if is_idle => Err(Fault::Silent),
            None => Ok(None),
        }
    }

    pub(super) fn continuation(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
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

    /// Decodes a complete header block and processes it.
    pub(super) fn decode(&mut self, block: &Block, bytes: &[u8]) -> Result<(), Fault> {
        let failed = Fault::GoAway(Reason::COMPRESSION_ERROR);
        let Some(kind) = block.kind else {
            return self.decoder.decode(bytes, |_, _, _| ()).map_err(|_| failed);
        };
        let mut fields = Fields::new(kind);
        let judge = Judge {
            rules: &self.rules,
            stats: &self.stats,
        };
        let decoded = self.decoder.decode(bytes, |name, value, size| {
            fields.add(name, value, size, &judge);
        });
        if decoded.is_err() {
            self.unfinished_request = kind == Kind::Request;
            return Err(failed);
        }
        match (kind, self.streams.key(block.stream)) {
            (Kind::Request, _) => self.begin_request(block, &mut fields),
            (Kind::Response, Some(key)) => self.response(key, block, &mut fields),
            (Kind::Trailers, Some(key)) => self.trailers(key, block, &mut fields),
            (_, None) => Ok(()),
        }
    }

    pub(super) fn begin_request(
        &mut self,
        block: &Block,
        fields: &mut Fields,
    ) -> Result<(), Fault> {
        let (bytes, content_length) = (fields.bytes, fields.content_length);
        let head = match fields.request(block.ends) {
            Ok(head) => head,
            Err(flaw) => {
                self.accepted.push(Accepted::Refused(flaw.into()));
                return self.refuse(block.stream, flaw);
            }
        };
        let meter = Rc::new(Meter::default());
        meter.add_headers_received(HeadSize::http2(bytes, block.wire));
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

    /// Stores a stream that the peer opened, after `prepare` has changed its state. The stream starts with one handle.
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

    /// Refuses a request before its stream is created.
    pub(super) fn refuse(&mut self, id: u32, flaw: Flaw) -> Result<(), Fault> {
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

    pub(super) fn response(
        &mut self,
        key: usize,
        block: &Block,
        fields: &mut Fields,
    ) -> Result<(), Fault> {
        let (bytes, content_length) = (fields.bytes, fields.content_length);
        let (status, headers) = match fields.response(block.ends) {
            Ok(head) => head,
            Err(flaw) => return self.flaw(key, flaw),
        };
        let Some(stream) = self.streams.get(key) else {
            return Ok(());
        };
        stream
            .meter
            .add_headers_received(HeadSize::http2(bytes, block.wire));
        let response = ResponseHead { status, headers };
        if status.is_informational() {
            stream.heads.opened = true;
            if stream.heads.interim.len() < MAX_INTERIM {
                stream.heads.interim.push(response);
            }
            stream.wake_reader(&mut self.wakers);
            return Ok(());
        }
        let no_body = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        stream.content_left = match stream.answer_to {
            AnswerTo::Head => Some(0),
            _ if no_body => Some(0),
            AnswerTo::Connect if status.is_success() => None,
            AnswerTo::Connect | AnswerTo::Other => content_length,
        };
        if block.ends && stream.content_left.is_some_and(|left| left > 0) {
            return self.flaw(key, Flaw::Message);
        }
        stream.heads.complete = true;
        stream.heads.last = Some(response);
        stream.wake_reader(&mut self.wakers);
        stream.begun = block.ends;
        if block.ends {
            self.end_receiving(key);
        }
        Ok(())
    }

    pub(super) fn trailers(
        &mut self,
        key: usize,
        block: &Block,
        fields: &mut Fields,
    ) -> Result<(), Fault> {
        let (bytes, content_length) = (fields.bytes, fields.content_length);
        let trailers = match fields.trailers(block.ends) {
            Ok(trailers) => trailers,
            Err(flaw) => return self.flaw(key, flaw),
        };
        let Some(stream) = self.streams.get(key) else {
            return Ok(());
        };
        stream
            .meter
            .add_headers_received(HeadSize::http2(bytes, block.wire));
        let received = stream.meter.body_bytes_received();
        let broken = match (stream.content_left, content_length) {
            // `content-length` is not allowed twice.
            (Some(_), Some(_)) => return self.flaw(key, Flaw::Field),
            (Some(left), None) => left > 0,
            (None, Some(length)) => length != received,
            (None, None) => false,
        };
        if broken {
            return self.flaw(key, Flaw::Message);
        }
        if !stream.unread {
            stream.trailers = Some(trailers);
        }
        self.end_receiving(key);
        Ok(())
    }

    /// Handles a malformed head or malformed trailers of an existing stream, or ones that exceed a limit. Exceeding a
    /// limit ends the stream only.
    pub(super) fn flaw(&mut self, key: usize, flaw: Flaw) -> Result<(), Fault> {
        let error = StreamError::ProtocolError(flaw.details());
        if !flaw.is_violation() {
            let reason = Reason::INTERNAL_ERROR;
            match self.role {
                Role::Server => self.break_stream(key, error, reason),
                // Reported as a reset by the server, as Envoy reports it to its client.
                Role::Client => self.cut_stream(key, StreamError::RemoteReset(reason), reason),
            }
            return Ok(());
        }
        self.stats.rx_messaging_error.inc();
        if self.stream_error {
            self.break_stream(key, error, Reason::PROTOCOL_ERROR);
            return Ok(());
        }
        if let Some(stream) = self.streams.get(key) {
            stream.fail(error, &mut self.wakers);
        }
        self.streams.settle(key);
        Err(Fault::Silent)
    }
}
