//! `envoy.filters.listener.http_inspector`: finds out whether a client speaks HTTP, and in which version.

mod request_line;

use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector as Message;
use outrider_config::unpack;
use outrider_stats::Counter;
use outrider_stats::Scope;
use prost_types::Any;

use super::BuildListenerFilter;
use super::InspectedConnection;
use super::ListenerFilter;
use super::ListenerFilterConfig;
use super::ListenerFilterStatus;
use crate::NetworkStream;
use crate::WorkerCx;
use request_line::RequestLine;

/// How many bytes a request line may take.
const MAX_REQUEST_LINE: usize = 64 * 1024;
/// What HTTP/2 connections begin with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const FACTORY: Factory<BuildListenerFilter> = Factory {
    message: "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
    build,
};

outrider_stats::group! {
    /// `http_inspector.*`
    pub(super) struct HttpInspectorStats {
        http10_found: Counter,
        http11_found: Counter,
        http2_found: Counter,
        http_not_found: Counter,
        read_error: Counter,
    }
}

fn build(any: &Any, path: &FieldPath) -> Result<Arc<dyn ListenerFilterConfig>, ConfigErrors> {
    unpack::<Message>(any, path)?;
    Ok(Arc::new(HttpInspectorConfig))
}

#[derive(Debug)]
struct HttpInspectorConfig;

impl ListenerFilterConfig for HttpInspectorConfig {
    fn worker(self: Arc<Self>, cx: &WorkerCx) -> Box<dyn ListenerFilter> {
        Box::new(HttpInspector {
            stats: cx.store.register(Scope::new("http_inspector")),
        })
    }
}

struct HttpInspector {
    stats: Arc<HttpInspectorStats>,
}

impl ListenerFilter for HttpInspector {
    fn on_accept(
        &self,
        _: &NetworkStream,
        connection: &mut InspectedConnection,
        _: &WorkerCx,
    ) -> ListenerFilterStatus {
        match connection.is_tls {
            true => ListenerFilterStatus::Continue,
            false => ListenerFilterStatus::Read(MAX_REQUEST_LINE),
        }
    }

    fn on_data(&self, bytes: &[u8], connection: &mut InspectedConnection) -> ListenerFilterStatus {
        let (counter, protocol) = match protocol_of(bytes) {
            Some(ClientProtocol::Http10) => (&self.stats.http10_found, "http/1.0"),
            Some(ClientProtocol::Http11) => (&self.stats.http11_found, "http/1.1"),
            Some(ClientProtocol::Http2) => (&self.stats.http2_found, "h2c"),
            Some(ClientProtocol::NotHttp) => {
                self.stats.http_not_found.inc();
                return ListenerFilterStatus::Continue;
            }
            None if bytes.len() >= MAX_REQUEST_LINE => {
                self.stats.read_error.inc();
                return ListenerFilterStatus::Close;
            }
            None => return ListenerFilterStatus::Read(MAX_REQUEST_LINE),
        };
        counter.inc();
        connection.application_protocols = vec![protocol.to_owned()];
        ListenerFilterStatus::Continue
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientProtocol {
    /// HTTP/1.0, and any version but 1.1.
    Http10,
    Http11,
    Http2,
    NotHttp,
}

/// The protocol of a client that has sent these bytes; `None` if more are needed to tell.
fn protocol_of(bytes: &[u8]) -> Option<ClientProtocol> {
    let compared = bytes.len().min(PREFACE.len());
    if bytes.get(..compared) == PREFACE.get(..compared) {
        return (compared == PREFACE.len()).then_some(ClientProtocol::Http2);
    }
    Some(match RequestLine::of(bytes)? {
        RequestLine::Http11 => ClientProtocol::Http11,
        RequestLine::OtherVersion => ClientProtocol::Http10,
        RequestLine::Invalid => ClientProtocol::NotHttp,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protocol(text: &str) -> Option<ClientProtocol> {
        protocol_of(text.as_bytes())
    }

    #[test]
    fn the_preface_is_recognized_as_a_whole() {
        let preface = std::str::from_utf8(PREFACE).unwrap();
        for at in 1..preface.len() {
            assert_eq!(protocol(&preface[..at]), None, "{at}");
        }
        assert_eq!(protocol(preface), Some(ClientProtocol::Http2));
        assert_eq!(
            protocol("PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n"),
            Some(ClientProtocol::Http10)
        );
    }

    #[test]
    fn a_request_line_is_recognized_once_it_is_complete() {
        let line = "GET /path HTTP/1.1\r\n";
        for at in 1..line.len() {
            assert_eq!(protocol(&line[..at]), None, "{at}");
        }
        assert_eq!(protocol(line), Some(ClientProtocol::Http11));
    }
}
