//! The server role of HTTP/1: one task per connection, which serves one request after the other.

use std::cell::Cell;
use std::cell::RefCell;
use std::future::Future;
use std::future::poll_fn;
use std::pin::Pin;
use std::pin::pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use http::Method;
use http::Version;
use outrider_net::Stream;
use outrider_net::Timer;
use outrider_stats::Held;
use tokio::time::Instant;

use crate::Body;
use crate::ConnectionEnd;
use crate::EndCause;
use crate::Handler;
use crate::MalformedRequest;
use crate::Meter;
use crate::Refused;
use crate::Respond;
use crate::ServerOptions;
use crate::StreamError;
use crate::life::Expiry;
use crate::life::Life;
use crate::meter::HeadSize;
use crate::stats::ConnectionStats;

use super::framing::Framing;
use super::head;
use super::head::Limits;
use super::head::Received;
use super::recv::RecvBody;
use super::recv::Shared;
use super::respond;
use super::transport::Filled;
use super::transport::Transport;
use super::turn;

/// Serves an HTTP/1 connection to its end. The bytes in `already` were read before.
pub(crate) async fn serve<H: Handler>(
    socket: Stream,
    already: Vec<u8>,
    options: Rc<ServerOptions>,
    life: Life,
    handler: Rc<H>,
) -> ConnectionEnd {
    let transport = Transport::new(
        socket,
        options.stats.clone(),
        options.buffer_limit,
        &already,
    )
    .with_activity(options.activity.connection());
    let shared = Rc::new(Shared {
        transport: RefCell::new(transport),
        framing: RefCell::new(Framing::None),
        limits: Limits {
            bytes: options.max_request_headers_kb as usize * 1024,
            fields: options.max_headers_count as usize,
            underscores: options.underscores,
        },
        keep_trailers: options.http1.enable_trailers,
        stats: options.http1_stats.clone(),
        answered: Cell::new(false),
        closing: Cell::new(false),
        closing_soon: Cell::new(false),
        draining: Cell::new(false),
        drained: Cell::new(false),
        life: RefCell::new(life),
        broken: Cell::new(false),
        malformed: Cell::new(None),
    });
    // Freed now, not when the connection ends.
    drop(already);
    let mut connection = Connection {
        waiting: Waiting {
            soft_drain: None,
            head_timer: options.timers.timer(),
            head_begun: None,
            head_bytes: 0,
            searched: 0,
            gave_way: false,
        },
        shared,
        options,
        handler,
    };
    loop {
        match connection.next().await {
            Next::Request(head) => match connection.serve(head).await {
                After::KeepAlive => {}
                After::Closed => return connection.close(false, EndCause::Local).await,
                After::Unread => {
                    let cause = connection.body_fault().unwrap_or(EndCause::Local);
                    return connection.close(false, cause).await;
                }
                After::ClosedEarly => {
                    let cause = connection.body_fault().unwrap_or(EndCause::Local);
                    return connection.close(true, cause).await;
                }
                After::Gone => {
                    return ConnectionEnd {
                        cause: connection.body_fault().unwrap_or(EndCause::Remote),
                        active_streams: 1,
                    };
                }
            },
            Next::Malformed(error) => {
                let cause = if error.is_timeout() {
                    EndCause::Local
                } else {
                    EndCause::ProtocolError(error.details)
                };
                let early = connection.refuse(error).await;
                return connection.close(early, cause).await;
            }
            Next::Close(cause) => {
                let early = connection.flush().await && cause.is_local();
                return connection.close(early, cause).await;
            }
            Next::Abandoned => return connection.abandoned(),
        }
    }
}

/// What happened while waiting for the next request.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one of it a connection, for a moment"
)]
enum Next {
    Request(Received),
    Malformed(MalformedRequest),
    Close(EndCause),
    /// The client closed the connection in the middle of a head.
    Abandoned,
}

