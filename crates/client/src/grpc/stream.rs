//! Calls with any number of requests and responses.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use outrider_codec::Body;
use outrider_codec::BodyStream;
use outrider_codec::Frame;
use outrider_codec::ResponseHead;
use outrider_codec::StreamError;
use prost::Message;

use super::Code;
use super::GrpcService;
use super::Status;
use super::call::check_head;
use super::frames;
use super::frames::GrpcDecoder;
use crate::InternalClient;
use crate::PendingResponse;
use crate::ResponseBody;

/// How many bytes of requests may wait for the service to take them.
const QUEUE_LIMIT: usize = 1 << 20;

/// The service takes requests more slowly than they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

/// A call that sends `Q` and receives `A`. Dropping it cancels the call.
///
/// Requests are sent while [`GrpcStream::next`] waits for a response.
#[derive(Debug)]
pub struct GrpcStream<Q, A> {
    requests: GrpcRequests<Q>,
    response: Receiving,
    decoder: GrpcDecoder,
    types: PhantomData<fn() -> A>,
}

/// Whether a response without a body ends the call with success.
fn is_success(head: &ResponseHead) -> bool {
    head.status == StatusCode::OK && Status::from_headers(&head.headers).code == Code::OK
}

/// The requests of a call. Clones share one queue.
#[derive(Debug)]
pub struct GrpcRequests<Q> {
    queue: Rc<RefCell<Requests>>,
    kind: PhantomData<fn(Q)>,
}

/// How far the response has come.
#[derive(Debug)]
enum Receiving {
    Head(PendingResponse),
    Body(ResponseBody),
    Ended,
}

impl InternalClient {
    /// Begins a call of a streaming method, a path such as `/package.Service/Method`. `timeout` is for the whole call.
    ///
    /// # Errors
    /// If the service cannot be reached.
    pub async fn stream<Q: Message, A: Message + Default>(
        &self,
        service: &GrpcService,
        method: &'static str,
        timeout: Option<Duration>,
    ) -> Result<GrpcStream<Q, A>, Status> {
        self.stream_of(service, method, timeout, GrpcRequests::default())
            .await
    }

    /// Like [`InternalClient::stream`], with requests that may be queued before the call begins.
    ///
    /// # Errors
    /// If the service cannot be reached.
    pub async fn stream_of<Q: Message, A: Message + Default>(
        &self,
        service: &GrpcService,
        method: &'static str,
        timeout: Option<Duration>,
        requests: GrpcRequests<Q>,
    ) -> Result<GrpcStream<Q, A>, Status> {
        let body = Body::wrap(CallBody(requests.queue.clone()));
        let head = service.head(method, timeout);
        let options = service.options(timeout);
        let pending = self.send(&service.cluster, head, body, &options).await?;
        Ok(GrpcStream {
            requests,
            response: Receiving::Head(pending),
            decoder: GrpcDecoder::new(service.message_limit),
            types: PhantomData,
        })
    }
}

impl<Q: Message, A: Message + Default> GrpcStream<Q, A> {
    /// Queues a request.
    ///
    /// # Errors
    /// If a mebibyte of requests is waiting already. The request is dropped then.
    pub fn send(&self, request: &Q) -> Result<(), QueueFull> {
        self.requests.send(request)
    }

    /// Ends the requests. Responses may still come.
    pub fn close(&self) {
        self.requests.queue.borrow_mut().close();
    }

    /// The next response, `None` if the service has ended the call with success. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The status of a call that has failed.
    pub async fn next(&mut self) -> Result<Option<A>, Status> {
        let received = self.receive().await;
        if !matches!(received, Ok(Some(_))) {
            self.response = Receiving::Ended;
        }
        received
    }

    async fn receive(&mut self) -> Result<Option<A>, Status> {
        loop {
            if let Some(response) = self.decoder.next()? {
                return frames::decode(response).map(Some);
            }
            match &mut self.response {
                Receiving::Ended => return Ok(None),
                Receiving::Head(pending) => {
                    let head = pending.head().await?;
                    let Receiving::Head(pending) =
                        std::mem::replace(&mut self.response, Receiving::Ended)
                    else {
                        return Ok(None); // it was one above
                    };
                    let body = pending.into_body();
                    if body.is_end_stream() && is_success(&head) {
                        return Ok(None);
                    }
                    check_head(&head, &body)?;
                    self.response = Receiving::Body(body);
                }
                Receiving::Body(body) => match body.frame().await? {
                    Some(Frame::Data(data)) => self.decoder.push(&data),
                    Some(Frame::Trailers(trailers)) => {
                        return match Status::from_headers(&trailers) {
                            Status { code: Code::OK, .. } => Ok(None),
                            status => Err(status),
                        };
                    }
                    None => return Err(Status::new(Code::UNKNOWN, "")),
                },
            }
        }
    }
}

impl<Q: Message> GrpcRequests<Q> {
    /// Queues a request.
    ///
    /// # Errors
    /// If a mebibyte of requests is waiting already. The request is dropped then.
    pub fn send(&self, request: &Q) -> Result<(), QueueFull> {
        self.queue.borrow_mut().push(frames::encode(request))
    }

    /// Ready once a request can be queued.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut queue = self.queue.borrow_mut();
        if queue.bytes < QUEUE_LIMIT {
            return Poll::Ready(());
        }
        queue.sender = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<Q> Default for GrpcRequests<Q> {
    fn default() -> GrpcRequests<Q> {
        GrpcRequests {
            queue: Rc::default(),
            kind: PhantomData,
        }
    }
}

impl<Q> Clone for GrpcRequests<Q> {
    fn clone(&self) -> GrpcRequests<Q> {
        GrpcRequests {
            queue: self.queue.clone(),
            kind: PhantomData,
        }
    }
}

/// Requests that wait for the connection to take them.
#[derive(Debug, Default)]
struct Requests {
    frames: VecDeque<Bytes>,
    bytes: usize,
    closed: bool,
    /// The connection, which waits for a request.
    waker: Option<Waker>,
    /// The caller, which waits for room.
    sender: Option<Waker>,
}

impl Requests {
    fn push(&mut self, frame: Bytes) -> Result<(), QueueFull> {
        if self.bytes >= QUEUE_LIMIT {
            return Err(QueueFull);
        }
        self.bytes += frame.len();
        self.frames.push_back(frame);
        self.wake();
        Ok(())
    }

    fn close(&mut self) {
        self.closed = true;
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The body of the call's request, which the connection reads.
struct CallBody(Rc<RefCell<Requests>>);

impl BodyStream for CallBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        let mut requests = self.0.borrow_mut();
        if let Some(frame) = requests.frames.pop_front() {
            requests.bytes -= frame.len();
            if let Some(sender) = requests.sender.take() {
                sender.wake();
            }
            return Poll::Ready(Some(Ok(Frame::Data(frame))));
        }
        if requests.closed {
            return Poll::Ready(None);
        }
        requests.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let requests = self.0.borrow();
        requests.closed && requests.frames.is_empty()
    }
}
