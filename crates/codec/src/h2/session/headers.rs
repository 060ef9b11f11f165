//! Received header blocks (RFC 9113, sections 6.2 and 6.10): requests, responses and trailers.

use std::rc::Rc;

use http::StatusCode;

use crate::Meter;
use crate::Reason;
use crate::RequestHead;
use crate::RequestHeadError;
use crate::ResponseHead;
use crate::StreamError;
use crate::header::BlockKind;
use crate::meter::HeadSize;

use super::super::frame;
use super::super::frame::HEAD;
use super::super::frame::Head;
use super::super::input::Block;
use super::super::message::BlockError;
use super::super::message::BlockFields;
use super::super::message::FieldChecker;
use super::super::stream::ResponseTo;
use super::super::stream::StreamState;
use super::super::window::Window;
use super::Fault;
use super::Role;
use super::SessionState;
use super::StreamRef;
use super::data::REMOTE_RESET;
use super::receive::FRAME_SIZE;
use super::receive::INTERNAL;
use super::receive::PROTOCOL;
use super::receive::USELESS_BYTES;

/// The maximum number of CONTINUATION frames in one header block, as in nghttp2.
const MAX_CONTINUATIONS: usize = 8;
/// The maximum number of unread interim responses; further ones are dropped.
const MAX_INTERIM: usize = 16;

/// A request that arrived, or the outcome of one that cannot be served.
#[derive(Debug)]
pub(in crate::h2) enum AcceptedRequest {
    Request {
        stream: StreamRef,
        head: Box<RequestHead>,
        /// The request has no body.
        ends: bool,
        meter: Rc<Meter>,
    },
    Failed(RequestHeadError),
}

impl From<BlockError> for RequestHeadError {
    fn from(block_error: BlockError) -> RequestHeadError {
        if block_error.is_violation() {
            RequestHeadError::Error(StreamError::ProtocolError(block_error.details()))
        } else {
            RequestHeadError::Limit(block_error.details())
        }
    }
}

