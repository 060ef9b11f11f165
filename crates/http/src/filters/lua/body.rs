//! Bodies that a script watches while they stream.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use http::Version;
use outrider_codec::Body;
use outrider_codec::BodyStream;
use outrider_codec::Frame;
use outrider_codec::StreamError;

use crate::Stream;

use super::call::CallResult;
use super::driver::Progress;
use super::driver::Resumption;
use super::driver::Script;
use super::run::Direction;
use super::run::Operation;

/// A body whose parts a script sees, and may change, on their way.
pub(super) struct ScriptBody {
    body: Body,
    script: Script,
    waits: BodyWait,
    /// Frames that the script has seen. They are held back while it waits for a call.
    seen: VecDeque<Frame>,
    /// Whether the last part of the body is known as the last when it comes. As in Envoy, an HTTP/1 body ends with an
    /// empty part.
    ends_with_data: bool,
    ended: bool,
}

/// What the script waits for.
enum BodyWait {
    Nothing,
    Chunk,
    Trailers,
    Call(Pin<Box<dyn Future<Output = CallResult>>>),
}

impl ScriptBody {
    /// Wraps `body` for a script that waits for a part of it.
    pub(super) fn wrap(script: Script, operation: Operation, stream: &Stream, body: &mut Body) {
        let protocol = match script.run.direction {
            Direction::Request => Some(stream.protocol),
            Direction::Response => stream.upstream.as_ref().and_then(|up| up.protocol),
        };
        *body = Body::wrap(ScriptBody {
            body: std::mem::take(body),
            script,
            waits: match operation {
                Operation::Trailers => BodyWait::Trailers,
                _ => BodyWait::Chunk,
            },
            seen: VecDeque::new(),
            ends_with_data: protocol.is_none_or(|protocol| protocol == Version::HTTP_2),
            ended: false,
        });
    }

    /// Runs the script until it waits again.
    fn resume(&mut self, with: Resumption) {
        let run = self.script.run.clone();
        let mut progress = run.running(|| self.script.resume(with));
        self.waits = loop {
            progress = match progress {
                Progress::Ended => break BodyWait::Nothing,
                Progress::Waits(Operation::Chunk) => break BodyWait::Chunk,
                Progress::Waits(Operation::Trailers) => break BodyWait::Trailers,
                Progress::Waits(Operation::Call(call)) => {
                    let client = run.environment.client.clone();
                    break BodyWait::Call(Box::pin(async move { call.make(&client).await }));
                }
                // The route is not found again once the headers have gone.
                Progress::Waits(Operation::Reroute) => {
                    run.running(|| self.script.resume(Resumption::Nothing))
                }
                // Both fail once the headers have gone.
                Progress::Waits(Operation::Body { .. }) | Progress::Replied(_) => {
                    break BodyWait::Nothing;
                }
            };
        };
    }

    fn see_data(&mut self, data: Bytes, ends: bool) {
        let run = self.script.run.clone();
        run.saw_body.set(true);
        run.end_stream.set(ends);
        let mut data = data;
        match self.waits {
            BodyWait::Chunk => {
                run.live.borrow_mut().body = Some(data.into());
                self.resume(Resumption::Body);
                data = run.live.borrow_mut().body.take().unwrap_or_default().into();
            }
            BodyWait::Trailers if ends => self.resume(Resumption::Nothing),
            _ => {}
        }
        if !data.is_empty() {
            self.seen.push_back(Frame::Data(data));
        }
    }

    fn see(&mut self, frame: Option<Frame>) {
        let run = self.script.run.clone();
        match frame {
            Some(Frame::Data(data)) => {
                let ends = self.ends_with_data && self.body.is_end_stream();
                self.ended = ends;
                self.see_data(data, ends);
            }
            Some(Frame::Trailers(trailers)) => {
                self.ended = true;
                run.end_stream.set(true);
                run.live.borrow_mut().trailers = Some(trailers);
                if let BodyWait::Chunk = self.waits {
                    self.resume(Resumption::Nothing);
                }
                if let BodyWait::Trailers = self.waits {
                    self.resume(Resumption::Trailers);
                }
                let trailers = run.live.borrow_mut().trailers.take();
                self.seen.extend(trailers.map(Frame::Trailers));
            }
            None => {
                self.ended = true;
                self.see_data(Bytes::new(), true);
            }
        }
    }
}

impl BodyStream for ScriptBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        loop {
            if let BodyWait::Call(call) = &mut self.waits {
                let result = ready!(call.as_mut().poll(cx));
                self.resume(Resumption::Response(result));
                continue;
            }
            if let Some(frame) = self.seen.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match ready!(self.body.poll_frame(cx)) {
                Some(Ok(frame)) => self.see(Some(frame)),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.see(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.seen.is_empty() && !matches!(self.waits, BodyWait::Call(_))
    }

    fn set_paused(&mut self, paused: bool) {
        self.body.set_paused(paused);
    }
}
