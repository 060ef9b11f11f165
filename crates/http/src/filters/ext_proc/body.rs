//! Bodies that pass by the processor piece by piece, and bodies in place of others.

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use outrider_codec::Body;
use outrider_codec::BodyStream;
use outrider_codec::Frame;
use outrider_codec::HeaderMap;
use outrider_codec::StreamError;
use outrider_config::api::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;

use super::apply;
use super::apply::Headers;
use super::conversation::Answer;
use super::conversation::Awaits;
use super::conversation::Conversation;
use super::conversation::Side;
use super::message;

/// A body whose pieces, or only whose trailers, go to the processor.
pub(super) struct ProcessedBody {
    conversation: Rc<Conversation>,
    side: Side,
    rest: Body,
    sends_pieces: bool,
    /// Whether the last data says that it is the last. To Envoy, bodies of HTTP/1 end with a piece of their own.
    ends_with_data: bool,
    /// How many bytes may wait for answers.
    limit: usize,
    /// What was sent and has no answer, the oldest first.
    pieces: VecDeque<Piece>,
    bytes: usize,
    trailers: Option<HeaderMap>,
    awaits_trailers: bool,
    read_all: bool,
    out: VecDeque<Frame>,
    ended: bool,
}

struct Piece {
    data: Bytes,
    ends: bool,
}

impl ProcessedBody {
    /// The rest of a body, as the mode of its direction says.
    pub(super) fn new(
        conversation: &Rc<Conversation>,
        side: Side,
        rest: Body,
        ends_with_data: bool,
        limit: usize,
    ) -> ProcessedBody {
        ProcessedBody {
            conversation: conversation.clone(),
            side,
            rest,
            ends_with_data,
            sends_pieces: conversation.mode(side).body == BodySendMode::Streamed,
            limit,
            pieces: VecDeque::new(),
            bytes: 0,
            trailers: None,
            awaits_trailers: false,
            read_all: false,
            out: VecDeque::new(),
            ended: false,
        }
    }

    /// Sends a piece that was read before.
    pub(super) fn push(&mut self, data: Bytes) {
        if !data.is_empty() {
            self.see_data(data, false);
        }
    }

    /// Sends what has arrived, while the processor has not answered to the headers.
    pub(super) fn read_early(&mut self, cx: &mut Context<'_>) {
        while self.poll_source(cx).is_ready() && !self.read_all {}
    }

    fn is_observing(&self) -> bool {
        self.conversation.shared.config.is_observing
    }

