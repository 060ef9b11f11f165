//! Sends copies of requests to other clusters and drops the responses (`request_mirror_policies`).
//!
//! A copy is a call of the client inside, in a task of its own. The request's body goes to the host and into a queue for
//! each copy. A full queue holds the body back, as in Envoy, but no longer than [`MAX_STALL`]: then the copy is given up.

use std::cell::OnceCell;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;

use http::Method;
use outrider_client::CallOptions;
use outrider_client::InternalClient;
use outrider_client::RequestEnd;
use outrider_codec::Body;
use outrider_codec::BodyStream;
use outrider_codec::Frame;
use outrider_codec::RequestHead;
use outrider_codec::StreamError;
use outrider_net::Timer;
use outrider_net::clock;
use outrider_upstream::ClusterStats;
use outrider_upstream::Clusters;
use tokio::task::AbortHandle;
use tokio::task::JoinSet;

use crate::Stream;
use crate::router::forwarded_request::ForwardedRequest;

/// How long a copy that takes nothing may hold back the request's body.
const MAX_STALL: Duration = Duration::from_secs(1);

/// The copies of requests that a connection manager sends on one worker. Dropping it cancels them.
#[derive(Debug)]
pub(crate) struct Mirrors {
    clusters: Rc<Clusters>,
    local_address: IpAddr,
    /// Made for the first copy: as in Envoy, there are no stats of the client before.
    client: OnceCell<Rc<InternalClient>>,
    copies: RefCell<JoinSet<()>>,
}

impl Mirrors {
    /// Sends copies through these clusters. `local_address`: the proxy's own address, for `x-forwarded-for`.
    pub(crate) fn new(clusters: &Rc<Clusters>, local_address: IpAddr) -> Mirrors {
        Mirrors {
            clusters: clusters.clone(),
            local_address,
            client: OnceCell::new(),
            copies: RefCell::default(),
        }
    }

    /// Starts the copies of this request. Returns the body to be sent to the request's own host.
    pub(super) fn start(
        &self,
        call: &ForwardedRequest<'_>,
        limit: usize,
        stream: &mut Stream,
        body: Body,
    ) -> Body {
        if stream.request.method == Method::CONNECT {
            return body;
        }
        let is_complete = body.is_end_stream();
        let mut queues = Vec::new();
        for policy in &*call.forward.mirrors {
            let Some(cluster) = policy.cluster(stream).map(str::to_owned) else {
                continue;
            };
            let head = policy.head(stream);
            let mut options = CallOptions {
                timeout: call.timeouts.response,
                is_internal: true,
                forwarded_for: true,
                request_end: None,
            };
            if is_complete {
                self.send(cluster, head, Body::Empty, options);
                continue;
            }
            let (queue, end) = (
                Rc::new(RefCell::new(Queue::default())),
                RequestEnd::default(),
            );
            options.request_end = Some(end.clone());
            let copy = Body::wrap(QueuedBody(queue.clone()));
            queue.borrow_mut().task = Some(self.send(cluster, head, copy, options));
            queues.push((queue, end));
        }
        if queues.is_empty() {
            return body;
        }
        Body::wrap(MirroredBody {
            rest: body,
            copies: queues,
            limit: limit.max(1),
            stall: self.clusters.worker().timers.timer(),
            is_stalled: false,
            stats: call.cluster.stats().clone(),
        })
    }

    /// Sends a copy, and drops its response.
    fn send(
        &self,
        cluster: String,
        head: RequestHead,
        body: Body,
        options: CallOptions,
    ) -> AbortHandle {
        let new_client = || Rc::new(InternalClient::new(&self.clusters, self.local_address));
        let client = self.client.get_or_init(new_client).clone();
        let mut copies = self.copies.borrow_mut();
        while copies.try_join_next().is_some() {}
        copies.spawn_local(async move {
            let started = client.start(&cluster, head, body, &options).await;
            match started {
                Ok((_, mut response)) => while let Ok(Some(_)) = response.frame().await {},
                Err(failure) => log::debug!("mirrored request to {cluster:?}: {failure}"),
            }
        })
    }
}

