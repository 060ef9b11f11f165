//! Waiting on behalf of a stream: for as long as the client is there and no deadline has passed.

use std::future::Future;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use outrider_codec::Respond;
use outrider_codec::StreamError;

use crate::ResponseFlag;
use crate::deadlines::Deadlines;
use crate::deadlines::ExpiredTimeout;
use crate::local_reply::LocalReply;

/// Why a stream goes no further.
#[derive(Debug)]
pub(crate) enum StopReason {
    /// It is answered here.
    Reply(Box<LocalReply>),
    /// A deadline passed.
    ExpiredTimeout(ExpiredTimeout),
    /// The client reset it, or went away.
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
    pub(crate) respond: &'a mut Respond,
    pub(crate) deadlines: &'a mut Deadlines,
}

impl StreamWait<'_> {
    /// What `future` comes to, unless the client goes or a deadline passes before.
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
            if let Poll::Ready(error) = self.respond.poll_reset(cx) {
                return Poll::Ready(Err(StopReason::ClientGone(error)));
            }
            self.deadlines
                .poll_expired(self.respond.meter(), cx)
                .map(|expired| Err(StopReason::ExpiredTimeout(expired)))
        })
        .await
    }

    /// Stops a request whose body is broken: whatever came of it is only what that has led to.
    pub(crate) fn check_body(&self) -> Result<(), StopReason> {
        self.respond.malformed_body().map_or(Ok(()), |error| {
            let reply = LocalReply::new(error.status, error.details)
                .body(error.body.into_owned())
                .flag(ResponseFlag::DownstreamProtocolError);
            Err(StopReason::from(reply))
        })
    }

    /// Why the client has gone, if it has: a failure upstream may be only what that has led to.
    pub(crate) async fn client_gone(&mut self) -> Option<StopReason> {
        poll_fn(|cx| match self.respond.poll_reset(cx) {
            Poll::Ready(error) => Poll::Ready(Some(StopReason::ClientGone(error))),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }
}
