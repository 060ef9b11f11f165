//! One stream over a TCP connection without HTTP: a tunnel that ends at this proxy. The request's body goes to the host as
//! it is, and what the host sends is the response's body.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use http::StatusCode;
use outrider_net::NetworkStream;

use crate::Body;
use crate::Frame;
use crate::Meter;
use crate::ResponseHead;
use crate::StreamError;
use crate::stats::ByteCounts;

use super::sink::BodySink;
use super::transport::Filled;
use super::transport::Transport;

/// The owner of a TCP connection, which counts how it ends.
pub trait TcpConnectionOwner: fmt::Debug {
    /// The host has closed or reset the connection.
    fn closed_by_host(&mut self);
    /// Both sides have ended.
    fn finished(&mut self);
}

/// A tunnel's exchange. Polling it sends the request's body and receives the response. Dropping it closes the connection.
pub(crate) struct TcpExchange {
    transport: RefCell<Transport>,
    sink: BodySink,
    /// The request's remaining body.
    upload: Option<Body>,
    /// The host was told the request's end.
    write_ended: bool,
    /// The response has ended, or has failed.
    ended: bool,
    meter: Rc<Meter>,
    owner: Box<dyn TcpConnectionOwner>,
}

impl TcpExchange {
    /// Sends `first`, then `body`.
    pub(crate) fn new(
        socket: NetworkStream,
        (counts, buffer_limit): (Arc<dyn ByteCounts>, u32),
        (first, body): (Bytes, Body),
        owner: Box<dyn TcpConnectionOwner>,
    ) -> TcpExchange {
        let mut transport = Transport::new(socket, counts, buffer_limit, &[]);
        transport.write_bytes(first);
        TcpExchange {
            transport: RefCell::new(transport),
            sink: BodySink::plain(buffer_limit),
            upload: Some(body),
            write_ended: false,
            ended: false,
            meter: Rc::default(),
            owner,
        }
    }

    pub(crate) fn meter(&self) -> &Rc<Meter> {
        &self.meter
    }

    pub(crate) fn request_sent(&self) -> bool {
        self.upload.is_none()
    }

    /// The response's head: the host is connected, so the tunnel exists.
    pub(crate) fn head() -> ResponseHead {
        StatusCode::OK.into()
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, StreamError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Err(error) = self.poll_upload(cx) {
            self.ended = true;
            return Poll::Ready(Some(Err(error)));
        }
        let transport = self.transport.get_mut();
        match ready!(transport.poll_fill(cx)) {
            Ok(Filled::Some) => {
                let bytes = transport.input.split().freeze();
                self.meter.add_body_received(bytes.len(), bytes.len());
                Poll::Ready(Some(Ok(Frame::Data(bytes))))
            }
            // The rest of a complete request is still sent.
            Ok(Filled::End) if self.upload.is_none() && !self.write_ended => Poll::Pending,
            Ok(Filled::End) => {
                self.ended = true;
                self.meter.end_receive();
                if self.write_ended {
                    self.owner.closed_by_host();
                    self.owner.finished();
                }
                Poll::Ready(None)
            }
            Err(_) => {
                self.ended = true;
                Poll::Ready(Some(Err(self.lost())))
            }
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.ended
    }

    /// The host's connection has failed.
    fn lost(&mut self) -> StreamError {
        self.owner.closed_by_host();
        StreamError::ConnectionTermination
    }

    /// Sends as much of the request as possible.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), StreamError> {
        while let Some(body) = &mut self.upload {
            match self.sink.poll_room(&self.transport, body, cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Err(self.lost()),
                Poll::Pending => return Ok(()),
            }
            match body.poll_frame(cx) {
                Poll::Ready(Some(Ok(Frame::Data(bytes)))) => {
                    let transport = self.transport.get_mut();
                    self.sink.write(bytes, transport, &self.meter);
                }
                Poll::Ready(Some(Ok(Frame::Trailers(_))) | None) => {
                    self.meter.end_send();
                    self.upload = None;
                }
                Poll::Ready(Some(Err(error))) => return Err(error),
                Poll::Pending => break,
            }
        }
        let transport = self.transport.get_mut();
        match transport.poll_drain(cx) {
            Poll::Ready(Ok(())) => {
                if self.upload.is_none() && !self.write_ended {
                    self.write_ended = transport.poll_shutdown(cx).is_ready();
                }
                Ok(())
            }
            Poll::Ready(Err(_)) => Err(self.lost()),
            Poll::Pending => Ok(()),
        }
    }
}

impl fmt::Debug for TcpExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpExchange")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use outrider_stats::http::ConnectionStats;
    use tokio::io::AsyncReadExt as _;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixStream;

    use super::*;

    #[derive(Debug, Default)]
    struct Owner(Rc<Cell<(bool, bool)>>);

    impl TcpConnectionOwner for Owner {
        fn closed_by_host(&mut self) {
            self.0.set((true, self.0.get().1));
        }

        fn finished(&mut self) {
            self.0.set((self.0.get().0, true));
        }
    }

    /// A request whose body never ends.
    struct Endless;

    impl crate::BodyStream for Endless {
        fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
            Poll::Pending
        }

        fn is_end_stream(&self) -> bool {
            false
        }
    }

    fn tunnel(body: Body) -> (UnixStream, Body, Rc<Cell<(bool, bool)>>) {
        let (host, socket) = UnixStream::pair().unwrap();
        let owner = Owner::default();
        let seen = owner.0.clone();
        let counts: Arc<dyn ByteCounts> = Arc::new(ConnectionStats::default());
        let exchange = crate::UpstreamExchange::over_tcp(
            NetworkStream::Unix(socket),
            (counts, 1 << 20),
            (Bytes::from_static(b"PROXY "), body),
            Box::new(owner),
        );
        (host, exchange.into_body(), seen)
    }

    #[tokio::test]
    async fn the_request_goes_to_the_host_and_its_bytes_come_back() {
        let (mut host, mut body, seen) = tunnel(Body::full("hello"));
        host.write_all(b"bye").await.unwrap();
        let Some(Ok(Frame::Data(data))) = body.frame().await else {
            panic!("no data");
        };
        assert_eq!(data.as_ref(), b"bye");
        let mut sent = String::new();
        host.read_to_string(&mut sent).await.unwrap();
        assert_eq!(sent, "PROXY hello");
        assert_eq!(seen.get(), (false, false));
        drop(host);
        assert!(body.frame().await.is_none());
        assert_eq!(seen.get(), (true, true));
    }

    #[tokio::test]
    async fn a_host_that_ends_first_leaves_the_request_unfinished() {
        let (host, mut body, seen) = tunnel(Body::wrap(Endless));
        drop(host);
        assert!(matches!(
            body.frame().await,
            None | Some(Err(StreamError::ConnectionTermination))
        ));
        assert!(!seen.get().1);
    }
}
