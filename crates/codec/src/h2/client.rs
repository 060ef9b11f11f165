//! The client role of HTTP/2: a connection's handle and the task that drives it.

use std::cell::Cell;
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;

use http::Method;
use outrider_net::NetworkStream;

use crate::Body;
use crate::ClientOptions;
use crate::ConnectionEnd;
use crate::EndCause;
use crate::Meter;
use crate::RequestHead;
use crate::StreamError;
use crate::UnderscoresAction;
use crate::header;

use super::H2Exchange;
use super::headers;
use super::keepalive::Pinger;
use super::message::HeaderRules;
use super::pump::Pump;
use super::session::AcceptedRequest;
use super::session::CloseOnDrop;
use super::session::Fault;
use super::session::Role;
use super::session::Session;
use super::session::SessionSetup;
use super::stream::ResponseTo;

/// A handle to a connection.
pub(crate) struct H2ClientConnection {
    session: Session,
    active: Cell<usize>,
    limit: Cell<usize>,
    draining: Cell<bool>,
    pinger: Option<RefCell<Pinger>>,
    on_change: Rc<dyn Fn()>,
    options: Rc<ClientOptions>,
}

/// Starts HTTP/2 on a connected socket. Returns the connection's handle and the future that drives the connection.
///
/// `on_change` is called when the capacity may have grown, or the connection drains. It must not call back into the
/// connection.
pub(crate) fn connect(
    socket: NetworkStream,
    options: Rc<ClientOptions>,
    on_change: Rc<dyn Fn()>,
) -> (Rc<H2ClientConnection>, impl Future<Output = ConnectionEnd>) {
    let session = session(socket, &options);
    let keepalive = options.http2.keepalive.as_ref();
    let pinger = keepalive.map(|settings| Pinger::new(settings.clone(), &options.timers));
    let pinger = pinger.map(RefCell::new);
    let configured = options.http2.max_concurrent_streams as usize;
    let connection = Rc::new(H2ClientConnection {
        session,
        active: Cell::new(0),
        // The configured limit applies until the peer's SETTINGS arrive, as in Envoy.
        limit: Cell::new(configured),
        draining: Cell::new(false),
        pinger,
        on_change,
        options,
    });
    let mut driver = ClientDriver {
        connection: connection.clone(),
    };
    let run = async move {
        let _close = CloseOnDrop(driver.connection.session.clone());
        let cause = poll_fn(|cx| driver.poll(cx)).await;
        driver.connection.stop();
        ConnectionEnd {
            cause,
            active_streams: match cause {
                // All streams have ended, though their exchanges may not have been dropped yet.
                EndCause::Local => 0,
                _ => driver.connection.active.get(),
            },
        }
    };
    (connection, run)
}

fn session(socket: NetworkStream, options: &ClientOptions) -> Session {
    let rules = HeaderRules {
        max_bytes: options.max_response_headers_kb.unwrap_or(60) as usize * 1024,
        max_count: options.max_headers_count as usize,
        underscores: UnderscoresAction::Allow,
        extended_connect: false,
    };
    let setup = SessionSetup {
        role: Role::Client,
        options: &options.http2,
        rules,
        buffer_limit: options.buffer_limit,
        stats: options.http2_stats.clone(),
        counts: options.bytes.clone(),
    };
    Session::new(socket, setup)
}

impl H2ClientConnection {
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
        self.session.wake();
    }

    pub(crate) fn send(
        self: &Rc<H2ClientConnection>,
        head: &RequestHead,
        body: Body,
    ) -> Result<H2Exchange, StreamError> {
        if self.capacity() == 0 {
            return Err(StreamError::Overflow);
        }
        if let Some(pinger) = &self.pinger {
            pinger.borrow_mut().ping_before_request(&self.session);
        }
        let ends = body.is_end_stream();
        let meter = Rc::new(Meter::default());
        let upgrade = head.headers.get(&header::UPGRADE).cloned();
        let response_to = match head.method {
            Method::HEAD => ResponseTo::Head,
            Method::CONNECT => ResponseTo::Connect,
            _ if upgrade.is_some() => ResponseTo::Connect,
            _ => ResponseTo::Other,
        };
        let stream = self.session.open(&meter, response_to);
        let stream = stream.ok_or(StreamError::Overflow)?;
        if self.session.is_exhausted() {
            self.stop();
        }
        stream.send_head(ends, |encoder, out| {
            headers::encode_request(head, encoder, out)
        });
        let pump = (!ends).then(|| Pump::new(body));
        let active = ActiveClientStream::new(self.clone());
        Ok(H2Exchange::new(stream, pump, upgrade, meter, active))
    }

    /// Accepts no more requests. Notifies the owner the first time.
    fn stop(&self) {
        if !self.draining.replace(true) {
            (self.on_change)();
        }
    }
}

impl fmt::Debug for H2ClientConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("H2ClientConnection")
            .field("active", &self.active)
            .field("limit", &self.limit)
            .field("draining", &self.draining)
            .finish_non_exhaustive()
    }
}

/// Counts one stream as active while its exchange exists.
pub(super) struct ActiveClientStream {
    connection: Rc<H2ClientConnection>,
}

impl ActiveClientStream {
    fn new(connection: Rc<H2ClientConnection>) -> ActiveClientStream {
        connection.active.set(connection.active.get() + 1);
        connection.options.http2_stats.streams_active.inc();
        ActiveClientStream { connection }
    }
}

impl Drop for ActiveClientStream {
    fn drop(&mut self) {
        let connection = &self.connection;
        connection.options.http2_stats.streams_active.dec();
        let left = connection.active.get() - 1;
        connection.active.set(left);
        if left == 0 && connection.draining.get() {
            connection.session.wake();
        }
        (connection.on_change)();
    }
}

impl fmt::Debug for ActiveClientStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ActiveClientStream")
    }
}

/// The connection's task.
struct ClientDriver {
    connection: Rc<H2ClientConnection>,
}

impl ClientDriver {
    /// One poll of the task: reads frames, checks the deadlines, then writes everything that was queued since the last
    /// poll in one go.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<EndCause> {
        let connection = &self.connection;
        let session = &connection.session;
        session.store_task(cx);
        let (accepted, more) = session.read(cx);
        debug_assert!(
            !accepted
                .iter()
                .any(|a| matches!(a, AcceptedRequest::Request { .. }))
        );
        self.note_peer();
        if let Some(pinger) = &connection.pinger
            && pinger.borrow_mut().poll_dead(session, cx).is_ready()
        {
            connection.options.http2_stats.keepalive_timeout.inc();
            session.fail(Fault::KeepaliveTimeout);
        }
        // Frames that are queued after this are written by the next poll.
        let _flushed = session.poll_flush(cx);
        if let Some(fault) = session.fault() {
            return Poll::Ready(fault.cause(Role::Client));
        }
        let idle = connection.active.get() == 0 && session.open_streams() == 0;
        // Unwritten bytes do not keep the connection open: the peer may never read them.
        if connection.is_draining() && idle {
            return Poll::Ready(EndCause::Local);
        }
        if more {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Applies changes of the peer's limits and its GOAWAY.
    fn note_peer(&self) {
        let connection = &self.connection;
        if connection.session.goaway_received() {
            return connection.stop();
        }
        if let Some(limit) = connection.session.peer_max_streams() {
            let configured = connection.options.http2.max_concurrent_streams;
            let limit = limit.min(configured) as usize;
            if connection.limit.replace(limit) != limit {
                (connection.on_change)();
            }
        }
    }
}
