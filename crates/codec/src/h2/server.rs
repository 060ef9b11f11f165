//! The server role of HTTP/2: one task per connection and one per stream.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;

use http::Method;
use http::Version;
use outrider_net::ConnectionActivity;
use outrider_net::ShutdownStage;
use outrider_net::ShutdownWatch;
use outrider_net::Stream;
use outrider_net::Timer;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::Body;
use crate::ConnectionEnd;
use crate::EndCause;
use crate::Handler;
use crate::Meter;
use crate::RequestHead;
use crate::Respond;
use crate::ServerOptions;
use crate::life::Expiry;
use crate::life::Life;
use crate::stats::ConnectionStats;

use super::RecvBody;
use super::keepalive::Pinger;
use super::message::Rules;
use super::respond;
use super::session::Accepted;
use super::session::ClosesOnDrop;
use super::session::Fault;
use super::session::Role;
use super::session::Session;
use super::session::Setup;
use super::session::StreamRef;

/// Serves an HTTP/2 connection to its end. The bytes in `already` were read before.
pub(crate) async fn serve<H: Handler>(
    socket: Stream,
    already: Vec<u8>,
    options: Rc<ServerOptions>,
    life: Life,
    handler: Rc<H>,
) -> ConnectionEnd {
    options.http2_stats.nghttp2_downstream_connections.inc();
    let session = session(socket, &options);
    let _closes = ClosesOnDrop(session.clone());
    let connection = Rc::new(Connection {
        active: Cell::new(0),
        closing: Cell::new(false),
        session: session.clone(),
        activity: options.activity.connection(),
        options: options.clone(),
    });
    let mut driver = Driver::new(connection.clone(), life, handler);
    driver.unread(&already);
    // Freed now, not when the connection ends.
    drop(already);
    let cause = poll_fn(|cx| driver.poll(cx)).await;
    let active_streams = connection.active.get() + driver.cut;
    drop(driver);
    if session.fault().is_none_or(Fault::has_last_words) {
        linger(&connection).await;
    }
    ConnectionEnd {
        cause,
        active_streams,
    }
}

fn session(socket: Stream, options: &ServerOptions) -> Session {
    let rules = Rules {
        max_bytes: options.max_request_headers_kb as usize * 1024,
        max_count: options.max_headers_count as usize,
        underscores: options.underscores,
        extended_connect: options.http2.allow_connect,
    };
    let setup = Setup {
        role: Role::Server,
        options: &options.http2,
        rules,
        buffer_limit: options.buffer_limit,
        stats: options.http2_stats.clone(),
        counts: options.stats.clone(),
    };
    Session::new(socket, setup)
}

/// Waits for the peer to close after the last frames were sent, so that it can read them: for `delayed_close_timeout`,
/// which restarts whenever the peer reads something.
async fn linger(connection: &Connection) {
    let (session, options) = (&connection.session, &connection.options);
    let Some(timeout) = options.delayed_close_timeout else {
        return poll_fn(|cx| session.poll_flush(cx)).await;
    };
    let mut timer = options.timers.timer();
    timer.set(Some(options.timers.now() + timeout));
    let mut waiting = session.waiting();
    poll_fn(|cx| {
        if session.poll_linger(cx).is_ready() {
            return Poll::Ready(());
        }
        let left = session.waiting();
        connection.activity.set(left > 0);
        if std::mem::replace(&mut waiting, left) != left {
            timer.set(Some(options.timers.now() + timeout));
        }
        let elapsed = timer.poll_elapsed(cx);
        if elapsed.is_ready() {
            options.stats.downstream_cx_delayed_close_timeout.inc();
        }
        elapsed
    })
    .await;
}

/// State shared by the connection's task and its streams' tasks.
#[derive(Debug)]
pub(super) struct Connection {
    /// The number of streams being served.
    active: Cell<usize>,
    closing: Cell<bool>,
    session: Session,
    /// Whether there are streams, or bytes that were not written yet.
    activity: ConnectionActivity,
    options: Rc<ServerOptions>,
}

impl Connection {
    pub(super) fn stats(&self) -> &Arc<ConnectionStats> {
        &self.options.stats
    }

    /// Closes the connection when its streams have ended.
    pub(super) fn close(&self) {
        if !self.closing.replace(true) {
            self.session.shutdown_notice();
        }
    }

    /// Closes the connection likewise if the server drains. Checked with each response, because a gradual drain closes
    /// a growing share of connections.
    pub(super) fn close_if_draining(&self) {
        if !self.closing.get() && self.options.drain.is_draining() {
            self.options.stats.downstream_cx_drain_close.inc();
            self.close();
        }
    }

    pub(super) fn stream_window(&self) -> u32 {
        self.options.http2.initial_stream_window_size
    }

    pub(super) fn has_stream_error_on_invalid_message(&self) -> bool {
        self.options.http2.stream_error_on_invalid_message
    }
}

