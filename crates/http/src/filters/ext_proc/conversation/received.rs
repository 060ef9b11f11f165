//! What the task of the call reports: messages of the processor, timeouts, the end of the call.

use std::task::Context;
use std::time::Duration;

use http::StatusCode;
use outrider_client::grpc::Status;
use outrider_config::api::envoy::extensions::filters::http::ext_proc::v3::ProcessingMode;
use outrider_config::api::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use outrider_config::api::envoy::service::ext_proc::v3::BodyMutation;
use outrider_config::api::envoy::service::ext_proc::v3::CommonResponse;
use outrider_config::api::envoy::service::ext_proc::v3::ProcessingResponse;
use outrider_config::api::envoy::service::ext_proc::v3::body_mutation::Mutation;
use outrider_config::api::envoy::service::ext_proc::v3::processing_response::Response;
use outrider_net::clock;
use tokio::time::Instant;

use crate::filters::ext_proc::config::SideMode;
use crate::filters::ext_proc::config::overridden;

use super::Answer;
use super::Awaits;
use super::Conversation;
use super::Side;
use super::State;

impl Conversation {
    /// Whether an answer waits to be applied before the next one is read.
    pub(in crate::filters::ext_proc) fn poll_blocked(&self, cx: &mut Context<'_>) -> bool {
        let mut state = self.state.borrow_mut();
        state.pump = Some(cx.waker().clone());
        let mut sides = state.sides.iter();
        sides.any(|side| !side.answers.is_empty() && side.awaits != Awaits::Pieces)
    }

    /// When the next message has waited too long.
    pub(in crate::filters::ext_proc) fn deadline(&self) -> Option<Instant> {
        let state = self.state.borrow();
        state.sides.iter().filter_map(|side| side.deadline).min()
    }

    /// The time for an answer is over.
    pub(in crate::filters::ext_proc) fn timed_out(&self) {
        let state = &mut *self.state.borrow_mut();
        self.shared.stats.message_timeouts.inc();
        self.record(state, 4);
        self.close(state);
        if self.settings.failure_mode_allow {
            self.shared.stats.failure_mode_allowed.inc();
            state.is_over = true;
            state.wake_all();
        } else {
            let text = "ext_proc_error_per-message_timeout_exceeded";
            self.fail(state, StatusCode::GATEWAY_TIMEOUT, text);
        }
    }

    /// The processor has ended the call, with success or not.
    pub(in crate::filters::ext_proc) fn ended(&self, result: Result<(), Status>) {
        let state = &mut *self.state.borrow_mut();
        let stats = &self.shared.stats;
        state.task = None;
        stats.server_half_closed.inc();
        let Err(status) = result else {
            if !std::mem::replace(&mut state.is_over, true) {
                stats.streams_closed.inc();
                self.record(state, 10);
                state.wake_all();
            }
            return;
        };
        stats.streams_failed.inc();
        if state.is_over {
            return;
        }
        self.record(state, status.code.0);
        if self.settings.failure_mode_allow {
            // As in Envoy, the failure counts as an end of its own, too.
            stats.server_half_closed.inc();
            stats.streams_closed.inc();
            stats.failure_mode_allowed.inc();
            state.is_over = true;
            state.wake_all();
            return;
        }
        let (code, message, details) = (status.code.0, status.message, status.details);
        let why = match (message.is_empty(), details.is_empty()) {
            (true, _) => details.into_owned(),
            (false, true) => message,
            (false, false) => format!("{message}{{{details}}}"),
        };
        let text = format!("ext_proc_error_gRPC_error_{code}{{{why}}}");
        self.fail(state, self.shared.config.status_on_error, &text);
    }

    /// Notes in the logging information how the calls under way have ended.
    fn record(&self, state: &mut State, status: u32) {
        for side in [Side::Request, Side::Response] {
            let of_side = state.side(side);
            of_side.deadline = None;
            if let Some(asked) = of_side.asked.take() {
                let awaits = std::mem::take(&mut of_side.awaits);
                self.logging
                    .record(side, awaits, clock::since(asked), status);
            }
        }
    }

