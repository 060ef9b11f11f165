//! Asks the processor about one direction of a stream while its headers wait: about the headers, and about a body that is
//! held whole or in part.

use std::future::pending;
use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use http::StatusCode;
use http::Version;
use outrider_codec::Body;
use outrider_codec::HeaderMap;
use outrider_codec::StreamError;
use outrider_codec::header;
use outrider_config::api::envoy::extensions::filters::http::ext_proc::v3::external_processor::RouteCacheAction;
use outrider_config::api::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use outrider_config::api::envoy::service::ext_proc::v3::CommonResponse;
use outrider_config::api::envoy::service::ext_proc::v3::HeaderMutation;
use outrider_config::api::envoy::service::ext_proc::v3::common_response::ResponseStatus;
use outrider_config::api::envoy::service::ext_proc::v3::processing_request::Request;

use crate::Stream;
use crate::filters::BufferedBody;
use crate::filters::FilterCx;
use crate::filters::body::BrokenBody;
use crate::local_reply::LocalReply;
use crate::read_ahead_body::ReadAheadBody;

use super::ExtProcFilter;
use super::apply;
use super::apply::Headers;
use super::body::EmptiedBody;
use super::body::ProcessedBody;
use super::body::ReplacedBody;
use super::config::ExtProcConfig;
use super::conversation::Answer;
use super::conversation::Awaits;
use super::conversation::Conversation;
use super::conversation::Failed;
use super::conversation::Side;
use super::message;

/// The details of the reply in place of a response that is too large to be buffered.
const RESPONSE_TOO_LARGE: &str = "response_payload_too_large";

/// The message about the head of one direction; `None` if there is no head.
pub(super) fn headers(
    config: &ExtProcConfig,
    side: Side,
    stream: &Stream,
    ends: bool,
) -> Option<Request> {
    match side {
        Side::Request => Some(message::request_headers(config, &stream.request, ends)),
        Side::Response => {
            let head = stream.response.as_ref()?;
            Some(message::response_headers(config, head, ends))
        }
    }
}

/// A body whose pieces or trailers go to the processor.
pub(super) fn passed(
    conversation: &Rc<Conversation>,
    side: Side,
    rest: Body,
    stream: &Stream,
    cx: &FilterCx<'_>,
) -> ProcessedBody {
    let protocol = match side {
        Side::Request => Some(cx.protocol),
        Side::Response => stream
            .upstream
            .as_ref()
            .and_then(|upstream| upstream.protocol),
    };
    let ends_with_data = protocol.is_none_or(|protocol| protocol == Version::HTTP_2);
    ProcessedBody::new(conversation, side, rest, ends_with_data, cx.buffer_limit)
}

/// Removes the length of the body, which may change.
pub(super) fn remove_length(side: Side, stream: &mut Stream) {
    if let Some(headers) = header_map(side, stream) {
        headers.remove(&header::CONTENT_LENGTH);
    }
}

fn header_map(side: Side, stream: &mut Stream) -> Option<&mut HeaderMap> {
    match side {
        Side::Request => Some(&mut stream.request.headers),
        Side::Response => stream.response.as_mut().map(|head| &mut head.headers),
    }
}

impl ExtProcFilter {
    /// Asks about one direction, and lets it go on.
    pub(super) async fn process(
        &self,
        side: Side,
        stream: &mut Stream,
        body: &mut Body,
        cx: &FilterCx<'_>,
    ) -> Result<(), LocalReply> {
        let Some(conversation) = self.conversation.share(stream) else {
            return Ok(()); // it has begun before
        };
        let exchange = HeldMessage {
            filter: self,
            conversation,
            side,
            cx,
        };
        match exchange.run(stream, body).await {
            Ok(()) => Ok(()),
            Err(Stop::Reply(reply)) => Err(*reply),
            Err(Stop::Broken) => Ok(()),
            Err(Stop::Failed) => pending().await,
        }
    }
}

/// Why a message does not go on.
enum Stop {
    Reply(Box<LocalReply>),
    /// The processor has failed: the stream has its reply.
    Failed,
    /// The body has broken off.
    Broken,
}

impl From<Failed> for Stop {
    fn from(_: Failed) -> Stop {
        Stop::Failed
    }
}

impl From<LocalReply> for Stop {
    fn from(reply: LocalReply) -> Stop {
        Stop::Reply(Box::new(reply))
    }
}

/// A message of one direction whose headers wait for the processor.
struct HeldMessage<'a> {
    filter: &'a ExtProcFilter,
    conversation: Rc<Conversation>,
    side: Side,
    cx: &'a FilterCx<'a>,
}