    /// Reads and handles one frame.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if self.read_all || self.bytes > self.limit {
            return Poll::Pending;
        }
        if self.sends_pieces && !self.is_observing() {
            ready!(self.conversation.poll_room(cx));
        }
        match ready!(self.rest.poll_frame(cx)) {
            Some(Ok(Frame::Data(data))) => {
                self.read_all = self.rest.is_end_stream();
                self.see_data(data, self.read_all && self.ends_with_data);
                if self.read_all && !self.ends_with_data {
                    self.see_data(Bytes::new(), true);
                }
            }
            Some(Ok(Frame::Trailers(trailers))) => {
                self.read_all = true;
                self.trailers = Some(trailers);
            }
            None => {
                self.read_all = true;
                self.see_data(Bytes::new(), true);
            }
            Some(Err(error)) => {
                self.read_all = true;
                self.ended = true;
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn see_data(&mut self, data: Bytes, ends: bool) {
        let sends = self.sends_pieces && !self.conversation.is_over();
        if sends {
            let message = message::body(self.side, &data, ends);
            self.conversation.send(self.side, message, Awaits::Pieces);
        }
        if sends && !self.is_observing() {
            self.bytes += data.len();
            self.pieces.push_back(Piece { data, ends });
        } else if !data.is_empty() {
            self.out.push_back(Frame::Data(data));
        }
    }

    fn waits(&self) -> bool {
        self.awaits_trailers || !self.pieces.is_empty()
    }

    fn apply(&mut self, answer: Answer) -> Result<(), StreamError> {
        let is_response = self.side == Side::Response;
        let is_last_side = is_response || self.conversation.ignores_response();
        match answer {
            Answer::Over => {
                let pieces = self.pieces.drain(..).filter(|piece| !piece.data.is_empty());
                self.out.extend(pieces.map(|piece| Frame::Data(piece.data)));
                self.bytes = 0;
                self.awaits_trailers = false;
            }
            Answer::Body(common) => {
                if let Some(piece) = self.pieces.pop_front() {
                    self.bytes -= piece.data.len();
                    let data = apply::mutated(common.body_mutation).unwrap_or(piece.data);
                    if !data.is_empty() {
                        self.out.push_back(Frame::Data(data));
                    }
                    self.conversation.applied(piece.ends && is_last_side);
                }
            }
            Answer::Trailers(mutation) => {
                self.awaits_trailers = false;
                if let Some(mut trailers) = self.trailers.take() {
                    let cx = self.conversation.mutation_cx(self.side, false);
                    let mut headers = Headers::Trailers(&mut trailers);
                    if let Err(text) = apply::mutate(&mutation, &mut headers, &cx) {
                        let _ = self.conversation.refuse(&text);
                        self.ended = true;
                        return Err(StreamError::LocalReset);
                    }
                    self.out.push_back(Frame::Trailers(trailers));
                    self.ended = true;
                }
                self.conversation.applied(is_last_side);
            }
            Answer::Headers(_) => {} // they were answered before the body is read
        }
        Ok(())
    }

    /// All data has passed: what is left are the trailers.
    fn finish(&mut self) {
        let Some(trailers) = self.trailers.take() else {
            self.ended = true;
            return;
        };
        let conversation = &self.conversation;
        if conversation.mode(self.side).trailers && !conversation.is_over() {
            let message = message::trailers(&conversation.shared.config, self.side, &trailers);
            conversation.send(self.side, message, Awaits::Trailers);
            if !self.is_observing() {
                self.trailers = Some(trailers);
                self.awaits_trailers = true;
                return;
            }
        }
        self.out.push_back(Frame::Trailers(trailers));
        self.ended = true;
    }
}

impl BodyStream for ProcessedBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        loop {
            if let Some(frame) = self.out.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            if self.waits()
                && let Poll::Ready(answer) = self.conversation.poll_answer(self.side, cx)
            {
                let applied = answer
                    .map_err(|_| StreamError::LocalReset)
                    .and_then(|answer| self.apply(answer));
                if let Err(error) = applied {
                    self.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
                continue;
            }
            if self.read_all && !self.waits() {
                self.finish();
                continue;
            }
            if let Err(error) = ready!(self.poll_source(cx)) {
                return Poll::Ready(Some(Err(error)));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.out.is_empty()
    }

    fn set_paused(&mut self, paused: bool) {
        self.rest.set_paused(paused);
    }
}

/// New bytes in place of a body. What still arrives of the body is dropped, and its trailers stay.
pub(super) struct ReplacedBody {
    new: Bytes,
    rest: Body,
}

impl ReplacedBody {
    /// Puts `new` in place of `body`.
    pub(super) fn replace(body: &mut Body, new: Bytes) {
        let rest = std::mem::take(body);
        *body = match rest.is_end_stream() {
            true => Body::full(new),
            false => Body::wrap(ReplacedBody { new, rest }),
        };
    }
}

impl BodyStream for ReplacedBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        if !self.new.is_empty() {
            let new = std::mem::take(&mut self.new);
            return Poll::Ready(Some(Ok(Frame::Data(new))));
        }
        loop {
            match ready!(self.rest.poll_frame(cx)) {
                Some(Ok(Frame::Data(_))) if self.rest.is_end_stream() => return Poll::Ready(None),
                Some(Ok(Frame::Data(_))) => {}
                other => return Poll::Ready(other),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.new.is_empty() && self.rest.is_end_stream()
    }

    fn set_paused(&mut self, paused: bool) {
        self.rest.set_paused(paused);
    }
}

/// A body of which nothing is left. As in Envoy, that is known only when it is read: the headers do not tell it.
#[derive(Default)]
pub(super) struct EmptiedBody {
    ended: bool,
}

impl BodyStream for EmptiedBody {
    fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        self.ended = true;
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Frames(VecDeque<Frame>);

    impl BodyStream for Frames {
        fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }
    }

    #[tokio::test]
    async fn a_replaced_body_keeps_only_its_trailers() {
        let data = || Frame::Data(Bytes::from_static(b"old"));
        for (frames, trailers) in [
            (vec![data(), data()], 0),
            (vec![data(), Frame::Trailers(HeaderMap::new())], 1),
            (Vec::new(), 0),
        ] {
            let mut body = Body::wrap(Frames(frames.into()));
            ReplacedBody::replace(&mut body, Bytes::from_static(b"new"));
            let (mut bytes, mut found) = (Vec::new(), 0);
            while let Some(frame) = body.frame().await {
                match frame.unwrap() {
                    Frame::Data(data) => bytes.extend_from_slice(&data),
                    Frame::Trailers(_) => found += 1,
                }
            }
            assert_eq!((bytes.as_slice(), found), (&b"new"[..], trailers));
            assert!(body.is_end_stream());
        }
    }
}
