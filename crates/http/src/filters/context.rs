//! What filters get from their surroundings: when they are built, on a worker, and for each stream.

use std::cell::Cell;
use std::cell::OnceCell;
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::task::ready;

use bytes::Bytes;
use bytes::BytesMut;
use http::StatusCode;
use http::Version;
use outrider_client::ServiceCx;
use outrider_codec::Body;
use outrider_codec::Frame;
use outrider_codec::HeaderMap;
use outrider_codec::Meter;
use outrider_codec::StreamError;
use outrider_net::WorkerCx;
use outrider_stats::Scope;
use outrider_upstream::Clusters;

use crate::BuildCx;
use crate::ManagerStats;
use crate::Stream;
use crate::local_reply::LocalReply;
use crate::read_ahead_body::ReadAheadBody;

use super::RouteConfig;
use super::StreamSlot;

/// The details of the reply to a request that is too large to be buffered.
pub(crate) const PAYLOAD_TOO_LARGE: &str = "request_payload_too_large";

/// What a filter needs to be built, on the main thread.
#[derive(Clone, Copy, Debug)]
pub struct FilterBuildCx<'a> {
    /// `HttpFilter.name`: routes name the filter by it.
    pub name: &'a str,
    /// `http.<stat_prefix>`
    pub scope: &'a Scope,
    /// The rest of the process.
    pub process: &'a BuildCx<'a>,
}

impl FilterBuildCx<'_> {
    /// Calls `build` with what is needed to check the services that a filter calls.
    pub fn with_services<T>(&self, build: impl FnOnce(&ServiceCx<'_>) -> T) -> T {
        let clusters = self.process.clusters;
        build(&ServiceCx {
            has_cluster: &|name| clusters.has(name),
            nearest_cluster: &|name| clusters.nearest(name).map(str::to_owned),
        })
    }
}

/// What a filter needs on a worker.
#[derive(Debug)]
pub struct FilterWorkerCx<'a> {
    /// The worker: its timers, its stats, its random numbers.
    pub worker: &'a Rc<WorkerCx>,
    /// The worker's clusters.
    pub clusters: &'a Rc<Clusters>,
    pub(super) name: &'a Arc<str>,
    /// How many slots the filters of this chain have so far.
    pub(super) slots: &'a Cell<usize>,
}

impl FilterWorkerCx<'_> {
    /// A place in each stream for one value of this filter.
    #[must_use]
    pub fn slot<T: 'static>(&self) -> StreamSlot<T> {
        let index = self.slots.get();
        self.slots.set(index + 1);
        StreamSlot::at(index)
    }

    /// Finds this filter's configuration in routes (`typed_per_filter_config`).
    #[must_use]
    pub fn route_config<T: 'static>(&self) -> RouteConfig<T> {
        RouteConfig::new(self.name.clone())
    }
}

/// What a filter may use while it handles one stream.
pub struct FilterCx<'a> {
    /// The worker: its timers, its stats, its random numbers.
    pub worker: &'a Rc<WorkerCx>,
    /// The worker's clusters.
    pub clusters: &'a Rc<Clusters>,
    /// The client's side of the stream: bytes and times so far.
    pub meter: &'a Rc<Meter>,
    /// The client's protocol.
    pub protocol: Version,
    /// How many bytes of a body a filter may hold: the connection's buffer limit, or on HTTP/2 the stream's window.
    pub buffer_limit: usize,
    pub(crate) header_limits: HeaderLimits,
    pub(crate) stats: &'a ManagerStats,
    pub(crate) late_reply: &'a LateReplySlot,
    pub(crate) find_route: &'a dyn Fn(&mut Stream),
}

