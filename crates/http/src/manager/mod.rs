//! The HTTP connection manager on one worker: serves connections and runs their streams through the filters.

mod codec_options;
mod config;
mod filtering;
mod handle;
mod overload;
mod premature_resets;
mod routes;
mod sending;

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use http::Version;
use outrider_codec::AbortConnection;
use outrider_codec::Body;
use outrider_codec::ConnectionCounter;
use outrider_codec::Handler;
use outrider_codec::MalformedRequest;
use outrider_codec::Meter;
use outrider_codec::RequestHeadError;
use outrider_codec::Responder;
use outrider_codec::ServerOptions;
use outrider_net::AcceptedConnection;
use outrider_net::ConnectionHandler;
use outrider_net::DownstreamConnectionInfo;
use outrider_net::DrainSignal;
use outrider_net::WorkerCx;
use outrider_upstream::Clusters;

use crate::ListenerHttpStats;
use crate::ManagerStats;
use crate::RequestHead;
use crate::Stream;
use crate::access_log::WorkerLog;
use crate::date::DateCache;
use crate::deadlines::DeadlineTimer;
use crate::filters::HttpFilterChain;
use crate::router::Mirrors;
use crate::stream::StreamEnd;
use crate::tracing::WorkerTracing;

pub use config::ConnectionManagerConfig;
pub use config::RdsConfig;

use overload::RequestOverload;
use premature_resets::PrematureResets;
pub(crate) use routes::RoutesInUse;
use routes::WorkerRoutes;

/// A connection manager on one worker.
pub struct ConnectionManager {
    config: Arc<ConnectionManagerConfig>,
    codec: Rc<ServerOptions>,
    stats: Arc<ManagerStats>,
    listener_stats: Arc<ListenerHttpStats>,
    clusters: Rc<Clusters>,
    worker: Rc<WorkerCx>,
    dates: DateCache,
    filters: HttpFilterChain,
    routes: WorkerRoutes,
    access_logs: Vec<WorkerLog>,
    overload: RequestOverload,
    mirrors: Mirrors,
    tracing: Option<Rc<WorkerTracing>>,
}

impl ConnectionManagerConfig {
    /// This connection manager on a worker. `drain` tells its connections to finish.
    #[must_use]
    pub fn worker(
        self: &Arc<Self>,
        worker: &Rc<WorkerCx>,
        clusters: &Rc<Clusters>,
        drain: &DrainSignal,
    ) -> Rc<ConnectionManager> {
        Rc::new(ConnectionManager {
            config: self.clone(),
            codec: self
                .codec
                .worker(worker, &self.scope, drain, &self.timeouts),
            stats: worker.store.register(self.scope.clone()),
            listener_stats: worker.store.register(self.listener_scope.clone()),
            clusters: clusters.clone(),
            worker: worker.clone(),
            dates: DateCache::new(),
            filters: self.filters.worker(worker, clusters),
            routes: self.routes.worker(),
            overload: RequestOverload::new(
                worker,
                self.bypasses_overload_manager,
                self.appends_local_overload,
            ),
            access_logs: self
                .access_logs
                .iter()
                .map(|log| log.worker(&worker.timers))
                .collect(),
            mirrors: Mirrors::new(clusters, self.forwarding.local_address),
            tracing: (self.tracing.as_ref())
                .map(|tracing| WorkerTracing::new(tracing, worker, clusters)),
        })
    }
}

impl ConnectionManager {
    /// `http.<stat_prefix>.*`
    pub(crate) fn stats(&self) -> &Arc<ManagerStats> {
        &self.stats
    }

    /// Writes an ended stream to the access logs.
    pub(crate) fn log(&self, stream: &Stream) {
        for log in &self.access_logs {
            log.log(stream);
        }
    }

    /// Tells the filters that a stream has ended.
    pub(crate) fn end_filters(&self, stream: &mut Stream) {
        self.filters.end(stream);
    }
}

