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
use outrider_net::NetworkStream;
use outrider_net::Timer;
use outrider_stats::HeldGauge;
use tokio::time::Instant;

use crate::Body;
use crate::ConnectionEnd;
use crate::EndCause;
use crate::Handler;
use crate::MalformedRequest;
use crate::Meter;
use crate::RequestHeadError;
use crate::Responder;
use crate::ServerOptions;
use crate::StreamError;
use crate::deadlines::ConnectionDeadlines;
use crate::deadlines::Expiry;
use crate::meter::HeadSize;
use crate::stats::ConnectionStats;

use super::deferred_writes;
use super::framing::Framing;
use super::head;
use super::head::HeadLimits;
use super::head::ReceivedRequest;
use super::recv::H1RecvBody;
use super::recv::SharedState;
use super::respond;
use super::transport::Filled;
use super::transport::Transport;

/// Serves an HTTP/1 connection to its end. The bytes in `initial` were read before.
pub(crate) async fn serve<H: Handler>(
    socket: NetworkStream,
    initial: Vec<u8>,
    options: Rc<ServerOptions>,
    deadlines: ConnectionDeadlines,
    handler: Rc<H>,
) -> ConnectionEnd {
    let mut connection = H1ServerConnection::new(socket, &initial, options, deadlines, handler);
    // Freed now, not when the connection ends.
    drop(initial);
    loop {
        match connection.next().await {
            NextInput::Request(head) => match connection.serve(head).await {
                AfterRequest::KeepAlive => {}
                AfterRequest::Close => return connection.close(false, EndCause::Local).await,
                AfterRequest::ClientStalled => {
                    let cause = connection.body_fault().unwrap_or(EndCause::Local);
                    return connection.close(false, cause).await;
                }
                AfterRequest::CloseEarly => {
                    let cause = connection.body_fault().unwrap_or(EndCause::Local);
                    return connection.close(true, cause).await;
                }
                AfterRequest::ClientGone => {
                    return ConnectionEnd {
                        cause: connection.body_fault().unwrap_or(EndCause::Remote),
                        active_streams: 1,
                    };
                }
            },
            NextInput::Malformed(error) => {
                let cause = if error.is_timeout() {
                    EndCause::Local
                } else {
                    EndCause::ProtocolError(error.details)
                };
                let early = connection.answer_malformed(error).await;
                return connection.close(early, cause).await;
            }
            NextInput::Close(cause) => {
                let early = connection.flush().await && cause.is_local();
                return connection.close(early, cause).await;
            }
            NextInput::Abandoned => return connection.report_abandoned(),
        }
    }
}

/// What happened while waiting for the next request.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one of it a connection, for a moment"
)]
enum NextInput {
    Request(ReceivedRequest),
    Malformed(MalformedRequest),
    Close(EndCause),
    /// The client closed the connection in the middle of a head.
    Abandoned,
}

/// The state of the connection after a request.
enum AfterRequest {
    /// Ready for the next request.
    KeepAlive,
    /// Both messages are complete, and one of them announced that the connection closes.
    Close,
    /// The client may still be sending: it gets time to read the response.
    CloseEarly,
    /// The client closed the connection.
    ClientGone,
    /// The client stopped reading its response.
    ClientStalled,
}

struct H1ServerConnection<H> {
    shared: Rc<SharedState>,
    between: BetweenRequests,
    options: Rc<ServerOptions>,
    handler: Rc<H>,
}

/// State for the time between requests.
struct BetweenRequests {
    /// Counts the connection as one that will close after its next response.
    soft_drain: Option<HeldGauge<ConnectionStats>>,
    /// Fires at the shortest of the timeouts that count from a head's first byte. Reused when closing.
    head_timer: Timer,
    /// When the first byte arrived; reset when the head is complete.
    head_begun: Option<Instant>,
    /// Bytes removed from the input for the current head, including empty lines before it.
    head_bytes: usize,
    searched: usize,
    /// This task has yielded to other tasks since the last request.
    yielded: bool,
}

impl<H: Handler> H1ServerConnection<H> {
    fn new(
        socket: NetworkStream,
        initial: &[u8],
        options: Rc<ServerOptions>,
        deadlines: ConnectionDeadlines,
        handler: Rc<H>,
    ) -> H1ServerConnection<H> {
        let transport =
            Transport::new(socket, options.stats.clone(), options.buffer_limit, initial)
                .with_activity(options.activity.connection());
        let shared = Rc::new(SharedState {
            transport: RefCell::new(transport),
            framing: RefCell::new(Framing::None),
            limits: HeadLimits {
                bytes: options.max_request_headers_kb as usize * 1024,
                fields: options.max_headers_count as usize,
                underscores: options.underscores,
            },
            keep_trailers: options.http1.enable_trailers,
            stats: options.http1_stats.clone(),
            response_written: Cell::new(false),
            close_after_response: Cell::new(false),
            close_after_next_response: Cell::new(false),
            draining: Cell::new(false),
            drain_timed_out: Cell::new(false),
            deadlines: RefCell::new(deadlines),
            broken: Cell::new(false),
            body_error: Cell::new(None),
        });
        H1ServerConnection {
            between: BetweenRequests {
                soft_drain: None,
                head_timer: options.timers.timer(),
                head_begun: None,
                head_bytes: 0,
                searched: 0,
                yielded: false,
            },
            shared,
            options,
            handler,
        }
    }

