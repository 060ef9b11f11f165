//! The server role of HTTP/2: one task per connection and one per stream.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;

use http::Method;
use http::Version;
use outrider_net::ConnectionActivity;
use outrider_net::NetworkStream;
use outrider_net::ShutdownStage;
use outrider_net::ShutdownWatch;
use outrider_net::Timer;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::Body;
use crate::ConnectionEnd;
use crate::EndCause;
use crate::Handler;
use crate::Meter;
use crate::RequestHead;
use crate::Responder;
use crate::ServerOptions;
use crate::deadlines::ConnectionDeadlines;
use crate::deadlines::Expiry;
use crate::stats::ConnectionStats;

use super::H2RecvBody;
use super::keepalive::Pinger;
use super::message::HeaderRules;
use super::respond;
use super::session::AcceptedRequest;
use super::session::CloseOnDrop;
use super::session::Fault;
use super::session::Role;
use super::session::Session;
use super::session::SessionSetup;
use super::session::StreamRef;

/// Serves an HTTP/2 connection to its end. The bytes in `initial` were read before.
pub(crate) async fn serve<H: Handler>(
    socket: NetworkStream,
    initial: Vec<u8>,
    options: Rc<ServerOptions>,
    deadlines: ConnectionDeadlines,
    handler: Rc<H>,
) -> ConnectionEnd {
    options.http2_stats.nghttp2_downstream_connections.inc();
    let session = session(socket, &options);
    let _close = CloseOnDrop(session.clone());
    let connection = Rc::new(SharedConnection {
        active: Cell::new(0),
        closing: Cell::new(false),
        session: session.clone(),
        activity: options.activity.connection(),
        options: options.clone(),
    });
    let mut driver = ServerDriver::new(connection.clone(), deadlines, handler);
    driver.feed_initial(&initial);
    // Freed now, not when the connection ends.
    drop(initial);
    let cause = poll_fn(|cx| driver.poll(cx)).await;
    let active_streams = connection.active.get() + driver.unfinished_requests;
    drop(driver);
    if session.fault().is_none_or(Fault::may_wait_for_close) {
        wait_for_close(&connection).await;
    }
    ConnectionEnd {
        cause,
        active_streams,
    }
}

