//! Waiting on behalf of a stream, until the client leaves or a deadline passes.

use std::future::Future;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Context;
use std::task::Poll;

use outrider_codec::Responder;
use outrider_codec::StreamError;

use crate::ResponseFlag;
use crate::deadlines::ExpiredTimeout;
use crate::deadlines::StreamDeadlines;
use crate::filters::LateReply;
use crate::filters::LateReplySlot;
use crate::local_reply::LocalReply;

/// Why a wait ended early.
#[derive(Debug)]
pub(crate) enum StopReason {
    /// The proxy replies to the request.
    Reply(Box<LocalReply>),
    /// A deadline passed.
    ExpiredTimeout(ExpiredTimeout),
    /// The client reset the stream, or closed its connection.
    ClientGone(StreamError),
}

impl From<LocalReply> for StopReason {
    fn from(reply: LocalReply) -> StopReason {
        StopReason::Reply(Box::new(reply))
    }
}

/// The client and the deadlines of one stream.
#[derive(Debug)]
pub(crate) struct StreamWait<'a> {
    pub(crate) respond: &'a mut Responder,
    pub(crate) deadlines: &'a mut StreamDeadlines,
    /// The reply by which a body ends the stream.
    pub(crate) late_reply: &'a LateReplySlot,
}

impl StreamWait<'_> {
    /// The output of `future`, unless the client leaves or a deadline passes first.
    pub(crate) async fn until<T>(
        &mut self,
        future: impl Future<Output = T>,
    ) -> Result<T, StopReason> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            let outcome = future.as_mut().poll(cx);
            self.check_body()?;
            if let Poll::Ready(output) = outcome {
                return Poll::Ready(Ok(output));
            }
            LateReply::register(self.late_reply, cx);
            self.poll_stopped(cx).map(Err)
        })
        .await
    }

    /// Like [`until`](Self::until), for a stream whose response has arrived: it is used even if the request's body is
    /// broken.
    pub(crate) async fn until_answered<T>(
        &mut self,
        future: impl Future<Output = T>,
    ) -> Result<T, StopReason> {
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => {
                self.check_body()?;
                LateReply::register(self.late_reply, cx);
                self.poll_stopped(cx).map(Err)
            }
        })
        .await
    }

    /// Fails if the client has left already: then nothing is to be done for it, here or upstream.
    pub(crate) fn check_client(&self) -> Result<(), StopReason> {
        let gone = self.respond.reset_error();
        gone.map_or(Ok(()), |error| Err(StopReason::ClientGone(error)))
    }

    fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<StopReason> {
        if let Poll::Ready(error) = self.respond.poll_reset(cx) {
            return Poll::Ready(StopReason::ClientGone(error));
        }
        self.deadlines
            .poll_expired(self.respond.meter(), cx)
            .map(StopReason::ExpiredTimeout)
    }

    /// Fails if the request's body is broken, or has ended the stream. Then a failure upstream is only a consequence of
    /// that, and is not reported.
    pub(crate) fn check_body(&self) -> Result<(), StopReason> {
        if let Some(reply) = LateReply::take(self.late_reply) {
            return Err(reply.into());
        }
        self.respond.malformed_body().map_or(Ok(()), |error| {
            let reply = LocalReply::new(error.status, error.details)
                .body(error.body.into_owned())
                .flag(ResponseFlag::DownstreamProtocolError);
            Err(StopReason::from(reply))
        })
    }

    /// Whether the client has left. Then a failure upstream may be only a consequence of that.
    pub(crate) async fn client_gone(&mut self) -> Option<StopReason> {
        poll_fn(|cx| match self.respond.poll_reset(cx) {
            Poll::Ready(error) => Poll::Ready(Some(StopReason::ClientGone(error))),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }
}