    async fn next(&mut self) -> NextInput {
        let (shared, options) = (&self.shared, &self.options);
        let between = &mut self.between;
        if between.head_begun.take().is_some() {
            between.head_timer.set(None);
        }
        poll_fn(|cx| between.poll_next(shared, options, cx)).await
    }

    /// Serves one request, from its head to the last byte of its response.
    async fn serve(&mut self, request: ReceivedRequest) -> AfterRequest {
        if self.shared.deadlines.borrow_mut().note_request() {
            self.options.stats.downstream_cx_max_requests_reached.inc();
            // Already draining, so that a drain of the server does not count this connection again, as in Envoy.
            self.shared.draining.set(true);
            self.shared.close_after_response.set(true);
        }
        if !request.keep_alive {
            self.shared.close_after_response.set(true);
        }
        let meter = Rc::new(Meter::default());
        meter.set_receive_began(self.between.head_begun);
        meter.add_headers_received(HeadSize::http1(request.field_bytes, request.bytes));
        let body = if request.framing.is_done() {
            meter.end_receive();
            Body::Empty
        } else {
            Body::H1(H1RecvBody::new(self.shared.clone(), meter.clone()))
        };
        *self.shared.framing.borrow_mut() = request.framing;
        let head = request.head;
        let respond = self.responder(head.method.clone(), request.version, meter);
        let served = pin!(self.handler.clone().serve(head, body, respond));
        self.run_handler(served).await;
        if !self.can_continue() && !self.flush().await {
            return AfterRequest::ClientStalled;
        }
        self.state_after_request(self.shared.response_written.get())
    }

    /// Responds to a request that could not be parsed. Returns whether the client read the response.
    async fn answer_malformed(&mut self, error: MalformedRequest) -> bool {
        self.shared.close_after_response.set(true);
        let meter = Rc::new(Meter::default());
        meter.set_receive_began(self.between.head_begun);
        let respond = self.responder(Method::GET, Version::HTTP_11, meter);
        let answered = pin!(self.handler.clone().malformed(error, respond));
        self.run_handler(answered).await;
        self.flush().await
    }

    /// Reports a request whose client closed the connection before the head was complete.
    fn report_abandoned(&self) -> ConnectionEnd {
        let meter = Rc::new(Meter::default());
        let unread = self.shared.transport.borrow().input.len();
        let bytes = self.between.head_bytes + unread;
        meter.set_receive_began(self.between.head_begun);
        meter.add_headers_received(HeadSize::http1(0, bytes));
        let gone = RequestHeadError::Error(StreamError::ConnectionTermination);
        let handler = self.handler.clone();
        // The connection ends anyway.
        handler.head_failed(gone, Version::HTTP_11, meter, &|_| false);
        ConnectionEnd {
            cause: EndCause::Remote,
            active_streams: 1,
        }
    }

    /// Makes the responder for the next request.
    fn responder(&self, method: Method, version: Version, meter: Rc<Meter>) -> Responder {
        self.shared.response_written.set(false);
        let respond = respond::H1Responder::new(
            self.shared.clone(),
            self.options.clone(),
            respond::RequestLine { method, version },
            meter,
        );
        Responder::from(respond)
    }

    /// Runs a handler in this task. The bytes that it queues in one poll are written after the other ready tasks have
    /// run.
    async fn run_handler(&mut self, mut served: Pin<&mut impl Future<Output = ()>>) {
        let (shared, options) = (&self.shared, &self.options);
        let between = &mut self.between;
        poll_fn(|cx| {
            if shared.deadlines.borrow().can_expire_with_streams() {
                between.apply_deadlines(1, shared, options, cx);
            }
            let done = served.as_mut().poll(cx);
            // An error will show when the handler next polls its client, or in `state_after_request`.
            if shared.transport.borrow_mut().defer_write(cx) {
                deferred_writes::defer(shared.clone());
            }
            done
        })
        .await;
    }

