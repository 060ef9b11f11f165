//! The conversation with the processor about one stream: one gRPC call, which a task of its own makes.
//!
//! Each direction of the stream sends its messages and waits for their answers. The task passes the answers on, one after
//! the other as in Envoy, and applies the timeout of each message. What goes wrong ends the stream by its late reply,
//! whatever the stream waits for at that time.

mod received;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use http::StatusCode;
use outrider_client::grpc::GrpcRequests;
use outrider_client::grpc::GrpcService;
use outrider_config::api::envoy::config::core::v3::Metadata;
use outrider_config::api::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use outrider_config::api::envoy::service::ext_proc::v3::CommonResponse;
use outrider_config::api::envoy::service::ext_proc::v3::HeaderMutation;
use outrider_config::api::envoy::service::ext_proc::v3::ImmediateResponse;
use outrider_config::api::envoy::service::ext_proc::v3::ProcessingRequest;
use outrider_config::api::envoy::service::ext_proc::v3::ProtocolConfiguration;
use outrider_config::api::envoy::service::ext_proc::v3::processing_request::Request;
use outrider_net::LateMetadata;
use outrider_net::clock;
use prost_types::Struct;
use prost_types::value::Kind;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::filters::HeaderLimits;
use crate::filters::LateReply;
use crate::local_reply::LocalReply;

use super::Shared;
use super::apply;
use super::apply::MutationCx;
use super::config::SideMode;
use super::config::StreamSettings;
use super::logging::LoggingInfo;
use super::pump;

/// A direction of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Request,
    Response,
}

/// Which answer a direction waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Awaits {
    #[default]
    Nothing,
    Headers,
    /// An answer to the body as a whole.
    Body,
    /// Answers to pieces of the body.
    Pieces,
    Trailers,
}

/// An answer of the processor to a message of one direction.
#[derive(Debug)]
pub(super) enum Answer {
    Headers(CommonResponse),
    Body(CommonResponse),
    Trailers(HeaderMutation),
    /// There is no answer: the processor is not asked any more, and the message goes on as it is.
    Over,
}

/// The stream ends by its late reply.
#[derive(Debug)]
pub(super) struct Failed;

/// The conversation about one stream. Dropping it ends the call.
pub(super) struct Conversation {
    pub(super) shared: Rc<Shared>,
    settings: StreamSettings,
    pub(super) limits: HeaderLimits,
    late_reply: LateReply,
    late_metadata: LateMetadata,
    pub(super) logging: Rc<LoggingInfo>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    requests: Option<GrpcRequests<ProcessingRequest>>,
    task: Option<AbortHandle>,
    /// Whether the processor is not asked any more.
    is_over: bool,
    /// Whether the stream ends by its late reply.
    has_failed: bool,
    told_protocol: bool,
    sides: [SideState; 2],
    /// The task of the call.
    pump: Option<Waker>,
}

struct SideState {
    mode: SideMode,
    awaits: Awaits,
    /// How many pieces of the body have no answer.
    pieces: usize,
    deadline: Option<Instant>,
    /// Whether the processor has changed the deadline.
    is_extended: bool,
    answers: VecDeque<Answer>,
    waker: Option<Waker>,
    /// When the message was sent.
    asked: Option<Instant>,
    has_no_body: bool,
    metadata: Metadata,
    /// Sent with the first message.
    attributes: Option<Struct>,
}

impl Default for SideState {
    fn default() -> SideState {
        SideState {
            mode: SideMode {
                headers: true,
                body: BodySendMode::None,
                trailers: false,
            },
            awaits: Awaits::Nothing,
            pieces: 0,
            deadline: None,
            is_extended: false,
            answers: VecDeque::new(),
            waker: None,
            asked: None,
            has_no_body: false,
            metadata: Metadata::default(),
            attributes: None,
        }
    }
}

/// How a conversation has an effect on its stream while the stream is elsewhere.
pub(super) struct LateEffects {
    pub(super) reply: LateReply,
    pub(super) metadata: LateMetadata,
    pub(super) logging: Rc<LoggingInfo>,
}