impl SessionState {
    pub(super) fn headers(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let unpadded = frame::unpad(head, payload).ok_or(PROTOCOL)?;
        let padding = payload.len() - unpadded.len();
        let mut fragment = unpadded;
        let mut dependency = None;
        if head.has(frame::WITH_PRIORITY) {
            dependency = frame::number(unpadded, 0).map(|id| id & 0x7fff_ffff);
            fragment = unpadded.get(5..).ok_or(FRAME_SIZE)?;
        }
        let abandoned_headers = self.input.abandoned_headers.take() == Some(head.stream);
        let kind = if abandoned_headers {
            None
        } else if self.is_server() {
            self.request_kind(head, dependency)?
        } else {
            self.response_kind(head)?
        };
        if kind.is_some() {
            self.note(head, padding)?;
        } else {
            self.limits.note_useless(1 + head.length / USELESS_BYTES);
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
    ) -> Result<Option<BlockKind>, Fault> {
        let id = head.stream;
        if id.is_multiple_of(2) {
            return Err(Fault::Close);
        }
        if id <= self.newest_stream {
            let key = self.streams.key(id);
            let has_ended = self.streams.has_ended(id);
            return match key.and_then(|key| self.streams.get(key)) {
                Some(stream) if stream.receiving => {
                    self.stats.trailers.inc();
                    Ok(Some(BlockKind::Trailers))
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
            return Err(Fault::Close);
        }
        if full {
            self.stats.stream_refused_errors.inc();
            self.queue_caused_reset(id, Reason::REFUSED_STREAM);
            return Ok(None);
        }
        self.limits.note_stream();
        Ok(Some(BlockKind::Request))
    }

    /// Handles HEADERS on a stream whose message the peer has ended: RFC 9113, section 5.1, makes it a stream error.
    /// The block is still decoded to keep the compression table in step.
    fn headers_after_end(&mut self, key: Option<usize>) -> Result<Option<BlockKind>, Fault> {
        if let Some(key) = key {
            let error = StreamError::ProtocolError(REMOTE_RESET);
            self.reset_malformed(key, error, Reason::STREAM_CLOSED);
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
    pub(super) fn incomplete_request(&self) -> Option<u32> {
        self.input.incomplete_block().or_else(|| {
            let id = self.input.partial_headers()?.stream;
            let is_new = self.is_server() && id > self.newest_stream && !id.is_multiple_of(2);
            let is_admitted = self.goaway_sent.is_none_or(|last| id <= last)
                && self.streams.open() < self.settings.max_streams as usize;
            (is_new && is_admitted).then_some(id)
        })
    }

    /// Stops waiting for the rest of that head.
    pub(super) fn abandon_request(&mut self, id: u32) {
        self.input.abandon_headers(id);
        if id > self.newest_stream {
            self.note_newest(id);
            self.limits.note_stream();
        }
    }

    /// Which part of a message a server's HEADERS frame begins; `None` if it is to be ignored.
    pub(super) fn response_kind(&mut self, head: Head) -> Result<Option<BlockKind>, Fault> {
        let key = self.streams.key(head.stream);
        let is_idle = self.is_idle(head.stream);
        match key.and_then(|key| self.streams.get(key)) {
            Some(stream) if !stream.receiving => self.headers_after_end(key),
            Some(stream) if stream.heads.complete => Ok(Some(BlockKind::Trailers)),
            Some(_) => Ok(Some(BlockKind::Response)),
            None if is_idle => Err(Fault::Close),
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
        if too_many { Err(Fault::Close) } else { Ok(()) }
    }

    /// Decodes a complete header block and processes it.
    pub(super) fn decode(&mut self, block: &Block, bytes: &[u8]) -> Result<(), Fault> {
        let failed = Fault::GoAway(Reason::COMPRESSION_ERROR);
        let Some(kind) = block.kind else {
            return self.decoder.decode(bytes, |_, _, _| ()).map_err(|_| failed);
        };
        let mut fields = BlockFields::new(kind);
        let checker = FieldChecker {
            rules: &self.rules,
            stats: &self.stats,
        };
        let decoded = self.decoder.decode(bytes, |name, value, size| {
            fields.add(name, value, size, &checker);
        });
        if decoded.is_err() {
            self.unfinished_request = kind == BlockKind::Request;
            return Err(failed);
        }
        match (kind, self.streams.key(block.stream)) {
            (BlockKind::Request, _) => self.begin_request(block, &mut fields),
            (BlockKind::Response, Some(key)) => self.response(key, block, &mut fields),
            (BlockKind::Trailers, Some(key)) => self.trailers(key, block, &mut fields),
            (_, None) => Ok(()),
        }
    }

    pub(super) fn begin_request(
        &mut self,
        block: &Block,
        fields: &mut BlockFields,
    ) -> Result<(), Fault> {
        let (bytes, content_length) = (fields.bytes, fields.content_length);
        let head = match fields.request(block.ends) {
            Ok(head) => head,
            Err(block_error) => {
                self.accepted
                    .push(AcceptedRequest::Failed(block_error.into()));
                return self.refuse(block.stream, block_error);
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
            self.accepted.push(AcceptedRequest::Request {
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
        Some(self.streams.get(key)?.first_handle(key))
    }

    /// Refuses a request before its stream is created.
    pub(super) fn refuse(&mut self, id: u32, block_error: BlockError) -> Result<(), Fault> {
        if !block_error.is_violation() {
            self.queue_caused_reset(id, Reason::INTERNAL_ERROR);
            return Ok(());
        }
        self.stats.rx_messaging_error.inc();
        if !self.stream_error {
            return Err(Fault::Close);
        }
        self.queue_caused_reset(id, Reason::PROTOCOL_ERROR);
        Ok(())
    }

    pub(super) fn response(
        &mut self,
        key: usize,
        block: &Block,
        fields: &mut BlockFields,
    ) -> Result<(), Fault> {
        let (bytes, content_length) = (fields.bytes, fields.content_length);
        let (status, headers) = match fields.response(block.ends) {
            Ok(head) => head,
            Err(block_error) => return self.block_error(key, block_error),
        };
        let stream = self.streams.get(key).ok_or(INTERNAL)?;
        stream
            .meter
            .add_headers_received(HeadSize::http2(bytes, block.wire));
        let response = ResponseHead { status, headers };
        if status.is_informational() {
            self.limits.note_useless(1);
            stream.heads.has_interim = true;
            if stream.heads.interim.len() < MAX_INTERIM {
                stream.heads.interim.push(response);
            }
            stream.wake_reader(&mut self.wakers);
            return Ok(());
        }
        let no_body = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        stream.content_left = match stream.response_to {
            ResponseTo::Head => Some(0),
            _ if no_body => Some(0),
            ResponseTo::Connect if status.is_success() => None,
            ResponseTo::Connect | ResponseTo::Other => content_length,
        };
        if block.ends && stream.content_left.is_some_and(|left| left > 0) {
            return self.block_error(key, BlockError::InvalidMessage);
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
        fields: &mut BlockFields,
    ) -> Result<(), Fault> {
        let (bytes, content_length) = (fields.bytes, fields.content_length);
        let trailers = match fields.trailers(block.ends) {
            Ok(trailers) => trailers,
            Err(block_error) => return self.block_error(key, block_error),
        };
        let stream = self.streams.get(key).ok_or(INTERNAL)?;
        stream
            .meter
            .add_headers_received(HeadSize::http2(bytes, block.wire));
        let received = stream.meter.body_bytes_received();
        let broken = match (stream.content_left, content_length) {
            // `content-length` is not allowed twice.
            (Some(_), Some(_)) => return self.block_error(key, BlockError::InvalidField),
            (Some(left), None) => left > 0,
            (None, Some(length)) => length != received,
            (None, None) => false,
        };
        if broken {
            return self.block_error(key, BlockError::InvalidMessage);
        }
        if !stream.discarding {
            stream.trailers = Some(trailers);
        }
        self.end_receiving(key);
        Ok(())
    }

    /// Handles a malformed head or malformed trailers of an existing stream, or ones that exceed a limit. Exceeding a
    /// limit ends the stream only.
    pub(super) fn block_error(&mut self, key: usize, block_error: BlockError) -> Result<(), Fault> {
        let error = StreamError::ProtocolError(block_error.details());
        if !block_error.is_violation() {
            let reason = Reason::INTERNAL_ERROR;
            match self.role {
                Role::Server => self.reset_malformed(key, error, reason),
                // Reported as a reset by the server, as Envoy reports it to its client.
                Role::Client => {
                    self.reset_keeping_data(key, StreamError::RemoteReset(reason), reason)
                }
            }
            return Ok(());
        }
        self.stats.rx_messaging_error.inc();
        if self.stream_error {
            self.reset_malformed(key, error, Reason::PROTOCOL_ERROR);
            return Ok(());
        }
        if let Some(stream) = self.streams.get(key) {
            stream.fail(error, &mut self.wakers);
        }
        self.streams.remove_if_closed(key);
        Err(Fault::Close)
    }
}