    /// The processor has sent a message.
    pub(in crate::filters::ext_proc) fn receive(&self, message: ProcessingResponse) {
        let config = &self.shared.config;
        if config.is_observing || self.is_over() {
            return;
        }
        if let Some(timeout) = message.override_message_timeout {
            self.extend(&timeout);
            return;
        }
        if config.allows_mode_override
            && !config.sends_body_early
            && let Some(chosen) = &message.mode_override
        {
            self.override_mode(&overridden(chosen, &config.mode));
        }
        let metadata = message.dynamic_metadata;
        let common = |response: Option<CommonResponse>| response.unwrap_or_default();
        let (side, awaits, answer) = match message.response {
            Some(Response::RequestHeaders(it)) => {
                let answer = Answer::Headers(common(it.response));
                (Side::Request, Awaits::Headers, answer)
            }
            Some(Response::ResponseHeaders(it)) => {
                let answer = Answer::Headers(common(it.response));
                (Side::Response, Awaits::Headers, answer)
            }
            Some(Response::RequestBody(it)) => (
                Side::Request,
                Awaits::Body,
                Answer::Body(common(it.response)),
            ),
            Some(Response::ResponseBody(it)) => (
                Side::Response,
                Awaits::Body,
                Answer::Body(common(it.response)),
            ),
            Some(Response::RequestTrailers(it)) => {
                let answer = Answer::Trailers(it.header_mutation.unwrap_or_default());
                (Side::Request, Awaits::Trailers, answer)
            }
            Some(Response::ResponseTrailers(it)) => {
                let answer = Answer::Trailers(it.header_mutation.unwrap_or_default());
                (Side::Response, Awaits::Trailers, answer)
            }
            Some(Response::ImmediateResponse(response)) if !config.disable_immediate_response => {
                self.shared.stats.stream_msgs_received.inc();
                self.take_metadata(metadata);
                return self.immediate(response);
            }
            Some(Response::ImmediateResponse(_)) => {
                let text = "unhandled immediate response due to config disabled it";
                return self.spurious(text);
            }
            Some(Response::StreamedImmediateResponse(_)) | None => {
                return self.spurious("unhandled message");
            }
        };
        self.take_metadata(metadata);
        match self.deliver(side, awaits, answer) {
            true => self.shared.stats.stream_msgs_received.inc(),
            false => self.spurious("spurious message"),
        }
    }

    /// Passes an answer to its direction. Returns whether the direction waits for it.
    fn deliver(&self, side: Side, awaits: Awaits, answer: Answer) -> bool {
        let mut state = self.state.borrow_mut();
        let state = state.side(side);
        let fits =
            state.awaits == awaits || state.awaits == Awaits::Pieces && awaits == Awaits::Body;
        if !fits
            || matches!(answer, Answer::Body(CommonResponse { body_mutation: Some(ref mutation), .. }) if is_streamed(mutation))
        {
            return false;
        }
        if let Some(asked) = state.asked.take() {
            self.logging
                .record(side, state.awaits, clock::since(asked), 0);
        }
        state.deadline = None;
        if state.awaits == Awaits::Pieces {
            state.pieces -= 1;
        }
        if state.awaits != Awaits::Pieces || state.pieces == 0 {
            let early = state.awaits == Awaits::Headers && state.pieces > 0;
            state.awaits = if early {
                Awaits::Pieces
            } else {
                Awaits::Nothing
            };
        }
        state.answers.push_back(answer);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        true
    }

    fn override_mode(&self, mode: &ProcessingMode) {
        let mut state = self.state.borrow_mut();
        let waits = state
            .sides
            .iter()
            .any(|side| side.awaits == Awaits::Headers);
        let (request, response) = (SideMode::of_request(mode), SideMode::of_response(mode));
        let is_supported =
            |body| !matches!(body, BodySendMode::FullDuplexStreamed | BodySendMode::Grpc);
        if waits
            && self.shared.config.allows_mode(mode)
            && is_supported(request.body)
            && is_supported(response.body)
        {
            state.side(Side::Request).mode = request;
            state.side(Side::Response).mode = response;
        }
    }

    /// The processor wants another timeout for the message that it works on.
    fn extend(&self, timeout: &prost_types::Duration) {
        let stats = &self.shared.stats;
        let timeout = Duration::try_from(*timeout).unwrap_or_default();
        let millis = timeout.as_millis();
        let allowed = 1..=self.shared.config.max_message_timeout.as_millis();
        let mut state = self.state.borrow_mut();
        let mut sides = state.sides.iter_mut();
        let waiting = sides.find(|side| side.deadline.is_some() && !side.is_extended);
        let Some(side) = waiting.filter(|_| allowed.contains(&millis)) else {
            stats.override_message_timeout_ignored.inc();
            return;
        };
        side.is_extended = true;
        side.deadline = Some(clock::now() + timeout);
        stats.override_message_timeout_received.inc();
        state.wake_pump();
    }

    /// The processor has sent a message that nothing waits for.
    fn spurious(&self, text: &str) {
        log::warn!(target: "ext_proc", "{text} received from the processor");
        let stats = &self.shared.stats;
        stats.spurious_msgs_received.inc();
        let state = &mut *self.state.borrow_mut();
        self.record(state, 9);
        self.close(state);
        if self.settings.failure_mode_allow {
            stats.failure_mode_allowed.inc();
            state.is_over = true;
            state.wake_all();
        } else {
            self.fail(state, self.shared.config.status_on_error, text);
        }
    }
}

/// Whether it is a mutation for bodies in full duplex.
fn is_streamed(mutation: &BodyMutation) -> bool {
    matches!(mutation.mutation, Some(Mutation::StreamedResponse(_)))
}
