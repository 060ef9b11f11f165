//! Collects the spans of a worker and exports them: when there are enough, and when enough time has passed.

use std::cell::Cell;
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::rc::Weak;
use std::time::Duration;

use outrider_net::WorkerCx;

use super::span::Span;

/// How many exports of a worker may be under way. Envoy has no limit; a collector that does not answer must not make the
/// memory grow.
const EXPORT_LIMIT: u32 = 100;
/// After how many spans an export begins, if the runtime does not say.
const MIN_FLUSH_SPANS: u64 = 5;
/// The time between exports in milliseconds, if the runtime does not say.
const FLUSH_INTERVAL: u64 = 5000;

/// Sends spans to a collector.
pub(super) trait SpanExporter: fmt::Debug + 'static {
    /// The runtime key of the number of spans after which an export begins.
    const MIN_FLUSH_SPANS: &'static str;
    /// The runtime key of the time between exports.
    const FLUSH_INTERVAL: &'static str;

    /// Sends spans.
    fn export(self: Rc<Self>, spans: Vec<Span>) -> Pin<Box<dyn Future<Output = ()>>>;
    /// Counts spans that are dropped, because exports take too long.
    fn count_dropped(&self, spans: u64);
    /// Counts that the time between exports has passed.
    fn count_timer(&self);
}

/// The spans of one worker that wait for their export.
#[derive(Debug)]
pub(super) struct Reporter<E> {
    exporter: Rc<E>,
    worker: Rc<WorkerCx>,
    pending: RefCell<Vec<Span>>,
    /// How many spans may wait.
    limit: usize,
    /// How many exports are under way.
    exports: Rc<Cell<u32>>,
}

impl<E: SpanExporter> Reporter<E> {
    /// A reporter that keeps at most `limit` spans.
    pub(super) fn new(exporter: E, worker: &Rc<WorkerCx>, limit: usize) -> Rc<Reporter<E>> {
        let reporter = Rc::new(Reporter {
            exporter: Rc::new(exporter),
            worker: worker.clone(),
            pending: RefCell::default(),
            limit,
            exports: Rc::default(),
        });
        tokio::task::spawn_local(flush_periodically(Rc::downgrade(&reporter)));
        reporter
    }

    /// Takes a span that has ended. As in Envoy, one for which there is no space is dropped, and begins an export.
    pub(super) fn report(&self, span: Span) {
        let mut pending = self.pending.borrow_mut();
        if pending.len() >= self.limit {
            drop(pending);
            self.exporter.count_dropped(1);
            return self.flush();
        }
        pending.push(span);
        let enough = self.setting(E::MIN_FLUSH_SPANS, MIN_FLUSH_SPANS);
        if pending.len() as u64 >= enough {
            drop(pending);
            self.flush();
        }
    }

    fn setting(&self, key: &str, default: u64) -> u64 {
        let set = self.worker.runtime();
        let set = set.and_then(|runtime| runtime.number(key));
        set.unwrap_or(default)
    }

    fn flush(&self) {
        let spans = self.pending.take();
        if spans.is_empty() {
            return;
        }
        if self.exports.get() >= EXPORT_LIMIT {
            return self.exporter.count_dropped(spans.len() as u64);
        }
        let export = ExportUnderWay::new(&self.exports);
        let exporter = self.exporter.clone();
        tokio::task::spawn_local(async move {
            exporter.export(spans).await;
            drop(export);
        });
    }
}

/// Counts an export while it is under way.
struct ExportUnderWay(Rc<Cell<u32>>);

impl ExportUnderWay {
    fn new(count: &Rc<Cell<u32>>) -> ExportUnderWay {
        count.set(count.get() + 1);
        ExportUnderWay(count.clone())
    }
}

impl Drop for ExportUnderWay {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Exports what waits again and again, as long as the reporter exists.
async fn flush_periodically<E: SpanExporter>(reporter: Weak<Reporter<E>>) {
    loop {
        let Some(strong) = reporter.upgrade() else {
            return;
        };
        let interval = strong.setting(E::FLUSH_INTERVAL, FLUSH_INTERVAL);
        let timers = strong.worker.timers.clone();
        drop(strong);
        timers.sleep(Duration::from_millis(interval.max(1))).await;
        let Some(strong) = reporter.upgrade() else {
            return;
        };
        strong.exporter.count_timer();
        strong.flush();
    }
}
