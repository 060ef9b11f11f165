//! The state of one HTTP/2 connection in either role, shared by its task and its streams' tasks.
//!
//! The connection's task reads frames, and writes them at the end of each poll. The streams' tasks take what was
//! received and queue what is to be sent. All of them run on one thread, so the state is in a `RefCell`, borrowed only
//! during a call. Wakers are called while nothing is borrowed, because waking may drop a task and so end its streams.

mod backlog;
mod control;
mod data;
mod fault;
mod headers;
mod receive;
mod send;
mod stream_ref;
#[cfg(test)]
mod tests;

pub(super) use backlog::Backlog;
pub(super) use fault::Fault;
pub(super) use headers::AcceptedRequest;
pub(super) use stream_ref::StreamRef;

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::task::ready;

use bytes::BytesMut;
use outrider_net::NetworkStream;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::Http2Options;
use crate::Meter;
use crate::RequestHeadError;
use crate::hpack::Decoder;
use crate::hpack::Encoder;
use crate::stats::ByteCounts;
use crate::stats::Http2Stats;

use super::frame;
use super::input;
use super::input::Input;
use super::limits::Flood;
use super::limits::FloodLimits;
use super::message::HeaderRules;
use super::output::Output;
use super::stream::Streams;
use super::window::Window;

/// The maximum number of queued bytes before streams must wait. The more is written at once, the less often the peer is
/// woken. Lower if the connection's buffer limit is, but at least one frame.
const HIGH_WATERMARK: usize = 512 * 1024;
/// The maximum number of queued frames before streams must wait, so that small messages to a slow peer do not reach
/// `max_outbound_frames`.
const HIGH_WATERMARK_FRAMES: u32 = 4096;
/// The maximum number of requests that are started in one turn of a connection.
const MAX_REQUESTS: usize = 64;
/// The window that a peer may use before it has received our SETTINGS (RFC 9113, section 6.5.2).
const DEFAULT_WINDOW: u32 = 65_535;

/// A handle to a connection's state. Clones refer to the same connection.
#[derive(Clone, Debug)]
pub(super) struct Session(Rc<RefCell<SessionState>>);

/// Closes a connection when the future that drives it ends or is dropped. Streams may exist longer.
#[derive(Debug)]
pub(super) struct CloseOnDrop(pub(super) Session);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Server,
    Client,
}

/// The parameters of a session.
pub(super) struct SessionSetup<'a> {
    pub(super) role: Role,
    pub(super) options: &'a Http2Options,
    pub(super) rules: HeaderRules,
    /// `per_connection_buffer_limit_bytes`
    pub(super) buffer_limit: u32,
    pub(super) stats: Arc<Http2Stats>,
    pub(super) counts: Arc<dyn ByteCounts>,
}

/// The SETTINGS of both sides.
#[derive(Debug)]
struct BothSettings {
    /// The configured initial window of streams: announced in our SETTINGS, and in force once they are acknowledged.
    window: u32,
    max_streams: u32,
    acknowledged: bool,
    peer_window: u32,
    peer_max_streams: u32,
    peer_seen: bool,
}

#[derive(Debug)]
struct SessionState {
    role: Role,
    /// `None` once the connection has ended; streams may still refer to its state.
    socket: Option<NetworkStream>,
    input: Input,
    output: Output,
    decoder: Decoder,
    encoder: Encoder,
    settings: BothSettings,
    rules: HeaderRules,
    /// `override_stream_error_on_invalid_http_message`
    stream_error: bool,
    streams: Streams,
    window: Window,
    send_window: i64,
    limits: FloodLimits,
    /// The highest stream number that the peer has used.
    newest_stream: u32,
    /// The range of stream numbers that the peer skipped last.
    skipped: (u32, u32),
    /// The number of the next stream that this side opens.
    next_stream: u32,
    /// The last stream that our GOAWAY allows.
    goaway_sent: Option<u32>,
    /// The last stream that the peer's GOAWAY allows.
    goaway_received: Option<u32>,
    fault: Option<Fault>,
    accepted: SmallVec<[AcceptedRequest; 1]>,
    /// The number of queued bytes from which streams must wait.
    high_watermark: usize,
    /// The maximum backlog of one stream in bytes.
    backlog_limit: usize,
    /// The backlog of all streams in bytes.
    total_backlog: Rc<Cell<usize>>,
    /// Streams with a completely buffered message and a flush timeout.
    flushing: Vec<usize>,
    /// Whether the header block that ended the connection was a request's.
    unfinished_request: bool,
    task: Option<Waker>,
    /// Whether the connection's task was woken since its last poll began. Checking this is cheaper than waking it
    /// again.
    woken: Cell<bool>,
    wakers: Vec<Waker>,
    /// The number of frames received, as evidence that the peer is alive.
    frames_received: u64,
    pongs_received: u64,
    stats: Arc<Http2Stats>,
    counts: Arc<dyn ByteCounts>,
    /// This connection's current contributions to gauges.
    reported_gauges: ReportedGauges,
}

