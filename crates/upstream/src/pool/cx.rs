//! The state that all pools of a cluster on one worker share.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use outrider_codec::ClientOptions;
use outrider_codec::stats::ByteCounts;
use outrider_net::WorkerCx;
use outrider_stats::Scope;

use crate::Breakers;
use crate::ClusterInfo;
use crate::Host;
use crate::OriginStats;
use crate::SharedCluster;
use crate::shared::ProcessWide;
use crate::shared::scope;
use crate::stats::ClusterStats;
use crate::transport::ClusterTls;

/// A cluster's settings, counters and limits, as one worker uses them.
#[derive(Debug)]
pub(crate) struct PoolCx {
    pub(crate) info: Arc<ClusterInfo>,
    pub(crate) stats: Arc<ClusterStats>,
    pub(crate) breakers: Arc<Breakers>,
    pub(crate) worker: Rc<WorkerCx>,
    /// By the position of the transport socket; `None` for plaintext.
    tls: Vec<Option<Rc<ClusterTls>>>,
    process: ProcessWide,
    /// See [`SharedCluster::had_traffic`].
    pub(super) had_traffic: Arc<AtomicBool>,
    http1: OnceCell<Rc<ClientOptions>>,
    http2: OnceCell<Rc<ClientOptions>>,
}

impl PoolCx {
    pub(crate) fn new(shared: &SharedCluster, worker: Rc<WorkerCx>) -> Rc<PoolCx> {
        Rc::new(PoolCx {
            info: shared.info.clone(),
            stats: worker.store.register(scope(&shared.info)),
            breakers: shared.breakers.clone(),
            tls: tls(&shared.info, &worker),
            process: shared.process.clone(),
            had_traffic: shared.had_traffic.clone(),
            worker,
            http1: OnceCell::new(),
            http2: OnceCell::new(),
        })
    }

    /// The TLS of connections to `host`; `None` for plaintext.
    pub(super) fn tls(&self, host: &Host) -> Option<&Rc<ClusterTls>> {
        let position = self.info.transport_sockets.position(host.description());
        self.tls.get(position)?.as_ref()
    }

    /// The codec's options. Created with the first connection of its protocol: from then on, `cluster.<name>.http1.*`
    /// or `cluster.<name>.http2.*` is listed.
    pub(super) fn client_options(&self, http2: bool) -> &Rc<ClientOptions> {
        let cell = if http2 { &self.http2 } else { &self.http1 };
        cell.get_or_init(|| {
            let (info, store) = (&self.info, &self.worker.store);
            let mut options = ClientOptions::new(self.worker.timers.clone(), self.stats.clone());
            options.http1 = info.http.http1.clone();
            options.http2 = info.http.http2.clone();
            options.max_headers_count = info.http.max_headers_count;
            options.max_response_headers_kb = info.http.max_response_headers_kb;
            options.buffer_limit = info.per_connection_buffer_limit_bytes;
            if http2 {
                options.http2_stats = store.register(scope(info).name("http2"));
            } else {
                options.http1_stats = store.register(scope(info).name("http1"));
            }
            Rc::new(options)
        })
    }

    /// `zone.<from>.<to>.*` in `scope` for hosts in `zone`; `None` if they or the proxy are in no zone.
    pub(crate) fn zone_stats(&self, scope: Scope, zone: &str) -> Option<Arc<OriginStats>> {
        let local = &self.process.local_zone;
        if local.is_empty() || zone.is_empty() {
            return None;
        }
        let scope = scope.name("zone").verbatim(local).verbatim(zone);
        Some(self.worker.store.register(scope))
    }

    /// Whether the runtime allows a new pool to use HTTP/2: `upstream.use_http2` is the percentage of pools that may.
    pub(super) fn may_use_http2(&self) -> bool {
        let runtime = self.process.runtime.snapshot();
        let percent = runtime.number("upstream.use_http2");
        percent.is_none_or(|percent| self.worker.random() % 100 < percent)
    }

    /// An id for a new connection, unique in the process.
    pub(super) fn connection_id(&self) -> u64 {
        self.process.connection_ids.fetch_add(1, Relaxed)
    }
}

fn tls(info: &ClusterInfo, worker: &Rc<WorkerCx>) -> Vec<Option<Rc<ClusterTls>>> {
    let contexts = info.transport_sockets.contexts();
    let tls = contexts.map(|context| {
        let context = context?.clone();
        Some(Rc::new(ClusterTls::new(context, scope(info), worker)))
    });
    tls.collect()
}

impl ByteCounts for ClusterStats {
    fn received(&self, bytes: u64) {
        self.upstream_cx_rx_bytes_total.add(bytes);
        self.upstream_cx_rx_bytes_buffered.mark_used();
    }

    fn sent(&self, bytes: u64) {
        self.upstream_cx_tx_bytes_total.add(bytes);
    }

    fn receive_buffered(&self, before: u64, after: u64) {
        self.upstream_cx_rx_bytes_buffered.add(after);
        self.upstream_cx_rx_bytes_buffered.sub(before);
    }

    fn send_buffered(&self, before: u64, after: u64) {
        self.upstream_cx_tx_bytes_buffered.add(after);
        self.upstream_cx_tx_bytes_buffered.sub(before);
    }

    // The router counts these pauses, because it knows their cause.
    fn reading_paused(&self, _: bool) {}

    fn writing_paused(&self, writing_paused: bool) {
        if writing_paused {
            self.upstream_flow_control_backed_up_total.inc();
        } else {
            self.upstream_flow_control_drained_total.inc();
        }
    }
}
