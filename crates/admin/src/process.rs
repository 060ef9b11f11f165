//! The stats of the process as a whole: `server.*`, `runtime.*`, `listener_manager.*`, watchdogs, the client inside.

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use outrider_stats::Counter;
use outrider_stats::Gauge;
use outrider_stats::Histogram;
use outrider_stats::Scope;
use outrider_stats::Store;
use outrider_stats::http::RouterStats;
use outrider_tls::ContextCertificates;

use crate::ServerState;

outrider_stats::group! {
    /// `server.*`
    pub struct ServerStats {
        #[name("compilation_settings.fips_mode")]
        fips_mode: Gauge,
        concurrency: Gauge,
        days_until_first_cert_expiring: Gauge,
        debug_assertion_failures: Counter,
        dropped_stat_flushes: Counter,
        dynamic_unknown_fields: Counter,
        envoy_bug_failures: Counter,
        envoy_notifications: Counter,
        hot_restart_epoch: Gauge,
        initialization_time_ms: Histogram,
        live: Gauge,
        #[name("main_thread")]
        main_thread: WatchdogStats,
        memory_allocated: Gauge,
        memory_heap_size: Gauge,
        memory_physical_size: Gauge,
        parent_connections: Gauge,
        seconds_until_first_ocsp_response_expiring: Gauge,
        state: Gauge,
        static_unknown_fields: Counter,
        stats_recent_lookups: Gauge,
        total_connections: Gauge,
        uptime: Gauge,
        version: Gauge,
        wip_protos: Counter,
    }
}

outrider_stats::group! {
    /// `main_thread.*`, `workers.*`, `server.worker_<n>.*`: always 0, because no thread has a watchdog.
    pub struct WatchdogStats { watchdog_mega_miss: Counter, watchdog_miss: Counter }
}

outrider_stats::group! {
    /// `runtime.*`
    pub struct RuntimeStats {
        admin_overrides_active: Gauge,
        deprecated_feature_seen_since_process_start: Gauge,
        deprecated_feature_use: Counter,
        load_error: Counter,
        load_success: Counter,
        num_keys: Gauge,
        num_layers: Gauge,
        override_dir_exists: Counter,
        override_dir_not_exists: Counter,
    }
}

outrider_stats::group! {
    /// `listener_manager.*`
    pub struct ListenerManagerStats {
        listener_added: Counter,
        listener_create_failure: Counter,
        listener_create_success: Counter,
        listener_in_place_updated: Counter,
        listener_modified: Counter,
        listener_removed: Counter,
        listener_stopped: Counter,
        total_filter_chains_draining: Gauge,
        total_listeners_active: Gauge,
        total_listeners_draining: Gauge,
        total_listeners_warming: Gauge,
        workers_pinned: Gauge,
        workers_started: Gauge,
    }
}

outrider_stats::group! {
    /// `overload.*`, which is listed without an overload manager too.
    pub struct OverloadStats { refresh_interval_delay: Histogram }
}

outrider_stats::group! {
    /// `envoy.overload_actions.reset_high_memory_stream.*`
    pub struct ResetStreamStats { count: Counter }
}

/// The value of `server.version`. Envoy reports the first six digits of its commit; this is the version of Envoy that
/// Outrider implements, 1.40.0.
const VERSION_NUMBER: u64 = 0x01_28_00;
/// The value of `days_until_first_cert_expiring` without a certificate.
const NO_CERTIFICATE: u64 = u32::MAX as u64;

/// The stats of the process, on the main thread.
#[derive(Debug)]
pub struct ProcessStats {
    /// `server.*`
    pub server: Arc<ServerStats>,
    /// `runtime.*`
    pub runtime: Arc<RuntimeStats>,
    /// `listener_manager.*`
    pub listener_manager: Arc<ListenerManagerStats>,
    /// `http.async-client.*`: the workers count in copies of their own.
    _async_client: Arc<RouterStats>,
    _watchdogs: Vec<Arc<WatchdogStats>>,
    _overload: Arc<OverloadStats>,
    _reset_stream: Arc<ResetStreamStats>,
}

