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
use outrider_codec::Body;
use outrider_codec::BodyStream;
use outrider_codec::Frame;
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
    requests: Rc<RefCell<Requests>>,
    response: Receiving,
    decoder: GrpcDecoder,
    types: PhantomData<fn(Q) -> A>,
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
        let requests = Rc::<RefCell<Requests>>::default();
        let body = Body::wrap(CallBody(requests.clone()));
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
        self.requests.borrow_mut().push(frames::encode(request))
    }

    /// Ends the requests. Responses may still come.
    pub fn close(&self) {
        self.requests.borrow_mut().close();
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

/// Requests that wait for the connection to take them.
#[derive(Debug, Default)]
struct Requests {
    frames: VecDeque<Bytes>,
    bytes: usize,
    closed: bool,
    waker: Option<Waker>,
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
