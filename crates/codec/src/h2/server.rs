//! The server role of HTTP/2: one task a connection, one a stream.

use std::future::Future;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::pin::pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use h2::Reason;
use h2::RecvStream;
use h2::server::Builder;
use h2::server::SendResponse;
use http::Method;
use http::Request;
use outrider_net::Stream;
use outrider_net::Timer;

use crate::Body;
use crate::ConnectionEnd;
use crate::EndCause;
use crate::Handler;
use crate::Meter;
use crate::Respond;
use crate::ServerOptions;
use crate::io::Io;
use crate::life::Expiry;
use crate::life::Life;

use super::FRAME_HEAD;
use super::RecvBody;
use super::headers;
use super::headers::Refused;
use super::keepalive::Pinger;
use super::respond;
use super::streams::ActiveStream;
use super::streams::Streams;
use super::watch::FrameWatch;

/// The most that a stream may have waiting in the connection, bytes.
const MAX_STREAM_BUFFER: u32 = 256 * 1024;

/// Serves an HTTP/2 connection, of which `already` was read before, to its end.
pub(crate) async fn serve<H: Handler>(
    socket: Stream,
    already: Vec<u8>,
    options: Rc<ServerOptions>,
    handler: Rc<H>,
) -> ConnectionEnd {
    let watch = FrameWatch::server(&options.http2, options.http2_stats.clone());
    let io = Io::new(socket, watch, options.stats.clone());
    options.http2_stats.nghttp2_downstream_connections.inc();
    let streams = Rc::new(Streams::new(io.clone(), options.clone()));
    let unread = io.unread(&already);
    // Not held for as long as the connection lives.
    drop(already);
    let cause = match unread {
        Ok(()) => run(&io, &streams, &options, handler).await,
        Err(_) => EndCause::Remote,
    };
    ConnectionEnd {
        cause,
        active_streams: streams.active(),
    }
}

async fn run<H: Handler>(
    io: &Io<FrameWatch>,
    streams: &Rc<Streams>,
    options: &Rc<ServerOptions>,
    handler: Rc<H>,
) -> EndCause {
    let mut life = Life::new(options);
    // Boxed, because it is over soon and as large as all the rest.
    let mut connection = match Box::pin(handshake(io, &mut life, options)).await {
        Ok(h2) => Connection::new(h2, life, streams, handler, options),
        Err(cause) => return cause,
    };
    let cause = poll_fn(|cx| connection.poll(cx)).await;
    drop(connection);
    linger(io, options).await;
    cause
}

