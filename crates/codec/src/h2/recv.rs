//! A body that comes in on an HTTP/2 stream.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use h2::RecvStream;

use crate::Frame;
use crate::Meter;
use crate::StreamError;
use crate::stats::Http2Stats;

use super::FRAME_HEAD;
use super::headers;
use super::stream_error;

/// The peer's body. Taking a frame opens the peer's window again; the `h2` crate sends the updates in batches.
#[derive(Debug)]
pub struct RecvBody {
    stream: RecvStream,
    meter: Rc<Meter>,
    /// Where a request's trailers are counted; a response's are not.
    stats: Option<Arc<Http2Stats>>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Data,
    Trailers,
    Ended,
}

impl RecvBody {
    pub(super) fn new(
        stream: RecvStream,
        meter: Rc<Meter>,
        stats: Option<Arc<Http2Stats>>,
    ) -> RecvBody {
        let mut body = RecvBody {
            stream,
            meter,
            stats,
            phase: Phase::Data,
        };
        body.note_end();
        body
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, StreamError>>> {
        if self.phase == Phase::Data {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(bytes)) => {
                    self.meter
                        .add_body_received(bytes.len(), bytes.len() + FRAME_HEAD);
                    // Fails only for more than was received.
                    let released = self.stream.flow_control().release_capacity(bytes.len());
                    self.note_end();
                    return Poll::Ready(Some(match released {
                        Ok(()) => Ok(Frame::Data(bytes)),
                        Err(error) => Err(stream_error(&error)),
                    }));
                }
                Some(Err(error)) => return self.fail(&error),
                None => self.phase = Phase::Trailers,
            }
        }
        if self.phase == Phase::Trailers {
            let trailers = ready!(self.stream.poll_trailers(cx));
            self.phase = Phase::Ended;
            self.meter.end_receive();
            match trailers {
                Ok(Some(trailers)) => {
                    let size = headers::size(&trailers);
                    self.meter.add_headers_received(size, size + FRAME_HEAD);
                    if let Some(stats) = &self.stats {
                        stats.trailers.inc();
                    }
                    return Poll::Ready(Some(Ok(Frame::Trailers(trailers))));
                }
                Ok(None) => {}
                Err(error) => return self.fail(&error),
            }
        }
        Poll::Ready(None)
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.phase == Phase::Ended
    }

    fn note_end(&mut self) {
        if self.stream.is_end_stream() {
            self.phase = Phase::Ended;
            self.meter.end_receive();
        }
    }

    fn fail(&mut self, error: &h2::Error) -> Poll<Option<Result<Frame, StreamError>>> {
        self.phase = Phase::Ended;
        Poll::Ready(Some(Err(stream_error(error))))
    }
}