impl FilterCx<'_> {
    /// Finds the route of the request again, after headers or metadata that routes match on have changed.
    pub fn clear_route_cache(&self, stream: &mut Stream) {
        (self.find_route)(stream);
    }

    /// The means for a body to end its stream with a local reply.
    #[must_use]
    pub fn late_reply(&self) -> LateReply {
        self.late_reply.get_or_init(LateReply::default).clone()
    }

    /// Waits for `future`. Reads the body ahead meanwhile, up to the buffer limit, so that the client can send it.
    pub async fn hold_body<T>(&self, body: &mut Body, future: impl Future<Output = T>) -> T {
        let mut ahead = ReadAheadBody::new(std::mem::take(body), self.buffer_limit);
        let mut future = pin!(future);
        let output = poll_fn(|cx| {
            let output = future.as_mut().poll(cx);
            if output.is_pending() {
                ahead.read_ahead(cx);
            }
            output
        })
        .await;
        ahead.resume();
        *body = ahead.into_body();
        output
    }

    /// Reads the whole body of a request.
    ///
    /// # Errors
    /// The reply to a request with more than `limit` bytes, or with a broken body.
    pub async fn buffer_request(
        &self,
        body: &mut Body,
        limit: usize,
    ) -> Result<BufferedBody, LocalReply> {
        // As in Envoy, an HTTP/2 frame that ends the request is not counted.
        let fits = |buffered: &BufferedBody| {
            buffered.is_complete
                && (self.protocol == Version::HTTP_2 || buffered.data.len() <= limit)
        };
        match self.buffer_body(body, limit).await {
            Ok(buffered) if fits(&buffered) => Ok(buffered),
            Ok(_) => {
                self.stats.requests.downstream_rq_too_large.inc();
                let status = StatusCode::PAYLOAD_TOO_LARGE;
                Err(LocalReply::new(status, PAYLOAD_TOO_LARGE).body("Payload Too Large"))
            }
            // The codec has the reply, or the client has gone.
            Err(_) => std::future::pending().await,
        }
    }

    /// Reads the whole body, or its first part if it is larger than `limit` bytes. Afterwards `body` has the same frames
    /// as before.
    ///
    /// # Errors
    /// The error that ended the body.
    pub async fn buffer_body(
        &self,
        body: &mut Body,
        limit: usize,
    ) -> Result<BufferedBody, StreamError> {
        let held = self.take_body(body, limit).await?;
        let (data, trailers) = (held.data.clone(), held.trailers.clone());
        let rest = std::mem::take(body);
        *body = ReadAheadBody::from_parts(data, trailers, rest, held.is_complete).into_body();
        Ok(held)
    }

    /// Takes the whole body, or its first part if it is larger than `limit` bytes. What is left stays in `body`.
    ///
    /// # Errors
    /// The error that ended the body.
    pub async fn take_body(
        &self,
        body: &mut Body,
        limit: usize,
    ) -> Result<BufferedBody, StreamError> {
        let mut taken = TakenBody::new(body);
        poll_fn(|cx| taken.poll(body, limit, cx)).await?;
        Ok(taken.into_buffered())
    }

    /// Takes what has arrived of the body, up to the frame that exceeds `limit` bytes. What is left stays in `body`.
    ///
    /// # Errors
    /// The error that ended the body.
    pub async fn take_ready(
        &self,
        body: &mut Body,
        limit: usize,
    ) -> Result<BufferedBody, StreamError> {
        let mut taken = TakenBody::new(body);
        poll_fn(|cx| match taken.poll(body, limit, cx) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => Poll::Ready(Ok(())),
        })
        .await?;
        Ok(taken.into_buffered())
    }
}

/// What was read of a body.
struct TakenBody {
    bytes: BytesMut,
    trailers: Option<HeaderMap>,
    is_complete: bool,
}

impl TakenBody {
    fn new(body: &Body) -> TakenBody {
        TakenBody {
            bytes: BytesMut::new(),
            trailers: None,
            is_complete: body.is_end_stream(),
        }
    }

    /// Reads until the end, or beyond `limit` bytes.
    fn poll(
        &mut self,
        body: &mut Body,
        limit: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamError>> {
        while !self.is_complete && self.bytes.len() <= limit {
            match ready!(body.poll_frame(cx)) {
                Some(Ok(Frame::Data(data))) => {
                    self.bytes.extend_from_slice(&data);
                    self.is_complete = body.is_end_stream();
                }
                Some(Ok(Frame::Trailers(fields))) => {
                    self.trailers = Some(fields);
                    self.is_complete = true;
                }
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => self.is_complete = true,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn into_buffered(self) -> BufferedBody {
        BufferedBody {
            data: self.bytes.freeze(),
            trailers: self.trailers,
            is_complete: self.is_complete,
        }
    }
}

/// How many headers a message may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeaderLimits {
    /// `max_headers_count`
    pub(crate) count: usize,
    /// `max_request_headers_kb`, in bytes.
    pub(crate) bytes: usize,
}

/// The part of a body that was buffered.
#[derive(Debug)]
pub struct BufferedBody {
    /// The bytes.
    pub data: Bytes,
    /// The trailers, if they have arrived.
    pub trailers: Option<HeaderMap>,
    /// Whether this is the whole body; otherwise it exceeds the limit.
    pub is_complete: bool,
}

/// Lets a body that a filter has wrapped end the stream: with a local reply if the response has not begun, else with a
/// reset.
#[derive(Clone, Debug, Default)]
pub struct LateReply(Rc<LateReplyState>);

#[derive(Debug, Default)]
struct LateReplyState {
    reply: RefCell<Option<LocalReply>>,
    /// The stream, while it waits.
    waker: RefCell<Option<Waker>>,
}

/// The late reply of a stream, made when a body asks for it.
pub(crate) type LateReplySlot = OnceCell<LateReply>;

impl LateReply {
    /// Ends the stream with `reply`. The body has to return the error as its last frame.
    #[must_use]
    pub fn end(&self, reply: LocalReply) -> StreamError {
        self.0.reply.borrow_mut().get_or_insert(reply);
        StreamError::LocalReset
    }

    /// Tells the stream of a reply that was made outside of its own task.
    pub fn wake(&self) {
        if let Some(waker) = self.0.waker.take() {
            waker.wake();
        }
    }

    /// The details of the reply.
    #[cfg(test)]
    pub(super) fn details(&self) -> String {
        let reply = self.0.reply.borrow();
        reply
            .as_ref()
            .map_or_else(String::new, |reply| reply.details.to_string())
    }

    /// The reply, if a body has ended the stream.
    pub(crate) fn take(slot: &LateReplySlot) -> Option<LocalReply> {
        slot.get()?.0.reply.borrow_mut().take()
    }

    /// Notes that the stream waits.
    pub(crate) fn register(slot: &LateReplySlot, cx: &Context<'_>) {
        if let Some(late) = slot.get() {
            late.0.waker.replace(Some(cx.waker().clone()));
        }
    }
}

impl fmt::Debug for FilterCx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilterCx")
            .field("buffer_limit", &self.buffer_limit)
            .finish_non_exhaustive()
    }
}