/// Exchanges prefaces.
async fn handshake(
    io: &Io<FrameWatch>,
    life: &mut Life,
    options: &ServerOptions,
) -> Result<h2::server::Connection<Io<FrameWatch>, Bytes>, EndCause> {
    let mut handshake = pin!(builder(options).handshake::<_, Bytes>(io.clone()));
    poll_fn(|cx| {
        let ready = handshake.as_mut().poll(cx);
        // An error comes out of the handshake's next read.
        drop(io.poll_drain(cx));
        match ready {
            Poll::Ready(Ok(h2)) => Poll::Ready(Ok(h2)),
            Poll::Ready(Err(_)) if io.is_over() => Poll::Ready(Err(EndCause::Remote)),
            Poll::Ready(Err(_)) => Poll::Ready(Err(EndCause::ProtocolError("http2.bad_preface"))),
            Poll::Pending if life.poll(0, cx).is_some() => Poll::Ready(Err(EndCause::Local)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

fn builder(options: &ServerOptions) -> Builder {
    let http2 = &options.http2;
    let mut builder = Builder::new();
    builder
        .header_table_size(http2.hpack_table_size)
        .max_concurrent_streams(http2.max_concurrent_streams)
        .initial_window_size(http2.initial_stream_window_size)
        .initial_connection_window_size(http2.initial_connection_window_size)
        .max_send_buffer_size(options.buffer_limit.min(MAX_STREAM_BUFFER) as usize)
        // The frame watch counts resets, as configured.
        .max_pending_accept_reset_streams(usize::MAX);
    if http2.allow_connect {
        builder.enable_connect_protocol();
    }
    builder
}

/// After our last word, waits for the peer to close, so that the word is read: `delayed_close_timeout`.
async fn linger(io: &Io<FrameWatch>, options: &ServerOptions) {
    let Some(timeout) = options.delayed_close_timeout else {
        return;
    };
    let mut timer = options.timers.timer();
    timer.set(Some(options.timers.now() + timeout));
    poll_fn(|cx| {
        if io.poll_linger(cx).is_ready() {
            return Poll::Ready(());
        }
        let elapsed = timer.poll_elapsed(cx);
        if elapsed.is_ready() {
            options.stats.downstream_cx_delayed_close_timeout.inc();
        }
        elapsed
    })
    .await;
}

struct Connection<H> {
    h2: h2::server::Connection<Io<FrameWatch>, Bytes>,
    io: Io<FrameWatch>,
    streams: Rc<Streams>,
    handler: Rc<H>,
    draining: Option<Pin<Box<dyn Future<Output = ()>>>>,
    life: Life,
    pinger: Option<Pinger>,
    options: Rc<ServerOptions>,
    /// Set with the first GOAWAY: after `drain_timeout` the connection goes as soon as it has no streams, whatever the
    /// client makes of the GOAWAY.
    leaving: Option<Timer>,
    /// Why this side has cut the connection off.
    cut: Option<EndCause>,
}

impl<H: Handler> Connection<H> {
    fn new(
        mut h2: h2::server::Connection<Io<FrameWatch>, Bytes>,
        life: Life,
        streams: &Rc<Streams>,
        handler: Rc<H>,
        options: &Rc<ServerOptions>,
    ) -> Connection<H> {
        let pinger = match (&options.http2.keepalive, h2.ping_pong()) {
            (Some(settings), Some(pings)) => {
                Some(Pinger::new(pings, settings.clone(), &options.timers))
            }
            _ => None,
        };
        Connection {
            h2,
            io: streams.io().clone(),
            streams: streams.clone(),
            handler,
            draining: Some(Box::pin(options.drain.wait())),
            life,
            pinger,
            options: options.clone(),
            leaving: None,
            cut: None,
        }
    }

    /// One turn: takes what came in, looks at the clock, then writes everything that the turn has made, at once.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<EndCause> {
        self.streams.remember_task(cx);
        loop {
            while let Poll::Ready(accepted) = self.h2.poll_accept(cx) {
                match accepted {
                    Some(Ok((request, respond))) => self.start(request, respond),
                    Some(Err(error)) => return Poll::Ready(self.end(Some(&error))),
                    None => return Poll::Ready(self.end(None)),
                }
            }
            // A change of state makes frames: the crate must be polled again to write them.
            if !self.poll_policy(cx) {
                break;
            }
        }
        if let Poll::Ready(Err(_)) = self.io.poll_drain(cx) {
            // The crate finds the error when it reads, and tells the streams.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn start(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        if self.life.note_request() {
            self.options.stats.downstream_cx_max_requests_reached.inc();
            self.leave();
        }
        let (head, body) = request.into_parts();
        let size = headers::size(&head.headers);
        let stats = &self.options.http2_stats;
        let head = match headers::accept(head, size, &self.options, stats) {
            Ok(head) => head,
            // The frame watch takes this reset for the crate's, and counts it as such.
            Err(Refused::Message) => return respond.send_reset(Reason::PROTOCOL_ERROR),
            Err(Refused::Stream) => return respond.send_reset(Reason::INTERNAL_ERROR),
        };
        let meter = Rc::new(Meter::default());
        meter.add_headers_received(size, size + FRAME_HEAD);
        let body = RecvBody::new(body, meter.clone(), Some(stats.clone()));
        let body = if body.is_end_stream() {
            Body::Empty
        } else {
            Body::H2(body)
        };
        let active = ActiveStream::new(self.streams.clone(), stats);
        let respond = Respond::from(respond::Respond::new(
            respond,
            head.method == Method::HEAD,
            meter,
            self.streams.clone(),
        ));
        let served = self.handler.clone().serve(head, body, respond);
        // Boxed: the runtime copies a task's future some five times from spawn to end, and a manager's is large.
        tokio::task::spawn_local(Box::pin(async move {
            // Held in the task, so that the stream counts until its handler is done.
            let _active = active;
            served.await;
        }));
    }

    /// Obeys limits and wishes; true when that changed the connection's state.
    fn poll_policy(&mut self, cx: &mut Context<'_>) -> bool {
        let counts = self.io.with_watch(|watch| {
            let counts = watch.counts();
            (
                counts.frames_received,
                std::mem::take(&mut counts.malformed),
            )
        });
        let (received, malformed) = counts;
        if malformed && !self.options.http2.stream_error_on_invalid_message {
            // As in Envoy, a malformed message ends its connection, without GOAWAY.
            return self.cut(EndCause::ProtocolError("http2.violation.of.messaging.rule"));
        }
        if let Some(pinger) = &mut self.pinger
            && pinger.poll_dead(received, cx).is_ready()
        {
            self.options.http2_stats.keepalive_timeout.inc();
            return self.cut(EndCause::KeepaliveTimeout);
        }
        let drained = match &mut self.draining {
            Some(drain) => drain.as_mut().poll(cx).is_ready(),
            None => false,
        };
        if drained {
            self.draining = None;
            self.streams.close_if_draining();
        }
        let stats = &self.options.stats;
        let expired = match self.life.poll(self.streams.active(), cx) {
            Some(Expiry::Idle) => {
                stats.downstream_cx_idle_timeout.inc();
                true
            }
            Some(Expiry::Duration) => {
                stats.downstream_cx_max_duration_reached.inc();
                true
            }
            None => false,
        };
        if expired || self.streams.is_closing() {
            return self.leave() || self.poll_left(cx);
        }
        false
    }

    /// Begins the two steps of GOAWAY; true unless they had begun.
    fn leave(&mut self) -> bool {
        if self.leaving.is_some() {
            return false;
        }
        self.streams.close();
        let mut timer = self.options.timers.timer();
        timer.set(Some(self.options.timers.now() + self.options.drain_timeout));
        self.leaving = Some(timer);
        self.h2.graceful_shutdown();
        true
    }

    /// Ends a connection whose client stays after `drain_timeout`; true when that was now.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(timer) = &mut self.leaving else {
            return false;
        };
        if timer.poll_elapsed(cx).is_pending() || self.streams.active() > 0 {
            return false;
        }
        timer.set(None);
        self.h2.abrupt_shutdown(Reason::NO_ERROR);
        true
    }

    /// Ends the connection with all its streams, as a failure of its socket would.
    fn cut(&mut self, cause: EndCause) -> bool {
        self.cut.get_or_insert(cause);
        self.io.fail(io::ErrorKind::InvalidData);
        true
    }

    fn end(&mut self, error: Option<&h2::Error>) -> EndCause {
        let violation = self.io.with_watch(|watch| watch.counts().violation);
        match (self.cut, violation) {
            (Some(cause), _) => cause,
            (None, Some(details)) => EndCause::ProtocolError(details),
            (None, None) if error.is_some_and(h2::Error::is_library) => {
                EndCause::ProtocolError("http2.protocol_error")
            }
            (None, None) if self.leaving.is_some() && !self.io.is_over() => EndCause::Local,
            (None, None) => EndCause::Remote,
        }
    }
}
