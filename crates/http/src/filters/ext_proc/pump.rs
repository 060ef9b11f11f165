//! The task that makes the call to the processor.

use std::future::Future;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::rc::Weak;
use std::task::Context;
use std::task::Poll;

use outrider_client::grpc::GrpcRequests;
use outrider_client::grpc::GrpcService;
use outrider_client::grpc::GrpcStream;
use outrider_client::grpc::Status;
use outrider_config::api::envoy::service::ext_proc::v3::ProcessingRequest;
use outrider_config::api::envoy::service::ext_proc::v3::ProcessingResponse;
use outrider_net::Timer;
use outrider_net::clock;

use super::Shared;
use super::conversation::Conversation;

/// The one method of the service.
const PROCESS: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

type Call = GrpcStream<ProcessingRequest, ProcessingResponse>;

/// What happens in the call.
enum Event {
    Opened(Result<Call, Status>),
    Message(Result<Option<ProcessingResponse>, Status>),
    TimedOut,
    /// The stream has ended, and an observer has had its time.
    GivenUp,
}

/// Makes the call until it ends, and reports to `conversation`.
pub(super) async fn run(
    conversation: Weak<Conversation>,
    shared: Rc<Shared>,
    service: GrpcService,
    requests: GrpcRequests<ProcessingRequest>,
) {
    let client = shared.client.clone();
    let mut opening = pin!(client.stream_of(&service, PROCESS, None, requests));
    let mut call: Option<Call> = None;
    let mut wait = PumpWait {
        conversation,
        timer: shared.clusters.worker().timers.timer(),
        is_alone: false,
    };
    loop {
        let event = poll_fn(|cx| {
            if let Some(event) = wait.poll(&shared, cx) {
                return event;
            }
            match &mut call {
                None => opening.as_mut().poll(cx).map(Event::Opened),
                Some(call) => pin!(call.next()).poll(cx).map(Event::Message),
            }
        })
        .await;
        let conversation = wait.conversation.upgrade();
        let ended = match event {
            Event::Opened(Ok(opened)) => {
                call = Some(opened);
                continue;
            }
            Event::Message(Ok(Some(message))) => {
                if let Some(conversation) = conversation {
                    conversation.receive(message);
                }
                continue;
            }
            Event::TimedOut => {
                if let Some(conversation) = conversation {
                    conversation.timed_out();
                }
                return;
            }
            Event::GivenUp => {
                shared.stats.streams_closed.inc();
                return;
            }
            Event::Message(Ok(None)) => Ok(()),
            Event::Opened(Err(status)) | Event::Message(Err(status)) => Err(status),
        };
        if let Some(conversation) = conversation {
            conversation.ended(ended);
        }
        return;
    }
}

/// What the task waits for beside the call.
struct PumpWait {
    conversation: Weak<Conversation>,
    timer: Timer,
    /// Whether the stream has ended before the call.
    is_alone: bool,
}

impl PumpWait {
    /// The event, or that there is none yet and the call must wait, too; `None` if the call goes on.
    fn poll(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Option<Poll<Event>> {
        let Some(conversation) = self.conversation.upgrade() else {
            if !std::mem::replace(&mut self.is_alone, true) {
                let until = clock::now() + shared.config.deferred_close_timeout;
                self.timer.set(Some(until));
            }
            let given_up = self.timer.poll_elapsed(cx);
            return given_up.is_ready().then_some(Poll::Ready(Event::GivenUp));
        };
        let is_blocked = conversation.poll_blocked(cx);
        let deadline = conversation.deadline();
        if deadline.is_some_and(|deadline| deadline <= clock::now()) {
            return Some(Poll::Ready(Event::TimedOut));
        }
        self.timer.set(deadline);
        if self.timer.poll_elapsed(cx).is_ready() {
            return Some(Poll::Ready(Event::TimedOut));
        }
        is_blocked.then_some(Poll::Pending)
    }
}
