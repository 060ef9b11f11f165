//! The client role of HTTP/2: a connection's task, and its handle.

use std::cell::Cell;
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use bytes::Bytes;
use h2::client::Builder;
use h2::client::SendRequest;
use outrider_net::Stream;
use outrider_stats::Held;
use tokio::time::Instant;

use crate::Body;
use crate::ClientOptions;
use crate::ConnectionEnd;
use crate::EndCause;
use crate::Meter;
use crate::RequestHead;
use crate::StreamError;
use crate::io::Io;
use crate::stats::Http2Stats;

use super::Exchange;
use super::FRAME_HEAD;
use super::headers;
use super::keepalive::Pinger;
use super::pump::Pump;
use super::stream_error;
use super::watch::FrameWatch;

/// The most that a stream may have waiting in the connection, bytes.
const MAX_STREAM_BUFFER: u32 = 256 * 1024;
/// What a peer allows until its SETTINGS say otherwise.
const STREAMS_BEFORE_SETTINGS: usize = 100;

/// A connection's handle.
pub(crate) struct Connection {
    /// None once the connection takes no new requests.
    requests: RefCell<Option<SendRequest<Bytes>>>,
    active: Cell<usize>,
    limit: Cell<usize>,
    draining: Cell<bool>,
    /// An answer was malformed, though perhaps no frame says so: the crate only tells the stream of a missing status.
    malformed: Cell<bool>,
    last_request: Cell<Option<Instant>>,
    task: RefCell<Option<Waker>>,
    ping_wanted: Cell<bool>,
    on_change: Rc<dyn Fn()>,
    options: Rc<ClientOptions>,
}

/// Opens HTTP/2 on a connected socket: the handle, and the future that drives the connection.
///
/// `on_change` is called when the capacity may have grown, or the connection drains. It must only take note.
pub(crate) async fn connect(
    socket: Stream,
    options: Rc<ClientOptions>,
    on_change: Rc<dyn Fn()>,
) -> Result<(Rc<Connection>, impl Future<Output = ConnectionEnd>), StreamError> {
    let watch = FrameWatch::client(&options.http2, options.http2_stats.clone());
    let io = Io::new(socket, watch, options.bytes.clone());
    // The preface is only gathered here, so this does not wait.
    let (requests, mut h2) = builder(&options)
        .handshake::<_, Bytes>(io.clone())
        .await
        .map_err(|error| stream_error(&error))?;
    let pinger = match (&options.http2.keepalive, h2.ping_pong()) {
        (Some(settings), Some(pings)) => {
            Some(Pinger::new(pings, settings.clone(), &options.timers))
        }
        _ => None,
    };
    let connection = Rc::new(Connection {
        requests: RefCell::new(Some(requests)),
        active: Cell::new(0),
        limit: Cell::new(
            STREAMS_BEFORE_SETTINGS.min(options.http2.max_concurrent_streams as usize),
        ),
        draining: Cell::new(false),
        malformed: Cell::new(false),
        last_request: Cell::new(None),
        task: RefCell::new(None),
        ping_wanted: Cell::new(false),
        on_change,
        options,
    });
    let mut driver = Driver {
        h2,
        io,
        pinger,
        dead: false,
        settings_seen: 0,
        connection: connection.clone(),
    };
    let run = async move {
        let cause = poll_fn(|cx| driver.poll(cx)).await;
        driver.connection.stop();
        ConnectionEnd {
            cause,
            active_streams: match cause {
                // It waited for its streams, though their exchanges may not have been dropped yet.
                EndCause::Local => 0,
                _ => driver.connection.active.get(),
            },
        }
    };
    Ok((connection, run))
}

fn builder(options: &ClientOptions) -> Builder {
    let http2 = &options.http2;
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .header_table_size(http2.hpack_table_size)
        .max_concurrent_streams(http2.max_concurrent_streams)
        .initial_window_size(http2.initial_stream_window_size)
        .initial_connection_window_size(http2.initial_connection_window_size)
        .initial_max_send_streams(STREAMS_BEFORE_SETTINGS)
        .max_send_buffer_size(options.buffer_limit.min(MAX_STREAM_BUFFER) as usize);
    builder
}

impl Connection {
    pub(crate) fn capacity(&self) -> usize {
        if self.draining.get() {
            return 0;
        }
        self.limit.get().saturating_sub(self.active.get())
    }

