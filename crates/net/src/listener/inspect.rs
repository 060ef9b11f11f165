//! Listener filters: what is found out about a connection before its filter chain is chosen.
//!
//! They look at bytes where the kernel keeps them (`MSG_PEEK`), so that the handler of the connection reads them again.

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
use outrider_tls::rustls::server::Acceptor;
use prost::Name as _;

use crate::NetworkStream;
use crate::WorkerCx;
use crate::stats::ListenerStats;

/// `listener_filters_timeout` when it is not set.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
/// `max_client_hello_size` when it is not set, bytes.
const DEFAULT_HELLO: u32 = 16 * 1024;
/// Room for a first look: most greetings are shorter.
const FIRST_LOOK: usize = 2 * 1024;
/// The first byte of a TLS record with a part of the handshake in it.
const HANDSHAKE: u8 = 22;

/// The listener filters of a listener.
#[derive(Debug, Default)]
pub(super) struct ListenerFilters {
    tls: Option<TlsInspector>,
    timeout: Option<Duration>,
    /// `continue_on_listener_filters_timeout`
    goes_on_after_timeout: bool,
}

/// `envoy.filters.listener.tls_inspector`
#[derive(Debug)]
struct TlsInspector {
    max_hello: usize,
    closes_on_errors: bool,
}

/// What listener filters found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) is_tls: bool,
    /// Empty if the client named none.
    pub(super) server_name: String,
    pub(super) application_protocols: Vec<String>,
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

/// Why a connection goes no further.
enum Stop {
    Closed,
    Timeout,
    Error,
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
            goes_on_after_timeout: listener.continue_on_listener_filters_timeout,
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
                    format!("not supported: listener filter {name}; known is {known}"),
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

    /// Whether there is nothing to find out.
    pub(super) fn is_empty(&self) -> bool {
        self.tls.is_none()
    }

    /// Finds out about a connection; `None` closes it.
    pub(super) async fn inspect(
        &self,
        stream: &mut NetworkStream,
        (stats, inspector_stats): (&ListenerStats, &InspectorStats),
        cx: &WorkerCx,
    ) -> Option<Found> {
        let tls = self.tls.as_ref()?;
        let looked = {
            let looking = tls.look(stream, inspector_stats);
            let waiting = async {
                match self.timeout {
                    Some(timeout) => cx.timers.sleep(timeout).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                looked = looking => looked,
                () = waiting => Err(Stop::Timeout),
            }
        };
        match looked {
            Ok(found) => return Some(found),
            Err(Stop::Closed) => stats.downstream_listener_filter_remote_close.inc(),
            Err(Stop::Error) => stats.downstream_listener_filter_error.inc(),
            Err(Stop::Timeout) => {
                stats.downstream_pre_cx_timeout.inc();
                if self.goes_on_after_timeout && stream.register_anew().is_ok() {
                    return Some(Found::default());
                }
            }
        }
        None
    }
}

/// Whether a filter chain asks for what only the TLS inspector finds.
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
        let max_hello = config.max_client_hello_size.unwrap_or(DEFAULT_HELLO);
        TlsInspector {
            max_hello: usize::try_from(max_hello).unwrap_or(usize::MAX),
            closes_on_errors: config.close_connection_on_client_hello_parsing_errors,
        }
    }

    /// Reads the client's greeting, as far as it takes.
    async fn look(&self, stream: &NetworkStream, stats: &InspectorStats) -> Result<Found, Stop> {
        let mut bytes = vec![0; FIRST_LOOK.min(self.max_hello)];
        let mut seen = 0;
        loop {
            let peeked = poll_fn(|cx| stream.poll_peek(cx, &mut bytes, seen)).await;
            seen = match peeked {
                Ok(Some(count)) => count,
                Ok(None) | Err(_) => return Err(Stop::Closed),
            };
            let heard = bytes.get(..seen).unwrap_or_default();
            let hello = match heard {
                // The record's version begins with 3.
                [HANDSHAKE] | [HANDSHAKE, 3, ..] => parse(heard),
                _ => Err(()),
            };
            match hello {
                Ok(Some(found)) => {
                    stats.bytes_processed.record(seen as u64);
                    found.count(stats);
                    return Ok(found);
                }
                Ok(None) if seen >= self.max_hello => {
                    stats.client_hello_too_large.inc();
                    return Err(Stop::Error);
                }
                Ok(None) if seen == bytes.len() => {
                    bytes.resize((seen * 2).min(self.max_hello), 0);
                }
                Ok(None) => {}
                Err(()) => {
                    stats.tls_not_found.inc();
                    stats.bytes_processed.record(seen as u64);
                    return match self.closes_on_errors {
                        true => Err(Stop::Error),
                        false => Ok(Found::default()),
                    };
                }
            }
        }
    }
}

/// What a greeting says; `None` if it is not complete.
fn parse(mut bytes: &[u8]) -> Result<Option<Found>, ()> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        acceptor.read_tls(&mut bytes).map_err(|_| ())?;
    }
    let Some(accepted) = acceptor.accept().map_err(|_| ())? else {
        return Ok(None);
    };
    let hello = accepted.client_hello();
    let protocols = hello.alpn().into_iter().flatten();
    Ok(Some(Found {
        is_tls: true,
        server_name: hello.server_name().unwrap_or_default().to_ascii_lowercase(),
        application_protocols: protocols
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect(),
    }))
}

impl Found {
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