/// The state of the connection after a request.
enum After {
    /// Ready for the next request.
    KeepAlive,
    /// Both messages are complete, and one of them announced that the connection closes.
    Closed,
    /// The client may still be sending: it gets time to read the response.
    ClosedEarly,
    /// The client closed the connection.
    Gone,
    /// The client stopped reading its response.
    Unread,
}

struct Connection<H> {
    shared: Rc<Shared>,
    waiting: Waiting,
    options: Rc<ServerOptions>,
    handler: Rc<H>,
}

/// State for the time between requests.
struct Waiting {
    /// Counts the connection as one that will close after its next response.
    soft_drain: Option<Held<ConnectionStats>>,
    /// Fires at the shortest of the timeouts that count from a head's first byte. Reused when closing.
    head_timer: Timer,
    /// When the first byte arrived; reset when the head is complete.
    head_begun: Option<Instant>,
    /// Bytes removed from the input for the current head, including empty lines before it.
    head_bytes: usize,
    searched: usize,
    /// This task has yielded to other tasks since the last request.
    gave_way: bool,
}

impl<H: Handler> Connection<H> {
    async fn next(&mut self) -> Next {
        let (shared, options) = (&self.shared, &self.options);
        let waiting = &mut self.waiting;
        if waiting.head_begun.take().is_some() {
            waiting.head_timer.set(None);
        }
        poll_fn(|cx| waiting.poll_next(shared, options, cx)).await
    }

    /// Serves one request, from its head to the last byte of its response.
    async fn serve(&mut self, request: Received) -> After {
        if self.shared.life.borrow_mut().note_request() {
            self.options.stats.downstream_cx_max_requests_reached.inc();
            // Already draining, so that a drain of the server does not count this connection again, as in Envoy.
            self.shared.draining.set(true);
            self.shared.closing.set(true);
        }
        if !request.keep_alive {
            self.shared.closing.set(true);
        }
        let meter = Rc::new(Meter::default());
        meter.set_receive_began(self.waiting.head_begun);
        meter.add_headers_received(HeadSize::http1(request.field_bytes, request.bytes));
        let body = if request.framing.is_done() {
            meter.end_receive();
            Body::Empty
        } else {
            Body::H1(RecvBody::new(self.shared.clone(), meter.clone()))
        };
        *self.shared.framing.borrow_mut() = request.framing;
        let head = request.head;
        let respond = self.respond(head.method.clone(), request.version, meter);
        let served = pin!(self.handler.clone().serve(head, body, respond));
        self.drive(served).await;
        if !self.goes_on() && !self.flush().await {
            return After::Unread;
        }
        self.after(self.shared.answered.get())
    }

    /// Responds to a request that could not be parsed. Returns whether the client read the response.
    async fn refuse(&mut self, error: MalformedRequest) -> bool {
        self.shared.closing.set(true);
        let meter = Rc::new(Meter::default());
        meter.set_receive_began(self.waiting.head_begun);
        let respond = self.respond(Method::GET, Version::HTTP_11, meter);
        let answered = pin!(self.handler.clone().malformed(error, respond));
        self.drive(answered).await;
        self.flush().await
    }

    /// Reports a request whose client closed the connection before the head was complete.
    fn abandoned(&self) -> ConnectionEnd {
        let meter = Rc::new(Meter::default());
        let unread = self.shared.transport.borrow().input.len();
        let bytes = self.waiting.head_bytes + unread;
        meter.set_receive_began(self.waiting.head_begun);
        meter.add_headers_received(HeadSize::http1(0, bytes));
        let gone = Refused::Error(StreamError::ConnectionTermination);
        let handler = self.handler.clone();
        handler.refused(gone, Version::HTTP_11, meter);
        ConnectionEnd {
            cause: EndCause::Remote,
            active_streams: 1,
        }
    }

    /// Makes the responder for the next request.
    fn respond(&self, method: Method, version: Version, meter: Rc<Meter>) -> Respond {
        self.shared.answered.set(false);
        let respond = respond::Respond::new(
            self.shared.clone(),
            self.options.clone(),
            respond::Of { method, version },
            meter,
        );
        Respond::from(respond)
    }

