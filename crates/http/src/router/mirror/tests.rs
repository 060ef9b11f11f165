use std::future::poll_fn;

use bytes::Bytes;
use outrider_codec::HeaderMap;
use outrider_net::Timers;

use super::*;

/// A body of these frames, which ends after them or goes on.
#[derive(Debug)]
struct Frames(VecDeque<Frame>, bool);

impl BodyStream for Frames {
    fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        match self.0.pop_front() {
            None if !self.1 => Poll::Pending,
            frame => Poll::Ready(frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty() && self.1
    }
}

fn mirrored(ends: bool, timers: &Timers) -> (MirroredBody, QueuedBody) {
    let data = |text: &'static str| Frame::Data(Bytes::from_static(text.as_bytes()));
    let mut frames = VecDeque::from([data("abc"), data("def"), data("ghi")]);
    if ends {
        frames.push_back(Frame::Trailers(HeaderMap::new()));
    }
    let queue = Rc::new(RefCell::new(Queue::default()));
    let body = MirroredBody {
        rest: Body::wrap(Frames(frames, ends)),
        copies: vec![(queue.clone(), RequestEnd::default())],
        limit: 5,
        stall: timers.timer(),
        is_stalled: false,
        stats: Arc::default(),
    };
    (body, QueuedBody(queue))
}

/// Polls the body once.
async fn poll_once(body: &mut impl BodyStream) -> Poll<Option<String>> {
    poll_fn(|cx| {
        Poll::Ready(body.poll_frame(cx).map(|frame| match frame? {
            Ok(Frame::Data(data)) => Some(String::from_utf8_lossy(&data).into_owned()),
            Ok(Frame::Trailers(_)) => Some("trailers".to_owned()),
            Err(error) => Some(error.to_string()),
        }))
    })
    .await
}

fn some(text: &str) -> Poll<Option<String>> {
    Poll::Ready(Some(text.to_owned()))
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_holds_the_body_back_until_the_copy_reads() {
    let (mut body, mut copy) = mirrored(true, &Timers::new());
    assert_eq!(poll_once(&mut copy).await, Poll::Pending);
    assert_eq!(poll_once(&mut body).await, some("abc"));
    assert_eq!(poll_once(&mut body).await, some("def"));
    assert_eq!(poll_once(&mut body).await, Poll::Pending);
    assert_eq!(poll_once(&mut copy).await, some("abc"));
    assert_eq!(poll_once(&mut body).await, some("ghi"));
    for expected in ["def", "ghi"] {
        assert_eq!(poll_once(&mut copy).await, some(expected));
    }
    assert!(!copy.is_end_stream());
    assert_eq!(poll_once(&mut body).await, some("trailers"));
    drop(body);
    assert_eq!(poll_once(&mut copy).await, some("trailers"));
    assert!(copy.is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_takes_nothing_is_given_up() {
    let local = tokio::task::LocalSet::new();
    let timers = Timers::new();
    local.spawn_local(timers.clone().run());
    local
        .run_until(async {
            let (mut body, copy) = mirrored(true, &timers);
            for expected in ["abc", "def"] {
                assert_eq!(poll_once(&mut body).await, some(expected));
            }
            let began = clock::now();
            let frame = poll_fn(|cx| body.poll_frame(cx)).await;
            assert!(matches!(frame, Some(Ok(Frame::Data(data))) if data == "ghi"));
            assert!(clock::since(began) >= MAX_STALL);
            assert!(copy.0.borrow().is_closed);
            assert_eq!(body.stats.retry_or_shadow_abandoned.value(), 1);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_ended_does_not_hold_the_body_back() {
    let (mut body, copy) = mirrored(true, &Timers::new());
    assert_eq!(poll_once(&mut body).await, some("abc"));
    drop(copy);
    for expected in ["def", "ghi", "trailers"] {
        assert_eq!(poll_once(&mut body).await, some(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_cancels_its_copies() {
    let (mut body, copy) = mirrored(false, &Timers::new());
    assert_eq!(poll_once(&mut body).await, some("abc"));
    drop(body);
    assert!(copy.0.borrow().is_closed);
    assert!(!copy.0.borrow().has_ended);
}
