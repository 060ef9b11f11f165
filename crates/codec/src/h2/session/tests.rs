use tokio::net::UnixStream;

use super::super::stream::ResponseTo;
use super::*;
use crate::UnderscoresAction;
use crate::stats::ConnectionStats;

fn session(role: Role) -> (Session, UnixStream) {
    limited_session(role, 1 << 20)
}

fn limited_session(role: Role, buffer_limit: u32) -> (Session, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let setup = SessionSetup {
        role,
        options: &Http2Options::default(),
        rules: HeaderRules {
            max_bytes: 1000,
            max_count: 100,
            underscores: UnderscoresAction::Allow,
            extended_connect: false,
        },
        buffer_limit,
        stats: Arc::default(),
        counts: Arc::new(ConnectionStats::default()),
    };
    (Session::new(NetworkStream::Unix(ours), setup), theirs)
}

#[tokio::test]
async fn stream_numbers_are_limited() {
    let (session, _peer) = session(Role::Client);
    session.0.borrow_mut().next_stream = 0x7fff_ffff;
    assert!(!session.is_exhausted());
    assert!(session.open(&Rc::default(), ResponseTo::Other).is_some());
    assert!(session.is_exhausted());
    assert!(session.open(&Rc::default(), ResponseTo::Other).is_none());
}

#[tokio::test]
async fn streams_that_end_while_the_queue_is_full_are_removed() {
    let (session, _peer) = session(Role::Client);
    session.0.borrow_mut().send_window = 0;
    session.0.borrow_mut().backlog_limit = 0;
    let cx = Context::from_waker(Waker::noop());
    for _ in 0..1000 {
        let stream = session.open(&Rc::default(), ResponseTo::Other).unwrap();
        assert!(stream.poll_room(&cx).is_pending());
    }
    let mut state = session.0.borrow_mut();
    assert_eq!(state.streams.open(), 0);
    assert!(state.streams.take_blocked().is_empty());
}

/// Sends pieces of this size until one has to wait. Returns the number of queued bytes and frames.
fn fill(buffer_limit: u32, size: usize) -> (usize, u32) {
    let (session, _peer) = limited_session(Role::Client, buffer_limit);
    session.0.borrow_mut().send_window = 1 << 30;
    session.0.borrow_mut().settings.peer_window = 1 << 30;
    let cx = Context::from_waker(Waker::noop());
    let before = session.queued_bytes();
    let stream = session.open(&Rc::default(), ResponseTo::Other).unwrap();
    stream.send_head(false, |_, _| 0);
    while session.0.borrow().total_backlog.get() == 0
        && let Poll::Ready(room) = stream.poll_room(&cx)
    {
        stream.send_data(vec![0; size.min(room.unwrap())].into(), false);
    }
    let (frames, _) = session.0.borrow().output.queued_frames();
    (session.queued_bytes() - before, frames)
}

#[tokio::test]
async fn the_buffer_limit_limits_the_queue() {
    for (limit, high) in [
        (0, 16 * 1024),
        (32 * 1024, 32 * 1024),
        (1 << 20, 512 * 1024),
    ] {
        let (bytes, _) = fill(limit, 1000);
        assert!(
            (high - 200..high + 100).contains(&bytes),
            "{limit}: {bytes}"
        );
    }
}

#[tokio::test]
async fn small_messages_to_a_slow_peer_do_not_reach_the_flood_limit() {
    let (bytes, frames) = fill(1 << 20, 10);
    assert!((4096..4110).contains(&frames), "{frames}");
    assert!(bytes < 100_000, "{bytes}");
}

#[tokio::test]
async fn a_small_part_of_a_large_read_does_not_keep_all_of_it() {
    let (ours, mut peer) = UnixStream::pair().unwrap();
    let mut ours = NetworkStream::Unix(ours);
    let mut input = Input::new(false);
    tokio::io::AsyncWriteExt::write_all(&mut peer, &[0; 64 * 1024])
        .await
        .unwrap();
    let mut small = Vec::new();
    for _ in 0..2 {
        let mut chunk = input.take_chunk();
        let read = std::future::poll_fn(|cx| input.poll_read(&mut ours, &mut chunk, cx)).await;
        small.push((read.unwrap(), input.is_small(2000), input.is_small(8000)));
        input.return_chunk(chunk);
    }
    assert_eq!(small, [(16_393, true, false), (49_143, true, true)]);
}
