//! Listener filters: they inspect a connection before its filter chain is selected.
//!
//! They read with `MSG_PEEK`, so that the bytes stay in the socket for the connection's handler.

use std::future::poll_fn;
use std::time::Duration;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::listener::v3 as api;
use outrider_config::api::envoy::config::listener::v3::listener_filter::ConfigType;
use outrider_config::api::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector as TlsInspectorConfig;
use outrider_config::duration;
use outrider_config::type_name;
use outrider_config::unpack;
use outrider_stats::Counter;
use outrider_stats::Histogram;
use outrider_tls::HelloFacts;
use outrider_tls::HelloProgress;
use outrider_tls::hello_progress;
use outrider_tls::rustls::server::Acceptor;
use prost::Name as _;

use crate::NetworkStream;
use crate::WorkerCx;
use crate::stats::ListenerStats;

/// The default of `listener_filters_timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
/// The default of `max_client_hello_size`, in bytes.
const DEFAULT_MAX_HELLO: u32 = 16 * 1024;
/// The size of the first read, in bytes: most ClientHellos are shorter.
const FIRST_READ: usize = 2 * 1024;

/// The listener filters of a listener.
#[derive(Debug, Default)]
pub(super) struct ListenerFilters {
    tls: Option<TlsInspector>,
    timeout: Option<Duration>,
    /// `continue_on_listener_filters_timeout`
    continues_after_timeout: bool,
}

/// `envoy.filters.listener.tls_inspector`
#[derive(Debug)]
struct TlsInspector {
    max_hello: usize,
    closes_on_errors: bool,
    /// `enable_ja3_fingerprinting`
    finds_ja3: bool,
    /// `enable_ja4_fingerprinting`
    finds_ja4: bool,
}

/// What listener filters found out about a connection.
#[derive(Debug, Default)]
pub(super) struct InspectionResult {
    pub(super) is_tls: bool,
    /// Empty if the client sent no SNI.
    pub(super) server_name: String,
    pub(super) application_protocols: Vec<String>,
    /// Empty unless asked for.
    pub(super) ja3: String,
    /// Empty unless asked for.
    pub(super) ja4: String,
}

outrider_stats::group! {
    /// `tls_inspector.*`
    pub(super) struct InspectorStats {
        alpn_found: Counter,
        alpn_not_found: Counter,
        bytes_processed: Histogram,
        client_hello_too_large: Counter,
        sni_found: Counter,
        sni_not_found: Counter,
        tls_found: Counter,
        tls_not_found: Counter,
    }
}

/// Why a connection is not passed on.
enum InspectionError {
    Closed,
    Timeout,
    /// The TLS inspector refused it, and has counted that.
    Refused,
}

impl ListenerFilters {
    /// Reads the filters of the listener at `path`.
    pub(super) fn build(
        listener: &api::Listener,
        path: &FieldPath,
    ) -> Result<ListenerFilters, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let timeout = duration::optional(
            listener.listener_filters_timeout.as_ref(),
            &path.field("listener_filters_timeout"),
        );
        let timeout = errors.collect(timeout).flatten();
        let mut filters = ListenerFilters {
            tls: None,
            timeout: Some(timeout.unwrap_or(DEFAULT_TIMEOUT)).filter(|time| !time.is_zero()),
            continues_after_timeout: listener.continue_on_listener_filters_timeout,
        };
        for (index, filter) in listener.listener_filters.iter().enumerate() {
            let path = path.field("listener_filters").index(index);
            let any = match &filter.config_type {
                Some(ConfigType::TypedConfig(any)) => any,
                _ => {
                    let message = format!("is required for listener filter {}", filter.name);
                    errors.push(&path.field("typed_config"), message);
                    continue;
                }
            };
            let path = path.field("typed_config");
            if type_name(any) != TlsInspectorConfig::full_name() {
                let known = TlsInspectorConfig::full_name();
                let name = type_name(any);
                errors.push(
                    &path,
                    format!("not supported: listener filter {name}; expected {known}"),
                );
                continue;
            }
            if let Some(config) = errors.collect(unpack::<TlsInspectorConfig>(any, &path)) {
                filters.tls = Some(TlsInspector::new(&config));
            }
        }
        if filters.tls.is_none() && needs_tls_inspector(listener) {
            log::warn!(
                target: "config",
                "{path}: filter chain match rules require TLS Inspector listener filter, but it isn't configured, trying to inject it"
            );
            filters.tls = Some(TlsInspector::new(&TlsInspectorConfig::default()));
        }
        errors.finish(filters)
    }

    /// Whether there are no listener filters.
    pub(super) fn is_empty(&self) -> bool {
        self.tls.is_none()
    }

    /// Inspects a connection; `None` means that it must be closed.
    pub(super) async fn inspect(
        &self,
        stream: &mut NetworkStream,
        (stats, inspector_stats): (&ListenerStats, &InspectorStats),
        cx: &WorkerCx,
    ) -> Option<InspectionResult> {
        let tls = self.tls.as_ref()?;
        let inspected = {
            let inspecting = tls.inspect_hello(stream, inspector_stats);
            let waiting = async {
                match self.timeout {
                    Some(timeout) => cx.timers.sleep(timeout).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                inspected = inspecting => inspected,
                () = waiting => Err(InspectionError::Timeout),
            }
        };
        match inspected {
            Ok(found) => return Some(found),
            Err(InspectionError::Closed) => stats.downstream_listener_filter_remote_close.inc(),
            Err(InspectionError::Refused) => {}
            Err(InspectionError::Timeout) => {
                stats.downstream_pre_cx_timeout.inc();
                if self.continues_after_timeout && stream.reregister().is_ok() {
                    return Some(InspectionResult::default());
                }
            }
        }
        None
    }
}