impl Conversation {
    pub(super) fn new(
        shared: &Rc<Shared>,
        settings: StreamSettings,
        limits: HeaderLimits,
        late: LateEffects,
    ) -> Conversation {
        let mut state = State::default();
        state.sides[0].mode = SideMode::of_request(&settings.mode);
        state.sides[1].mode = SideMode::of_response(&settings.mode);
        Conversation {
            shared: shared.clone(),
            settings,
            limits,
            late_reply: late.reply,
            late_metadata: late.metadata,
            logging: late.logging,
            state: RefCell::new(state),
        }
    }

    pub(super) fn mode(&self, side: Side) -> SideMode {
        self.state.borrow_mut().side(side).mode
    }

    /// Whether the processor is not asked any more.
    pub(super) fn is_over(&self) -> bool {
        self.state.borrow().is_over
    }

    /// The namespaces of dynamic metadata that the processor gets.
    pub(super) fn forwarded_namespaces(&self) -> &[String] {
        &self.settings.namespaces.forwarded
    }

    /// Begins with one direction: what goes with its messages.
    pub(super) fn begin(&self, side: Side, metadata: Metadata, attributes: Option<Struct>) {
        let mut state = self.state.borrow_mut();
        let side = state.side(side);
        side.metadata = metadata;
        side.attributes = attributes;
    }

    pub(super) fn set_no_body(&self, side: Side) {
        self.state.borrow_mut().side(side).has_no_body = true;
    }

    /// The processor asked for the whole message to be replaced: it gets nothing more of this direction.
    pub(super) fn stop(&self, side: Side) {
        let mut state = self.state.borrow_mut();
        let mode = &mut state.side(side).mode;
        mode.body = BodySendMode::None;
        mode.trailers = false;
    }