/// One connection's contributions to gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ReportedGauges {
    buffered: u64,
    frames: u64,
    control: u64,
    backlog: u64,
}

impl Session {
    /// Starts a connection on `socket` and queues its preface.
    pub(super) fn new(socket: NetworkStream, setup: SessionSetup<'_>) -> Session {
        let options = setup.options;
        let is_server = setup.role == Role::Server;
        let mut state = SessionState {
            role: setup.role,
            socket: Some(socket),
            input: Input::new(is_server),
            output: Output::default(),
            decoder: Decoder::new(options.hpack_table_size as usize),
            encoder: Encoder::new(options.hpack_table_size as usize, options.huffman),
            settings: BothSettings {
                window: options.initial_stream_window_size,
                max_streams: options.max_concurrent_streams,
                acknowledged: false,
                peer_window: DEFAULT_WINDOW,
                peer_max_streams: u32::MAX,
                peer_seen: false,
            },
            rules: setup.rules,
            stream_error: options.stream_error_on_invalid_message,
            streams: Streams::default(),
            window: Window::new(options.initial_connection_window_size),
            send_window: DEFAULT_WINDOW.into(),
            limits: FloodLimits::new(options, is_server),
            newest_stream: 0,
            skipped: (0, 0),
            next_stream: 1,
            goaway_sent: None,
            goaway_received: None,
            fault: None,
            accepted: SmallVec::new(),
            high_watermark: HIGH_WATERMARK
                .min(setup.buffer_limit as usize)
                .max(frame::MAX_PAYLOAD),
            backlog_limit: backlog::MAX_BACKLOG.min(setup.buffer_limit as usize),
            total_backlog: Rc::default(),
            flushing: Vec::new(),
            unfinished_request: false,
            task: None,
            woken: Cell::new(false),
            wakers: Vec::new(),
            frames_received: 0,
            pongs_received: 0,
            stats: setup.stats,
            counts: setup.counts,
            reported_gauges: ReportedGauges::default(),
        };
        for gauge in [
            &state.stats.outbound_control_frames_active,
            &state.stats.outbound_frames_active,
            &state.stats.pending_send_bytes,
        ] {
            gauge.mark_used();
        }
        state.send_preface(options);
        Session(Rc::new(RefCell::new(state)))
    }

    /// Runs `work` on the state, and calls the wakers that it collected after the borrow has ended.
    fn with<T>(&self, work: impl FnOnce(&mut SessionState) -> T) -> T {
        let mut state = self.0.borrow_mut();
        let result = work(&mut state);
        if state.wakers.is_empty() {
            return result;
        }
        let mut wakers = std::mem::take(&mut state.wakers);
        drop(state);
        for waker in wakers.drain(..) {
            waker.wake();
        }
        if let Ok(mut state) = self.0.try_borrow_mut()
            && state.wakers.is_empty()
        {
            state.wakers = wakers;
        }
        result
    }

    /// Processes bytes that were read to detect the codec. They were already counted.
    pub(super) fn feed_initial(&self, bytes: &[u8]) -> SmallVec<[AcceptedRequest; 1]> {
        self.with(|state| {
            let mut chunk = BytesMut::from(bytes);
            state.receive(&mut chunk);
            self.take_accepted(state)
        })
    }

    /// Reads what has arrived, up to the limit of one poll. Returns new requests, and whether there may be more to
    /// read.
    ///
    /// An error is stored and returned by [`Session::fault`].
    pub(super) fn read(&self, cx: &mut Context<'_>) -> (SmallVec<[AcceptedRequest; 1]>, bool) {
        self.with(|state| {
            let more = state.read(cx);
            (self.take_accepted(state), more)
        })
    }

    /// The requests that were refused when the connection failed.
    pub(super) fn take_refused(&self) -> SmallVec<[AcceptedRequest; 1]> {
        std::mem::take(&mut self.0.borrow_mut().accepted)
    }

    /// Gives the handles of new streams a reference to the session.
    fn take_accepted(&self, state: &mut SessionState) -> SmallVec<[AcceptedRequest; 1]> {
        let mut accepted = std::mem::take(&mut state.accepted);
        for request in &mut accepted {
            if let AcceptedRequest::Request { stream, .. } = request {
                stream.session = Some(self.clone());
            }
        }
        accepted
    }

