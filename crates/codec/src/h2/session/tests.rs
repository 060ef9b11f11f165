use tokio::net::UnixStream;

use super::*;
use crate::UnderscoresAction;
use crate::stats::ConnectionStats;

fn session(role: Role) -> (Session, UnixStream) {
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
        buffer_limit: 1 << 20,
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
    assert!(session.open(&Rc::default(), false).is_some());
    assert!(session.is_exhausted());
    assert!(session.open(&Rc::default(), false).is_none());
}

#[tokio::test]
async fn streams_that_come_and_go_while_there_is_no_room_leave_nothing() {
    let (session, _peer) = session(Role::Client);
    session.0.borrow_mut().send_window = 0;
    session.0.borrow_mut().backlog_limit = 0;
    let cx = Context::from_waker(Waker::noop());
    for _ in 0..1000 {
        let stream = session.open(&Rc::default(), false).unwrap();
        assert!(stream.poll_room(&cx).is_pending());
    }
    let mut state = session.0.borrow_mut();
    assert_eq!(state.streams.open(), 0);
    assert!(state.streams.take_blocked().is_empty());
}