impl ConnectionHandler for ConnectionManager {
    fn serve(self: Rc<Self>, connection: AcceptedConnection) -> Pin<Box<dyn Future<Output = ()>>> {
        let options = self.codec.clone();
        Box::pin(async move {
            let mut connection = connection;
            let mut counted = ConnectionCounter::new(&options);
            if connection.is_tls() {
                match Box::pin(counted.secure(&mut connection, &options)).await {
                    Some(secured) => counted = secured,
                    None => return,
                }
            }
            let AcceptedConnection { stream, info } = connection;
            let tls = info.tls.clone();
            let protocol = tls.as_ref().map_or(&b""[..], |tls| &tls.alpn);
            let streams = Rc::new(ConnectionStreams {
                manager: self,
                connection: info,
                timer: Cell::new(None),
                resets: PrematureResets::default(),
            });
            let end =
                outrider_codec::serve_counted(stream, protocol, options, streams, counted).await;
            log::debug!("connection ended: {end:?}");
        })
    }
}

/// The streams of one connection.
struct ConnectionStreams {
    manager: Rc<ConnectionManager>,
    connection: Rc<DownstreamConnectionInfo>,
    /// The timer of the last stream, if the next stream will run in the same task.
    timer: Cell<Option<DeadlineTimer>>,
    resets: PrematureResets,
}

impl ConnectionStreams {
    fn take_timer(&self) -> DeadlineTimer {
        let kept = self.timer.take();
        kept.unwrap_or_else(|| {
            let timers = &self.manager.worker.timers;
            let timer = match &self.manager.overload.stream_idle {
                Some(_) => timers.scaled_timer(),
                None => timers.timer(),
            };
            timer.into()
        })
    }

    /// Notes a stream that its client ended before any answer, and ends a connection that has too many of them.
    fn ended_without_answer(&self, stream: &Stream, abort: &AbortConnection<'_>) {
        if self.resets.note_reset(stream) && abort("too_many_premature_resets") {
            let stats = &self.manager.stats.requests;
            stats.downstream_rq_too_many_premature_resets.inc();
        }
    }

    /// Keeps a timer for the next stream. Not on HTTP/2: each stream has a task of its own there, and the timer would
    /// keep the finished task alive.
    fn keep_timer(&self, timer: DeadlineTimer, protocol: Version) {
        if protocol != Version::HTTP_2 {
            self.timer.set(Some(timer));
        }
    }
}

impl Handler for ConnectionStreams {
    fn max_requests_per_turn(&self) -> usize {
        let runtime = self.manager.worker.runtime();
        let most = runtime.and_then(|runtime| runtime.number("http.max_requests_per_io_cycle"));
        most.map_or(usize::MAX, |most| most.try_into().unwrap_or(usize::MAX))
    }

    fn serve(
        self: Rc<Self>,
        head: RequestHead,
        body: Body,
        respond: Responder,
    ) -> impl Future<Output = ()> + 'static {
        self.manager.clone().handle(self, head, body, respond)
    }

    fn head_failed(
        self: Rc<Self>,
        refused: RequestHeadError,
        protocol: Version,
        meter: Rc<Meter>,
        abort: &AbortConnection<'_>,
    ) {
        let began = meter.receive_began();
        let stream = self
            .manager
            .headless_stream(self.connection.clone(), protocol, began);
        let end = StreamEnd::new(stream, self.manager.clone(), meter);
        self.ended_without_answer(&end.stream, abort);
        sending::end_headless(end, refused);
    }

    fn malformed(
        self: Rc<Self>,
        error: MalformedRequest,
        respond: Responder,
    ) -> impl Future<Output = ()> + 'static {
        let connection = self.connection.clone();
        self.manager.clone().refuse(connection, error, respond)
    }
}

impl fmt::Debug for ConnectionManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionManager")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budgets::REFUSED_REQUEST_FUTURE;
    use crate::budgets::REQUEST_FUTURE;

    /// The size of the future that `make` returns, without calling it.
    fn size_of_output<C, A, F>(_make: fn(Rc<ConnectionManager>, C, A, Responder) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_stream_stays_small() {
        let size = size_of_output::<Rc<ConnectionStreams>, (RequestHead, Body), _>(
            |manager, downstream, (head, body), respond| {
                manager.handle(downstream, head, body, respond)
            },
        );
        assert!(
            size <= REQUEST_FUTURE,
            "the future of a stream takes {size} bytes"
        );
        let size = size_of_output::<_, MalformedRequest, _>(ConnectionManager::refuse);
        assert!(
            size <= REFUSED_REQUEST_FUTURE,
            "the future of a refused stream takes {size} bytes"
        );
    }
}