fn session(socket: NetworkStream, options: &ServerOptions) -> Session {
    let rules = HeaderRules {
        max_bytes: options.max_request_headers_kb as usize * 1024,
        max_count: options.max_headers_count as usize,
        underscores: options.underscores,
        extended_connect: options.http2.allow_connect,
    };
    let setup = SessionSetup {
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
async fn wait_for_close(connection: &SharedConnection) {
    let (session, options) = (&connection.session, &connection.options);
    let Some(timeout) = options.delayed_close_timeout else {
        return poll_fn(|cx| session.poll_flush(cx)).await;
    };
    let mut timer = options.timers.timer();
    timer.set(Some(options.timers.now() + timeout));
    let mut waiting = session.queued_bytes();
    poll_fn(|cx| {
        if session.poll_until_closed(cx).is_ready() {
            return Poll::Ready(());
        }
        let left = session.queued_bytes();
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
pub(super) struct SharedConnection {
    /// The number of streams being served.
    active: Cell<usize>,
    closing: Cell<bool>,
    session: Session,
    /// Reports whether there are streams or unwritten bytes.
    activity: ConnectionActivity,
    options: Rc<ServerOptions>,
}

impl SharedConnection {
    pub(super) fn stats(&self) -> &Arc<ConnectionStats> {
        &self.options.stats
    }

    /// Closes the connection when its streams have ended.
    pub(super) fn close(&self) {
        if !self.closing.replace(true) {
            self.session.shutdown_notice();
        }
    }

    /// Ends the connection at once, with all its streams; false if it has ended already.
    pub(super) fn abort(&self, why: &'static str) -> bool {
        let lives = self.session.fault().is_none();
        if lives {
            self.session.fail(Fault::Aborted(why));
        }
        lives
    }

    /// Closes the connection likewise if the server drains or is overloaded. Checked with each response, because a gradual drain closes
    /// a growing share of connections.
    pub(super) fn close_if_draining(&self) {
        if !self.closing.get() && self.options.drain.is_draining() {
            self.options.stats.downstream_cx_drain_close.inc();
            self.close();
        }
        if !self.closing.get() && self.options.overload.ends_connection() {
            let stats = &self.options.stats;
            stats.downstream_cx_overload_disable_keepalive.inc();
            // As in Envoy, it counts as drained too.
            stats.downstream_cx_drain_close.inc();
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
struct ActiveServerStream {
    connection: Rc<SharedConnection>,
}

impl ActiveServerStream {
    fn new(connection: Rc<SharedConnection>) -> ActiveServerStream {
        connection.active.set(connection.active.get() + 1);
        connection.options.http2_stats.streams_active.inc();
        ActiveServerStream { connection }
    }
}

impl Drop for ActiveServerStream {
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
enum DrainPhase {
    NotDraining,
    /// A GOAWAY was sent; the client may still open streams for `drain_timeout`.
    Announced,
    /// No new streams are accepted; open ones are served to their end.
    Closing,
}

/// Tracks a request's header block that arrives in several pieces.
struct IncompleteHead {
    /// The stream that the block opens.
    stream: Option<u32>,
    /// When its first bytes arrived.
    began: Option<Instant>,
    timer: Timer,
}

/// The connection's task.
struct ServerDriver<H> {
    connection: Rc<SharedConnection>,
    handler: Rc<H>,
    shutdown: ShutdownWatch,
    deadlines: ConnectionDeadlines,
    pinger: Option<Pinger>,
    drain_phase: DrainPhase,
    /// Created when first needed, with the deadline that it is set for.
    flush_timer: Option<(Timer, Option<Instant>)>,
    /// Created when a header block first arrives in several pieces.
    incomplete_head: Option<IncompleteHead>,
    /// Requests whose heads were incomplete when the connection ended.
    unfinished_requests: usize,
    /// How many requests are started in one turn, and those that have to wait for the next.
    max_requests_per_turn: usize,
    waiting_requests: VecDeque<AcceptedRequest>,
}

impl<H: Handler> ServerDriver<H> {
    fn new(
        connection: Rc<SharedConnection>,
        deadlines: ConnectionDeadlines,
        handler: Rc<H>,
    ) -> ServerDriver<H> {
        let options = connection.options.clone();
        let keepalive = options.http2.keepalive.as_ref();
        ServerDriver {
            shutdown: options.shutdown.watch(),
            deadlines,
            pinger: keepalive.map(|settings| Pinger::new(settings.clone(), &options.timers)),
            drain_phase: DrainPhase::NotDraining,
            flush_timer: None,
            incomplete_head: None,
            unfinished_requests: 0,
            max_requests_per_turn: handler.max_requests_per_turn().max(1),
            waiting_requests: VecDeque::new(),
            connection,
            handler,
        }
    }

    fn feed_initial(&mut self, initial: &[u8]) {
        let accepted = self.connection.session.feed_initial(initial);
        self.start_all(accepted);
    }

    /// One poll of the task: reads frames, checks the deadlines, then writes everything that was queued since the last
    /// poll in one go.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<EndCause> {
        let session = self.connection.session.clone();
        session.store_task(cx);
        let (accepted, more) = session.read(cx);
        self.start_all(accepted);
        let more = more || !self.waiting_requests.is_empty();
        if session.fault().is_none() {
            self.poll_deadlines(cx);
        }
        // What waits to be written is dropped.
        if let Some(fault @ Fault::Aborted(_)) = session.fault() {
            return Poll::Ready(self.end(fault));
        }
        // Frames that are queued after this are written by the next poll.
        let _flushed = session.poll_flush(cx);
        let in_use = self.active() > 0 || session.open_streams() > 0 || session.queued_bytes() > 0;
        self.connection.activity.set(in_use);
        if let Some(fault) = session.fault() {
            return Poll::Ready(self.end(fault));
        }
        // Unwritten bytes do not keep the connection open: the peer may never read them.
        if self.drain_phase == DrainPhase::Closing
            && self.active() == 0
            && session.open_streams() == 0
        {
            return Poll::Ready(EndCause::Local);
        }
        if more {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// The number of streams being served, including one whose head is being received.
    fn active(&self) -> usize {
        let opening = self.connection.session.incomplete_request().is_some();
        self.connection.active.get() + self.waiting_requests.len() + usize::from(opening)
    }

    fn end(&mut self, fault: Fault) -> EndCause {
        // They end at once, and are counted and logged.
        for accepted in std::mem::take(&mut self.waiting_requests) {
            self.start(accepted);
        }
        for accepted in self.connection.session.take_refused() {
            self.unfinished_requests += 1;
            self.start(accepted);
        }
        fault.cause(Role::Server)
    }

    fn start_all(&mut self, accepted: SmallVec<[AcceptedRequest; 1]>) {
        let is_refused =
            |accepted: &&AcceptedRequest| matches!(accepted, AcceptedRequest::Failed(_));
        if self.connection.session.fault().is_some() {
            self.unfinished_requests += accepted.iter().filter(is_refused).count();
        }
        // If a head arrived in several pieces, it is the first one.
        let incomplete = self.incomplete_head.as_ref();
        let mut began = incomplete
            .and_then(|incomplete| incomplete.began.filter(|_| incomplete.stream.is_some()));
        let mut room = self.max_requests_per_turn;
        while room > 0
            && let Some(waiting) = self.waiting_requests.pop_front()
        {
            self.start(waiting);
            room -= 1;
        }
        for accepted in accepted {
            if let (AcceptedRequest::Request { meter, .. }, Some(began)) = (&accepted, began.take())
            {
                meter.set_receive_began(Some(began));
            }
            if room == 0 {
                self.waiting_requests.push_back(accepted);
                continue;
            }
            self.start(accepted);
            room -= 1;
        }
    }

    fn start(&mut self, accepted: AcceptedRequest) {
        let (stream, head, ends, meter) = match accepted {
            AcceptedRequest::Request {
                stream,
                head,
                ends,
                meter,
            } => (stream, head, ends, meter),
            AcceptedRequest::Failed(refused) => {
                let handler = self.handler.clone();
                let abort = |why| self.connection.abort(why);
                return handler.head_failed(refused, Version::HTTP_2, Rc::default(), &abort);
            }
        };
        self.note_request();
        self.serve(stream, *head, ends, meter);
    }

    fn note_request(&mut self) {
        if self.deadlines.note_request() {
            let stats = &self.connection.options.stats;
            stats.downstream_cx_max_requests_reached.inc();
            self.begin_drain();
        }
    }

    fn serve(&self, stream: StreamRef, head: RequestHead, ends: bool, meter: Rc<Meter>) {
        let head_request = head.method == Method::HEAD;
        let body = if ends {
            Body::Empty
        } else {
            Body::H2(H2RecvBody::new(stream.clone_handle()))
        };
        let active = ActiveServerStream::new(self.connection.clone());
        let respond =
            respond::H2Responder::new(stream, head_request, meter, self.connection.clone());
        let served = self
            .handler
            .clone()
            .serve(head, body, Responder::from(respond));
        // Boxed because the runtime copies a task's future about five times, and a connection manager's future is
        // large.
        tokio::task::spawn_local(Box::pin(async move {
            // Moved into the task, so that the stream counts until its handler has finished.
            let _active = active;
            served.await;
        }));
    }

    /// Responds to a request whose head was not received in time.
    fn poll_incomplete_head(&mut self, cx: &mut Context<'_>) {
        let session = &self.connection.session;
        let options = &self.connection.options;
        let open = session.incomplete_request();
        if open.is_none() && self.incomplete_head.is_none() {
            return;
        }
        let incomplete = self.incomplete_head.get_or_insert_with(|| IncompleteHead {
            stream: None,
            began: None,
            timer: options.timers.timer(),
        });
        if std::mem::replace(&mut incomplete.stream, open) != open {
            let timeout = options.head_timeout().filter(|_| open.is_some());
            let now = options.timers.now();
            incomplete.began = Some(now);
            incomplete
                .timer
                .set(timeout.map(|(timeout, _)| now + timeout));
        }
        if open.is_none() || incomplete.timer.poll_elapsed(cx).is_pending() {
            return;
        }
        let Some((_, late)) = options.head_timeout() else {
            return;
        };
        let Some((stream, meter)) = session.abandon_request() else {
            return;
        };
        meter.set_receive_began(incomplete.began);
        let active = ActiveServerStream::new(self.connection.clone());
        let respond = respond::H2Responder::new(stream, false, meter, self.connection.clone());
        let answered = self
            .handler
            .clone()
            .malformed(late, Responder::from(respond));
        tokio::task::spawn_local(Box::pin(async move {
            let _active = active;
            answered.await;
        }));
        self.note_request();
    }

    /// Applies the keepalive, drain, idle and duration limits.
    fn poll_deadlines(&mut self, cx: &mut Context<'_>) {
        let options = self.connection.options.clone();
        if let Some(pinger) = &mut self.pinger
            && pinger.poll_dead(&self.connection.session, cx).is_ready()
        {
            options.http2_stats.keepalive_timeout.inc();
            return self.connection.session.fail(Fault::KeepaliveTimeout);
        }
        self.poll_shutdown(cx);
        self.poll_incomplete_head(cx);
        if self.connection.closing.get() {
            self.begin_drain();
        }
        while let Some(expiry) = self.deadlines.poll(self.active(), cx) {
            expiry.count(&options.stats);
            match expiry {
                Expiry::Idle | Expiry::Duration => self.begin_drain(),
                Expiry::Drained => self.send_final_goaway(),
            }
        }
        self.poll_flushes(cx);
    }

    /// Tells the client that the process is shutting down: when the shutdown begins, so that the client opens its
    /// streams elsewhere, and when it ends.
    fn poll_shutdown(&mut self, cx: &Context<'_>) {
        while let Poll::Ready(stage) = self.shutdown.poll_next(cx) {
            match stage {
                ShutdownStage::Serving => {}
                ShutdownStage::Begun => self.connection.close_if_draining(),
                ShutdownStage::Ended if self.drain_phase == DrainPhase::Closing => {}
                ShutdownStage::Ended => {
                    self.begin_drain();
                    self.send_final_goaway();
                }
            }
        }
    }

    /// Sends the final GOAWAY, which names the last stream that is served.
    fn send_final_goaway(&mut self) {
        self.connection.session.goaway();
        self.drain_phase = DrainPhase::Closing;
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
    fn begin_drain(&mut self) {
        if self.drain_phase != DrainPhase::NotDraining {
            return;
        }
        self.drain_phase = DrainPhase::Announced;
        self.deadlines.drain(self.connection.options.drain_timeout);
        self.connection.close();
    }
}