    /// Writes the queued frames; pending while the socket accepts nothing. An error ends the connection.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.with(|state| state.poll_flush(cx))
    }

    /// Stores the waker of the connection's task, to wake it when there is something to write. Must be called at the
    /// beginning of each poll.
    pub(super) fn store_task(&self, cx: &Context<'_>) {
        let mut state = self.0.borrow_mut();
        state.woken.set(false);
        if !state
            .task
            .as_ref()
            .is_some_and(|task| task.will_wake(cx.waker()))
        {
            state.task = Some(cx.waker().clone());
        }
    }

    /// Wakes the connection's task.
    pub(super) fn wake(&self) {
        self.0.borrow().wake_task();
    }

    /// Closes the socket and ends all streams, even if handles to them exist.
    pub(super) fn close(&self) {
        self.fail(Fault::Gone);
        let socket = self.0.borrow_mut().socket.take();
        drop(socket);
    }

    /// The reason why the connection must end, if it must.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.0.borrow().fault
    }

    /// Ends the connection and all its streams.
    pub(super) fn fail(&self, fault: Fault) {
        self.with(|state| state.fail(fault));
    }

    /// The number of open streams.
    pub(super) fn open_streams(&self) -> usize {
        self.0.borrow().streams.open()
    }

    /// The number of bytes queued to be written.
    pub(super) fn queued_bytes(&self) -> usize {
        self.0.borrow().output.queued_bytes()
    }

    /// The stream of a request whose head is incomplete.
    pub(super) fn incomplete_request(&self) -> Option<u32> {
        self.0.borrow().incomplete_request()
    }

    /// Creates a stream for a request whose head timed out, to respond to it. The rest of the head may still arrive,
    /// but no other frame before it.
    pub(super) fn abandon_request(&self) -> Option<(StreamRef, Rc<Meter>)> {
        let mut state = self.0.borrow_mut();
        let id = state.incomplete_request()?;
        state.abandon_request(id);
        let meter = Rc::new(Meter::default());
        let mut hold = state.begin_stream(id, meter.clone(), |_| ())?;
        hold.session = Some(self.clone());
        Some((hold, meter))
    }

    /// The number of frames, and of ping acknowledgements, received so far.
    pub(super) fn received_counts(&self) -> (u64, u64) {
        let state = self.0.borrow();
        (state.frames_received, state.pongs_received)
    }

    /// How many streams the peer allows this side to open; `None` before its SETTINGS have arrived.
    pub(super) fn peer_max_streams(&self) -> Option<u32> {
        let state = self.0.borrow();
        state
            .settings
            .peer_seen
            .then_some(state.settings.peer_max_streams)
    }

    /// Whether the peer has sent a GOAWAY.
    pub(super) fn goaway_received(&self) -> bool {
        self.0.borrow().goaway_received.is_some()
    }

    /// The next deadline at which a buffered message times out.
    pub(super) fn next_flush_deadline(&self) -> Option<Instant> {
        self.0.borrow_mut().next_flush_deadline()
    }

    /// Resets the streams whose buffered messages have timed out.
    pub(super) fn expire_flushes(&self, now: Instant) {
        self.with(|state| state.expire_flushes(now));
    }

    /// Reads and discards until the peer closes, as Envoy does for `delayed_close_timeout`. Closing with unread bytes
    /// would reset the connection, and the peer might not receive the last frames.
    pub(super) fn poll_until_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.borrow_mut().poll_until_closed(cx)
    }
}

impl SessionState {
    fn is_server(&self) -> bool {
        self.role == Role::Server
    }

    fn wake_task(&self) {
        if let Some(task) = &self.task
            && !self.woken.replace(true)
        {
            task.wake_by_ref();
        }
    }

