//! What an HTTP/2 server connection's task shares with the tasks of its streams.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Waker;

use outrider_stats::Held;

use crate::ServerOptions;
use crate::io::Io;
use crate::stats::ConnectionStats;
use crate::stats::Http2Stats;

use super::watch::FrameWatch;

/// What the connection's task and its streams' tasks share.
#[derive(Debug)]
pub(super) struct Streams {
    active: Cell<usize>,
    closing: Cell<bool>,
    task: RefCell<Option<Waker>>,
    io: Io<FrameWatch>,
    options: Rc<ServerOptions>,
}

impl Streams {
    pub(super) fn new(io: Io<FrameWatch>, options: Rc<ServerOptions>) -> Streams {
        Streams {
            options,
            active: Cell::new(0),
            closing: Cell::new(false),
            task: RefCell::new(None),
            io,
        }
    }

    pub(super) fn stats(&self) -> &Arc<ConnectionStats> {
        &self.options.stats
    }

    pub(super) fn io(&self) -> &Io<FrameWatch> {
        &self.io
    }

    pub(super) fn active(&self) -> usize {
        self.active.get()
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Lets the connection's task know when one of its streams has something to say.
    pub(super) fn remember_task(&self, cx: &Context<'_>) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
    }

    /// Lets the connection finish once its streams have.
    pub(super) fn close(&self) {
        self.closing.set(true);
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }

    /// The same, when the server drains; looked at with each response, as a gradual drain asks ever more often.
    pub(super) fn close_if_draining(&self) {
        if !self.closing.get() && self.options.drain.is_draining() {
            self.options.stats.downstream_cx_drain_close.inc();
            self.close();
        }
    }

    pub(super) fn has_stream_error_on_invalid_message(&self) -> bool {
        self.options.http2.stream_error_on_invalid_message
    }

    /// The next reset with PROTOCOL_ERROR is the manager's, not the codec's.
    pub(super) fn note_own_reset(&self) {
        self.io.with_watch(|watch| watch.counts().own_resets += 1);
    }
}

/// Counts one stream for as long as it is served.
pub(super) struct ActiveStream {
    streams: Rc<Streams>,
    _gauge: Held<Http2Stats>,
}

impl ActiveStream {
    pub(super) fn new(streams: Rc<Streams>, stats: &Arc<Http2Stats>) -> ActiveStream {
        streams.active.set(streams.active.get() + 1);
        ActiveStream {
            streams,
            _gauge: stats.hold(|stats| &stats.streams_active),
        }
    }
}

impl Drop for ActiveStream {
    fn drop(&mut self) {
        let left = self.streams.active.get() - 1;
        self.streams.active.set(left);
        // The idle time begins now: the connection's task must look.
        if left == 0
            && let Some(task) = &*self.streams.task.borrow()
        {
            task.wake_by_ref();
        }
    }
}
