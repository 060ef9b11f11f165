//! `envoy.filters.listener.tls_inspector`: finds out whether a client speaks TLS, and what its ClientHello says.

use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector as Message;
use outrider_config::unpack;
use outrider_stats::Counter;
use outrider_stats::Histogram;
use outrider_stats::Scope;
use outrider_tls::HelloFacts;
use outrider_tls::HelloProgress;
use outrider_tls::hello_progress;
use outrider_tls::rustls::server::Acceptor;
use prost_types::Any;

use super::BuildListenerFilter;
use super::InspectedConnection;
use super::ListenerFilter;
use super::ListenerFilterConfig;
use super::ListenerFilterStatus;
use crate::NetworkStream;
use crate::WorkerCx;

/// The default of `max_client_hello_size`, in bytes.
const DEFAULT_MAX_HELLO: u32 = 16 * 1024;

pub(super) const FACTORY: Factory<BuildListenerFilter> = Factory {
    message: "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    build,
};

fn build(any: &Any, path: &FieldPath) -> Result<Arc<dyn ListenerFilterConfig>, ConfigErrors> {
    let message: Message = unpack(any, path)?;
    Ok(Arc::new(TlsInspectorConfig::new(&message)))
}

/// An inspector without any settings.
pub(super) fn by_default() -> Arc<dyn ListenerFilterConfig> {
    Arc::new(TlsInspectorConfig::new(&Message::default()))
}

#[derive(Debug)]
struct TlsInspectorConfig {
    max_hello: usize,
    closes_on_errors: bool,
    /// `enable_ja3_fingerprinting`
    finds_ja3: bool,
    /// `enable_ja4_fingerprinting`
    finds_ja4: bool,
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

impl TlsInspectorConfig {
    fn new(config: &Message) -> TlsInspectorConfig {
        let max_hello = config.max_client_hello_size.unwrap_or(DEFAULT_MAX_HELLO);
        TlsInspectorConfig {
            max_hello: usize::try_from(max_hello).unwrap_or(usize::MAX),
            closes_on_errors: config.close_connection_on_client_hello_parsing_errors,
            finds_ja3: config.enable_ja3_fingerprinting.unwrap_or(false),
            finds_ja4: config.enable_ja4_fingerprinting.unwrap_or(false),
        }
    }
}

impl ListenerFilterConfig for TlsInspectorConfig {
    fn worker(self: Arc<Self>, cx: &WorkerCx) -> Box<dyn ListenerFilter> {
        Box::new(TlsInspector {
            stats: cx.store.register(Scope::new("tls_inspector")),
            config: self,
        })
    }
}

struct TlsInspector {
    config: Arc<TlsInspectorConfig>,
    stats: Arc<InspectorStats>,
}

impl ListenerFilter for TlsInspector {
    fn on_accept(
        &self,
        _: &NetworkStream,
        _: &mut InspectedConnection,
        _: &WorkerCx,
    ) -> ListenerFilterStatus {
        ListenerFilterStatus::Read(self.config.max_hello)
    }

    fn on_data(&self, bytes: &[u8], connection: &mut InspectedConnection) -> ListenerFilterStatus {
        let stats = &self.stats;
        let found = match hello_progress(bytes) {
            HelloProgress::NotTls => Err(()),
            HelloProgress::Complete => self.config.parse(bytes, connection),
            HelloProgress::Partial if bytes.len() >= self.config.max_hello => {
                stats.client_hello_too_large.inc();
                return ListenerFilterStatus::Close;
            }
            HelloProgress::Partial => return ListenerFilterStatus::Read(self.config.max_hello),
        };
        stats.bytes_processed.record(bytes.len() as u64);
        match found {
            Ok(()) => stats.count(connection),
            Err(()) => {
                stats.tls_not_found.inc();
                if self.config.closes_on_errors {
                    return ListenerFilterStatus::Close;
                }
            }
        }
        ListenerFilterStatus::Continue
    }
}

impl TlsInspectorConfig {
    /// Reads a complete ClientHello.
    fn parse(&self, bytes: &[u8], connection: &mut InspectedConnection) -> Result<(), ()> {
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
        connection.is_tls = true;
        connection.server_name = hello.server_name().unwrap_or_default().to_ascii_lowercase();
        connection.application_protocols = protocols
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect();
        connection.ja3 = fingerprint(self.finds_ja3, HelloFacts::ja3);
        connection.ja4 = fingerprint(self.finds_ja4, HelloFacts::ja4);
        Ok(())
    }
}

impl InspectorStats {
    fn count(&self, connection: &InspectedConnection) {
        self.tls_found.inc();
        match connection.server_name.is_empty() {
            true => self.sni_not_found.inc(),
            false => self.sni_found.inc(),
        }
        match connection.application_protocols.is_empty() {
            true => self.alpn_not_found.inc(),
            false => self.alpn_found.inc(),
        }
    }
}