    pub(super) fn mutation_cx(&self, side: Side, replaces: bool) -> MutationCx<'_> {
        let config = &self.shared.config;
        let loses_length = self.mode(side).loses_length() && !config.keeps_content_length;
        MutationCx {
            rules: &config.rules,
            limits: self.limits,
            stats: &self.shared.stats,
            replaces,
            loses_length,
        }
    }

    /// Sends a message, if the processor is still asked. `awaits` is the answer to wait for.
    pub(super) fn send(self: &Rc<Self>, side: Side, request: Request, awaits: Awaits) {
        self.open();
        let state = &mut *self.state.borrow_mut();
        let Some(requests) = state.requests.clone().filter(|_| !state.is_over) else {
            return;
        };
        let config = &self.shared.config;
        let mut message = ProcessingRequest {
            request: Some(request),
            observability_mode: config.is_observing,
            ..ProcessingRequest::default()
        };
        if !config.is_observing && !std::mem::replace(&mut state.told_protocol, true) {
            message.protocol_config = Some(ProtocolConfiguration {
                request_body_mode: state.side(Side::Request).mode.body.into(),
                response_body_mode: state.side(Side::Response).mode.body.into(),
                send_body_without_waiting_for_header_response: config.sends_body_early,
            });
        }
        let side = state.side(side);
        message.metadata_context = Some(side.metadata.clone());
        if let Some(attributes) = side.attributes.take() {
            let name = "envoy.filters.http.ext_proc".to_owned();
            message.attributes.insert(name, attributes);
        }
        if !config.is_observing {
            let now = clock::now();
            side.deadline = Some(now + config.message_timeout);
            side.is_extended = false;
            side.asked = Some(now);
            if awaits == Awaits::Pieces {
                side.pieces += 1;
            }
            // Pieces may be sent while the answer to the headers is missing.
            if awaits != Awaits::Pieces || side.awaits != Awaits::Headers {
                side.awaits = awaits;
            }
        }
        // The caller waits until there is room, and an observer may miss a message.
        if requests.send(&message).is_ok() {
            self.shared.stats.stream_msgs_sent.inc();
        }
        state.wake_pump();
    }

    /// Ready once a message can be sent.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.state.borrow().requests {
            Some(requests) => requests.poll_ready(cx),
            None => Poll::Ready(()),
        }
    }

    /// Waits for the next answer to a message of this direction.
    pub(super) fn poll_answer(
        &self,
        side: Side,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Answer, Failed>> {
        let state = &mut *self.state.borrow_mut();
        if state.has_failed {
            return Poll::Ready(Err(Failed));
        }
        if let Some(answer) = state.side(side).answers.pop_front() {
            return Poll::Ready(Ok(answer));
        }
        if state.is_over {
            return Poll::Ready(Ok(Answer::Over));
        }
        state.side(side).waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Notes that an answer was applied. Ends the call if the processor gets nothing more.
    pub(super) fn applied(&self, is_last: bool) {
        if is_last {
            self.end();
        }
        self.state.borrow_mut().wake_pump();
    }

    /// Whether nothing of the response goes to the processor.
    pub(super) fn ignores_response(&self) -> bool {
        self.mode(Side::Response).is_off()
    }

    /// Ends the conversation: what the processor still says is ignored.
    pub(super) fn end(&self) {
        let mut state = self.state.borrow_mut();
        state.is_over = true;
        self.close(&mut state);
        state.wake_all();
    }

    /// Ends the call.
    fn close(&self, state: &mut State) {
        if let Some(task) = state.task.take() {
            task.abort();
            self.shared.stats.streams_closed.inc();
        }
    }

    /// Makes the call, if it is not made yet.
    fn open(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        if state.is_over || state.requests.is_some() {
            return;
        }
        let requests = GrpcRequests::default();
        state.requests = Some(requests.clone());
        let service = self.service().clone();
        // As in Envoy, a call to a cluster that does not exist does not count as started.
        if self.shared.clusters.get(service.cluster()).is_some() {
            self.shared.stats.streams_started.inc();
        }
        let task = pump::run(Rc::downgrade(self), self.shared.clone(), service, requests);
        state.task = Some(self.shared.spawn(task));
    }

    fn service(&self) -> &GrpcService {
        let own = self.settings.service.as_ref();
        own.unwrap_or(&self.shared.config.service)
    }

    /// Ends the stream with a reply, because the processor has failed.
    fn fail(&self, state: &mut State, status: StatusCode, text: &str) {
        self.reply(state, LocalReply::new(status, apply::details(text)));
    }

    fn reply(&self, state: &mut State, reply: LocalReply) {
        state.is_over = true;
        state.has_failed = true;
        self.shared.stats.immediate_responses_sent.inc();
        // The body that is read next, or the stream itself, finds the reply.
        let _ = self.late_reply.end(reply);
        state.wake_all();
        self.late_reply.wake();
    }

    /// Ends the stream, because an answer cannot be applied.
    pub(super) fn refuse(&self, text: &str) -> Failed {
        let state = &mut *self.state.borrow_mut();
        self.close(state);
        self.fail(state, self.shared.config.status_on_error, text);
        Failed
    }

    /// Takes the processor's metadata, as far as it is accepted.
    fn take_metadata(&self, metadata: Option<Struct>) {
        for (namespace, value) in metadata.unwrap_or_default().fields {
            if self.settings.namespaces.received.contains(&namespace)
                && let Some(Kind::StructValue(fields)) = value.kind
            {
                self.late_metadata.push(namespace, fields);
            }
        }
    }

    fn immediate(&self, response: ImmediateResponse) {
        let reply = apply::immediate(response, &self.mutation_cx(Side::Response, false));
        let state = &mut *self.state.borrow_mut();
        self.close(state);
        self.reply(state, reply);
    }
}

impl State {
    fn side(&mut self, side: Side) -> &mut SideState {
        let [request, response] = &mut self.sides;
        match side {
            Side::Request => request,
            Side::Response => response,
        }
    }

    fn wake_pump(&mut self) {
        if let Some(pump) = self.pump.take() {
            pump.wake();
        }
    }

    fn wake_all(&mut self) {
        for side in &mut self.sides {
            side.deadline = None;
            if let Some(waker) = side.waker.take() {
                waker.wake();
            }
        }
        self.wake_pump();
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        // An observer may take its time: the task ends the call later.
        if !self.shared.config.is_observing {
            let state = self.state.get_mut();
            if let Some(task) = state.task.take() {
                task.abort();
                self.shared.stats.streams_closed.inc();
            }
        }
        self.state.get_mut().wake_pump();
    }
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Conversation")
    }
}