impl HeldMessage<'_> {
    async fn run(&self, stream: &mut Stream, body: &mut Body) -> Result<(), Stop> {
        let config = &self.filter.shared.config;
        let ends = body.is_end_stream();
        let mode = self.conversation.mode(self.side);
        if !mode.headers {
            if mode.loses_length() && !config.keeps_content_length {
                remove_length(self.side, stream);
            }
            return self.hold_body(stream, body, false).await;
        }
        if ends {
            self.conversation.set_no_body(self.side);
        }
        if let Some(message) = headers(config, self.side, stream, ends) {
            let conversation = &self.conversation;
            conversation.send(self.side, message, Awaits::Headers);
        }
        if mode.loses_length() && !config.keeps_content_length {
            remove_length(self.side, stream);
        }
        let sends_early = config.sends_body_early && mode.body == BodySendMode::Streamed && !ends;
        let answer = match sends_early {
            true => self.answer_with_body(stream, body).await?,
            false => self.cx.hold_body(body, self.answer()).await?,
        };
        let Answer::Headers(common) = answer else {
            return Ok(());
        };
        stream.dynamic_metadata.merge_late();
        self.apply_to_headers(&common, stream)?;
        self.clear_route_cache(&common, stream);
        if common.status() == ResponseStatus::ContinueAndReplace {
            self.conversation.stop(self.side);
            if common.body_mutation.is_some() {
                remove_length(self.side, stream);
                let new = apply::mutated(common.body_mutation).unwrap_or_default();
                ReplacedBody::replace(body, new);
            }
            self.conversation.applied(self.is_last(true));
            return Ok(());
        }
        let ends = ends || self.conversation.mode(self.side).ends_with_headers();
        self.conversation.applied(self.is_last(ends));
        if ends || sends_early {
            return Ok(());
        }
        self.hold_body(stream, body, true).await
    }

    /// Whether the processor gets nothing after this direction, which has ended if `ended`.
    fn is_last(&self, ended: bool) -> bool {
        ended && (self.side == Side::Response || self.conversation.ignores_response())
    }

    async fn answer(&self) -> Result<Answer, Failed> {
        poll_fn(|cx| self.conversation.poll_answer(self.side, cx)).await
    }

    /// The rest of the body, whose pieces or trailers go to the processor.
    fn passed(&self, rest: Body, stream: &Stream) -> ProcessedBody {
        passed(&self.conversation, self.side, rest, stream, self.cx)
    }

    /// Waits for the answer to the headers, and sends the body meanwhile.
    async fn answer_with_body(&self, stream: &Stream, body: &mut Body) -> Result<Answer, Failed> {
        let rest = std::mem::take(body);
        let mut sent = self.passed(rest, stream);
        let answer = poll_fn(|cx| {
            let answer = self.conversation.poll_answer(self.side, cx);
            if answer.is_pending() {
                sent.read_early(cx);
            }
            answer
        })
        .await;
        *body = Body::wrap(sent);
        answer
    }

    /// Asks about a body that is held whole or in part, or sends it piece by piece from now on. `has_headers`: whether
    /// the headers can still change.
    async fn hold_body(
        &self,
        stream: &mut Stream,
        body: &mut Body,
        has_headers: bool,
    ) -> Result<(), Stop> {
        let limit = self.cx.buffer_limit;
        let held = match self.conversation.mode(self.side).body {
            BodySendMode::Buffered => self.whole_body(body, limit).await?,
            BodySendMode::BufferedPartial => self.first_part(body, limit).await?,
            BodySendMode::Streamed => {
                let held = self.cx.take_ready(body, limit).await;
                let held = self.unbroken(held, body).await?;
                if !held.is_complete {
                    let rest = std::mem::take(body);
                    let mut sent = self.passed(rest, stream);
                    sent.push(held.data);
                    *body = Body::wrap(sent);
                    return Ok(());
                }
                held
            }
            _ => {
                let rest = std::mem::take(body);
                let passed = self.passed(rest, stream);
                *body = Body::wrap(passed);
                return Ok(());
            }
        };
        self.ask_about_body(held, stream, body, has_headers).await
    }

    async fn whole_body(&self, body: &mut Body, limit: usize) -> Result<BufferedBody, Stop> {
        let held = match self.side {
            Side::Request => self.cx.buffer_request(body, limit).await?,
            Side::Response => {
                let held = self.first_part(body, limit).await?;
                if !held.is_complete || held.data.len() > limit {
                    self.cx.stats.requests.rs_too_large.inc();
                    let status = StatusCode::INTERNAL_SERVER_ERROR;
                    let reply = LocalReply::new(status, RESPONSE_TOO_LARGE);
                    return Err(reply.body("Internal Server Error").into());
                }
                held
            }
        };
        *body = Body::Empty;
        Ok(held)
    }

    /// The body up to the limit. What is left stays in `body`.
    async fn first_part(&self, body: &mut Body, limit: usize) -> Result<BufferedBody, Stop> {
        let held = self.cx.take_body(body, limit).await;
        self.unbroken(held, body).await
    }

    /// What was taken of a body. If a response has broken off, its headers go on without the processor.
    async fn unbroken(
        &self,
        held: Result<BufferedBody, StreamError>,
        body: &mut Body,
    ) -> Result<BufferedBody, Stop> {
        match (held, self.side) {
            (Ok(held), _) => Ok(held),
            // The codec has the reply, or the client has gone.
            (Err(_), Side::Request) => pending().await,
            (Err(error), Side::Response) => {
                *body = BrokenBody::body(error);
                self.conversation.end();
                Err(Stop::Broken)
            }
        }
    }

    /// Asks about the held part of a body and then about the trailers, if they have come.
    async fn ask_about_body(
        &self,
        held: BufferedBody,
        stream: &mut Stream,
        body: &mut Body,
        has_headers: bool,
    ) -> Result<(), Stop> {
        let BufferedBody {
            mut data,
            mut trailers,
            is_complete,
        } = held;
        if !data.is_empty() || trailers.is_none() {
            let ends = is_complete && trailers.is_none();
            let message = message::body(self.side, &data, ends);
            self.conversation.send(self.side, message, Awaits::Body);
            if let Answer::Body(common) = self.cx.hold_body(body, self.answer()).await? {
                stream.dynamic_metadata.merge_late();
                if has_headers {
                    self.apply_to_headers(&common, stream)?;
                }
                if common.body_mutation.is_some() {
                    let new = apply::mutated(common.body_mutation.clone());
                    if has_headers {
                        self.check_length(new.as_ref(), stream)?;
                    }
                    data = new.unwrap_or(data);
                }
                self.clear_route_cache(&common, stream);
                self.conversation.applied(false);
            }
        }
        let sends_trailers = self.conversation.mode(self.side).trailers;
        if let Some(trailers) = &mut trailers
            && sends_trailers
            && !self.conversation.is_over()
        {
            self.ask_about_trailers(trailers, stream).await?;
        }
        if !is_complete && sends_trailers {
            let rest = std::mem::take(body);
            let passed = self.passed(rest, stream);
            *body = Body::wrap(passed);
        }
        if data.is_empty() && trailers.is_none() && is_complete {
            *body = Body::wrap(EmptiedBody::default());
            return Ok(());
        }
        let rest = std::mem::take(body);
        *body = ReadAheadBody::from_parts(data, trailers, rest, is_complete).into_body();
        Ok(())
    }

    async fn ask_about_trailers(
        &self,
        trailers: &mut HeaderMap,
        stream: &mut Stream,
    ) -> Result<(), Stop> {
        let config = &self.filter.shared.config;
        let message = message::trailers(config, self.side, trailers);
        self.conversation.send(self.side, message, Awaits::Trailers);
        if let Answer::Trailers(mutation) = self.answer().await? {
            stream.dynamic_metadata.merge_late();
            self.mutate(&mutation, Headers::Trailers(trailers), false)?;
            self.conversation.applied(self.is_last(true));
        }
        Ok(())
    }

    fn apply_to_headers(&self, common: &CommonResponse, stream: &mut Stream) -> Result<(), Failed> {
        let replaces = common.status() == ResponseStatus::ContinueAndReplace;
        let headers = match (self.side, &mut stream.response) {
            (Side::Request, _) => Headers::Request(&mut stream.request),
            (Side::Response, Some(head)) => Headers::Response(head),
            (Side::Response, None) => return Ok(()),
        };
        match &common.header_mutation {
            Some(mutation) => self.mutate(mutation, headers, replaces),
            None => Ok(()),
        }
    }

    fn mutate(
        &self,
        mutation: &HeaderMutation,
        mut headers: Headers<'_>,
        replaces: bool,
    ) -> Result<(), Failed> {
        let cx = self.conversation.mutation_cx(self.side, replaces);
        let applied = apply::mutate(mutation, &mut headers, &cx);
        applied.map_err(|text| self.conversation.refuse(&text))
    }

    /// A body that was changed must have the length that the headers tell, if they tell one.
    fn check_length(&self, new: Option<&Bytes>, stream: &mut Stream) -> Result<(), Failed> {
        let length = header_map(self.side, stream).and_then(|headers| {
            let length = headers.get(&header::CONTENT_LENGTH)?.as_str()?;
            length.parse::<usize>().ok()
        });
        if self.conversation.mode(self.side).body == BodySendMode::Buffered
            && length.is_some_and(|length| length != new.map_or(0, Bytes::len))
        {
            let text = "mismatch between content length and the length of the mutated body";
            return Err(self.conversation.refuse(text));
        }
        Ok(())
    }

    /// Finds the route of a request again, if the processor or the configuration wants it.
    fn clear_route_cache(&self, common: &CommonResponse, stream: &mut Stream) {
        let shared = &self.filter.shared;
        if self.side == Side::Response {
            return;
        }
        if common.header_mutation.is_none() {
            if common.clear_route_cache {
                shared.stats.clear_route_cache_ignored.inc();
            }
            return;
        }
        match (shared.config.route_cache_action, common.clear_route_cache) {
            (RouteCacheAction::Clear, _) | (RouteCacheAction::Default, true) => {
                self.cx.clear_route_cache(stream);
            }
            (RouteCacheAction::Retain, true) => shared.stats.clear_route_cache_disabled.inc(),
            (RouteCacheAction::Retain | RouteCacheAction::Default, false) => {}
        }
    }
}
