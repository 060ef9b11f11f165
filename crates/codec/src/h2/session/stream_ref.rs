//! The handle with which a stream's task receives and sends on its stream.

use std::task::Context;
use std::task::Poll;

use bytes::Bytes;

use crate::Frame;
use crate::Reason;
use crate::ResponseHead;
use crate::StreamError;
use crate::hpack::Encoder;

use super::super::stream::StreamState;
use super::Session;
use super::SessionState;

/// A handle to a stream. Once all handles are dropped, received data is discarded.
#[derive(Debug)]
pub(in crate::h2) struct StreamRef {
    /// `None` only while the session itself holds the handle.
    pub(super) session: Option<Session>,
    pub(super) key: usize,
}

impl StreamRef {
    /// Creates another handle to the same stream.
    pub(in crate::h2) fn clone_handle(&self) -> StreamRef {
        self.with(|state, key| {
            if let Some(stream) = state.streams.get(key) {
                stream.handles += 1;
            }
        });
        StreamRef {
            session: self.session.clone(),
            key: self.key,
        }
    }

    pub(super) fn with<T: Default>(&self, work: impl FnOnce(&mut SessionState, usize) -> T) -> T {
        match &self.session {
            Some(session) => session.with(|state| work(state, self.key)),
            None => T::default(),
        }
    }

    /// Polls the next piece of the body, then the trailers; `None` at the end.
    pub(in crate::h2) fn poll_frame(
        &self,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Frame, StreamError>>> {
        self.poll_received(cx, |state, key| {
            let stream = state.streams.get(key)?;
            let data = stream.data.pop();
            stream.begun |= data.is_some();
            let Some(bytes) = data else {
                let trailers = stream.trailers.take();
                stream.note_end();
                return trailers.map(Frame::Trailers);
            };
            stream.note_end();
            state.release(key, bytes.len());
            Some(Frame::Data(bytes))
        })
    }

    /// Polls the next response head: interim ones first, then the final one. Never returns `None`.
    pub(in crate::h2) fn poll_head(
        &self,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<ResponseHead, StreamError>>> {
        self.poll_received(cx, |state, key| {
            let heads = &mut state.streams.get(key)?.heads;
            if heads.interim.is_empty() {
                return heads.last.take();
            }
            Some(heads.interim.remove(0))
        })
    }

    /// Takes received data or a head, or waits for it. Everything received before an error is returned before the
    /// error.
    fn poll_received<T>(
        &self,
        cx: &Context<'_>,
        take: impl FnOnce(&mut SessionState, usize) -> Option<T>,
    ) -> Poll<Option<Result<T, StreamError>>> {
        let Some(session) = &self.session else {
            return Poll::Ready(None);
        };
        session.with(|state| {
            if let Some(taken) = take(state, self.key) {
                return Poll::Ready(Some(Ok(taken)));
            }
            let Some(stream) = state.streams.get(self.key) else {
                return Poll::Ready(None);
            };
            if let Some(error) = &stream.error {
                return Poll::Ready(Some(Err(error.clone())));
            }
            if !stream.receiving {
                return Poll::Ready(None);
            }
            stream.wait_to_read(cx);
            Poll::Pending
        })
    }

    /// Whether everything was received and taken.
    pub(in crate::h2) fn is_fully_read(&self) -> bool {
        self.with(|state, key| {
            state
                .streams
                .get(key)
                .is_none_or(|stream| stream.is_fully_read())
        })
    }

    /// Discards what was and will be received.
    pub(in crate::h2) fn stop_reading(&self) {
        self.with(|state, key| state.stop_reading(key));
    }

    /// The error that has ended the stream, if the peer has reset it or the connection has ended.
    pub(in crate::h2) fn reset_error(&self) -> Option<StreamError> {
        self.with(|state, key| state.streams.get(key)?.send_error.clone())
    }

    /// Ready when the peer has reset the stream or the connection has ended.
    pub(in crate::h2) fn poll_reset(&self, cx: &Context<'_>) -> Poll<StreamError> {
        let Some(session) = &self.session else {
            return Poll::Ready(StreamError::ConnectionTermination);
        };
        let mut state = session.0.borrow_mut();
        match state.streams.get(self.key) {
            Some(stream) => match &stream.send_error {
                Some(error) => Poll::Ready(error.clone()),
                None => {
                    stream.wait_to_write(cx);
                    Poll::Pending
                }
            },
            None => Poll::Ready(StreamError::ConnectionTermination),
        }
    }

    /// How many bytes can be sent or buffered for this stream now; at least one.
    pub(in crate::h2) fn poll_room(&self, cx: &Context<'_>) -> Poll<Result<usize, StreamError>> {
        let Some(session) = &self.session else {
            return Poll::Ready(Err(StreamError::ConnectionTermination));
        };
        session.0.borrow_mut().poll_room(self.key, cx)
    }

    /// Sends a piece of the body, no longer than there is room for.
    pub(in crate::h2) fn send_data(&self, bytes: Bytes, ends: bool) {
        self.with(|state, key| state.send_data(key, bytes, ends));
    }

    /// Sends a header block that `encode` writes. `encode` returns the length of names and values.
    pub(in crate::h2) fn send_head(
        &self,
        ends: bool,
        encode: impl FnOnce(&mut Encoder, &mut Vec<u8>) -> usize,
    ) {
        self.with(|state, key| state.send_head(key, ends, encode));
    }

    /// Resets the stream if this side's message was sent completely and the peer's was not received completely.
    pub(in crate::h2) fn reset_unfinished_request(&self, reason: Reason) {
        self.with(|state, key| {
            let answered = (state.streams.get(key))
                .is_some_and(|stream| !stream.sending && !stream.has_end_waiting());
            if answered {
                state.reset(key, reason);
            }
        });
    }

    /// Resets the stream, unless both directions have ended.
    pub(in crate::h2) fn reset(&self, reason: Reason) {
        self.with(|state, key| state.reset(key, reason));
    }
}

impl Drop for StreamRef {
    fn drop(&mut self) {
        self.with(|state, key| {
            if let Some(stream) = state.streams.get(key) {
                stream.handles = stream.handles.saturating_sub(1);
                if stream.handles == 0 {
                    state.drop_last_handle(key);
                }
            }
        });
    }
}

impl StreamState {
    /// Creates the first handle to the stream at `key`. The session adds itself when it hands the handle out.
    pub(super) fn first_handle(&mut self, key: usize) -> StreamRef {
        self.handles += 1;
        StreamRef { session: None, key }
    }
}
