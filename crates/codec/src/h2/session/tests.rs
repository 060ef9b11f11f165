use tokio::net::UnixStream;

use super::super::stream::AnswerTo;
use super::*;
use crate::UnderscoresAction;
use crate::stats::ConnectionStats;

fn session(role: Role) -> (Session, UnixStream) {
    limited_session(role, 1 << 20)
}

fn limited_session(role: Role, buffer_limit: u32) -> (Session, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let setup = Setup {
        role,
        options: &Http2Options::default(),
        rules: Rules {
            max_bytes: 1000,
            max_count: 100,
            underscores: UnderscoresAction::Allow,
            extended_connect: false,
        },
        buffer_limit,
        stats: Arc::default(),
        counts: Arc::new(ConnectionStats::default()),
    };
    (Session::new(Stream::Unix(ours), setup), theirs)
}

#[tokio::test]
async fn numbers_of_streams_come_to_an_end() {
    let (session, _peer) = session(Role::Client);
    session.0.borrow_mut().next_stream = 0x7fff_ffff;
    assert!(!session.is_exhausted());
    assert!(session.open(&Rc::default(), AnswerTo::Other).is_some());
    assert!(session.is_exhausted());
    assert!(session.open(&Rc::default(), AnswerTo::Other).is_none());
}

#[tokio::test]
async fn streams_that_come_and_go_while_there_is_no_room_leave_nothing() {
    let (session, _peer) = session(Role::Client);
    session.0.borrow_mut().send_window = 0;
    session.0.borrow_mut().backlog_limit = 0;
    let cx = Context::from_waker(Waker::noop());
    for _ in 0..1000 {
        let stream = session.open(&Rc::default(), AnswerTo::Other).unwrap();
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
    let before = session.waiting();
    let stream = session.open(&Rc::default(), AnswerTo::Other).unwrap();
    stream.send_head(false, |_, _| 0);
    while session.0.borrow().backlogs.get() == 0
        && let Poll::Ready(room) = stream.poll_room(&cx)
    {
        stream.send_data(vec![0; size.min(room.unwrap())].into(), false);
    }
    let (frames, _) = session.0.borrow().output.frames_waiting();
    (session.waiting() - before, frames)
}

#[tokio::test]
async fn no_more_waits_to_be_written_than_the_buffer_limit_allows() {
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
async fn small_messages_do_not_flood_a_peer_that_is_slow_to_take_them() {
    let (bytes, frames) = fill(1 << 20, 10);
    assert!((4096..4110).contains(&frames), "{frames}");
    assert!(bytes < 100_000, "{bytes}");
}

#[tokio::test]
async fn a_small_part_of_a_large_read_does_not_keep_all_of_it() {
    let (ours, mut peer) = UnixStream::pair().unwrap();
    let mut ours = Stream::Unix(ours);
    let mut input = Input::new(false);
    tokio::io::AsyncWriteExt::write_all(&mut peer, &[0; 64 * 1024])
        .await
        .unwrap();
    let mut small = Vec::new();
    for _ in 0..2 {
        let mut chunk = input.take_chunk();
        let read = std::future::poll_fn(|cx| input.poll_read(&mut ours, &mut chunk, cx)).await;
        small.push((read.unwrap(), input.is_small(2000), input.is_small(8000)));
        input.give_chunk(chunk);
    }
    assert_eq!(small, [(16_393, true, false), (49_143, true, true)]);
}
