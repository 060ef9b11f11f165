//! A body received on an HTTP/2 stream.

use std::task::Context;
use std::task::Poll;
use std::task::ready;

use crate::Frame;
use crate::StreamError;

use super::session::StreamRef;

/// The peer's body. Reading it gives the peer new credit, half a window at a time.
#[derive(Debug)]
pub struct H2RecvBody {
    stream: StreamRef,
    phase: RecvPhase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RecvPhase {
    Data,
    Ended,
}

impl H2RecvBody {
    pub(super) fn new(stream: StreamRef) -> H2RecvBody {
        H2RecvBody {
            stream,
            phase: RecvPhase::Data,
        }
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, StreamError>>> {
        if self.phase == RecvPhase::Ended {
            return Poll::Ready(None);
        }
        let frame = ready!(self.stream.poll_frame(cx));
        if !matches!(frame, Some(Ok(Frame::Data(_)))) {
            self.phase = RecvPhase::Ended;
        }
        Poll::Ready(frame)
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        self.stream.note_paused(paused);
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.phase == RecvPhase::Ended || self.stream.is_fully_read()
    }
}

impl Drop for H2RecvBody {
    fn drop(&mut self) {
        if self.phase != RecvPhase::Ended {
            self.stream.stop_reading();
        }
    }
}
