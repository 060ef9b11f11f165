//! The client role of HTTP/1: a connection that carries one request at a time.

use std::cell::Cell;
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use outrider_net::NetworkStream;

use crate::Body;
use crate::ClientOptions;
use crate::ConnectionEnd;
use crate::EndCause;
use crate::Meter;
use crate::RequestHead;
use crate::StreamError;
use crate::UnderscoresAction;
use crate::meter::HeadSize;

use super::deferred_writes::DeferredWrites;
use super::encode;
use super::encode::BodyCoding;
use super::exchange::H1Exchange;
use super::head::HeadLimits;
use super::sink::BodySink;
use super::transport::Filled;
use super::transport::Transport;

/// Envoy's default of `max_response_headers_kb` for HTTP/1, KiB.
const MAX_RESPONSE_HEADERS_KB: u32 = 80;

/// ```text
/// Idle <-- response complete -- Busy -- aborted, or the last request --> Closed
///   '---------- send ------------^                                         ^
///   '---------- the peer closes, or sends bytes without a request ---------'
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientState {
    Idle,
    Busy,
    Closed(EndCause),
}

/// A handle to a connection.
pub(crate) struct H1ClientConnection {
    pub(super) transport: RefCell<Transport>,
    pub(super) options: Rc<ClientOptions>,
    state: Cell<ClientState>,
    /// The connection closes after the current request.
    draining: Cell<bool>,
    aborted_requests: Cell<usize>,
    task: RefCell<Option<Waker>>,
    on_change: Rc<dyn Fn()>,
}

/// Starts HTTP/1 on a connected socket. Returns the connection's handle and the future that watches the connection
/// while it is idle.
pub(crate) fn connect(
    socket: NetworkStream,
    options: Rc<ClientOptions>,
    on_change: Rc<dyn Fn()>,
) -> (Rc<H1ClientConnection>, impl Future<Output = ConnectionEnd>) {
    let connection = Rc::new(H1ClientConnection {
        transport: RefCell::new(Transport::new(
            socket,
            options.bytes.clone(),
            options.buffer_limit,
            &[],
        )),
        options,
        state: Cell::new(ClientState::Idle),
        draining: Cell::new(false),
        aborted_requests: Cell::new(0),
        task: RefCell::new(None),
        on_change,
    });
    let watched = connection.clone();
    let run = async move {
        let cause = poll_fn(|cx| watched.poll_watch(cx)).await;
        ConnectionEnd {
            cause,
            active_streams: watched.aborted_requests.get(),
        }
    };
    (connection, run)
}

impl H1ClientConnection {
    pub(crate) fn capacity(&self) -> usize {
        usize::from(self.state.get() == ClientState::Idle && !self.draining.get())
    }

    pub(crate) fn active(&self) -> usize {
        usize::from(self.state.get() == ClientState::Busy)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get() || matches!(self.state.get(), ClientState::Closed(_))
    }

    pub(crate) fn drain(&self) {
        self.draining.set(true);
        if self.state.get() == ClientState::Idle {
            self.close(EndCause::Local);
        }
    }

    pub(super) fn limits(&self) -> HeadLimits {
        HeadLimits {
            bytes: self
                .options
                .max_response_headers_kb
                .unwrap_or(MAX_RESPONSE_HEADERS_KB) as usize
                * 1024,
            fields: self.options.max_headers_count as usize,
            underscores: UnderscoresAction::Allow,
        }
    }

    pub(crate) fn send(
        self: &Rc<H1ClientConnection>,
        head: &RequestHead,
        body: Body,
    ) -> Result<H1Exchange, StreamError> {
        if self.capacity() == 0 {
            return Err(StreamError::Overflow);
        }
        self.state.set(ClientState::Busy);
        let ends = body.is_end_stream();
        let meter = Rc::new(Meter::default());
        let mut transport = self.transport.borrow_mut();
        let before = transport.queued();
        let encoded = transport.write(|out| encode::request(head, &self.options.http1, ends, out));
        let size = transport.queued() - before;
        meter.add_headers_sent(HeadSize::http1(encoded.fields, size));
        drop(transport);
        let upload = (encoded.coding != BodyCoding::None)
            .then(|| (BodySink::new(encoded, self.options.buffer_limit), body));
        Ok(H1Exchange::new(
            self.clone(),
            head.method.clone(),
            upload,
            meter,
            encoded.tunnel,
        ))
    }

    /// The response is complete: makes the connection available again, unless it must close.
    pub(super) fn release(&self, reusable: bool) {
        let mut transport = self.transport.borrow_mut();
        transport.release_empty_input();
        transport.cancel_deferred_write();
        if transport.ended || transport.has_failed() {
            drop(transport);
            return self.close(EndCause::Remote);
        }
        if !transport.input.is_empty() {
            drop(transport);
            // The server sent bytes without a request.
            return self.close(EndCause::ProtocolError("http1.codec_error"));
        }
        if !reusable || self.draining.get() {
            drop(transport);
            return self.close(EndCause::Local);
        }
        // A server that responds before it has read the whole request still gets the bytes that are queued.
        let unsent = transport.queued() > 0;
        drop(transport);
        self.state.set(ClientState::Idle);
        if unsent {
            self.wake();
        } else {
            self.resume_watching();
        }
        (self.on_change)();
    }

    /// The response is complete but the request is not: the connection cannot be used again.
    pub(super) fn close_after_early_response(&self) {
        let transport = self.transport.borrow();
        let is_gone = transport.ended || transport.has_failed();
        drop(transport);
        self.abort(if is_gone {
            EndCause::Remote
        } else {
            EndCause::Local
        });
    }

    /// The exchange ended before its messages were complete: the connection cannot be used again.
    pub(super) fn abort(&self, cause: EndCause) {
        self.aborted_requests.set(1);
        self.close(cause);
    }

    fn close(&self, cause: EndCause) {
        self.state.set(ClientState::Closed(cause));
        self.wake();
        (self.on_change)();
    }

    /// Registers the watching task with the socket again; during the exchange, the exchange's task was registered. The
    /// watching task is only woken if there is something to read already.
    fn resume_watching(&self) {
        if let Some(task) = &*self.task.borrow() {
            let mut cx = Context::from_waker(task);
            if self
                .transport
                .borrow_mut()
                .poll_readable(&mut cx)
                .is_ready()
            {
                task.wake_by_ref();
            }
        }
    }

    fn wake(&self) {
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }

    fn poll_watch(&self, cx: &mut Context<'_>) -> Poll<EndCause> {
        self.task
            .borrow_mut()
            .get_or_insert_with(|| cx.waker().clone())
            .clone_from(cx.waker());
        match self.state.get() {
            ClientState::Busy => return Poll::Pending,
            ClientState::Closed(cause) => return Poll::Ready(cause),
            ClientState::Idle => {}
        }
        let mut transport = self.transport.borrow_mut();
        // An error will show in the read below.
        drop(transport.poll_drain(cx));
        let filled = transport.poll_fill(cx);
        drop(transport);
        let cause = match filled {
            Poll::Pending => return Poll::Pending,
            // The server sent bytes without a request.
            Poll::Ready(Ok(Filled::Some)) => EndCause::ProtocolError("http1.codec_error"),
            Poll::Ready(Ok(Filled::End) | Err(_)) => EndCause::Remote,
        };
        self.close(cause);
        Poll::Ready(cause)
    }
}

impl DeferredWrites for H1ClientConnection {
    fn write_now(&self) {
        self.transport.borrow_mut().write_deferred();
    }
}

impl fmt::Debug for H1ClientConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("H1ClientConnection")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