/// The part of a body that one copy has not sent yet.
#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Frame>,
    /// The bytes of data in `frames`.
    bytes: usize,
    /// Whether the last frame is in the queue, or was taken from it.
    has_ended: bool,
    /// Whether the copy takes no more frames.
    is_closed: bool,
    /// Wakes the copy when there is a frame.
    reader: Option<Waker>,
    /// Wakes the request's own body when there is room.
    writer: Option<Waker>,
    task: Option<AbortHandle>,
}

impl Queue {
    fn is_full(&self, limit: usize) -> bool {
        self.bytes >= limit && !self.is_closed
    }

    fn put(&mut self, frame: Frame) {
        if let Frame::Data(data) = &frame {
            self.bytes += data.len();
        }
        self.frames.push_back(frame);
        wake(&mut self.reader);
    }

    fn end(&mut self) {
        self.has_ended = true;
        wake(&mut self.reader);
    }

    /// Cancels the copy.
    fn give_up(&mut self) {
        self.is_closed = true;
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// The body of a copy.
#[derive(Debug)]
struct QueuedBody(Rc<RefCell<Queue>>);

impl BodyStream for QueuedBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        let mut queue = self.0.borrow_mut();
        match queue.frames.pop_front() {
            Some(frame) => {
                if let Frame::Data(data) = &frame {
                    queue.bytes -= data.len();
                }
                wake(&mut queue.writer);
                Poll::Ready(Some(Ok(frame)))
            }
            None if queue.has_ended => Poll::Ready(None),
            None => {
                queue.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let queue = self.0.borrow();
        queue.has_ended && queue.frames.is_empty()
    }
}

impl Drop for QueuedBody {
    fn drop(&mut self) {
        let mut queue = self.0.borrow_mut();
        queue.is_closed = true;
        queue.frames.clear();
        wake(&mut queue.writer);
    }
}

/// The body of the request itself, which is also put into the queues of the copies.
#[derive(Debug)]
struct MirroredBody {
    rest: Body,
    copies: Vec<(Rc<RefCell<Queue>>, RequestEnd)>,
    /// How many bytes a queue may have before it holds the body back.
    limit: usize,
    stall: Timer,
    is_stalled: bool,
    stats: Arc<ClusterStats>,
}

impl MirroredBody {
    /// Waits until every queue has room, and gives up the copies that take too long.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.copies.retain(|(queue, _)| !queue.borrow().is_closed);
        let mut is_full = false;
        for (queue, _) in &self.copies {
            let mut queue = queue.borrow_mut();
            if queue.is_full(self.limit) {
                is_full = true;
                queue.writer = Some(cx.waker().clone());
            }
        }
        if is_full && !self.is_stalled {
            self.stall.set(Some(clock::now() + MAX_STALL));
        } else if !is_full && self.is_stalled {
            self.stall.set(None);
        }
        self.is_stalled = is_full;
        if !is_full {
            return Poll::Ready(());
        }
        std::task::ready!(self.stall.poll_elapsed(cx));
        self.is_stalled = false;
        for (queue, _) in &self.copies {
            let mut queue = queue.borrow_mut();
            if queue.is_full(self.limit) {
                queue.give_up();
                self.stats.retry_or_shadow_abandoned.inc();
            }
        }
        Poll::Ready(())
    }

    /// The copies go on by themselves.
    fn end_copies(&mut self) {
        for (queue, end) in self.copies.drain(..) {
            queue.borrow_mut().end();
            end.note();
        }
    }
}

impl BodyStream for MirroredBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        std::task::ready!(self.poll_room(cx));
        let frame = std::task::ready!(self.rest.poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                for (queue, _) in &self.copies {
                    queue.borrow_mut().put(match frame {
                        Frame::Data(data) => Frame::Data(data.clone()),
                        Frame::Trailers(trailers) => Frame::Trailers(trailers.clone()),
                    });
                }
                if matches!(frame, Frame::Trailers(_)) || self.rest.is_end_stream() {
                    self.end_copies();
                }
            }
            Some(Err(_)) => {}
            None => self.end_copies(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_end_stream()
    }

    fn set_paused(&mut self, paused: bool) {
        self.rest.set_paused(paused);
    }
}

/// As in Envoy, copies of a request that does not end are cancelled.
impl Drop for MirroredBody {
    fn drop(&mut self) {
        match self.rest.is_end_stream() {
            true => self.end_copies(),
            false => {
                for (queue, _) in &self.copies {
                    queue.borrow_mut().give_up();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
