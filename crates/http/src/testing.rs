//! Values that the tests of several modules use.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;

use outrider_codec::BodyStream;
use outrider_codec::Frame;
use outrider_codec::StreamError;
use outrider_net::Address;
use outrider_net::DownstreamConnectionInfo;

use crate::RequestHead;
use crate::Stream;

/// A connection between these two addresses.
pub(crate) fn connection(local: SocketAddr, remote: SocketAddr) -> DownstreamConnectionInfo {
    DownstreamConnectionInfo::new(1, Address::from(local), Address::from(remote))
}

/// A `GET /` from a loopback client.
pub(crate) fn stream() -> Stream {
    let local = SocketAddr::from(([127, 0, 0, 1], 80));
    let connection = Rc::new(connection(local, local));
    let head = RequestHead {
        scheme: Some(http::uri::Scheme::HTTP),
        path: Some(outrider_codec::Target::root()),
        ..RequestHead::default()
    };
    Stream::new(connection, head, http::Version::HTTP_2, 1)
}

/// A body of these frames, each of which is ready at every second poll.
#[derive(Debug)]
pub(crate) struct SlowFrames {
    frames: VecDeque<Frame>,
    has_waited: bool,
}

impl SlowFrames {
    pub(crate) fn new(frames: impl Into<VecDeque<Frame>>) -> SlowFrames {
        SlowFrames {
            frames: frames.into(),
            has_waited: false,
        }
    }
}

impl BodyStream for SlowFrames {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        self.has_waited = !self.has_waited;
        if self.has_waited {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.frames.pop_front().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
    }
}