    /// Writes the queued bytes before the connection closes. Returns false if the client reads nothing for
    /// `delayed_close_timeout`.
    async fn flush(&mut self) -> bool {
        let (shared, options) = (&self.shared, &self.options);
        let timer = &mut self.between.head_timer;
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
    fn can_continue(&self) -> bool {
        let shared = &self.shared;
        shared.response_written.get()
            && shared.is_request_read()
            && !shared.close_after_response.get()
    }

    fn state_after_request(&self, response_ended: bool) -> AfterRequest {
        let shared = &self.shared;
        let gone = {
            let transport = shared.transport.borrow();
            transport.ended || transport.has_failed()
        };
        if !response_ended {
            // This side cut off the response: it closes the connection after the client had time to read what was sent.
            return if shared.broken.get() && !gone {
                AfterRequest::CloseEarly
            } else {
                AfterRequest::ClientGone
            };
        }
        if shared.transport.borrow().has_failed() {
            return AfterRequest::ClientGone;
        }
        if !shared.is_request_read() || shared.drain_timed_out.get() {
            return AfterRequest::CloseEarly;
        }
        if shared.close_after_response.get() {
            AfterRequest::Close
        } else {
            AfterRequest::KeepAlive
        }
    }

    /// The connection's end if the request body had invalid framing.
    fn body_fault(&self) -> Option<EndCause> {
        let error = self.shared.body_error.get();
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
        // What the client still sends is discarded.
        self.shared.transport.borrow_mut().set_in_use(false);
        let timer = &mut self.between.head_timer;
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

impl BetweenRequests {
    fn poll_next(
        &mut self,
        shared: &SharedState,
        options: &ServerOptions,
        cx: &mut Context<'_>,
    ) -> Poll<NextInput> {
        let next = self.poll_message(shared, options, cx);
        let mut transport = shared.transport.borrow_mut();
        let in_use = next.is_ready() || self.head_begun.is_some() || !transport.input.is_empty();
        transport.set_in_use(in_use);
        next
    }

    fn poll_message(
        &mut self,
        shared: &SharedState,
        options: &ServerOptions,
        cx: &mut Context<'_>,
    ) -> Poll<NextInput> {
        let mut transport = shared.transport.borrow_mut();
        match transport.poll_unblocked(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(NextInput::Close(EndCause::Remote)),
            // A client that does not read its responses gets no further ones.
            Poll::Pending => {
                return self.poll_deadlines(self.head_begun.is_none(), shared, options, cx);
            }
        }
        if !transport.input.is_empty() {
            if !std::mem::replace(&mut self.yielded, true) {
                return deferred_writes::yield_to_ready_tasks(cx);
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
                    self.yielded = false;
                    head.bytes = std::mem::take(&mut self.head_bytes);
                    return Poll::Ready(NextInput::Request(head));
                }
                // Empty lines before a head count as its beginning.
                Ok(None) => self.begin_head(options),
                Err(error) => return Poll::Ready(NextInput::Malformed(error.into_malformed())),
            }
        }
        match transport.poll_fill(cx) {
            Poll::Ready(Ok(Filled::Some)) => {
                self.yielded = true;
                deferred_writes::yield_to_ready_tasks(cx)
            }
            Poll::Ready(Ok(Filled::End) | Err(_)) if self.head_begun.is_some() => {
                Poll::Ready(NextInput::Abandoned)
            }
            Poll::Ready(Ok(Filled::End) | Err(_)) => {
                Poll::Ready(NextInput::Close(EndCause::Remote))
            }
            Poll::Pending => self.poll_deadlines(self.head_begun.is_none(), shared, options, cx),
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

    fn poll_deadlines(
        &mut self,
        idle: bool,
        shared: &SharedState,
        options: &ServerOptions,
        cx: &mut Context<'_>,
    ) -> Poll<NextInput> {
        if self.head_begun.is_some()
            && self.head_timer.poll_elapsed(cx).is_ready()
            && let Some((_, late)) = options.head_timeout()
        {
            return Poll::Ready(NextInput::Malformed(late));
        }
        self.apply_deadlines(usize::from(!idle), shared, options, cx);
        if idle && shared.close_after_response.get() {
            return Poll::Ready(NextInput::Close(EndCause::Local));
        }
        Poll::Pending
    }

    /// Applies the deadlines that have expired.
    fn apply_deadlines(
        &mut self,
        active: usize,
        shared: &SharedState,
        options: &ServerOptions,
        cx: &mut Context<'_>,
    ) {
        loop {
            let expiry = shared.deadlines.borrow_mut().poll(active, cx);
            let Some(expiry) = expiry else {
                return;
            };
            expiry.count(&options.stats);
            match expiry {
                Expiry::Drained => shared
                    .drain_timed_out
                    .set(!shared.close_after_response.replace(true)),
                Expiry::Duration if shared.draining.get() => {}
                Expiry::Duration if options.http1_safe_max_connection_duration => {
                    shared.close_after_next_response.set(true);
                    let stats = &options.stats;
                    let held = stats.hold(|stats| &stats.downstream_cx_http1_soft_drain);
                    self.soft_drain = Some(held);
                }
                Expiry::Idle | Expiry::Duration => shared.drain(options.drain_timeout),
            }
        }
    }
}
