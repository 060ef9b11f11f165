//! The lines that a worker has formatted and not yet sent to the writer of a file.

use std::cell::RefCell;
use std::rc::Rc;
use std::rc::Weak;
use std::sync::Arc;

use outrider_net::Timers;

use crate::access_log::files::LogFile;

/// Lines that wait to be sent to the writer: until there are enough bytes, until the flush interval has passed, or
/// until the log ends.
pub(super) struct Buffer {
    lines: RefCell<BufferedLines>,
    file: Arc<LogFile>,
}

#[derive(Default)]
struct BufferedLines {
    text: Vec<u8>,
    count: u64,
}

thread_local! {
    /// This worker's buffers, one for each file, so that several logs on one file write their lines in order.
    static BUFFERS: RefCell<Vec<Weak<Buffer>>> = const { RefCell::new(Vec::new()) };
}

impl Buffer {
    /// This worker's buffer for `file`.
    pub(super) fn of(file: &Arc<LogFile>, timers: &Timers) -> Rc<Buffer> {
        BUFFERS.with_borrow_mut(|buffers| {
            buffers.retain(|buffer| buffer.strong_count() > 0);
            let mut known = buffers.iter().filter_map(Weak::upgrade);
            let known = known.find(|buffer| Arc::ptr_eq(&buffer.file, file));
            known.unwrap_or_else(|| {
                let buffer = Rc::new(Buffer {
                    lines: RefCell::default(),
                    file: Arc::clone(file),
                });
                buffers.push(Rc::downgrade(&buffer));
                let in_time = flush_periodically(Rc::downgrade(&buffer), timers.clone());
                tokio::task::spawn_local(in_time);
                buffer
            })
        })
    }

    pub(super) fn add(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut lines = self.lines.borrow_mut();
        let before = lines.text.len();
        write(&mut lines.text);
        if lines.text.len() == before {
            return;
        }
        lines.count += 1;
        if lines.text.len() >= self.file.flush_size() {
            let lines = std::mem::take(&mut *lines);
            self.file.write(lines.text, lines.count);
        }
    }

    pub(super) fn flush(&self) -> bool {
        let lines = self.lines.take();
        let any = lines.count > 0;
        if any {
            self.file.write(lines.text, lines.count);
        }
        any
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Sends lines to the writer at least once in each flush interval, as long as the buffer exists.
async fn flush_periodically(buffer: Weak<Buffer>, timers: Timers) {
    let Some(interval) = buffer.upgrade().map(|buffer| buffer.file.flush_interval()) else {
        return;
    };
    loop {
        timers.sleep(interval).await;
        let Some(buffer) = buffer.upgrade() else {
            return;
        };
        if buffer.flush() {
            buffer.file.flushed_by_timer();
        }
    }
}
