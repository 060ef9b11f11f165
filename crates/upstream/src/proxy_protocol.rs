//! The transport socket that tells hosts the addresses of clients
//! (`envoy.transport_sockets.upstream_proxy_protocol`).

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::OnceLock;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::TlvEntry;
use outrider_config::api::envoy::config::core::v3::proxy_protocol_config::Version;
use outrider_config::api::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use outrider_net::Address;
use outrider_net::NetworkStream;
use outrider_net::ProxyProtocolHeader;
use outrider_net::ProxyProtocolTlv;
use outrider_net::TlvSelection;
use outrider_net::proxy_protocol::write_local_version_2;
use outrider_net::proxy_protocol::write_version_1;
use outrider_net::proxy_protocol::write_version_2;
use outrider_stats::Scope;
use outrider_stats::SharedCounter;
use outrider_stats::Store;
use tokio::io::AsyncWriteExt as _;

outrider_stats::group! {
    /// `cluster.<name>.upstream.proxyprotocol.*`
    pub(crate) struct ProxyProtocolSocketStats { v2_tlvs_exceed_max_length: SharedCounter }
}

/// `ProxyProtocolUpstreamTransport`
#[derive(Debug)]
pub(crate) struct ProxyProtocolSocket {
    version: Version,
    passed_through: TlvSelection,
    added: Vec<ProxyProtocolTlv>,
    stats: OnceLock<Arc<ProxyProtocolSocketStats>>,
}

/// The client whose address a connection's header tells. Clients with different addresses do not share connections;
/// other facts do not matter, as in Envoy.
#[derive(Clone, Debug)]
pub(crate) struct AnnouncedClient {
    pub(crate) header: Rc<ProxyProtocolHeader>,
}

impl PartialEq for AnnouncedClient {
    fn eq(&self, other: &AnnouncedClient) -> bool {
        let (one, other) = (&self.header, &other.header);
        one.source == other.source && one.destination == other.destination
    }
}

impl Eq for AnnouncedClient {}

impl ProxyProtocolSocket {
    /// Reads what is found at `path`, but for the socket inside.
    pub(crate) fn build(
        message: &ProxyProtocolUpstreamTransport,
        path: &FieldPath,
    ) -> Result<ProxyProtocolSocket, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let config = message.config.clone().unwrap_or_default();
        let added_path = path.field("config").field("added_tlvs");
        let added = config.added_tlvs.iter().enumerate();
        let added = added.filter_map(|(at, entry)| match u8::try_from(entry.r#type) {
            Ok(kind) => Some(tlv(kind, entry)),
            Err(_) => {
                let path = added_path.index(at).field("type");
                errors.push(&path, format!("expected 0 to 255, got {}", entry.r#type));
                None
            }
        });
        let added = added.collect();
        errors.finish(ProxyProtocolSocket {
            version: config.version(),
            passed_through: TlvSelection::new(config.pass_through_tlvs.as_ref()),
            added,
            stats: OnceLock::new(),
        })
    }

    /// Lists its stats, below `scope`.
    pub(crate) fn list(&self, store: &Store, scope: &Scope) {
        let scope = scope.clone().name("upstream.proxyprotocol");
        self.stats.get_or_init(|| store.register(scope));
    }

    /// Sends the header for a client; without one, that of the proxy itself, whose connection has these ends.
    pub(crate) async fn send(
        &self,
        stream: &mut NetworkStream,
        client: Option<&AnnouncedClient>,
        (local, remote): (Option<&Address>, &Address),
    ) -> io::Result<()> {
        let header = self.header(client, local.unwrap_or(remote), remote);
        stream.write_all(&header).await
    }

    fn header(
        &self,
        client: Option<&AnnouncedClient>,
        local: &Address,
        remote: &Address,
    ) -> Vec<u8> {
        let Some(AnnouncedClient { header, .. }) = client else {
            return match self.version {
                Version::V1 => write_version_1(local, remote),
                Version::V2 => write_local_version_2(),
            };
        };
        let (source, destination) = (&header.source, &header.destination);
        if self.version == Version::V1 {
            return write_version_1(source, destination);
        }
        let is_added = |tlv: &ProxyProtocolTlv| self.added.iter().any(|one| one.kind == tlv.kind);
        let passed = header.tlvs.iter();
        let passed = passed.filter(|tlv| self.passed_through.includes(tlv) && !is_added(tlv));
        let (bytes, has_all) =
            write_version_2(source, destination, self.added.iter().chain(passed));
        if !has_all && let Some(stats) = self.stats.get() {
            stats.v2_tlvs_exceed_max_length.inc();
        }
        bytes
    }
}

fn tlv(kind: u8, entry: &TlvEntry) -> ProxyProtocolTlv {
    ProxyProtocolTlv {
        kind,
        value: entry.value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(port: u16, value: &[u8]) -> AnnouncedClient {
        let address = |port| Address::Ip(([10, 0, 0, 1], port).into());
        AnnouncedClient {
            header: Rc::new(ProxyProtocolHeader {
                source: address(port),
                destination: address(80),
                tlvs: vec![ProxyProtocolTlv {
                    kind: 2,
                    value: value.to_vec(),
                }],
            }),
        }
    }

    #[test]
    fn addresses_distinguish_clients() {
        assert_eq!(client(1, b"a"), client(1, b"b"));
        assert_ne!(client(1, b"a"), client(2, b"a"));
    }
}