    pub(crate) fn active(&self) -> usize {
        self.active.get()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    pub(crate) fn drain(&self) {
        self.stop();
        self.wake();
    }

    pub(crate) fn send(
        self: &Rc<Connection>,
        head: RequestHead,
        body: Body,
    ) -> Result<Exchange, StreamError> {
        if self.capacity() == 0 {
            return Err(StreamError::Overflow);
        }
        let size = headers::size(&head.headers);
        let head = headers::send(head)?;
        let ends = body.is_end_stream();
        let mut requests = self.requests.borrow_mut();
        let requests = requests.as_mut().ok_or(StreamError::Overflow)?;
        let (response, stream) = requests
            .send_request(head, ends)
            .map_err(|error| stream_error(&error))?;
        let meter = Rc::new(Meter::default());
        meter.add_headers_sent(size, size + FRAME_HEAD);
        if ends {
            meter.end_send();
        }
        self.note_request();
        let pump = Pump::new(stream, body, meter.clone());
        let active = ActiveStream::new(self.clone());
        Ok(Exchange::new(pump, ends, response, active, meter))
    }

    /// Pings before the first request after a pause (`connection_idle_interval`).
    fn note_request(&self) {
        let Some(keepalive) = &self.options.http2.keepalive else {
            return;
        };
        let Some(pause) = keepalive.connection_idle_interval else {
            return;
        };
        let now = Instant::now();
        let last = self.last_request.replace(Some(now));
        if last.is_some_and(|last| now.saturating_duration_since(last) > pause) {
            self.ping_wanted.set(true);
            self.wake();
        }
    }

    /// Takes no more requests; says so once.
    fn stop(&self) {
        self.requests.take();
        if !self.draining.replace(true) {
            (self.on_change)();
        }
    }

    fn wake(&self) {
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("active", &self.active)
            .field("limit", &self.limit)
            .field("draining", &self.draining)
            .finish_non_exhaustive()
    }
}

/// Counts one stream for as long as its exchange lives.
pub(super) struct ActiveStream {
    connection: Rc<Connection>,
    _gauge: Held<Http2Stats>,
}

impl ActiveStream {
    fn new(connection: Rc<Connection>) -> ActiveStream {
        connection.active.set(connection.active.get() + 1);
        let gauge = connection
            .options
            .http2_stats
            .hold(|stats| &stats.streams_active);
        ActiveStream {
            connection,
            _gauge: gauge,
        }
    }

    pub(super) fn options(&self) -> &ClientOptions {
        &self.connection.options
    }

    /// The answer is malformed.
    pub(super) fn malformed(&self) {
        self.connection.malformed.set(true);
        self.connection.wake();
    }
}

impl Drop for ActiveStream {
    fn drop(&mut self) {
        let connection = &self.connection;
        connection.active.set(connection.active.get() - 1);
        (connection.on_change)();
    }
}

struct Driver {
    h2: h2::client::Connection<Io<FrameWatch>, Bytes>,
    io: Io<FrameWatch>,
    pinger: Option<Pinger>,
    /// A ping was not answered.
    dead: bool,
    settings_seen: u64,
    connection: Rc<Connection>,
}

impl Driver {
    /// One turn: takes what came in, looks at the clock, then writes everything that the turn has made, at once.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<EndCause> {
        {
            let mut task = self.connection.task.borrow_mut();
            if !task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
                *task = Some(cx.waker().clone());
            }
        }
        loop {
            if let Poll::Ready(result) = Pin::new(&mut self.h2).poll(cx) {
                return Poll::Ready(self.end(result.err().as_ref()));
            }
            if self.is_malformed() {
                // As in Envoy, a malformed answer ends its connection.
                let details = "http2.violation.of.messaging.rule";
                return Poll::Ready(EndCause::ProtocolError(details));
            }
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

    /// Takes note of what the frame watch saw, and pings; true when the crate must be polled again.
    fn poll_policy(&mut self, cx: &mut Context<'_>) -> bool {
        let (received, settings, goaway) = self.io.with_watch(|watch| {
            let counts = watch.counts();
            (
                counts.frames_received,
                counts.settings_received,
                counts.goaway_received,
            )
        });
        if goaway {
            self.connection.stop();
        } else if settings != self.settings_seen {
            self.settings_seen = settings;
            let configured = self.connection.options.http2.max_concurrent_streams as usize;
            let limit = self.h2.max_concurrent_send_streams().min(configured);
            self.connection.limit.set(limit);
            (self.connection.on_change)();
        }
        let Some(pinger) = &mut self.pinger else {
            return false;
        };
        if self.connection.ping_wanted.take() {
            pinger.want();
        }
        if pinger.poll_dead(received, cx).is_ready() {
            let stats = &self.connection.options.http2_stats;
            stats.keepalive_timeout.inc();
            self.dead = true;
            self.io.fail(io::ErrorKind::TimedOut);
            return true;
        }
        false
    }

    /// Whether an answer was malformed, and that ends the connection.
    fn is_malformed(&self) -> bool {
        let options = &self.connection.options;
        let seen = self.io.with_watch(|watch| watch.counts().malformed);
        let told = self.connection.malformed.take();
        if told && !seen {
            options.http2_stats.rx_messaging_error.inc();
        }
        (seen || told) && !options.http2.stream_error_on_invalid_message
    }

    fn end(&self, error: Option<&h2::Error>) -> EndCause {
        let (violation, goaway) = self.io.with_watch(|watch| {
            let counts = watch.counts();
            (counts.violation, counts.goaway_received)
        });
        match violation {
            _ if self.dead => EndCause::KeepaliveTimeout,
            Some(details) => EndCause::ProtocolError(details),
            None if error.is_some_and(h2::Error::is_library) => {
                EndCause::ProtocolError("http2.protocol_error")
            }
            // The peer said when to close, and it was this side that did.
            None if goaway && error.is_none() => EndCause::Local,
            None if self.connection.is_draining() && !self.io.is_over() => EndCause::Local,
            None => EndCause::Remote,
        }
    }
}