    /// Runs a handler in this task. The bytes that it queues in one poll are written after the other ready tasks have
    /// run.
    async fn drive(&mut self, mut served: Pin<&mut impl Future<Output = ()>>) {
        let (shared, options) = (&self.shared, &self.options);
        let waiting = &mut self.waiting;
        poll_fn(|cx| {
            if shared.life.borrow().watches_streams() {
                waiting.poll_life(1, shared, options, cx);
            }
            let done = served.as_mut().poll(cx);
            // An error will show when the handler next polls its client, or in `state_after_request`.
            if shared.transport.borrow_mut().puts_off(cx) {
                turn::put_off(shared.clone());
            }
            done
        })
        .await;
    }

    /// Writes the queued bytes before the connection closes. Returns false if the client reads nothing for
    /// `delayed_close_timeout`.
    async fn flush(&mut self) -> bool {
        let (shared, options) = (&self.shared, &self.options);
        let timer = &mut self.waiting.head_timer;
        let mut left = 0;
        poll_fn(|cx| {
            let mut transport = shared.transport.borrow_mut();
            if transport.poll_drain(cx).is_ready() {
                return Poll::Ready(true);
            }
            let Some(timeout) = options.delayed_close_timeout else {
                return Poll::Pending;
            };
            if std::mem::replace(&mut left, transport.queued()) != left {
                timer.set(Some(options.timers.now() + timeout));
            }
            ready!(timer.poll_elapsed(cx));
            options.stats.downstream_cx_delayed_close_timeout.inc();
            Poll::Ready(false)
        })
        .await
    }

    /// Whether the connection can serve another request.
    fn goes_on(&self) -> bool {
        let shared = &self.shared;
        shared.answered.get() && shared.is_request_read() && !shared.closing.get()
    }

    fn after(&self, response_ended: bool) -> After {
        let shared = &self.shared;
        let gone = {
            let transport = shared.transport.borrow();
            transport.ended || transport.has_failed()
        };
        if !response_ended {
            // This side cut off the response: it closes the connection after the client had time to read what was sent.
            return if shared.broken.get() && !gone {
                After::ClosedEarly
            } else {
                After::Gone
            };
        }
        if shared.transport.borrow().has_failed() {
            return After::Gone;
        }
        if !shared.is_request_read() || shared.drained.get() {
            return After::ClosedEarly;
        }
        if shared.closing.get() {
            After::Closed
        } else {
            After::KeepAlive
        }
    }

    /// The connection's end if the request body had invalid framing.
    fn body_fault(&self) -> Option<EndCause> {
        let error = self.shared.malformed.get();
        error.map(|error| EndCause::ProtocolError(error.details))
    }

    /// Closes the connection. If `early`, the client may still be sending: waits up to `delayed_close_timeout` so that
    /// it can read the response.
    async fn close(&mut self, early: bool, cause: EndCause) -> ConnectionEnd {
        let mut end = ConnectionEnd {
            cause,
            active_streams: 0,
        };
        let Some(timeout) = self.options.delayed_close_timeout.filter(|_| early) else {
            return end;
        };
        // What the client still sends is thrown away.
        self.shared.transport.borrow_mut().set_in_use(false);
        let timer = &mut self.waiting.head_timer;
        timer.set(Some(self.options.timers.now() + timeout));
        poll_fn(|cx| {
            let mut transport = self.shared.transport.borrow_mut();
            if timer.poll_elapsed(cx).is_ready() {
                self.options.stats.downstream_cx_delayed_close_timeout.inc();
                return Poll::Ready(());
            }
            loop {
                transport.input.clear();
                if !matches!(ready!(transport.poll_fill(cx)), Ok(Filled::Some)) {
                    if end.cause == EndCause::Local {
                        // No error occurred, and the client closed first.
                        end.cause = EndCause::Remote;
                    }
                    return Poll::Ready(());
                }
            }
        })
        .await;
        end
    }
}