/// Counts one stream while it is served.
struct ActiveStream {
    connection: Rc<Connection>,
}

impl ActiveStream {
    fn new(connection: Rc<Connection>) -> ActiveStream {
        connection.active.set(connection.active.get() + 1);
        connection.options.http2_stats.streams_active.inc();
        ActiveStream { connection }
    }
}

impl Drop for ActiveStream {
    fn drop(&mut self) {
        self.connection.options.http2_stats.streams_active.dec();
        let left = self.connection.active.get() - 1;
        self.connection.active.set(left);
        // The idle period begins, so the connection's task must check its deadlines.
        if left == 0 {
            self.connection.session.wake();
        }
    }
}

/// The state of the connection's drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// A GOAWAY was sent; the client may still open streams for `drain_timeout`.
    Noticed,
    /// No new streams are accepted; open ones are served to their end.
    Closing,
}

/// Tracks a request's header block that arrives in several pieces.
struct SlowHead {
    /// The stream that the block opens.
    stream: Option<u32>,
    /// When its first bytes arrived.
    began: Option<Instant>,
    timer: Timer,
}

/// The connection's task.
struct Driver<H> {
    connection: Rc<Connection>,
    handler: Rc<H>,
    shutdown: ShutdownWatch,
    life: Life,
    pinger: Option<Pinger>,
    leaving: Leaving,
    /// Created when first needed, with the deadline that it is set for.
    flush_timer: Option<(Timer, Option<Instant>)>,
    /// Created when a header block first arrives in several pieces.
    slow_head: Option<SlowHead>,
    /// Requests whose heads were incomplete when the connection ended.
    cut: usize,
}

impl<H: Handler> Driver<H> {
    fn new(connection: Rc<Connection>, life: Life, handler: Rc<H>) -> Driver<H> {
        let options = connection.options.clone();
        let keepalive = options.http2.keepalive.as_ref();
        Driver {
            shutdown: options.shutdown.watch(),
            life,
            pinger: keepalive.map(|settings| Pinger::new(settings.clone(), &options.timers)),
            leaving: Leaving::No,
            flush_timer: None,
            slow_head: None,
            cut: 0,
            connection,
            handler,
        }
    }

    fn unread(&mut self, already: &[u8]) {
        let accepted = self.connection.session.unread(already);
        self.start_all(accepted);
    }