    /// Reads up to the limit of one poll. Returns true if there may be more.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        let mut left = input::MAX_READ_PER_POLL;
        while left > 0 {
            if self.fault.is_some() {
                return false;
            }
            if !self.input.waiting.is_empty() {
                let mut waiting = std::mem::take(&mut self.input.waiting);
                self.receive(&mut waiting);
                if self.has_enough_requests() {
                    return true;
                }
            }
            let Some(socket) = &mut self.socket else {
                return false;
            };
            let mut chunk = self.input.take_chunk();
            let read = self.input.poll_read(socket, &mut chunk, cx);
            match read {
                Poll::Ready(Ok(0) | Err(_)) => self.fail(Fault::Gone),
                Poll::Ready(Ok(count)) => {
                    left = left.saturating_sub(count);
                    self.counts.received(count as u64);
                    self.receive(&mut chunk);
                }
                Poll::Pending => {}
            }
            self.input.return_chunk(chunk);
            if read.is_pending() {
                return false;
            }
            if self.has_enough_requests() {
                return true;
            }
        }
        true
    }

    /// Whether as many requests have arrived as are started in one turn. What came after them waits for the next turn:
    /// a client must not be able to start thousands of requests before the first of them runs.
    fn has_enough_requests(&self) -> bool {
        self.accepted.len() >= MAX_REQUESTS
    }

    /// Processes the frames in `chunk`; those that come after enough requests wait. After an error, the frames before it
    /// remain in effect.
    fn receive(&mut self, chunk: &mut BytesMut) {
        if self.fault.is_some() {
            return;
        }
        let mark = self.output.mark();
        if let Err(fault) = self.feed(chunk) {
            if fault == Fault::Close {
                // Like Envoy, sends none of the frames that were queued while processing this chunk.
                self.output.rewind(mark);
            }
            self.fail(fault);
        } else if !chunk.is_empty() {
            self.input.waiting = chunk.split();
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.output.queued_bytes() == 0 {
            self.update_gauges();
            return Poll::Ready(());
        }
        let Some(socket) = &mut self.socket else {
            return Poll::Ready(());
        };
        let queued = self.output.queued_frames();
        let flushed = self.output.poll_flush(socket, &*self.counts, cx);
        self.update_gauges();
        if let Poll::Ready(Err(_)) = flushed {
            self.output.clear();
            self.fail(Fault::Gone);
        }
        if !self.is_full() {
            self.resume_blocked();
        }
        // Like Envoy, counts all frames that were queued, also those that were written at once.
        if let Err(flood) = self.limits.check_queued(queued) {
            self.close_on_flood(flood);
        }
        flushed.map(drop)
    }

    /// Ends the connection because too many frames are queued; they are dropped.
    fn close_on_flood(&mut self, flood: Flood) {
        if self.fault.is_none() {
            flood.count(&self.stats);
        }
        self.output.clear();
        self.fail(Fault::Flood(flood));
    }

    /// Whether streams must wait before queueing more.
    fn is_full(&self) -> bool {
        self.output.queued_bytes() >= self.high_watermark
            || self.output.queued_frames().0 >= HIGH_WATERMARK_FRAMES
            || self.send_window <= 0
    }

    fn resume_blocked(&mut self) {
        for key in self.streams.take_blocked() {
            self.flush_backlog(key);
        }
    }

    /// Ends the connection. Only the first error counts.
    fn fail(&mut self, fault: Fault) {
        if self.fault.is_some() {
            return;
        }
        self.fault = Some(fault);
        if let Fault::GoAway(reason) = fault {
            let frame = frame::goaway(self.newest_stream, reason);
            self.output.frame(&frame, false);
        }
        if self.is_server() && (self.unfinished_request || self.incomplete_request().is_some()) {
            let error = fault.stream_error();
            self.accepted
                .push(AcceptedRequest::Failed(RequestHeadError::Error(error)));
        }
        let error = fault.stream_error();
        for stream in self.streams.iter_mut() {
            if stream.receiving || stream.sending {
                stream.fail(error.clone(), &mut self.wakers);
            }
        }
        self.wake_task();
    }

    fn poll_until_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.fault == Some(Fault::Gone) {
            return Poll::Ready(());
        }
        let Some(socket) = &mut self.socket else {
            return Poll::Ready(());
        };
        if ready!(self.output.poll_flush(socket, &*self.counts, cx)).is_err() {
            return Poll::Ready(());
        }
        let drained = input::poll_discard(socket, &*self.counts, cx);
        self.update_gauges();
        drained
    }

    /// Updates the gauges to what is queued now.
    fn update_gauges(&mut self) {
        let (frames, control) = self.output.queued_frames();
        let now = ReportedGauges {
            buffered: self.output.queued_bytes() as u64,
            frames: frames.into(),
            control: control.into(),
            backlog: self.total_backlog.get() as u64,
        };
        if now == self.reported_gauges {
            return;
        }
        let before = std::mem::replace(&mut self.reported_gauges, now);
        self.counts.send_buffered(before.buffered, now.buffered);
        let stats = &self.stats;
        crate::stats::move_gauge(&stats.outbound_frames_active, before.frames, now.frames);
        crate::stats::move_gauge(&stats.pending_send_bytes, before.backlog, now.backlog);
        crate::stats::move_gauge(
            &stats.outbound_control_frames_active,
            before.control,
            now.control,
        );
    }
}

impl Drop for SessionState {
    fn drop(&mut self) {
        self.output.clear();
        self.update_gauges();
    }
}