impl ServerStats {
    /// Updates `days_until_first_cert_expiring` from the certificates in use.
    pub fn count_days_until_expiry(&self, contexts: &[ContextCertificates]) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = i64::try_from(now.unwrap_or_default().as_secs()).unwrap_or(i64::MAX);
        let all = contexts
            .iter()
            .flat_map(|context| context.own.iter().chain(&context.authorities));
        let days = all.map(|certificate| certificate.facts.days_until_expiry(now));
        let first = days.min().unwrap_or(NO_CERTIFICATE);
        self.days_until_first_cert_expiring.set(first);
    }
}

impl ProcessStats {
    /// Registers the stats of a process with `concurrency` workers.
    pub fn new(store: &Store, concurrency: u32) -> Self {
        let server = store.register::<ServerStats>(Scope::new("server"));
        server.concurrency.set(concurrency.into());
        server.days_until_first_cert_expiring.set(NO_CERTIFICATE);
        server.version.set(VERSION_NUMBER);
        for gauge in [&server.fips_mode, &server.stats_recent_lookups] {
            gauge.mark_used();
        }
        for counter in [
            &server.dynamic_unknown_fields,
            &server.static_unknown_fields,
            &server.wip_protos,
        ] {
            counter.mark_used();
        }
        let worker = |index| Scope::new("server").name(&format!("worker_{index}"));
        let threads = [Scope::new("main_thread"), Scope::new("workers")];
        let threads = threads.into_iter().chain((0..concurrency).map(worker));
        Self {
            server,
            runtime: store.register(Scope::new("runtime")),
            listener_manager: store.register(Scope::new("listener_manager")),
            _async_client: store.register(Scope::new("http").name("async-client")),
            _watchdogs: threads.map(|scope| store.register(scope)).collect(),
            _overload: store.register(Scope::new("overload")),
            _reset_stream: store.register(Scope::new(
                "envoy.overload_actions.reset_high_memory_stream",
            )),
        }
    }

    /// Updates the stats that change with time. Must be called before each flush.
    pub fn refresh(&self, uptime: Duration, state: ServerState) {
        let server = &self.server;
        let memory = Memory::read();
        server.uptime.set(uptime.as_secs());
        server.state.set(state.number());
        server.live.set(u64::from(state == ServerState::Live));
        server.memory_allocated.set(memory.allocated);
        server.memory_heap_size.set(memory.heap);
        server.memory_physical_size.set(memory.physical);
    }
}

/// The memory of the process in bytes, as `server.memory_allocated` shows it.
#[must_use]
pub fn allocated_memory() -> u64 {
    Memory::read().allocated
}

/// The process's memory in bytes, as the kernel counts it. The allocator does not count it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Private resident memory.
    pub(crate) allocated: u64,
    /// Private memory, resident or swapped out.
    pub(crate) heap: u64,
    /// Resident memory.
    pub(crate) physical: u64,
}

impl Memory {
    /// Reads the counts; all zero if there is no `/proc`.
    pub(crate) fn read() -> Self {
        let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self::parse(&text)
    }

    fn parse(status: &str) -> Self {
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            kibibytes.unwrap_or(0u64) * 1024
        };
        Self {
            allocated: bytes("RssAnon:"),
            heap: bytes("RssAnon:") + bytes("VmSwap:"),
            physical: bytes("VmRSS:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_counts() {
        let memory =
            Memory::parse("Name:\tx\nVmRSS:\t    9000 kB\nRssAnon:\t    4000 kB\nVmSwap:\t5 kB\n");
        assert_eq!(memory.physical, 9000 * 1024);
        assert_eq!(memory.allocated, 4000 * 1024);
        assert_eq!(memory.heap, 4005 * 1024);
        assert_eq!(Memory::parse("").physical, 0);
    }
}