/// Whether a filter chain matches on properties that only the TLS inspector finds.
fn needs_tls_inspector(listener: &api::Listener) -> bool {
    let mut matches = (listener.filter_chains.iter()).filter_map(|c| c.filter_chain_match.as_ref());
    matches.any(|criteria| {
        let asks = !criteria.server_names.is_empty() || !criteria.application_protocols.is_empty();
        match criteria.transport_protocol.as_str() {
            "tls" => true,
            "" => asks,
            _ => false,
        }
    })
}

impl TlsInspector {
    fn new(config: &TlsInspectorConfig) -> TlsInspector {
        let max_hello = config.max_client_hello_size.unwrap_or(DEFAULT_MAX_HELLO);
        TlsInspector {
            max_hello: usize::try_from(max_hello).unwrap_or(usize::MAX),
            closes_on_errors: config.close_connection_on_client_hello_parsing_errors,
            finds_ja3: config.enable_ja3_fingerprinting.unwrap_or(false),
            finds_ja4: config.enable_ja4_fingerprinting.unwrap_or(false),
        }
    }

    /// Reads the ClientHello, as far as needed.
    async fn inspect_hello(
        &self,
        stream: &NetworkStream,
        stats: &InspectorStats,
    ) -> Result<InspectionResult, InspectionError> {
        let mut bytes = vec![0; FIRST_READ.min(self.max_hello)];
        let mut seen = 0;
        loop {
            let peeked = poll_fn(|cx| stream.poll_peek(cx, &mut bytes, seen)).await;
            seen = match peeked {
                Ok(Some(count)) => count,
                Ok(None) | Err(_) => return Err(InspectionError::Closed),
            };
            let received = bytes.get(..seen).unwrap_or_default();
            let hello = match hello_progress(received) {
                HelloProgress::NotTls => Err(()),
                HelloProgress::Partial => Ok(None),
                HelloProgress::Complete => self.parse(received).map(Some),
            };
            match hello {
                Ok(Some(found)) => {
                    stats.bytes_processed.record(seen as u64);
                    found.count(stats);
                    return Ok(found);
                }
                Ok(None) if seen >= self.max_hello => {
                    stats.client_hello_too_large.inc();
                    return Err(InspectionError::Refused);
                }
                Ok(None) if seen == bytes.len() => {
                    bytes.resize((seen * 2).min(self.max_hello), 0);
                }
                Ok(None) => {}
                Err(()) => {
                    stats.tls_not_found.inc();
                    stats.bytes_processed.record(seen as u64);
                    return match self.closes_on_errors {
                        true => Err(InspectionError::Refused),
                        false => Ok(InspectionResult::default()),
                    };
                }
            }
        }
    }
}

impl TlsInspector {
    /// The contents of a complete ClientHello.
    fn parse(&self, bytes: &[u8]) -> Result<InspectionResult, ()> {
        let mut acceptor = Acceptor::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            acceptor.read_tls(&mut rest).map_err(|_| ())?;
        }
        let accepted = acceptor.accept().map_err(|_| ())?.ok_or(())?;
        let hello = accepted.client_hello();
        let protocols = hello.alpn().into_iter().flatten();
        let wanted = self.finds_ja3 || self.finds_ja4;
        let facts = wanted.then(|| HelloFacts::parse(bytes)).flatten();
        let fingerprint = |wanted: bool, of: fn(&HelloFacts) -> String| {
            let facts = facts.as_ref().filter(|_| wanted);
            facts.map(of).unwrap_or_default()
        };
        Ok(InspectionResult {
            is_tls: true,
            server_name: hello.server_name().unwrap_or_default().to_ascii_lowercase(),
            application_protocols: protocols
                .map(|name| String::from_utf8_lossy(name).into_owned())
                .collect(),
            ja3: fingerprint(self.finds_ja3, HelloFacts::ja3),
            ja4: fingerprint(self.finds_ja4, HelloFacts::ja4),
        })
    }
}

impl InspectionResult {
    fn count(&self, stats: &InspectorStats) {
        stats.tls_found.inc();
        match self.server_name.is_empty() {
            true => stats.sni_not_found.inc(),
            false => stats.sni_found.inc(),
        }
        match self.application_protocols.is_empty() {
            true => stats.alpn_not_found.inc(),
            false => stats.alpn_found.inc(),
        }
    }
}
