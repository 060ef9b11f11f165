//! Test support for both codecs: socket pairs, a worker's environment, and a handler that responds by path.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod raw;

use std::cell::Cell;
use std::cell::RefCell;
use std::future::Future;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use http::Method;
use http::Version;
use outrider_codec::AbortConnection;
use outrider_codec::Body;
use outrider_codec::BodyStream;
use outrider_codec::ClientOptions;
use outrider_codec::Frame;
use outrider_codec::Handler;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::MalformedRequest;
use outrider_codec::Meter;
use outrider_codec::RequestHead;
use outrider_codec::RequestHeadError;
use outrider_codec::Responder;
use outrider_codec::ResponseHead;
use outrider_codec::ServerOptions;
use outrider_codec::StreamError;
use outrider_codec::Target;
use outrider_codec::stats::ConnectionStats;
use outrider_net::DrainSignal;
use outrider_net::NetworkStream;
use outrider_net::Timers;
use tokio::net::UnixStream;
use tokio::task::LocalSet;

/// Runs a test like a task on a worker, with running timers.
pub(crate) async fn on_worker<F: Future<Output = ()>>(test: impl FnOnce(Timers) -> F) {
    let timers = Timers::new();
    let local = LocalSet::new();
    local.spawn_local(timers.clone().run());
    local.run_until(test(timers)).await;
}

/// A socket pair: one end for the codec, one for the test.
pub(crate) fn sockets() -> (NetworkStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (NetworkStream::Unix(ours), theirs)
}

pub(crate) fn server_options(timers: &Timers) -> ServerOptions {
    ServerOptions::new(timers.clone(), DrainSignal::new())
}

pub(crate) fn client_options(timers: &Timers) -> ClientOptions {
    ClientOptions::new(timers.clone(), Arc::new(ConnectionStats::default()))
}

/// Responds by path: `/echo` returns the request, `/hang` never responds, `/large` sends 8 MiB, and anything else
/// describes the request. Records what happened to its streams.
#[derive(Default)]
pub(crate) struct PathHandler {
    pub(crate) resets: RefCell<Vec<StreamError>>,
    pub(crate) malformed: RefCell<Vec<MalformedRequest>>,
    pub(crate) refusals: RefCell<Vec<RequestHeadError>>,
    pub(crate) produced: Rc<Cell<usize>>,
}

impl Handler for PathHandler {
    async fn serve(self: Rc<Self>, head: RequestHead, mut body: Body, mut respond: Responder) {
        let body = match head.path() {
            "/echo" => body,
            "/hang" => {
                let reset = poll_fn(|cx| respond.poll_reset(cx)).await;
                self.resets.borrow_mut().push(reset);
                return;
            }
            "/large" => Body::wrap(LargeBody {
                left: 8 << 20,
                produced: self.produced.clone(),
            }),
            _ => {
                while let Some(Ok(_)) = body.frame().await {}
                Body::full(format!("{} {}", head.method, head.path()))
            }
        };
        let mut answer = ResponseHead::default();
        if let Some(authority) = head.authority {
            let name = HeaderName::from_static("x-authority");
            answer.headers.insert(name, authority);
        }
        if let Err(error) = respond.send(answer, body).await {
            self.resets.borrow_mut().push(error);
        }
    }

    fn head_failed(
        self: Rc<Self>,
        refused: RequestHeadError,
        _: Version,
        _: Rc<Meter>,
        _: &AbortConnection<'_>,
    ) {
        self.refusals.borrow_mut().push(refused);
    }

    async fn malformed(self: Rc<Self>, error: MalformedRequest, mut respond: Responder) {
        self.malformed.borrow_mut().push(error.clone());
        let body = Body::full(error.body.into_owned());
        respond.send(error.status.into(), body).await.unwrap();
    }
}

/// A large body, generated while it is read.
struct LargeBody {
    left: usize,
    produced: Rc<Cell<usize>>,
}

impl BodyStream for LargeBody {
    fn poll_frame(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let size = self.left.min(16 * 1024);
        self.left -= size;
        self.produced.set(self.produced.get() + size);
        Poll::Ready(Some(Ok(Frame::Data(Bytes::from(vec![b'x'; size])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }
}

/// A body with trailers.
pub(crate) struct WithTrailers(pub(crate) Vec<Frame>);

impl WithTrailers {
    pub(crate) fn body(bytes: &'static str, name: &'static str, value: &'static str) -> Body {
        let mut trailers = HeaderMap::new();
        let name = HeaderName::from_static(name);
        trailers.insert(name, HeaderValue::from_static(value));
        let data = Frame::Data(Bytes::from_static(bytes.as_bytes()));
        Body::wrap(WithTrailers(vec![Frame::Trailers(trailers), data]))
    }
}

impl BodyStream for WithTrailers {
    fn poll_frame(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        Poll::Ready(self.0.pop().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

/// Reads a whole body: its bytes and its trailers.
pub(crate) async fn collect(mut body: Body) -> Result<(Vec<u8>, Option<HeaderMap>), StreamError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame? {
            Frame::Data(data) => bytes.extend_from_slice(&data),
            Frame::Trailers(trailers) => return Ok((bytes, Some(trailers))),
        }
    }
    Ok((bytes, None))
}

/// Builds a GET request.
pub(crate) fn request(path: &str) -> RequestHead {
    RequestHead {
        method: Method::POST,
        authority: Some(HeaderValue::from_static("a.example")),
        path: Target::try_from(path).ok(),
        ..RequestHead::default()
    }
}

/// Lets all ready tasks run.
pub(crate) async fn run_ready_tasks() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}