    /// One poll of the task: reads frames, checks the deadlines, then writes everything that was queued since the last
    /// poll in one go.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<EndCause> {
        let session = self.connection.session.clone();
        session.remember_task(cx);
        let (accepted, more) = session.read(cx);
        self.start_all(accepted);
        if session.fault().is_none() {
            self.poll_policy(cx);
        }
        // Frames that are queued after this are written by the next poll.
        let _flushed = session.poll_flush(cx);
        let in_use = self.active() > 0 || session.open_streams() > 0 || session.waiting() > 0;
        self.connection.activity.set(in_use);
        if let Some(fault) = session.fault() {
            return Poll::Ready(self.end(fault));
        }
        // Unwritten bytes do not keep the connection open: the peer may never read them.
        if self.leaving == Leaving::Closing && self.active() == 0 && session.open_streams() == 0 {
            return Poll::Ready(EndCause::Local);
        }
        if more {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// The number of streams being served, including one whose head is being received.
    fn active(&self) -> usize {
        let opening = self.connection.session.open_request().is_some();
        self.connection.active.get() + usize::from(opening)
    }

    fn end(&mut self, fault: Fault) -> EndCause {
        for accepted in self.connection.session.take_refused() {
            self.cut += 1;
            self.start(accepted);
        }
        fault.cause(Role::Server)
    }

    fn start_all(&mut self, accepted: SmallVec<[Accepted; 1]>) {
        let is_refused = |accepted: &&Accepted| matches!(accepted, Accepted::Refused(_));
        if self.connection.session.fault().is_some() {
            self.cut += accepted.iter().filter(is_refused).count();
        }
        // If a head arrived in several pieces, it is the first one.
        let slow = self.slow_head.as_ref();
        let mut began = slow.and_then(|slow| slow.began.filter(|_| slow.stream.is_some()));
        for accepted in accepted {
            if let (Accepted::Request { meter, .. }, Some(began)) = (&accepted, began.take()) {
                meter.set_receive_began(Some(began));
            }
            self.start(accepted);
        }
    }

    fn start(&mut self, accepted: Accepted) {
        let (stream, head, ends, meter) = match accepted {
            Accepted::Request {
                stream,
                head,
                ends,
                meter,
            } => (stream, head, ends, meter),
            Accepted::Refused(refused) => {
                let handler = self.handler.clone();
                return handler.refused(refused, Version::HTTP_2, Rc::default());
            }
        };
        self.note_request();
        self.serve(stream, *head, ends, meter);
    }

    fn note_request(&mut self) {
        if self.life.note_request() {
            let stats = &self.connection.options.stats;
            stats.downstream_cx_max_requests_reached.inc();
            self.leave();
        }
    }

    fn serve(&self, stream: StreamRef, head: RequestHead, ends: bool, meter: Rc<Meter>) {
        let head_request = head.method == Method::HEAD;
        let body = if ends {
            Body::Empty
        } else {
            Body::H2(RecvBody::new(stream.share()))
        };
        let active = ActiveStream::new(self.connection.clone());
        let respond = respond::Respond::new(stream, head_request, meter, self.connection.clone());
        let served = self
            .handler
            .clone()
            .serve(head, body, Respond::from(respond));
        // Boxed because the runtime copies a task's future about five times, and a connection manager's future is
        // large.
        tokio::task::spawn_local(Box::pin(async move {
            // Moved into the task, so that the stream counts until its handler has finished.
            let _active = active;
            served.await;
        }));
    }

    /// Responds to a request whose head was not received in time.
    fn poll_slow_head(&mut self, cx: &mut Context<'_>) {
        let session = &self.connection.session;
        let options = &self.connection.options;
        let open = session.open_request();
        if open.is_none() && self.slow_head.is_none() {
            return;
        }
        let slow = self.slow_head.get_or_insert_with(|| SlowHead {
            stream: None,
            began: None,
            timer: options.timers.timer(),
        });
        if std::mem::replace(&mut slow.stream, open) != open {
            let timeout = options.head_timeout().filter(|_| open.is_some());
            let now = options.timers.now();
            slow.began = Some(now);
            slow.timer.set(timeout.map(|(timeout, _)| now + timeout));
        }
        if open.is_none() || slow.timer.poll_elapsed(cx).is_pending() {
            return;
        }
        let Some((_, late)) = options.head_timeout() else {
            return;
        };
        let Some((stream, meter)) = session.give_up_request() else {
            return;
        };
        meter.set_receive_began(slow.began);
        let active = ActiveStream::new(self.connection.clone());
        let respond = respond::Respond::new(stream, false, meter, self.connection.clone());
        let answered = self.handler.clone().malformed(late, Respond::from(respond));
        tokio::task::spawn_local(Box::pin(async move {
            let _active = active;
            answered.await;
        }));
        self.note_request();
    }

    /// Applies the keepalive, drain, idle and duration limits.
    fn poll_policy(&mut self, cx: &mut Context<'_>) {
        let options = self.connection.options.clone();
        if let Some(pinger) = &mut self.pinger
            && pinger.poll_dead(&self.connection.session, cx).is_ready()
        {
            options.http2_stats.keepalive_timeout.inc();
            return self.connection.session.fail(Fault::KeepaliveTimeout);
        }
        self.poll_shutdown(cx);
        self.poll_slow_head(cx);
        if self.connection.closing.get() {
            self.leave();
        }
        while let Some(expiry) = self.life.poll(self.active(), cx) {
            expiry.count(&options.stats);
            match expiry {
                Expiry::Idle | Expiry::Duration => self.leave(),
                Expiry::Drained => self.say_last(),
            }
        }
        self.poll_flushes(cx);
    }

    /// Tells the client of the end of the process: that it comes, so that the client opens its streams elsewhere, and
    /// that it has come.
    fn poll_shutdown(&mut self, cx: &Context<'_>) {
        while let Poll::Ready(stage) = self.shutdown.poll_next(cx) {
            match stage {
                ShutdownStage::Serving => {}
                ShutdownStage::Begun => self.connection.close_if_draining(),
                ShutdownStage::Ended if self.leaving == Leaving::Closing => {}
                ShutdownStage::Ended => {
                    self.leave();
                    self.say_last();
                }
            }
        }
    }

    /// Tells the client which streams are served; there will be no others.
    fn say_last(&mut self) {
        self.connection.session.goaway();
        self.leaving = Leaving::Closing;
    }

    /// Resets the streams whose clients do not read their responses (`stream_flush_timeout`).
    fn poll_flushes(&mut self, cx: &mut Context<'_>) {
        let session = &self.connection.session;
        while let Some(deadline) = session.next_flush_deadline() {
            let now = Instant::now();
            if deadline <= now {
                session.expire_flushes(now);
                continue;
            }
            let timers = &self.connection.options.timers;
            let (timer, armed) = self
                .flush_timer
                .get_or_insert_with(|| (timers.timer(), None));
            if armed.replace(deadline) != Some(deadline) {
                timer.set(Some(deadline));
            }
            if timer.poll_elapsed(cx).is_pending() {
                break;
            }
            *armed = None;
        }
    }

    /// Starts the drain with its two GOAWAY frames, unless it has started already.
    fn leave(&mut self) {
        if self.leaving != Leaving::No {
            return;
        }
        self.leaving = Leaving::Noticed;
        self.life.drain(self.connection.options.drain_timeout);
        self.connection.close();
    }
}