impl Waiting {
    fn poll_next(
        &mut self,
        shared: &Shared,
        options: &ServerOptions,
        cx: &mut Context<'_>,
    ) -> Poll<Next> {
        let next = self.poll_message(shared, options, cx);
        let mut transport = shared.transport.borrow_mut();
        let in_use = next.is_ready() || self.head_begun.is_some() || !transport.input.is_empty();
        transport.set_in_use(in_use);
        next
    }

    fn poll_message(
        &mut self,
        shared: &Shared,
        options: &ServerOptions,
        cx: &mut Context<'_>,
    ) -> Poll<Next> {
        let mut transport = shared.transport.borrow_mut();
        match transport.poll_unblocked(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(Next::Close(EndCause::Remote)),
            // A client that does not read its responses gets no further ones.
            Poll::Pending => return self.poll_time(self.head_begun.is_none(), shared, options, cx),
        }
        if !transport.input.is_empty() {
            if !std::mem::replace(&mut self.gave_way, true) {
                return turn::give_way(cx);
            }
            let before = transport.input.len();
            let taken = head::take_request(
                &mut transport.input,
                &mut self.searched,
                shared.limits,
                &options.http1,
                &options.http1_stats,
            );
            self.head_bytes += before - transport.input.len();
            match taken {
                Ok(Some(mut head)) => {
                    self.gave_way = false;
                    head.bytes = std::mem::take(&mut self.head_bytes);
                    return Poll::Ready(Next::Request(head));
                }
                // Empty lines before a head count as its beginning.
                Ok(None) => self.begin_head(options),
                Err(error) => return Poll::Ready(Next::Malformed(error.into_malformed())),
            }
        }
        match transport.poll_fill(cx) {
            Poll::Ready(Ok(Filled::Some)) => {
                self.gave_way = true;
                turn::give_way(cx)
            }
            Poll::Ready(Ok(Filled::End) | Err(_)) if self.head_begun.is_some() => {
                Poll::Ready(Next::Abandoned)
            }
            Poll::Ready(Ok(Filled::End) | Err(_)) => Poll::Ready(Next::Close(EndCause::Remote)),
            Poll::Pending => self.poll_time(self.head_begun.is_none(), shared, options, cx),
        }
    }

    fn begin_head(&mut self, options: &ServerOptions) {
        if self.head_begun.is_none() {
            let now = options.timers.now();
            self.head_begun = Some(now);
            let timeout = options.head_timeout();
            self.head_timer
                .set(timeout.map(|(timeout, _)| now + timeout));
        }
    }

    fn poll_time(
        &mut self,
        idle: bool,
        shared: &Shared,
        options: &ServerOptions,
        cx: &mut Context<'_>,
    ) -> Poll<Next> {
        if self.head_begun.is_some()
            && self.head_timer.poll_elapsed(cx).is_ready()
            && let Some((_, late)) = options.head_timeout()
        {
            return Poll::Ready(Next::Malformed(late));
        }
        self.poll_life(usize::from(!idle), shared, options, cx);
        if idle && shared.closing.get() {
            return Poll::Ready(Next::Close(EndCause::Local));
        }
        Poll::Pending
    }

    /// Applies the deadlines that have expired.
    fn poll_life(
        &mut self,
        active: usize,
        shared: &Shared,
        options: &ServerOptions,
        cx: &mut Context<'_>,
    ) {
        loop {
            let expiry = shared.life.borrow_mut().poll(active, cx);
            let Some(expiry) = expiry else {
                return;
            };
            expiry.count(&options.stats);
            match expiry {
                Expiry::Drained => shared.drained.set(!shared.closing.replace(true)),
                Expiry::Duration if shared.draining.get() => {}
                Expiry::Duration if options.http1_safe_max_connection_duration => {
                    shared.closing_soon.set(true);
                    let stats = &options.stats;
                    let held = stats.hold(|stats| &stats.downstream_cx_http1_soft_drain);
                    self.soft_drain = Some(held);
                }
                Expiry::Idle | Expiry::Duration => shared.drain(options.drain_timeout),
            }
        }
    }
}
