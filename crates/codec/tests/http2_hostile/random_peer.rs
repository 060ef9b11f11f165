//! Handlers and client requests that read, respond, wait and abort at random.

use std::cell::Cell;
use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use fastrand::Rng;
use http::StatusCode;
use http::Version;
use outrider_codec::AbortConnection;
use outrider_codec::Body;
use outrider_codec::BodyStream;
use outrider_codec::Frame;
use outrider_codec::Handler;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::MalformedRequest;
use outrider_codec::Meter;
use outrider_codec::Reason;
use outrider_codec::RequestHead;
use outrider_codec::RequestHeadError;
use outrider_codec::Responder;
use outrider_codec::ResponseHead;
use outrider_codec::StreamError;
use outrider_codec::UpstreamExchange;

/// Counts a running stream.
struct Running(Rc<Cell<usize>>);

impl Running {
    fn new(count: &Rc<Cell<usize>>) -> Running {
        count.set(count.get() + 1);
        Running(count.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A handler or client with random behaviour.
#[derive(Clone)]
pub(crate) struct RandomPeer {
    rng: Rc<RefCell<Rng>>,
    /// The number of running streams.
    pub(crate) running: Rc<Cell<usize>>,
}

impl RandomPeer {
    pub(crate) fn new(rng: &mut Rng) -> RandomPeer {
        RandomPeer {
            rng: Rc::new(RefCell::new(rng.fork())),
            running: Rc::default(),
        }
    }

    fn choose(&self, count: u8) -> u8 {
        self.rng.borrow_mut().u8(..count)
    }

    async fn pause(&self) {
        for _ in 0..self.choose(20) {
            tokio::task::yield_now().await;
        }
    }

    async fn read(&self, body: &mut Body, most: u8) {
        for _ in 0..most {
            if !matches!(body.frame().await, Some(Ok(_))) {
                return;
            }
            if self.choose(4) == 0 {
                self.pause().await;
            }
        }
    }

    pub(crate) fn body(&self) -> Body {
        match self.choose(4) {
            0 => Body::Empty,
            1 => Body::full(vec![b'f'; usize::from(self.choose(255)) * 300]),
            _ => Body::wrap(GeneratedBody {
                left: self.choose(40),
                size: usize::from(self.choose(255)) * 80,
                ends: self.choose(4),
                random_peer: self.clone(),
            }),
        }
    }

    /// Sends a response; stops when the stream is reset.
    async fn answer(&self, body: Body, respond: &mut Responder) {
        if self.choose(4) == 0 {
            drop(respond.informational(StatusCode::EARLY_HINTS.into()));
        }
        drop(respond.send(ResponseHead::default(), body).await);
        if self.choose(4) == 0 {
            respond.reset(Reason::CANCEL);
        }
    }

    pub(crate) async fn exchange(self, mut exchange: UpstreamExchange) {
        let _running = Running::new(&self.running);
        if self.choose(8) == 0 {
            return self.pause().await;
        }
        let mut head = poll_fn(|cx| exchange.poll_head(cx)).await;
        while self.choose(8) > 0
            && head
                .as_ref()
                .is_ok_and(|head| head.status.is_informational())
        {
            head = poll_fn(|cx| exchange.poll_head(cx)).await;
        }
        if head.is_ok_and(|head| !head.status.is_informational()) {
            self.pause().await;
            let most = self.choose(100);
            self.read(&mut exchange.into_body(), most).await;
        }
    }
}

impl Handler for RandomPeer {
    async fn serve(self: Rc<Self>, _head: RequestHead, mut body: Body, mut respond: Responder) {
        let _running = Running::new(&self.running);
        self.pause().await;
        match self.choose(8) {
            0 => {}
            1 => respond.reset(Reason::REFUSED_STREAM),
            2 => drop(poll_fn(|cx| respond.poll_reset(cx)).await),
            3 => {
                let most = self.choose(100);
                self.read(&mut body, most).await;
                self.answer(self.body(), &mut respond).await;
            }
            4 => self.answer(body, &mut respond).await,
            5 => {
                drop(body);
                self.answer(self.body(), &mut respond).await;
            }
            6 => {
                self.answer(self.body(), &mut respond).await;
                self.read(&mut body, 100).await;
            }
            _ => {
                self.answer(self.body(), &mut respond).await;
                drop(respond);
                self.pause().await;
            }
        }
    }

    fn head_failed(
        self: Rc<Self>,
        _: RequestHeadError,
        _: Version,
        _: Rc<Meter>,
        _: &AbortConnection<'_>,
    ) {
    }

    async fn malformed(self: Rc<Self>, _error: MalformedRequest, mut respond: Responder) {
        let _running = Running::new(&self.running);
        let body = Body::full("malformed");
        drop(respond.send(ResponseHead::default(), body).await);
    }
}

/// A generated body with random pauses.
struct GeneratedBody {
    left: u8,
    size: usize,
    /// How it ends: 1 with an error, 2 with trailers, otherwise normally.
    ends: u8,
    random_peer: RandomPeer,
}

impl BodyStream for GeneratedBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        if self.random_peer.choose(5) == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.left > 0 {
            self.left -= 1;
            return Poll::Ready(Some(Ok(Frame::Data(Bytes::from(vec![b'm'; self.size])))));
        }
        Poll::Ready(match std::mem::take(&mut self.ends) {
            1 => Some(Err(StreamError::LocalReset)),
            2 => {
                let mut trailers = HeaderMap::new();
                let name = HeaderName::from_static("x-end");
                trailers.insert(name, HeaderValue::from_static("1"));
                Some(Ok(Frame::Trailers(trailers)))
            }
            _ => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.ends == 0
    }
}
