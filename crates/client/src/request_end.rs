//! Tells a call when its request has ended, if its body arrives piece by piece.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

/// Starts the timeout of a call whose request takes time to arrive. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct RequestEnd(Rc<State>);

#[derive(Debug, Default)]
struct State {
    has_ended: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl RequestEnd {
    /// Notes that the whole request has arrived.
    pub fn note(&self) {
        self.0.has_ended.set(true);
        if let Some(waker) = self.0.waker.take() {
            waker.wake();
        }
    }

    /// Ready once the whole request has arrived.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.has_ended.get() {
            return Poll::Ready(());
        }
        self.0.waker.replace(Some(cx.waker().clone()));
        Poll::Pending
    }
}
